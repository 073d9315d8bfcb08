//! NETLINK_SOCK_DIAG: the kernel tells more of a UDP socket than in `/proc/net/udp{,6}`, above all its buffer's size.
//!
//! One dump for each address family, which the kernel already restricts to the port and to unconnected sockets
//! (`udp_dump` in its `net/ipv4/udp_diag.c`). It takes half the time of reading the table, and needs no privilege.
//!
//! After an error the connection is opened afresh, since the kernel refuses a new dump on a connection that was left
//! in the middle of another (EBUSY). After three errors in a row there is no further attempt. An old kernel, a kernel
//! without `udp_diag`, or a sandbox (`RestrictAddressFamilies=`) always fails.

mod messages;
#[cfg(test)]
mod tests;

use std::io;

use netlink_packet_core::NetlinkBuffer;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket as NetlinkSocket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::{TimeVal, TimeValLike};

use super::socket::{Family, PortSocket};
pub use messages::collect;
use messages::{invalid, request};

/// Failures in a row after which the kernel is not asked again: each attempt may make it look for a module.
const FAILURES_MAX: u8 = 3;
/// Longest wait for an answer, which the kernel has ready when the request returns. A fault must not hang the caller.
const ANSWER_MS_MAX: i64 = 200;
/// Always enough: the kernel makes the datagrams of a dump as large as the buffer that the last one was read into, but
/// no smaller than a page or 8 KiB, whichever is less (`netlink_dump` in its `net/netlink/af_netlink.c`).
const DATAGRAM_BYTES_MAX: usize = 8 * 1_024;
/// Datagrams read for one dump: some 45 sockets fit in each, and a port has a few.
const DATAGRAMS_MAX: usize = 64;

#[derive(Debug)]
pub(super) struct Diag {
    port: u16,
    connection: Option<Connection>,
    failures: u8,
    last_error: Option<io::Error>,
}

impl Diag {
    /// A way to ask for the sockets on `port`. Nothing is opened before the first dump.
    pub(super) fn new(port: u16) -> Self {
        Self { port, connection: None, failures: 0, last_error: None }
    }

    /// A way that is given up: the kernel is never asked.
    #[cfg(test)]
    pub(super) fn off() -> Self {
        Self { failures: FAILURES_MAX, ..Self::new(0) }
    }

    /// Adds our network namespace's sockets of this family on the port. Returns whether the kernel told of them all.
    pub(super) fn dump(&mut self, family: Family, seen: &mut Vec<PortSocket>) -> bool {
        if self.failures >= FAILURES_MAX {
            return false;
        }
        let connection = self.connection.take().map_or_else(|| Connection::open(self.port), Ok);
        let outcome = connection.and_then(|mut connection| {
            connection.dump(family, seen)?;
            self.connection = Some(connection);
            Ok(())
        });
        self.account(outcome)
    }

    /// Returns whether the `outcome` of a dump was a good one.
    fn account(&mut self, outcome: io::Result<()>) -> bool {
        match outcome {
            Ok(()) => self.failures = 0,
            Err(error) => {
                self.last_error = Some(error);
                self.failures += 1;
            }
        }
        self.failures == 0
    }

    /// Why the kernel is not asked any more: given once, when that has been decided.
    pub(super) fn take_reason(&mut self) -> Option<io::Error> {
        (self.failures >= FAILURES_MAX).then(|| self.last_error.take())?
    }
}

#[derive(Debug)]
struct Connection {
    socket: NetlinkSocket,
    /// The number of the newest request: an answer to an earlier one is passed over.
    sequence: u32,
    /// One for each of [`Family::BOTH`].
    requests: [Vec<u8>; 2],
    datagram: Box<[u8]>,
}

impl Connection {
    fn open(port: u16) -> io::Result<Self> {
        let socket = NetlinkSocket::new(NETLINK_SOCK_DIAG)?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::milliseconds(ANSWER_MS_MAX))?;
        // Port 0 is the kernel. A connected netlink socket takes nothing from any other process.
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
            requests: Family::BOTH.map(|family| request(family, port)),
            datagram: vec![0; DATAGRAM_BYTES_MAX].into_boxed_slice(),
        })
    }

    fn dump(&mut self, family: Family, seen: &mut Vec<PortSocket>) -> io::Result<()> {
        let request = &mut self.requests[family as usize];
        self.sequence = self.sequence.wrapping_add(1);
        NetlinkBuffer::new(&mut *request).set_sequence_number(self.sequence);
        self.socket.send(request, 0)?;
        for _ in 0..DATAGRAMS_MAX {
            // With MSG_TRUNC the length is the datagram's, even where the buffer was too short for it.
            let length = self.socket.recv(&mut &mut self.datagram[..], libc::MSG_TRUNC)?;
            let datagram = self.datagram.get(..length).ok_or_else(|| invalid("a truncated answer"))?;
            if collect(datagram, self.sequence, seen)? {
                return Ok(());
            }
        }
        Err(invalid("an answer without end"))
    }
}
