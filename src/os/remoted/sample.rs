//! The sample: one look at the processes and sockets that the search found, in some tens of microseconds.

use std::iter;
use std::time::Duration;

use nix::time::ClockId;

use super::diag::Diag;
use super::found::{Companion, Found};
use super::proc::{Proc, RunState};
use super::socket::{Family, Namespace, PortSocket, SOCKETS_MAX};
use super::wanted::Wanted;
use crate::proto::server::judge::{Presence, Process, Sample, Socket};

/// Milliseconds in a clock tick of `/proc/PID/stat`: USER_HZ, which the kernel shows to programs whatever its own HZ,
/// is 100 on all systems that Rust's standard library runs on.
const TICK_MS: u64 = 10;

/// Looks at the processes and sockets that a search found. It is kept, with its buffers and its netlink socket.
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
    /// Cheap, and cannot fail: the first sample opens the netlink socket, and does without it if need be.
    pub fn new(wanted: Wanted) -> Self {
        let diag = Diag::new(wanted.port);
        Self { wanted, proc: Proc::new(), diag, table: Vec::new(), newcomer: false }
    }

    /// An inspector that reads everything from files below `root`.
    #[cfg(test)]
    pub(super) fn reading(root: &std::path::Path, wanted: Wanted) -> Self {
        Self { proc: Proc::imitated(root), diag: Diag::off(), ..Self::new(wanted) }
    }

    /// Looks once, or twice where something seems to be gone: a table can leave out a live socket, and a socket taken
    /// for gone costs every client copies. Each part of the sample was true at some moment of the call. `found` must
    /// come from a search for this inspector's [`Wanted`].
    pub fn sample(&mut self, found: &Found) -> Sample {
        let sample = self.look(found);
        if found.is_lost_in(&sample) { self.look(found) } else { sample }
    }

    /// Whether the newest sample showed a socket that the search has not seen: it may be remoted's, so search again.
    pub const fn sees_newcomer(&self) -> bool {
        self.newcomer
    }

    /// A line for the log, once: the kernel is not asked any more.
    pub fn notice(&mut self) -> Option<String> {
        let reason = self.diag.take_reason()?;
        Some(format!(
            "NETLINK_SOCK_DIAG does not work here: {reason}; reading /proc/net/udp, \
             and taking the size of remoted's buffer to be the default"
        ))
    }

    fn look(&mut self, found: &Found) -> Sample {
        let states = found.owners.iter().map(|&owner| (owner, self.proc.run_state(owner)));
        let owners: Vec<(Process, RunState)> = states.filter(|(_, state)| *state != RunState::Gone).collect();
        let owned = !owners.is_empty() || found.port_alone;
        let seen = self.sockets(found);
        let bindings = (owned && found.is_at_home()).then(|| found.bindings_of(&seen));
        let (watched, others): (Vec<_>, Vec<_>) = seen.into_iter().partition(|seen| found.watches(seen));
        let is_known = |seen: &PortSocket| found.known.contains(&seen.socket.inode);
        // Beyond the limit a search does not keep them apart either.
        self.newcomer = found.known.len() < SOCKETS_MAX && !others.iter().all(is_known);
        let presence = if owned && !watched.is_empty() {
            let is_stopped = owners.iter().any(|(_, state)| *state == RunState::Stopped);
            if is_stopped { Presence::Stopped } else { Presence::Running }
        } else if self.any_lives(&found.elsewhere) {
            Presence::Elsewhere
        } else if owned || self.any_lives(&found.bare) {
            Presence::NoSocket
        } else if others.iter().any(|seen| seen.namespace == Namespace::Ours && is_known(seen)) {
            // The search saw the socket, too, and did not take it for remoted's.
            Presence::Taken
        } else {
            Presence::NoProcess
        };
        let with_buffer = |seen: &PortSocket| Socket {
            buffer: seen.socket.buffer.or(Some(found.buffer_default_bytes)),
            ..seen.socket
        };
        let mut sockets: Vec<Socket> = watched.iter().filter(|_| owned).map(with_buffer).collect();
        sockets.sort_unstable_by_key(|socket| socket.inode);
        Sample {
            presence,
            sockets,
            age: owners.iter().map(|(owner, _)| owner.start_ticks).max().and_then(age),
            owners: owners.iter().map(|(owner, _)| *owner).collect(),
            companion: self.companion(found),
            missing: self.missing(found),
            bindings,
        }
    }

    fn companion(&self, found: &Found) -> Option<bool> {
        match found.companion {
            Companion::NotExpected => None,
            Companion::Missing => Some(false),
            Companion::Seen(process) => Some(self.lives(&process)),
        }
    }

    fn missing(&self, found: &Found) -> Option<String> {
        // Before the first search nothing is known of any of them.
        let known = found.required.iter().copied().chain(iter::repeat(None));
        let mut required = self.wanted.required.iter().zip(known);
        let (name, _) = required.find(|(_, process)| !process.is_some_and(|process| self.lives(&process)))?;
        Some(name.clone())
    }

    fn any_lives(&self, processes: &[Process]) -> bool {
        processes.iter().any(|process| self.lives(process))
    }

    fn lives(&self, process: &Process) -> bool {
        self.proc.run_state(*process) != RunState::Gone
    }

    /// The sockets on the port. Our network namespace is always looked at: where remoted was found in a container
    /// alone, another may start here.
    fn sockets(&mut self, found: &Found) -> Vec<PortSocket> {
        let mut namespaces = vec![Namespace::Ours];
        for (namespace, _) in &found.watched {
            if !namespaces.contains(namespace) {
                namespaces.push(*namespace);
            }
        }
        namespaces.into_iter().flat_map(|namespace| self.sockets_in(namespace, found)).collect()
    }

    /// The sockets on the port in one network namespace, each once.
    fn sockets_in(&mut self, namespace: Namespace, found: &Found) -> Vec<PortSocket> {
        let watched = || found.watched.iter().filter(|(seen_in, _)| *seen_in == namespace);
        let enough =
            |seen: &[PortSocket]| watched().all(|(_, inode)| seen.iter().any(|one| one.socket.inode == *inode));
        let mut seen = Vec::new();
        for family in Family::BOTH {
            // The netlink socket belongs to our network namespace.
            if namespace != Namespace::Ours || !self.diag.dump(family, &mut seen) {
                // Without a table there are no sockets of this family.
                let _ =
                    self.proc.read_sockets(namespace, family, self.wanted.port, &mut self.table, &mut seen, enough);
            }
        }
        // A dump can show a socket twice, if another one is opened meanwhile.
        seen.sort_by_key(|one| one.socket.inode);
        seen.dedup_by_key(|one| one.socket.inode);
        seen
    }
}

/// How long ago the clock of `/proc/PID/stat` showed `start_ticks`. Both clocks count suspended time.
pub(super) fn age(start_ticks: u64) -> Option<Duration> {
    let now = Duration::from(ClockId::CLOCK_BOOTTIME.now().ok()?);
    Some(now.saturating_sub(Duration::from_millis(start_ticks.saturating_mul(TICK_MS))))
}
