//! Core ↔ disk: writes held datagrams to the spool, and reads them back.
//!
//! This thread alone waits for a disk. While a disk is slow or fails, datagrams stay in memory, and forwarding goes
//! on.

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::time::Duration;

use crossbeam_channel::Receiver;

use super::config::{Config, SpoolConfig};
use super::shared::Shared;
use crate::os::net;
use crate::os::spool::{Directory, SpoolError};
use crate::os::threads::Stop;
use crate::proto::amounts::{amount, size};
use crate::proto::client::spool::keeper::{Answer, Errand, Keeper};
use crate::proto::client::spool::log::{Log, Setting, datagram_bytes_max};
use crate::proto::client::spool::open::{Found, OpenError};
use crate::proto::client::spool::records::Records;
use crate::proto::client::{ClientCore, SyncPolicy};
use crate::proto::time::Time;

/// How often the log is told that the spool is full.
const FULL_GAP: Duration = Duration::from_hours(1);

pub(super) struct Spooler<'a> {
    shared: &'a Shared,
    keeper: Keeper<Directory>,
    writing: Trouble,
    reading: Trouble,
    /// When the log was told that the spool is full.
    full_told: Option<Time>,
}

/// A kind of failure.
#[derive(Debug, Default)]
struct Trouble {
    /// The log was told that it began, and not yet that it is over.
    told: bool,
    stage: Stage,
}

/// How far a trouble has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Over,
    /// An errand has failed. Over when one is done; with `syncs` when that was synced, too.
    Failed { syncs: bool },
    /// An errand was done since a sync failed, and is not synced.
    Unsynced,
}

impl Stage {
    const fn after(self, errand: Errand, has_failed: bool) -> Self {
        match (self, errand, has_failed) {
            (Self::Unsynced | Self::Failed { syncs: true }, _, true) | (_, Errand::Sync, true) => {
                Self::Failed { syncs: true }
            }
            (_, _, true) => Self::Failed { syncs: false },
            // After a failed sync nothing is left to be synced: the next one says nothing.
            (Self::Failed { .. }, Errand::Sync, false) | (Self::Unsynced, Errand::Write | Errand::Mark, false) => self,
            (Self::Failed { syncs: true }, _, false) => Self::Unsynced,
            (_, _, false) => Self::Over,
        }
    }
}

/// A spool that was opened.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) keeper: Keeper<Directory>,
    pub(super) core: ClientCore,
    /// The log was told that the spool cannot be written.
    pub(super) is_failing: bool,
}

/// Whether this program can use the spool that another process uses at the moment.
pub(super) fn check(config: &Config) -> Result<(), SpoolError> {
    let Some(SpoolConfig { path, .. }) = &config.spool else {
        return Ok(());
    };
    Log::check(Directory::look(path)?).map_err(|error| SpoolError::new(path, error))
}

/// Opens the spool, and says what an earlier process has left. `None`: there is none, or it cannot be read.
pub(super) fn open(config: &Config) -> Result<Option<Opened>, SpoolError> {
    let Some(SpoolConfig { path, bytes, sync }) = &config.spool else {
        return Ok(None);
    };
    let shown = path.display();
    let folder = Directory::lock(path)?;
    let setting = Setting { bound_bytes: *bytes, stream: net::random(), clock: net::clock(), now: net::now() };
    let (log, found) = match Log::open(folder, setting) {
        Ok(opened) => opened,
        Err(OpenError::Unreadable(error)) => {
            log::error!("cannot read the spool {shown}: {error}; going on without it");
            return Ok(None);
        }
        Err(error) => return Err(SpoolError::new(path, error)),
    };
    tell(path, &found);
    let core = ClientCore::reopen(config.core, *sync, &found, datagram_bytes_max(*bytes));
    let keeper = Keeper::new(log, *sync != SyncPolicy::Never);
    Ok(Some(Opened { keeper, core, is_failing: found.failure.is_some() }))
}

fn tell(path: &Path, found: &Found<io::Error>) {
    let path = path.display();
    log::info!("spool {path}: {} of an earlier run", amount(found.held));
    let (bytes, segments) = found.damaged;
    if let Some(error) = &found.unreadable {
        log::warn!("spool {path}: some of it cannot be read: {error}");
    }
    if segments > 0 {
        log::warn!("spool {path}: passing over {} that are damaged, in {segments} segments", size(bytes));
    }
    if found.set_aside > 0 {
        log::warn!("spool {path}: setting aside {} files that are none of its segments (.bad)", found.set_aside);
    }
    if let Some(error) = &found.failure {
        log::warn!("cannot write the spool {path}: {error}; holding in memory, trying again");
    }
}

impl<'a> Spooler<'a> {
    pub(super) fn new(shared: &'a Shared, keeper: Keeper<Directory>, is_failing: bool) -> Self {
        Self {
            shared,
            keeper,
            writing: Trouble {
                told: is_failing,
                stage: if is_failing { Stage::Failed { syncs: true } } else { Stage::Over },
            },
            reading: Trouble::default(),
            full_told: None,
        }
    }

    /// Runs errands until the stop, and then writes everything that is held.
    pub(super) fn run(mut self, bell: &Receiver<()>, stop: &Stop) -> Result<(), Infallible> {
        let mut records = Records::default();
        while !stop.is_set() {
            if !self.run_errand(&mut records) {
                self.tell_ends();
                let now = net::now();
                let due = self.shared.with_core(now, |core| core.handle_spool_waits(now));
                stop.wait(bell, due.map(|at| at.since(now)));
            }
        }
        self.shared.with_core(net::now(), ClientCore::handle_stop);
        while self.run_errand(&mut records) {}
        Ok(())
    }

    /// Whether there was an errand.
    fn run_errand(&mut self, records: &mut Records) -> bool {
        let now = net::now();
        let errand = self.shared.with_core(now, |core| core.poll_spool(now, records));
        if errand == Errand::Wait {
            return false;
        }
        let report = self.keeper.run(errand, net::clock(), records);
        let now = net::now();
        self.shared.with_core(now, |core| core.handle_errand(now, errand, records, &report));
        self.tell(errand, &report.answer);
        true
    }

    fn tell(&mut self, errand: Errand, answer: &Answer<io::Error>) {
        let (trouble, what, so) = match errand {
            Errand::Read(..) => (&mut self.reading, "read", "holding there"),
            _ => (&mut self.writing, "write", "holding in memory"),
        };
        let path = self.keeper.log().folder().path().display();
        match answer {
            Answer::Failed(error) if std::mem::replace(&mut trouble.told, true) => {
                log::debug!("cannot {what} the spool {path}: {error}");
            }
            Answer::Failed(error) => log::warn!("cannot {what} the spool {path}: {error}; {so}, trying again"),
            Answer::GivenUp(error) => {
                log::warn!("giving up a file of the spool {path}: {error}; what is in it is lost");
                *trouble = Trouble::default();
            }
            Answer::Full(_) => {
                let now = net::now();
                if self.full_told.is_none_or(|told| now.since(told) >= FULL_GAP) {
                    log::warn!("the spool {path} is full: newer datagrams are held in memory alone");
                    self.full_told = Some(now);
                }
            }
            Answer::Done | Answer::ReadBack(_) => {}
        }
        if !matches!(answer, Answer::Full(_)) {
            trouble.stage = trouble.stage.after(errand, matches!(answer, Answer::Failed(_)));
        }
    }

    /// Tells that a trouble is over. That is so when nothing is left to do: a disk that takes a little and fails again
    /// is no news.
    fn tell_ends(&mut self) {
        let path = self.keeper.log().folder().path().display();
        for (trouble, what) in [(&mut self.writing, "write"), (&mut self.reading, "read")] {
            if trouble.told && trouble.stage == Stage::Over {
                trouble.told = false;
                log::info!("can {what} the spool {path} again");
            }
        }
    }
}
