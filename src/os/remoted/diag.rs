//! NETLINK_SOCK_DIAG: what the kernel tells of a UDP socket beyond `/proc/net/udp{,6}`, above all the size of its
//! buffer.
//!
//! One dump for each address family, which the kernel already restricts to the port and to unconnected sockets
//! (`udp_dump` in its `net/ipv4/udp_diag.c`). It takes half the time of reading the table, and needs no privilege.
//!
//! Any error means: not this time. The connection is then opened afresh, since the kernel refuses a new dump on one
//! that was left in the middle of another (EBUSY); after three in a row there is no further attempt. An old
//! kernel, one without `udp_diag`, or a sandbox (`RestrictAddressFamilies=`) fails always.

#[cfg(test)]
mod tests;

use std::io::{self, ErrorKind};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_UDP};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket as NetlinkSocket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::{TimeVal, TimeValLike};

use super::{Family, Sight};
use crate::proto::server::judge::{Place, Socket};

/// Failures in a row after which the kernel is not asked again: each attempt may make it look for a module.
const FAILURES_MAX: u8 = 3;

/// How long an answer is waited for. The kernel has it ready when the request returns; this only keeps a fault from
/// hanging the caller.
const ANSWER_MILLIS_MAX: i64 = 200;

/// The kernel makes the datagrams of a dump as large as the buffer that the last one was read into, but no smaller than
/// a page or 8 KiB, whichever is less (`netlink_dump` in its `net/netlink/af_netlink.c`): so this is always enough.
const DATAGRAM_BYTES_MAX: usize = 8 * 1_024;

/// Datagrams read for one dump: some 45 sockets fit in each, and a port has a few.
const DATAGRAMS_MAX: usize = 64;

/// The way to the kernel, as long as there is one.
#[derive(Debug)]
pub(super) struct Diag {
    port: u16,
    connection: Option<Connection>,
    failures: u8,
    last_error: Option<io::Error>,
}

impl Diag {
    /// For the sockets on `port`. Nothing is opened before the first dump.
    pub(super) fn new(port: u16) -> Self {
        Self { port, connection: None, failures: 0, last_error: None }
    }

    /// One that never asks the kernel.
    #[cfg(test)]
    pub(super) fn off() -> Self {
        Self { failures: FAILURES_MAX, ..Self::new(0) }
    }

    /// Adds our own network namespace's sockets of this family on the port. Whether the kernel told of all there are.
    pub(super) fn dump(&mut self, family: Family, sights: &mut Vec<Sight>) -> bool {
        if self.failures >= FAILURES_MAX {
            return false;
        }
        let outcome = self.try_dump(family, sights);
        self.account(outcome)
    }

    /// Whether the `outcome` of a dump was a good one; a bad one costs the connection.
    fn account(&mut self, outcome: io::Result<()>) -> bool {
        match outcome {
            Ok(()) => {
                self.failures = 0;
                true
            }
            Err(error) => {
                self.connection = None;
                self.failures += 1;
                self.last_error = Some(error);
                false
            }
        }
    }

    /// Why the kernel is not asked any more: once, when that has been decided.
    pub(super) fn take_reason(&mut self) -> Option<io::Error> {
        (self.failures >= FAILURES_MAX).then(|| self.last_error.take())?
    }

    fn try_dump(&mut self, family: Family, sights: &mut Vec<Sight>) -> io::Result<()> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(Connection::open(self.port)?),
        };
        connection.dump(family, sights)
    }
}

/// A netlink socket, and all that would otherwise be made anew for each dump.
#[derive(Debug)]
struct Connection {
    socket: NetlinkSocket,
    /// That of the newest request: an answer to an earlier one is passed over.
    sequence: u32,
    request_v4: Vec<u8>,
    request_v6: Vec<u8>,
    datagram: Box<[u8]>,
}

impl Connection {
    fn open(port: u16) -> io::Result<Self> {
        let socket = NetlinkSocket::new(NETLINK_SOCK_DIAG)?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::milliseconds(ANSWER_MILLIS_MAX))?;
        // Port 0 is the kernel. A connected netlink socket takes nothing from any other process.
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
            request_v4: request(Family::V4, port),
            request_v6: request(Family::V6, port),
            datagram: vec![0; DATAGRAM_BYTES_MAX].into_boxed_slice(),
        })
    }

    fn dump(&mut self, family: Family, sights: &mut Vec<Sight>) -> io::Result<()> {
        let request = match family {
            Family::V4 => &mut self.request_v4,
            Family::V6 => &mut self.request_v6,
        };
        self.sequence = self.sequence.wrapping_add(1);
        NetlinkBuffer::new(&mut *request).set_sequence_number(self.sequence);
        self.socket.send(request, 0)?;
        for _ in 0..DATAGRAMS_MAX {
            // With MSG_TRUNC the length is that of the datagram, even where the buffer was too short for it.
            let length = self.socket.recv(&mut &mut self.datagram[..], libc::MSG_TRUNC)?;
            let datagram = self.datagram.get(..length).ok_or_else(|| invalid("a truncated answer"))?;
            if collect(datagram, self.sequence, sights)? {
                return Ok(());
            }
        }
        Err(invalid("an answer without end"))
    }
}

/// A request for all unconnected UDP sockets on `port`, with their memory figures; its sequence number is yet to be
/// set.
fn request(family: Family, port: u16) -> Vec<u8> {
    let (family, mut socket_id) = match family {
        Family::V4 => (AF_INET, SocketId::new_v4()),
        Family::V6 => (AF_INET6, SocketId::new_v6()),
    };
    socket_id.source_port = port;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let request = SockDiagMessage::InetRequest(InetRequest {
        family,
        protocol: IPPROTO_UDP,
        extensions: ExtensionFlags::SKMEMINFO,
        states: StateFlags::CLOSE,
        socket_id,
    });
    let mut message = NetlinkMessage::new(header, request.into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Takes the sockets out of one datagram of the answer to request `sequence`. Whether it was the last one.
///
/// # Errors
/// That of the kernel, or `InvalidData` for what is no such answer.
pub fn collect(datagram: &[u8], sequence: u32, sights: &mut Vec<Sight>) -> io::Result<bool> {
    let mut rest = datagram;
    while !rest.is_empty() {
        let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(invalid)?;
        // Messages start at multiples of four bytes.
        let length = (message.header.length as usize).next_multiple_of(4);
        rest = rest.get(length..).unwrap_or_default();
        if message.header.sequence_number != sequence {
            continue;
        }
        match message.payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                sights.push(sight(&response)?);
            }
            NetlinkPayload::Noop => {}
            NetlinkPayload::Done(done) if done.code == 0 => return Ok(true),
            NetlinkPayload::Done(done) => return Err(refusal(done.code)),
            NetlinkPayload::Error(error) => return Err(refusal(error.raw_code())),
            _ => return Err(invalid("an answer of another kind")),
        }
    }
    Ok(false)
}

/// The socket in one message.
fn sight(response: &InetResponse) -> io::Result<Sight> {
    let attributes = &response.nlas;
    let memory = attributes.iter().find_map(|attribute| match attribute {
        Nla::MemInfo(memory) => Some(memory),
        _ => None,
    });
    let memory = memory.ok_or_else(|| invalid("an answer without SK_MEMINFO"))?;
    // `/proc` does not tell; kernels since 4.5 do, of each socket of IPv6.
    let v6_only = attributes.iter().any(|attribute| matches!(attribute, Nla::SkV6Only(true)));
    let socket = Socket {
        // 32 bits of it: the kernel's counter for those of sockets has no more.
        inode: u64::from(response.header.inode),
        // Not `memory.receive_queue`: that still has what was read but not yet given back by the kernel
        // (`udp_rmem_release`).
        rx_queue: u64::from(response.header.recv_queue),
        drops: memory.drops,
        buffer: Some(u64::from(memory.receive_queue_max)),
    };
    Ok(Sight { socket, place: Place::of(response.header.socket_id.source_address, v6_only) })
}

/// The error in a message, where the kernel gives it as a negative number. Not `ErrorMessage::to_io`, which panics on
/// the lowest one there is.
fn refusal(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code.saturating_neg())
}

fn invalid(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}
