//! A socket on remoted's port, and where it is listed.

use crate::proto::server::judge::{Binding, Socket};

/// Most sockets on the port that are read from one table: remoted has one, a group of SO_REUSEPORT one for each core.
pub(super) const SOCKETS_MAX: usize = 256;

/// A socket on the port as one look shows it, whoever has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortSocket {
    /// The network namespace in which it was seen.
    pub(super) namespace: Namespace,
    pub(super) socket: Socket,
    pub(super) binding: Binding,
}

/// A network namespace, whose tables of sockets are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Namespace {
    /// The server's.
    Ours,
    OfProcess(u32),
}

/// The address family of a socket. A dual-stack socket is listed as `V6` alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const BOTH: [Self; 2] = [Self::V4, Self::V6];
}

pub(super) fn inodes(sockets: &[PortSocket]) -> Vec<u64> {
    sockets.iter().map(|seen| seen.socket.inode).collect()
}
