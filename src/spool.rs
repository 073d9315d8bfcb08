//! A look into a spool, for people: what waits there, for how long, from whom, how large.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use humantime::format_rfc3339_millis;
use thiserror::Error;

use crate::os::net;
use crate::os::spool::{Directory, SpoolError};
use crate::proto::amounts::{amount, duration, size};
use crate::proto::client::buffer::Tally;
use crate::proto::client::spool::folder::Folder;
use crate::proto::client::spool::log::{Log, Setting};
use crate::proto::client::spool::open::Found;
use crate::proto::client::spool::record::Agent;
use crate::proto::client::spool::records::Records;
use crate::proto::client::spool::segment::{count, generation};
use crate::proto::foreign::shown;
use crate::proto::terms::Seq;
use crate::proto::time::Time;

/// Bytes of payload that are read at once.
const READ_BYTES: usize = 1 << 20;
/// A client that writes at this moment may show half a record: damage counts if it is there each time.
const LOOKS_MAX: usize = 3;

/// What to do with a spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Say how much waits, from whom, and for how long.
    Ls,
    /// Print each datagram.
    Cat,
    /// Say whether everything can be read.
    Verify,
    /// Throw everything away.
    Purge,
}

/// The settings of the command.
#[derive(Clone, Debug)]
pub struct Config {
    /// What to do.
    pub action: Action,
    /// The folder of the spool.
    pub path: PathBuf,
}

/// Why it cannot be done.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum Error {
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
}

/// Does it, and writes about it. Returns whether the spool is sound.
pub fn run(config: &Config, out: &mut impl Write) -> Result<bool, Error> {
    match config.action {
        Action::Ls => ls(config, out),
        Action::Cat => cat(config, out),
        Action::Verify => verify(config, out),
        Action::Purge => purge(config, out),
    }
}

/// A spool that is looked at.
struct Look {
    log: Log<Directory>,
    found: Found<io::Error>,
    now: Time,
    wall: SystemTime,
}

impl Look {
    fn at(config: &Config) -> Result<Self, SpoolError> {
        let now = net::now();
        let setting = Setting { bound_bytes: 0, stream: 0, clock: net::clock(), now };
        let looked = Log::look(Directory::look(&config.path)?, setting);
        let (log, found) = looked.map_err(|error| SpoolError::new(&config.path, error))?;
        Ok(Self { log, found, now, wall: SystemTime::now() })
    }

    /// How long ago a datagram came; `None` if no clock tells.
    fn age(&self, arrived: Time) -> Option<Duration> {
        // A datagram of unknown age counts from the opening.
        Some(self.now.since(arrived)).filter(|_| arrived != self.now)
    }

    fn agent(&self, session: u16) -> Agent {
        let known = self.found.agents.iter().map(|(agent, _)| *agent).find(|agent| agent.session == session);
        known.unwrap_or(Agent::unknown(session))
    }

    /// Hands over all datagrams, a part at a time.
    fn read(&mut self, mut take: impl FnMut(&Self, &Records) -> io::Result<()>) -> Result<(), Error> {
        let mut records = Records::default();
        let mut from = self.found.first;
        loop {
            // A client that runs may have removed a segment meanwhile: its datagrams are held no more.
            let Ok(through) = self.log.read(from, READ_BYTES, &mut records) else {
                self.log.give_up();
                continue;
            };
            take(self, &records)?;
            if through <= from {
                return Ok(());
            }
            from = through;
        }
    }
}

/// The id that stands in front of the agent's datagrams; empty without one.
fn id(agent: &Agent) -> String {
    let length = agent.id.iter().take_while(|byte| **byte != 0).count();
    shown(&agent.id[..length], agent.id.len())
}

fn describe(agent: &Agent) -> String {
    match id(agent) {
        _ if *agent == Agent::unknown(agent.session) => "an unknown agent".into(),
        id if id.is_empty() => agent.address.to_string(),
        id => format!("{} (agent {id})", agent.address),
    }
}

/// The agent as one word.
fn word(agent: &Agent) -> String {
    match id(agent) {
        _ if *agent == Agent::unknown(agent.session) => "-".into(),
        id if id.is_empty() => agent.address.to_string(),
        id => format!("{}/{id}", agent.address),
    }
}

fn ls(config: &Config, out: &mut impl Write) -> Result<bool, Error> {
    let mut look = Look::at(config)?;
    let mut agents: BTreeMap<u16, (Tally, Option<Duration>)> = BTreeMap::new();
    look.read(|look, records| {
        for entry in records.entries() {
            let (tally, oldest) = agents.entry(entry.session).or_default();
            tally.add(entry.bytes.len());
            *oldest = oldest.max(&mut look.age(entry.arrived)).to_owned();
        }
        Ok(())
    })?;
    let mut held = Tally::default();
    for (session, (tally, oldest)) in agents {
        held.join(tally);
        let age = oldest.map_or("of unknown age".into(), |age| format!("for {}", duration(age)));
        writeln!(out, "{} from {}, {age}", amount(tally), describe(&look.agent(session)))?;
    }
    let files = look.log.bytes();
    writeln!(out, "{} in all, {} on disk", amount(held), size(files))?;
    Ok(true)
}

fn cat(config: &Config, out: &mut impl Write) -> Result<bool, Error> {
    Look::at(config)?.read(|look, records| {
        for entry in records.entries() {
            let came = look.age(entry.arrived).and_then(|age| look.wall.checked_sub(age));
            let came = came.map_or("-".into(), |at| format_rfc3339_millis(at).to_string());
            let (number, from) = (number(entry.seq), word(&look.agent(entry.session)));
            writeln!(out, "{number} {came} {from} {} {}", entry.bytes.len(), entry.bytes.escape_ascii())?;
        }
        Ok(())
    })?;
    Ok(true)
}

/// The process that numbered a datagram, and its number there.
fn number(seq: Seq) -> String {
    format!("{}.{}", generation(seq), count(seq))
}

fn verify(config: &Config, out: &mut impl Write) -> Result<bool, Error> {
    let mut look = Look::at(config)?;
    for _ in 1..LOOKS_MAX {
        if look.found.damaged.1 > 0 {
            look = Look::at(config)?;
        }
    }
    let mut read = Tally::default();
    look.read(|_, records| {
        records.entries().for_each(|entry| read.add(entry.bytes.len()));
        Ok(())
    })?;
    let (bytes, segments) = look.found.damaged;
    writeln!(out, "{} can be read", amount(read))?;
    if segments > 0 {
        writeln!(out, "damaged: {} in {segments} of its files", size(bytes))?;
    }
    if look.found.set_aside > 0 {
        writeln!(out, "no part of it: {} files", look.found.set_aside)?;
    }
    Ok(segments == 0 && look.found.set_aside == 0)
}

fn purge(config: &Config, out: &mut impl Write) -> Result<bool, Error> {
    let cannot = |error| SpoolError::new(&config.path, error);
    // A spool of another format can be thrown away, too.
    Directory::look(&config.path)?;
    let held = Look::at(config).map(|look| look.found.held);
    let mut folder = Directory::lock(&config.path)?;
    for (name, _) in folder.list().map_err(cannot)? {
        if Log::<Directory>::owns(&name) {
            folder.remove(&name).map_err(cannot)?;
        }
    }
    folder.sync_names().map_err(cannot)?;
    writeln!(out, "thrown away: {}", held.map_or("what was there".into(), amount))?;
    Ok(true)
}
