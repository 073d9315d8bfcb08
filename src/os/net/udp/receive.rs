//! Receiving: batches of datagrams with sender and local address, and the kernel's drops.

use std::io::{self, ErrorKind, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::AsRawFd;

use mio::net::UdpSocket;
use mio::unix::SourceFd;
use mio::{Interest, Poll, Token};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, getsockopt, recvmmsg};
use nix::{cmsg_space, getsockopt_impl, sockopt_impl};

sockopt_impl!(MemInfo, GetOnly, libc::SOL_SOCKET, libc::SO_MEMINFO, [u32; 9]);
const MEMINFO_DROPS: usize = 8;

/// Datagrams read with one system call, each into a slot of the largest size: 64 brought nothing when measured.
const READ_DATAGRAMS_MAX: usize = 32;
const SLOT_BYTES: usize = 65_536;
/// More datagrams than a receive buffer holds.
const DISCARDED_DATAGRAMS_MAX: usize = 65_536;

/// Room for a batch of incoming datagrams. Its memory is only touched as far as datagrams fill it.
#[derive(Debug)]
pub struct Inbox {
    slots: Vec<u8>,
    /// Messages in the newest batch.
    read: usize,
    /// Sender and local address of each datagram, and its place in `slots`.
    arrivals: Vec<(SocketAddr, Option<IpAddr>, Range<usize>)>,
    headers: MultiHeaders<SockaddrStorage>,
}

/// A datagram in an [`Inbox`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received<'a> {
    /// The sender.
    pub from: SocketAddr,
    /// The address of this host that the datagram was sent to, where the socket listens on several.
    pub local: Option<IpAddr>,
    /// The payload.
    pub bytes: &'a [u8],
}

impl Default for Inbox {
    fn default() -> Self {
        let slots = vec![0; READ_DATAGRAMS_MAX * SLOT_BYTES];
        Self { slots, read: 0, arrivals: Vec::with_capacity(READ_DATAGRAMS_MAX), headers: headers() }
    }
}

impl Inbox {
    /// Reads one batch of the datagrams that have come in, without waiting. Returns their number; 0 when none waits.
    ///
    /// # Errors
    /// The system's, which may be about a datagram that was sent from this socket earlier.
    pub fn receive(&mut self, socket: &impl AsRawFd) -> io::Result<usize> {
        self.arrivals.clear();
        if self.read > 0 {
            // The kernel has written the length of address and control messages into each header, and would take that
            // for the room that there is: too little, if an IPv6 socket comes after an IPv4 socket.
            self.headers = headers();
        }
        self.read = 0;
        let mut slices: Vec<[IoSliceMut<'_>; 1]> =
            self.slots.chunks_exact_mut(SLOT_BYTES).map(|slot| [IoSliceMut::new(slot)]).collect();
        let received =
            match recvmmsg(socket.as_raw_fd(), &mut self.headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None) {
                Ok(received) => received,
                Err(Errno::EAGAIN | Errno::EINTR) => return Ok(0),
                Err(error) => return Err(error.into()),
            };
        for (slot, message) in received.enumerate() {
            self.read += 1;
            let local = message.cmsgs().ok().and_then(|mut all| all.find_map(|one| local_address(&one)));
            if let Some(from) = message.address.as_ref().and_then(socket_address) {
                self.arrivals.push((from, local, slot * SLOT_BYTES..slot * SLOT_BYTES + message.bytes));
            }
        }
        Ok(self.read)
    }

    /// Whether the newest batch was full, so that more datagrams may wait.
    pub fn is_full(&self) -> bool {
        self.read == READ_DATAGRAMS_MAX
    }

    /// The datagrams of the newest batch.
    pub fn iter(&self) -> impl Iterator<Item = Received<'_>> {
        let datagrams = self.arrivals.iter().cloned();
        datagrams.map(|(from, local, place)| Received { from, local, bytes: &self.slots[place] })
    }
}

fn headers() -> MultiHeaders<SockaddrStorage> {
    MultiHeaders::preallocate(READ_DATAGRAMS_MAX, Some(cmsg_space!(libc::in6_pktinfo)))
}

/// Throws away the datagrams that wait in a socket.
pub fn discard(socket: &UdpSocket) {
    // A pending error ends a call too, so that only a bound ends this for a peer that sends without a pause.
    for _ in 0..DISCARDED_DATAGRAMS_MAX {
        if socket.recv_from(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock) {
            return;
        }
    }
}

/// Has `poll` tell when the socket has something to read or to report: once, so that it must then be read empty.
pub fn watch(poll: &Poll, socket: &impl AsRawFd, token: Token) -> io::Result<()> {
    poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), token, Interest::READABLE)
}

/// Has `poll` forget the socket.
pub fn unwatch(poll: &Poll, socket: &impl AsRawFd) -> io::Result<()> {
    poll.registry().deregister(&mut SourceFd(&socket.as_raw_fd()))
}

/// Datagrams that the kernel dropped at this socket's full buffer, a counter that wraps; `None` if it does not tell.
pub fn kernel_drops(socket: &UdpSocket) -> Option<u32> {
    getsockopt(socket, MemInfo).ok().map(|figures| figures[MEMINFO_DROPS])
}

fn local_address(control: &ControlMessageOwned) -> Option<IpAddr> {
    match control {
        // The octets stand in the order of the network.
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(IpAddr::from(info.ipi_addr.s_addr.to_ne_bytes())),
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(IpAddr::from(info.ipi6_addr.s6_addr)),
        _ => None,
    }
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into())))
}
