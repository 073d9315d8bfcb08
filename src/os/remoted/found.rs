//! The outcome of a search: the processes and sockets that samples look at, and where remoted receives.

use std::net::IpAddr;

use thiserror::Error;

use super::socket::{Namespace, PortSocket, SOCKETS_MAX};
use super::vouch::Doubt;
use crate::proto::server::judge::{Binding, Bindings, Presence, Process, Sample};
use crate::proto::terms::Receives;

/// The outcome of a search, at which `Inspector::sample` then looks. The default is "nothing searched yet".
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The processes with the sockets among their descriptors, in order.
    pub(super) owners: Vec<Process>,
    /// Processes with an accepted name that do not count, one of each kind of doubt.
    pub doubts: Vec<(u32, Doubt)>,
    /// Other users' processes cannot be seen at all.
    pub is_blind: bool,
    /// Processes of an accepted name without a socket on the port.
    pub(super) bare: Vec<Process>,
    /// Processes of an accepted name with sockets on the port, none of which receives at a wanted address.
    pub(super) elsewhere: Vec<Process>,
    /// The inodes of the sockets that qualify, each once, and the network namespace in which each is looked at.
    pub(super) watched: Vec<(Namespace, u64)>,
    /// The inodes of all sockets on the port that the search saw, whoever has them.
    pub(super) known: Vec<u64>,
    /// Where the sockets of our network namespace receive, as the newest look shows them.
    pub(super) bindings: Bindings,
    /// No process was looked for: `Names::Any`.
    pub(super) port_alone: bool,
    pub(super) companion: Companion,
    /// The process with each name of `Wanted::required`, in its order.
    pub(super) required: Vec<Option<Process>>,
    /// The owners cannot all belong to one OSSEC.
    pub(super) scattered: bool,
    /// The receive buffer of a socket that asks for none; stands in where a table does not tell.
    pub(super) buffer_default_bytes: u64,
}

/// The analysis daemon of remoted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Companion {
    /// No analysis daemon belongs to a process of that name.
    #[default]
    NotExpected,
    Missing,
    Seen(Process),
}

/// Why a datagram to an address of this host does not reach remoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum Unreachable {
    #[error("remoted is in another network namespace, a container: start the server there")]
    Container,
    #[error("remoted receives IPv4 alone")]
    Ipv4Alone,
    #[error("remoted receives IPv6 alone")]
    Ipv6Alone,
    #[error("remoted receives at {0} alone (--remoted at the server says where to inject)")]
    At(IpAddr),
    #[error("remoted does not receive there: another program's socket does")]
    Stranger,
    #[error("remoted has no socket")]
    NoSocket,
}

impl Found {
    /// Whether there is a socket to watch. If not, only another search can find one.
    pub fn qualifies(&self) -> bool {
        !self.watched.is_empty()
    }

    /// Notes a process with an accepted name that does not count.
    pub(super) fn doubt(&mut self, pid: u32, doubt: Doubt) {
        if self.doubts.iter().all(|(_, other)| other.kind() != doubt.kind()) {
            self.doubts.push((pid, doubt));
        }
    }

    /// Whether remoted has a socket in our network namespace.
    pub fn is_at_home(&self) -> bool {
        self.watched.iter().any(|(namespace, _)| *namespace == Namespace::Ours)
    }

    /// The ids of owners that cannot belong to one OSSEC, like two in two containers; otherwise none.
    pub fn scattered(&self) -> Vec<u32> {
        let mut pids: Vec<u32> = self.owners.iter().filter(|_| self.scattered).map(|owner| owner.pid).collect();
        pids.sort_unstable();
        pids
    }

    /// Keeps where the sockets receive.
    pub fn note_bindings(&mut self, sample: &Sample) {
        if let Some(bindings) = &sample.bindings {
            self.bindings.clone_from(bindings);
        }
    }

    /// Checks that datagrams to this address of our host, and to remoted's port, reach one of its sockets.
    pub fn receives_at(&self, target: IpAddr) -> Result<(), Unreachable> {
        if self.qualifies() && !self.is_at_home() {
            return Err(Unreachable::Container);
        }
        self.bindings.receive_at(target).map_err(|instead| match (instead, self.bindings.remoted.first()) {
            (Receives::Ipv4Alone, _) => Unreachable::Ipv4Alone,
            (Receives::Ipv6Alone, _) => Unreachable::Ipv6Alone,
            (Receives::Elsewhere, Some(Binding::One(address))) => Unreachable::At(*address),
            (Receives::Elsewhere, _) => Unreachable::Stranger,
            (Receives::Nowhere, _) => Unreachable::NoSocket,
        })
    }

    /// Leaves out other network namespaces: once remoted was seen at home, a remoted elsewhere is another host's.
    #[must_use]
    pub fn at_home(self) -> Self {
        if self.is_at_home() {
            return self;
        }
        Self {
            owners: Vec::new(),
            watched: Vec::new(),
            bindings: Bindings::default(),
            companion: Companion::NotExpected,
            scattered: false,
            ..self
        }
    }

    /// Whether a `sample` of this calls for another search: something is gone, or has not been found yet.
    pub fn is_outdated_by(&self, sample: &Sample) -> bool {
        self.is_lost_in(sample) || sample.companion == Some(false) || sample.missing.is_some()
    }

    /// Whether remoted itself, or a part of it, is not where it was found.
    pub fn is_lost_in(&self, sample: &Sample) -> bool {
        let running = matches!(sample.presence, Presence::Running | Presence::Stopped);
        !running || sample.sockets.len() < self.watched.len() || sample.owners.len() < self.owners.len()
    }

    pub(super) fn watches(&self, seen: &PortSocket) -> bool {
        self.watched.contains(&(seen.namespace, seen.socket.inode))
    }

    pub(super) fn bindings_of(&self, sockets: &[PortSocket]) -> Bindings {
        let ours = sockets.iter().filter(|seen| seen.namespace == Namespace::Ours);
        let (remoted, strangers): (Vec<_>, Vec<_>) = ours.partition(|seen| self.watches(seen));
        let bindings = |sockets: Vec<&PortSocket>| sockets.iter().map(|seen| seen.binding).collect();
        Bindings { remoted: bindings(remoted), strangers: bindings(strangers) }
    }

    pub(super) fn know(&mut self, sockets: &[PortSocket]) {
        for inode in sockets.iter().map(|seen| seen.socket.inode) {
            if !self.known.contains(&inode) && self.known.len() < SOCKETS_MAX {
                self.known.push(inode);
            }
        }
    }

    /// Adds sockets to the watched ones. A socket that two processes share or see is watched once.
    pub(super) fn watch(&mut self, sockets: &[PortSocket]) {
        for seen in sockets {
            let is_watched = self.watched.iter().any(|(_, inode)| *inode == seen.socket.inode);
            if !is_watched && self.watched.len() < SOCKETS_MAX {
                self.watched.push((seen.namespace, seen.socket.inode));
            }
        }
    }
}
