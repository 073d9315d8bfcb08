//! Claims: which of the sockets on the port a candidate has.

use std::io::{self, ErrorKind};

use super::super::proc::Proc;
use super::super::socket::{Family, Namespace, PortSocket, inodes};
use super::super::wanted::Wanted;
use super::candidates::Candidate;
use crate::proto::server::judge::Bindings;

#[derive(Debug)]
pub(super) struct Claim<'a> {
    pub(super) candidate: &'a Candidate,
    /// The candidate's sockets that receive at a wanted address.
    pub(super) sockets: Vec<PortSocket>,
    /// The candidate has sockets on the port, but none that receives at a wanted address.
    pub(super) is_elsewhere: bool,
    /// The candidate's descriptors may not be read.
    pub(super) is_unreadable: bool,
    /// All sockets on the port that the candidate could own.
    pub(super) visible: Vec<PortSocket>,
}

impl<'a> Claim<'a> {
    /// `ours`: the sockets of our network namespace.
    pub(super) fn of(candidate: &'a Candidate, proc: &Proc, ours: &[PortSocket], wanted: &Wanted) -> Self {
        let pid = candidate.process.pid;
        let others = proc.shares(pid, "ns/net") != Some(true);
        let its = others.then(|| listed(proc, Namespace::OfProcess(pid), wanted.port).ok()).flatten();
        let its = its.unwrap_or_else(|| ours.to_vec());
        let known = inodes(ours);
        let further = its.iter().filter(|seen| !known.contains(&seen.socket.inode));
        // Inodes are unique across network namespaces.
        let visible: Vec<_> = ours.iter().chain(further).copied().collect();
        let held = proc.holds(pid, &inodes(&visible));
        let is_unreadable = matches!(&held, Err(error) if error.kind() == ErrorKind::PermissionDenied);
        // What cannot be read does not count.
        let held = held.unwrap_or_default();
        let owned = visible.iter().copied().filter(|seen| held.contains(&seen.socket.inode)).collect::<Vec<_>>();
        let sockets = narrowed(&owned, &visible, wanted);
        Self { candidate, is_elsewhere: sockets.is_empty() && !owned.is_empty(), is_unreadable, sockets, visible }
    }
}

/// The sockets that get datagrams to a wanted address; all of them, where none is named.
pub(super) fn narrowed(sockets: &[PortSocket], visible: &[PortSocket], wanted: &Wanted) -> Vec<PortSocket> {
    let gets = |one: &PortSocket| {
        let strangers = visible.iter().filter(|other| other.namespace == one.namespace).map(|other| other.binding);
        let bindings = Bindings { remoted: vec![one.binding], strangers: strangers.collect() };
        wanted.addresses.is_empty() || wanted.addresses.iter().any(|&address| bindings.receive_at(address).is_ok())
    };
    sockets.iter().copied().filter(gets).collect()
}

/// The sockets on the port in one network namespace; an error where neither table can be read. One of them can be
/// missing: there is no `udp6` without IPv6.
pub(super) fn listed(proc: &Proc, namespace: Namespace, port: u16) -> io::Result<Vec<PortSocket>> {
    let (mut text, mut seen) = (Vec::new(), Vec::new());
    let [v4, v6] =
        Family::BOTH.map(|family| proc.read_sockets(namespace, family, port, &mut text, &mut seen, |_| false));
    v4.or(v6).map(|()| seen)
}
