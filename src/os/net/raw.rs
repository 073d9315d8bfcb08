//! Datagrams to a socket of this host, with a source address that need not be this host's.
//!
//! A raw socket sends packets with headers of ours ([`packet`](super::packet)). The system carries packets for this
//! host over `lo`: the way is settled when they are sent, and neither rp_filter nor the check for odd source addresses
//! looks at it again. A firewall does. Packets that pass it reach the sockets of UDP, and beside them the raw sockets
//! of the protocol UDP. The *tap* is such a raw socket, and its filter lets through payloads that begin with our mark.
//!
//! Opening both sockets takes CAP_NET_RAW, using them no right.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::packet::{Flow, Header};
use super::system::random;
use super::udp::{SendError, send_messages};

/// Bytes at the head of a payload by which the tap tells our datagrams.
pub const MARK_BYTES: usize = 4;
/// The filter's answer for a packet that the socket gets whole: an answer is how many bytes of it the socket gets.
const WHOLE_PACKET_BYTES: u32 = u32::MAX;

/// The way to one socket of this host.
#[derive(Debug)]
pub struct Lane {
    to: SocketAddr,
    out: Socket,
    tap: Socket,
    /// The identification of the newest datagram that went in fragments.
    identification: u32,
}

impl Lane {
    /// Opens the way to an address of this host: with CAP_NET_RAW only. The tap gets payloads that begin with `mark`.
    pub fn open(to: SocketAddr, mark: [u8; MARK_BYTES]) -> io::Result<Self> {
        let domain = Domain::for_address(to);
        let out = Socket::new(domain, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
        let tap = Socket::new(domain, Type::RAW, Some(Protocol::UDP))?;
        // The filter comes first: a raw socket gets packets at once. Bound, it gets those to this address alone.
        tap.attach_filter(&begins_with(mark, to.is_ipv4()))?;
        // With this option the address may be given to this host later.
        let _ = match to {
            SocketAddr::V4(_) => tap.set_freebind_v4(true),
            SocketAddr::V6(_) => tap.set_freebind_v6(true),
        };
        tap.bind(&SocketAddr::new(to.ip(), 0).into())?;
        out.set_nonblocking(true)?;
        tap.set_nonblocking(true)?;
        Ok(Self { to, out, tap, identification: random() as u32 })
    }

    /// The address that the datagrams go to.
    pub const fn target(&self) -> SocketAddr {
        self.to
    }

    /// Sends datagrams that seem to come from `from`, like [`send_batch`](super::udp::send_batch).
    pub fn send(&mut self, from: SocketAddr, payloads: &[&[u8]]) -> (usize, Result<(), SendError>) {
        let Some(flow) = Flow::between(from, self.to) else {
            return (0, Err(SendError::Refused(io::ErrorKind::AddrNotAvailable.into())));
        };
        let headers: Vec<Header> = payloads.iter().map_while(|payload| flow.header(payload)).collect();
        let packets = headers.iter().zip(payloads);
        let messages: Vec<[IoSlice<'_>; 2]> =
            packets.map(|(header, payload)| [IoSlice::new(header.as_ref()), IoSlice::new(payload)]).collect();
        let mut sent = 0;
        loop {
            let (more, outcome) = send_messages(&self.out, without_port(self.to), &messages[sent..]);
            sent += more;
            match outcome {
                Err(SendError::Unsendable(_)) => {
                    // The packet is longer than the device takes, and the datagram no longer than datagrams may be.
                    if let Err(error) = self.send_in_fragments(flow, payloads[sent]) {
                        return (sent, Err(error));
                    }
                    sent += 1;
                }
                Ok(()) if sent < payloads.len() => {
                    return (sent, Err(SendError::Unsendable(io::Error::from_raw_os_error(libc::EMSGSIZE))));
                }
                outcome => return (sent, outcome),
            }
        }
    }

    /// Sends a datagram that the tap gets and no socket of UDP does, since its checksum is wrong.
    pub fn probe(&self, from: SocketAddr, payload: &[u8]) -> Result<(), SendError> {
        let Some(header) = Flow::between(from, self.to).and_then(|flow| flow.spoilt(payload)) else {
            return Err(SendError::Refused(io::ErrorKind::AddrNotAvailable.into()));
        };
        let message = [IoSlice::new(header.as_ref()), IoSlice::new(payload)];
        send_messages(&self.out, without_port(self.to), &[message]).1
    }

    /// The socket that gets the marked datagrams, for `Inbox::receive`. The headers of IPv4 and UDP, or in IPv6 the
    /// header of UDP alone, stand in front of the payload.
    pub const fn tap(&self) -> &impl AsRawFd {
        &self.tap
    }

    fn send_in_fragments(&mut self, flow: Flow, payload: &[u8]) -> Result<(), SendError> {
        self.identification = self.identification.wrapping_add(1);
        let fragments = flow.fragments(self.identification, payload).unwrap_or_default();
        let messages: Vec<[IoSlice<'_>; 1]> = fragments.iter().map(|fragment| [IoSlice::new(fragment)]).collect();
        send_messages(&self.out, without_port(self.to), &messages).1
    }
}

/// The address for a raw socket, which takes the port for a protocol: in IPv6 it must be the socket's or none.
const fn without_port(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), 0)
}

/// A program of the classic packet filter: it lets datagrams through whose payload begins with `mark`.
fn begins_with(mark: [u8; MARK_BYTES], v4: bool) -> Vec<SockFilter> {
    use libc::{BPF_ABS, BPF_B, BPF_IND, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_LDX, BPF_MSH, BPF_RET, BPF_W};
    const UDP_HEADER_BYTES: u32 = 8;
    let step = |code: u32, k: u32| SockFilter::new(code as u16, 0, 0, k);
    let load = if v4 {
        // The length of the IP header goes to the index register.
        vec![step(BPF_LDX | BPF_B | BPF_MSH, 0), step(BPF_LD | BPF_W | BPF_IND, UDP_HEADER_BYTES)]
    } else {
        vec![step(BPF_LD | BPF_W | BPF_ABS, UDP_HEADER_BYTES)]
    };
    let else_over_one = SockFilter::new((BPF_JMP | BPF_JEQ | BPF_K) as u16, 0, 1, u32::from_be_bytes(mark));
    load.into_iter()
        .chain([else_over_one, step(BPF_RET | BPF_K, WHOLE_PACKET_BYTES), step(BPF_RET | BPF_K, 0)])
        .collect()
}
