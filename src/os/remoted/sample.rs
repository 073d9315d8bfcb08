//! The sample: one look at what the search found, in some tens of microseconds.

use std::iter;
use std::path::Path;
use std::time::Duration;

use nix::time::ClockId;

use super::diag::Diag;
use super::proc::{Life, Proc, READINGS, rows};
use super::{Companion, Family, Found, SOCKETS_MAX, Sight, View, Wanted};
use crate::proto::server::judge::{Owner, Places, Presence, Sample, Socket};

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
    /// The newest look showed a socket on the port that the search has not seen.
    newcomer: bool,
}

impl Inspector {
    /// Cheap, and cannot fail: the netlink socket is opened by the first sample, and done without if need be.
    pub fn new(wanted: Wanted) -> Self {
        let diag = Diag::new(wanted.port);
        Self { wanted, proc: Proc::at(Path::new("/proc")), diag, table: Vec::new(), newcomer: false }
    }

    /// One that reads everything from files below `root`.
    #[cfg(test)]
    pub(super) fn reading(root: &Path, wanted: Wanted) -> Self {
        Self { wanted, proc: Proc::at(root), diag: Diag::off(), table: Vec::new(), newcomer: false }
    }

    /// Looks once, or twice where something seems to be gone: a table can leave out a live socket, and what is
    /// believed to be gone costs every client copies. All that the sample says was so at some moment between the call
    /// and its return.
    ///
    /// `found` must come from a search for what this inspector was made for.
    pub fn sample(&mut self, found: &Found) -> Sample {
        let sample = self.look(found);
        if found.is_lost_in(&sample) { self.look(found) } else { sample }
    }

    /// Whether the newest sample found a socket on the port that the search has not seen: it may be remoted's, so
    /// another search is due.
    pub const fn sees_newcomer(&self) -> bool {
        self.newcomer
    }

    /// A line for the log when something has changed for good that an administrator should know; each comes once.
    pub fn notice(&mut self) -> Option<String> {
        let reason = self.diag.take_reason()?;
        Some(format!(
            "NETLINK_SOCK_DIAG does not work here: {reason}; reading /proc/net/udp, \
             and taking the size of remoted's buffer to be the default"
        ))
    }

    fn look(&mut self, found: &Found) -> Sample {
        let holders = self.holders(found);
        let owned = holders.alive || found.port_alone;
        let seen = self.sockets(found);
        let presence = if !owned {
            self.without_holders(found, seen.strangers)
        } else if seen.sockets.is_empty() {
            self.without_sockets(found)
        } else if holders.stopped {
            Presence::Stopped
        } else {
            Presence::Running
        };
        Sample {
            presence,
            sockets: if owned { seen.sockets } else { Vec::new() },
            age: holders.youngest_ticks.and_then(age),
            owners: holders.owners,
            companion: self.companion(found),
            missing: self.missing(found),
            places: (owned && found.is_at_home()).then_some(seen.places),
        }
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

    /// How it stands where no owner is left: a process of the right name may be without a socket, or one of another
    /// name may have the port.
    fn without_holders(&self, found: &Found, port_is_taken: bool) -> Presence {
        if self.any_lives(&found.elsewhere) {
            Presence::Elsewhere
        } else if self.any_lives(&found.bare) {
            Presence::NoSocket
        } else if port_is_taken {
            Presence::Taken
        } else {
            Presence::NoProcess
        }
    }

    fn without_sockets(&self, found: &Found) -> Presence {
        if self.any_lives(&found.elsewhere) { Presence::Elsewhere } else { Presence::NoSocket }
    }

    fn any_lives(&self, processes: &[Owner]) -> bool {
        processes.iter().any(|&process| self.lives(process))
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

    /// The sockets that are on the port at this moment. Those of our own network namespace are looked at in any case:
    /// where remoted was found in a container alone, one may start here.
    fn sockets(&mut self, found: &Found) -> Seen {
        let mut views = vec![View::Own];
        for (view, _) in &found.watched {
            if !views.contains(view) {
                views.push(*view);
            }
        }
        let mut seen = Seen::default();
        self.newcomer = false;
        for view in views {
            for sight in self.sights(view, found) {
                let inode = sight.socket.inode;
                let is_watched = found.watched.contains(&(view, inode));
                let is_known = found.known.contains(&inode);
                // Beyond the limit a search does not keep them apart either.
                self.newcomer |= !is_known && found.known.len() < SOCKETS_MAX;
                if is_watched {
                    seen.sockets.push(sight.socket);
                }
                if view == View::Own {
                    seen.strangers |= is_known && !is_watched;
                    let places = if is_watched { &mut seen.places.remoted } else { &mut seen.places.strangers };
                    places.push(sight.place);
                }
            }
        }
        seen.sockets.sort_unstable_by_key(|socket| socket.inode);
        seen
    }

    /// The sockets on the port that one network namespace has, each once.
    fn sights(&mut self, view: View, found: &Found) -> Vec<Sight> {
        let mut sights = Vec::new();
        for family in Family::BOTH {
            // The netlink socket belongs to our own network namespace. What it told before it failed comes twice then.
            if view != View::Own || !self.diag.dump(family, &mut sights) {
                self.read_table(view, family, found, &mut sights);
            }
        }
        sights.sort_by_key(|sight| sight.socket.inode);
        sights.dedup_by_key(|sight| sight.socket.inode);
        sights
    }

    /// Adds the sockets on the port as `/proc` shows them.
    fn read_table(&mut self, view: View, family: Family, found: &Found, sights: &mut Vec<Sight>) {
        let watched = || found.watched.iter().filter(|(seen_by, _)| *seen_by == view);
        for _ in 0..READINGS {
            if self.proc.read_table(view, family, &mut self.table).is_err() {
                return;
            }
            let port = self.wanted.port;
            let listed = rows(&self.table).filter(|row| row.receives_on(port)).take(SOCKETS_MAX);
            sights.extend(listed.map(|row| row.sight(found.buffer_default)));
            if watched().all(|(_, inode)| sights.iter().any(|sight| sight.socket.inode == *inode)) {
                return;
            }
        }
    }
}

/// What the sockets on the port look like.
#[derive(Debug, Default)]
struct Seen {
    /// Those that qualify.
    sockets: Vec<Socket>,
    /// Where those of our own network namespace receive.
    places: Places,
    /// Our own network namespace has a socket on the port that the search saw, too, and did not take for remoted's.
    strangers: bool,
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
