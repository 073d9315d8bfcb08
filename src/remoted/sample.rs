//! The sample: one look at what the search found, in some tens of microseconds.

use std::iter;
use std::path::Path;
use std::time::Duration;

use nix::time::ClockId;

use super::diag::Diag;
use super::proc::{Life, Proc, READINGS, rows};
use super::{Companion, Found, Table, View, Wanted};
use crate::verdict::{Owner, Presence, Sample, Socket};

/// Milliseconds in a clock tick of `/proc/PID/stat`: USER_HZ, which the kernel shows to programs whatever its own HZ,
/// is 100 on all systems that Rust's standard library runs on.
const TICK_MILLIS: u64 = 10;

/// Looks at what a search found; kept by the serving loop, so that buffers and the netlink socket are made once.
#[derive(Debug)]
pub struct Inspector {
    wanted: Wanted,
    proc: Proc,
    diag: Diag,
    /// The table of sockets read last.
    table: Vec<u8>,
}

impl Inspector {
    /// Cheap, and cannot fail: the netlink socket is opened by the first sample, and done without if need be.
    pub fn new(wanted: Wanted) -> Self {
        let diag = Diag::new(wanted.port);
        Self { wanted, proc: Proc::at(Path::new("/proc")), diag, table: Vec::new() }
    }

    /// One that reads everything from files below `root`.
    #[cfg(test)]
    pub(super) fn reading(root: &Path, wanted: Wanted) -> Self {
        Self { wanted, proc: Proc::at(root), diag: Diag::off(), table: Vec::new() }
    }

    /// Looks once. All that it says was so at some moment between the call and its return.
    ///
    /// `found` must come from a search for what this inspector was made for.
    pub fn sample(&mut self, found: &Found) -> Sample {
        let holders = self.holders(found);
        let owned = holders.alive || found.port_alone;
        let sockets = if owned { self.sockets(found) } else { Vec::new() };
        let presence = if !owned {
            self.without_holders(found)
        } else if sockets.is_empty() {
            Presence::NoSocket
        } else if holders.stopped {
            Presence::Stopped
        } else {
            Presence::Running
        };
        Sample {
            presence,
            sockets,
            age: holders.youngest_ticks.and_then(age),
            owners: holders.owners,
            companion: self.companion(found),
            missing: self.missing(found),
            places: None,
        }
    }

    /// A line for the log when something has changed for good that an administrator should know; each comes once.
    pub fn notice(&mut self) -> Option<String> {
        let reason = self.diag.take_reason()?;
        Some(format!(
            "NETLINK_SOCK_DIAG does not work here: {reason}; reading /proc/net/udp, \
             and taking the size of remoted's buffer to be the default"
        ))
    }

    fn holders(&self, found: &Found) -> Holders {
        let mut holders = Holders::default();
        for holder in &found.holders {
            let life = self.proc.life(holder.process);
            if life == Life::Gone {
                continue;
            }
            holders.alive = true;
            holders.stopped |= life == Life::Stopped;
            holders.youngest_ticks = holders.youngest_ticks.max(Some(holder.process.start_ticks));
            holders.owners.extend(holder.proven.then_some(holder.process));
        }
        holders
    }

    /// How it stands where no owner is left: a process of the right name may be without a socket.
    fn without_holders(&self, found: &Found) -> Presence {
        if found.bare.iter().any(|&process| self.lives(process)) { Presence::NoSocket } else { Presence::NoProcess }
    }

    fn companion(&self, found: &Found) -> Option<bool> {
        match found.companion {
            Companion::NotExpected => None,
            Companion::Missing => Some(false),
            Companion::Seen(process) => Some(self.lives(process)),
        }
    }

    fn missing(&self, found: &Found) -> Option<String> {
        // Before the first search nothing is known of any of them.
        let known = found.required.iter().copied().chain(iter::repeat(None));
        let mut required = self.wanted.required.iter().zip(known);
        let (name, _) = required.find(|(_, process)| !process.is_some_and(|process| self.lives(process)))?;
        Some(name.clone())
    }

    fn lives(&self, process: Owner) -> bool {
        self.proc.life(process) != Life::Gone
    }

    /// The known sockets that are still there, sorted.
    fn sockets(&mut self, found: &Found) -> Vec<Socket> {
        let mut sockets = Vec::new();
        for table in &found.tables {
            // The netlink socket belongs to our own network namespace. What it told before it failed comes twice then.
            let answered = table.view == View::Own && self.diag.dump(table.family, &table.inodes, &mut sockets);
            if !answered {
                self.read_table(table, found.buffer_default, &mut sockets);
            }
        }
        sockets.sort_unstable_by_key(|socket| socket.inode);
        sockets.dedup_by_key(|socket| socket.inode);
        sockets
    }

    /// Adds the known sockets of a table as `/proc` shows it.
    fn read_table(&mut self, table: &Table, buffer: u64, sockets: &mut Vec<Socket>) {
        let before = sockets.len();
        for _ in 0..READINGS {
            if self.proc.read_table(table.view, table.family, &mut self.table).is_err() {
                return;
            }
            let port = self.wanted.port;
            let known = rows(&self.table).filter(|row| row.receives_on(port) && table.inodes.contains(&row.inode));
            sockets.extend(known.map(|row| Socket {
                inode: row.inode,
                rx_queue: row.rx_queue,
                drops: row.drops,
                buffer: Some(buffer),
            }));
            if sockets.len() - before >= table.inodes.len() {
                return;
            }
        }
    }
}

/// What became of the owners of the sockets.
#[derive(Debug, Default)]
struct Holders {
    /// At least one is left.
    alive: bool,
    /// At least one is stopped.
    stopped: bool,
    youngest_ticks: Option<u64>,
    /// Those whose sockets were seen among their descriptors.
    owners: Vec<Owner>,
}

/// How long ago it was when the clock of `/proc/PID/stat` showed `start_ticks`. Both clocks count suspended time.
pub(super) fn age(start_ticks: u64) -> Option<Duration> {
    let now = Duration::from(ClockId::CLOCK_BOOTTIME.now().ok()?);
    Some(now.saturating_sub(Duration::from_millis(start_ticks.saturating_mul(TICK_MILLIS))))
}
