//! Datagrams to a socket of this host with a source address that need not be this host's, and whether they come so far.
//!
//! A raw socket sends packets whose headers are ours ([`packet`](super::packet)). To an address of this host the system carries them over `lo`:
//! the way is settled when they are sent, and neither rp_filter nor the check for odd source addresses looks at it again. A firewall does. What
//! has passed it reaches the sockets of UDP, and raw sockets of the protocol UDP beside them: the *tap* is one, and its filter lets through what
//! begins with our mark alone.
//!
//! Both are opened once, which takes CAP_NET_RAW; to use them takes no right.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use nix::setsockopt_impl;
use nix::sockopt_impl;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::packet::{Flow, Header};
use super::udp::{SendError, send_messages};

sockopt_impl!(
    /// The socket may be bound to an address that this host does not have yet.
    Ipv6FreeBind, SetOnly, libc::IPPROTO_IPV6, libc::IPV6_FREEBIND, bool
);

/// Bytes at the head of a payload that the tap tells by.
pub const MARK_BYTES: usize = 4;
/// As many bytes as there are: what a filter returns is how much of the packet its socket gets.
const WHOLE: u32 = u32::MAX;

/// The way to one socket of this host.
#[derive(Debug)]
pub struct Lane {
    to: SocketAddr,
    out: Socket,
    tap: Socket,
    /// Datagrams that went in fragments.
    cut: u32,
}

impl Lane {
    /// To this address and port. The tap tells of datagrams that begin with `mark`. Needs CAP_NET_RAW.
    pub fn open(to: SocketAddr, mark: [u8; MARK_BYTES]) -> io::Result<Self> {
        let domain = Domain::for_address(to);
        let out = Socket::new(domain, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
        let tap = Socket::new(domain, Type::RAW, Some(Protocol::UDP))?;
        // Before it is bound: from its first moment a raw socket gets what there is. Bound, it costs a copy of what goes to this address alone.
        tap.attach_filter(&begins_with(mark, to.is_ipv4()))?;
        // An address of this host that comes later is not an error; on a system that cannot say so it is.
        let _ = match to {
            SocketAddr::V4(_) => setsockopt(&tap, sockopt::IpFreebind, &true),
            SocketAddr::V6(_) => setsockopt(&tap, Ipv6FreeBind, &true),
        };
        tap.bind(&SocketAddr::new(to.ip(), 0).into())?;
        for socket in [&out, &tap] {
            socket.set_nonblocking(true)?;
        }
        Ok(Self { to, out, tap, cut: super::random() as u32 })
    }

    /// Where it leads to.
    pub const fn target(&self) -> SocketAddr {
        self.to
    }

    /// Sends datagrams that seem to come from `from`, in order, without waiting. How many were sent, and what stopped it.
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
                    // Longer than the device takes in one piece; what a datagram may be it is not.
                    if let Err(error) = self.send_in_fragments(flow, payloads[sent]) {
                        return (sent, Err(error));
                    }
                    sent += 1;
                }
                Ok(()) if sent < payloads.len() => {
                    let error = io::Error::from_raw_os_error(libc::EMSGSIZE);
                    return (sent, Err(SendError::Unsendable(error)));
                }
                outcome => return (sent, outcome),
            }
        }
    }

    /// Sends what the tap tells of and no socket of UDP gets: the checksum is wrong.
    pub fn probe(&self, from: SocketAddr, payload: &[u8]) -> Result<(), SendError> {
        let header = Flow::between(from, self.to).and_then(|flow| flow.spoilt(payload));
        let Some(header) = header else {
            return Err(SendError::Refused(io::ErrorKind::AddrNotAvailable.into()));
        };
        let message = [IoSlice::new(header.as_ref()), IoSlice::new(payload)];
        send_messages(&self.out, without_port(self.to), &[message]).1
    }

    /// What arrives, for `Inbox::receive`: in IPv4 with the headers in front of the payload, in IPv6 with that of UDP.
    pub const fn tap(&self) -> &impl AsRawFd {
        &self.tap
    }

    fn send_in_fragments(&mut self, flow: Flow, payload: &[u8]) -> Result<(), SendError> {
        self.cut = self.cut.wrapping_add(1);
        let fragments = flow.fragments(self.cut, payload).unwrap_or_default();
        let messages: Vec<[IoSlice<'_>; 1]> = fragments.iter().map(|fragment| [IoSlice::new(fragment)]).collect();
        send_messages(&self.out, without_port(self.to), &messages).1
    }
}

/// To a raw socket the port of an address is a protocol, which in IPv6 must be its own or none.
const fn without_port(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), 0)
}

/// A program of the classic packet filter: what the payload of a datagram begins with.
fn begins_with(mark: [u8; MARK_BYTES], v4: bool) -> Vec<SockFilter> {
    use libc::{BPF_ABS, BPF_B, BPF_IND, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_LDX, BPF_MSH, BPF_RET, BPF_W};
    const UDP_BYTES: u32 = 8;
    let step = |code: u32, k: u32| SockFilter::new(code as u16, 0, 0, k);
    let load = if v4 {
        // The length of the header of IP goes to the index register.
        vec![step(BPF_LDX | BPF_B | BPF_MSH, 0), step(BPF_LD | BPF_W | BPF_IND, UDP_BYTES)]
    } else {
        vec![step(BPF_LD | BPF_W | BPF_ABS, UDP_BYTES)]
    };
    let else_over_one = SockFilter::new((BPF_JMP | BPF_JEQ | BPF_K) as u16, 0, 1, u32::from_be_bytes(mark));
    load.into_iter().chain([else_over_one, step(BPF_RET | BPF_K, WHOLE), step(BPF_RET | BPF_K, 0)]).collect()
}
