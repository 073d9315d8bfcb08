//! The role beside the agent: its threads and what they share.
//!
//! ```text
//!  agent ──UDP──► receive ──► ┌────────┐ ──► forward ──UDP──► remoted
//!                             │  core  │                         │
//!                 probe ◄───► └────────┘ ◄───► spool ──► disk    │
//!                   │              ▲                             │
//!                   │TCP           └──── reply ◄──────UDP────────┘
//!                   ▼                      └──UDP──► agent
//!             broker server
//! ```
//!
//! Each thread waits for one thing, takes the lock around the core briefly, and does one kind of input or output
//! without the lock. A thread that has made work for another rings its bell (`shared`).

mod config;
mod forward;
mod handover;
mod listen;
mod probe;
mod receive;
mod reply;
mod report;
mod resolve;
mod shared;
mod shutdown;
mod spool;
mod stream;
mod upstreams;

use std::io;
use std::time::SystemTime;

use crossbeam_channel::bounded;
use thiserror::Error;

use crate::os::handover::{Image, Inherited, tell_ready};
use crate::os::keyfile::{self, KeyError};
use crate::os::net::{self, udp::kernel_drops};
use crate::os::privileges::{self, Right, UserError};
use crate::os::signals::Signals;
use crate::os::spool::SpoolError;
use crate::os::threads::{Cause, Crew, Ended, Stopper, Wait, scope};
use crate::proto::client::{ClientCore, Transport, spool::record::Agent};
pub use config::{Config, SPOOL_BYTES, SpoolConfig};
use handover::Handover;
pub use handover::Successor;
use listen::{ListenError, listen};
use probe::Prober;
use report::Report;
use shared::Shared;
use shutdown::{End, Shutdown};
use spool::{Opened, Spooler};
use stream::Streamer;
use upstreams::Upstreams;

/// Threads of this role, without the resolver.
const THREADS: usize = 5;
/// Ports below need a right to be bound.
const PORTS_FREE_FROM: u16 = 1_024;
/// Descriptors for everything but the sockets of sessions: polls and bells, the agents' socket, connections and
/// attempts, the resolver's files.
const DESCRIPTORS_KEPT: u64 = 32;
/// Sockets that a thread is told of at once.
const EVENTS_MAX: usize = 128;
/// Changed upstream sockets on their way to the reply thread; more wait at the sender for a moment.
const CHANGES_MAX: usize = 64;

/// Why a client does not start, or ends without being asked to.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the texts say it")]
pub enum Error {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    User(#[from] UserError),
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error("cannot leave the sockets to the next program: {0}")]
    Leave(#[source] Cause),
    #[error("cannot set up the wait for sockets: {0}")]
    Wait(#[source] io::Error),
    #[error("cannot start a thread: {0}")]
    Start(#[source] io::Error),
    #[error(transparent)]
    Thread(#[from] Ended),
}

/// Whether this program could go on where another one with the same settings is: `--accept-handover`.
pub fn accept(config: &Config) -> Result<(), Error> {
    if let Some(path) = &config.psk_file {
        keyfile::load(path)?;
    }
    Ok(spool::check(config)?)
}

/// Runs until `signals` says stop, or until another program takes over.
pub fn run(config: &Config, signals: &Signals, inherited: Inherited) -> Result<Option<Successor>, Error> {
    let image = Image::of_this_process();
    if config.psk_file.is_some() {
        privileges::hide_memory();
    }
    let key = config.psk_file.as_deref().map(keyfile::load_first).transpose()?;
    let (is_kept, is_fresh) = (inherited.is_kept, inherited.agents.is_none());
    let agents = listen(config, inherited.agents, is_kept)?;
    let dropped_before = if is_fresh { 0 } else { kernel_drops(&agents).unwrap_or(0) };
    if dropped_before > 0 {
        log::info!("the kernel dropped {dropped_before} datagrams at this socket before this process had it");
    }
    if config.core.transport == Transport::Tcp {
        log::info!("datagrams go over tcp, {}", if key.is_some() { "with a key" } else { "without a key" });
    }
    let sockets_max = raise_descriptors(config);
    become_user(config)?;
    if config.psk_file.is_some() {
        // Another user's process can be looked into again.
        privileges::hide_memory();
    }

    let (receive_wait, receive_bell) = Wait::new("the agent's socket", EVENTS_MAX).map_err(Error::Wait)?;
    let (probe_wait, probe_bell) = Wait::new("the server", EVENTS_MAX).map_err(Error::Wait)?;
    let (reply_wait, reply_bell) = Wait::new("replies", EVENTS_MAX).map_err(Error::Wait)?;
    let (mut core, keeper) = match spool::open(config)? {
        Some(Opened { core, keeper, is_failing }) => (core, Some((keeper, is_failing))),
        None => (ClientCore::new(config.core, net::random()), None),
    };
    let left: Vec<Agent> = inherited.upstreams.iter().map(|&(agent, _)| agent).collect();
    core.handle_agents(&left);
    let has_spool = keeper.is_some();
    let (shared, rung) = Shared::new(core, agents, is_kept, probe_bell.clone());
    let (changes, changed) = bounded(CHANGES_MAX);
    let (outgoing, outgoings) = bounded(1);
    let (stop_receive, receive_stop) = Stopper::new(vec![receive_bell.clone()]);
    let (stop_rest, rest_stop) = Stopper::new(vec![probe_bell.clone(), reply_bell.clone()]);
    let (stop_spool, spool_stop) = Stopper::new(Vec::new());
    let resolver = resolve::start(config, probe_bell.clone()).map_err(Error::Start)?;
    let mut upstreams = Upstreams::new(&shared, config, sockets_max, changes, reply_bell);

    let now = net::now();
    let mut report = Report::new(now, &shared.read(|core| core.snapshot(now)).counters, dropped_before);
    let prober = Prober::new(&shared, config, key, resolver, outgoings, &mut report);
    let outcome: Result<End, Error> = scope(|last| {
        let (crew, ended) = Crew::new(last, THREADS);
        if let Some((keeper, is_failing)) = keeper {
            let spooler = Spooler::new(&shared, keeper, is_failing);
            crew.spawn("spool", || spooler.run(&rung.spool, &spool_stop)).map_err(Error::Start)?;
        }
        // Ends when all others have ended.
        let _stop_spool = stop_spool;
        scope(|scope| {
            let crew = crew.within(scope);
            let start = || {
                crew.spawn("receive", || receive::run(&shared, receive_wait, &receive_stop))?;
                crew.spawn("probe", || prober.run(probe_wait, &rest_stop))?;
                crew.spawn("forward", || {
                    upstreams.take_over(inherited.upstreams);
                    match config.core.transport {
                        Transport::Udp => forward::run(&shared, &mut upstreams, &rung.forward, &rest_stop),
                        Transport::Tcp => {
                            let streamer = Streamer::new(&shared, &mut upstreams, outgoing, probe_bell);
                            streamer.run(&rung.forward, &rest_stop)
                        }
                    }
                })?;
                crew.spawn("reply", || reply::run(&shared, reply_wait, &changed, &rest_stop))
            };
            start().map_err(Error::Start)?;
            tell_ready();
            let drained = &rung.drained;
            let handover = Handover { shared: &shared, image: image.as_ref(), has_spool, receive: receive_bell };
            let shutdown =
                Shutdown { shared: &shared, drain: config.drain, signals, handover, ended: &ended, drained };
            Ok(shutdown.conduct(stop_receive, stop_rest)?)
        })
    });
    say_farewell(&shared, &mut report);
    let (End::Replaced, Some(image)) = (outcome?, image) else {
        return Ok(None);
    };
    let legacy = handover::legacy(&shared, is_kept, upstreams.leave()).map_err(Error::Leave)?;
    if config.user.is_some() {
        privileges::pass_on(kept_rights(config)).map_err(Error::Leave)?;
    }
    Ok(Some(Successor { image, legacy }))
}

/// Raises the limit of descriptors as far as needed and allowed, and says how many sessions can have a socket.
fn raise_descriptors(config: &Config) -> usize {
    let descriptors = net::raise_descriptor_limit(u64::from(config.core.sessions_max) + DESCRIPTORS_KEPT);
    usize::try_from(descriptors.saturating_sub(DESCRIPTORS_KEPT)).unwrap_or(usize::MAX).max(1)
}

fn become_user(config: &Config) -> Result<(), UserError> {
    config.user.as_ref().map_or(Ok(()), |user| privileges::become_user(user, kept_rights(config)))
}

/// The sockets of sessions are bound as agents come.
const fn kept_rights(config: &Config) -> &'static [Right] {
    if config.source_port < PORTS_FREE_FROM { &[Right::CAP_NET_BIND_SERVICE] } else { &[] }
}

fn say_farewell(shared: &Shared, report: &mut Report) {
    if let Some(drops) = kernel_drops(&shared.agents) {
        report.handle_kernel_drops(drops);
    }
    let now = net::now();
    let (snapshot, lost) = shared.read(|core| (core.snapshot(now), core.unwritten()));
    for line in report.farewell(now, SystemTime::now(), &snapshot, lost) {
        log::log!(line.level, "{}", line.text);
    }
}
