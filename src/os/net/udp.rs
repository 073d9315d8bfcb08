//! Datagrams in batches.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use mio::net::UdpSocket;
use mio::unix::SourceFd;
use mio::{Interest, Poll, Token};
use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, getsockopt, recvmmsg, recvmsg,
    sendmmsg, sendmsg,
};
use nix::{cmsg_space, getsockopt_impl, setsockopt_impl, sockopt_impl};

sockopt_impl!(
    /// Whether and how IPv4 datagrams forbid fragmentation.
    Ipv4MtuDiscover, Both, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::c_int
);
sockopt_impl!(
    /// Whether and how IPv6 datagrams forbid fragmentation.
    Ipv6MtuDiscover, Both, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::c_int
);
sockopt_impl!(
    /// Memory of a socket; the ninth number counts drops.
    MemInfo, GetOnly, libc::SOL_SOCKET, libc::SO_MEMINFO, [u32; MEMINFO_NUMBERS]
);

const MEMINFO_NUMBERS: usize = 9;
const MEMINFO_DROPS: usize = 8;

/// Datagrams read with one system call: twice as many brought nothing when measured, and each has a slot of the largest size.
const SLOTS: usize = 32;
const SLOT_BYTES: usize = 65_536;
/// More than a receive buffer holds.
const DISCARDED_MAX: usize = 65_536;

/// Room for a batch of incoming datagrams. Its memory is only touched as far as datagrams fill it.
#[derive(Debug)]
pub struct Inbox {
    slots: Vec<u8>,
    /// Messages in the last batch.
    read: usize,
    arrivals: Vec<Arrival>,
    headers: MultiHeaders<SockaddrStorage>,
}

#[derive(Clone, Copy, Debug)]
struct Arrival {
    slot: usize,
    length: usize,
    from: SocketAddr,
    local: Option<IpAddr>,
}

/// One datagram of an [`Inbox`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received<'a> {
    /// Who sent it.
    pub from: SocketAddr,
    /// Which own address it was sent to, where the socket listens on several.
    pub local: Option<IpAddr>,
    /// Its payload.
    pub bytes: &'a [u8],
}

/// Why datagrams could not be sent.
#[derive(Debug)]
pub enum SendError {
    /// The system says `EMSGSIZE`: this datagram is larger than it can send, or a router has thrown an earlier one
    /// away for its size.
    Unsendable(io::Error),
    /// The system has no room at this moment.
    Busy,
    /// Anything else: no route, an address that is gone, or an earlier datagram was refused. All of it may pass.
    Refused(io::Error),
}

impl std::fmt::Display for SendError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unsendable(error) | Self::Refused(error) => error.fmt(f),
            Self::Busy => f.write_str("the system has no room"),
        }
    }
}

impl Default for Inbox {
    fn default() -> Self {
        Self { slots: vec![0; SLOTS * SLOT_BYTES], read: 0, arrivals: Vec::with_capacity(SLOTS), headers: headers() }
    }
}

impl Inbox {
    /// Reads what has come in, up to a batch, without waiting. How many datagrams; 0 when none waits.
    pub fn receive(&mut self, socket: &impl AsRawFd) -> io::Result<usize> {
        self.arrivals.clear();
        if self.read > 0 {
            // The kernel has written into each header how long its address and its control messages were, and would
            // take that for the room that there is: too little for the next socket, if that is of IPv6 and the last
            // one was of IPv4.
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
                self.arrivals.push(Arrival { slot, length: message.bytes, from, local });
            }
        }
        Ok(self.read)
    }

    /// The batch was full: more may wait.
    pub fn is_full(&self) -> bool {
        self.read == SLOTS
    }

    /// What was read last.
    pub fn iter(&self) -> impl Iterator<Item = Received<'_>> {
        self.arrivals.iter().map(|arrival| {
            let start = arrival.slot * SLOT_BYTES;
            Received { from: arrival.from, local: arrival.local, bytes: &self.slots[start..start + arrival.length] }
        })
    }
}

fn headers() -> MultiHeaders<SockaddrStorage> {
    MultiHeaders::preallocate(SLOTS, Some(cmsg_space!(libc::in6_pktinfo)))
}

/// Throws away what waits in a socket.
pub fn discard(socket: &UdpSocket) {
    // A pending error ends a call too, so that only a bound ends this for a peer that sends without a pause.
    for _ in 0..DISCARDED_MAX {
        if socket.recv_from(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            return;
        }
    }
}

/// Has `poll` tell when the socket has something to read or to report. It tells once: the socket must then be read empty.
pub fn watch(poll: &Poll, socket: &impl AsRawFd, token: Token) -> io::Result<()> {
    poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), token, Interest::READABLE)
}

/// Has `poll` forget the socket.
pub fn unwatch(poll: &Poll, socket: &impl AsRawFd) -> io::Result<()> {
    poll.registry().deregister(&mut SourceFd(&socket.as_raw_fd()))
}

/// Sends datagrams to one address, in order, without waiting. How many were sent, and what stopped it.
pub fn send_batch(socket: &impl AsRawFd, to: SocketAddr, payloads: &[&[u8]]) -> (usize, Result<(), SendError>) {
    let messages: Vec<[IoSlice<'_>; 1]> = payloads.iter().map(|payload| [IoSlice::new(payload)]).collect();
    send_messages(socket, to, &messages)
}

/// Sends messages of several parts each like [`send_batch`].
pub(super) fn send_messages<const PARTS: usize>(
    socket: &impl AsRawFd,
    to: SocketAddr,
    messages: &[[IoSlice<'_>; PARTS]],
) -> (usize, Result<(), SendError>) {
    let mut headers = MultiHeaders::preallocate(messages.len(), None);
    let addresses = vec![Some(SockaddrStorage::from(to)); messages.len()];
    let mut sent = 0;
    while sent < messages.len() {
        let (rest, flags) = (&messages[sent..], MsgFlags::MSG_DONTWAIT);
        match sendmmsg(socket.as_raw_fd(), &mut headers, rest, &addresses[sent..], [], flags) {
            // A short count means an error that the kernel keeps to itself; the next call, or the error queue, tells it.
            Ok(done) => sent += done.count().max(1),
            Err(Errno::EINTR) => {}
            Err(error) => return (sent, Err(SendError::from(error))),
        }
    }
    (sent, Ok(()))
}

/// Sends one datagram from the own address `local`, where that is known.
pub fn send_from(
    socket: &impl AsRawFd,
    local: Option<IpAddr>,
    to: SocketAddr,
    payload: &[u8],
) -> Result<(), SendError> {
    let (v4, v6);
    let control = match local {
        Some(IpAddr::V4(address)) => {
            let address = libc::in_addr { s_addr: u32::from(address).to_be() };
            v4 = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: address, ipi_addr: address };
            Some(ControlMessage::Ipv4PacketInfo(&v4))
        }
        Some(IpAddr::V6(address)) => {
            v6 = libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: address.octets() }, ipi6_ifindex: 0 };
            Some(ControlMessage::Ipv6PacketInfo(&v6))
        }
        None => None,
    };
    let address = SockaddrStorage::from(to);
    let iov = [IoSlice::new(payload)];
    sendmsg(socket.as_raw_fd(), &iov, control.as_slice(), MsgFlags::MSG_DONTWAIT, Some(&address))
        .map_err(SendError::from)?;
    Ok(())
}

/// Sends like [`send_batch`], and believes an `EMSGSIZE` only when it is certain that it is about the datagram that
/// it would send next.
///
/// A router that threw a datagram away for its size leaves this error pending at the socket, and the system hands it
/// to the next send, whatever is sent. The report of it lies in the error queue, unless another thread has just taken
/// it from there: then the same send succeeds.
pub fn send_run(socket: &impl AsRawFd, to: SocketAddr, payloads: &[&[u8]]) -> (usize, Result<(), SendError>) {
    let mut sent = 0;
    let mut doubted = None;
    loop {
        let (done, outcome) = send_batch(socket, to, &payloads[sent..]);
        sent += done;
        match outcome {
            Err(SendError::Unsendable(error)) => match take_refusal(socket) {
                Some(report) => return (sent, Err(SendError::Refused(report))),
                None if doubted == Some(sent) => return (sent, Err(SendError::Unsendable(error))),
                None => doubted = Some(sent),
            },
            outcome => return (sent, outcome),
        }
    }
}

/// Takes one report off the error queue of an upstream socket: a datagram was refused on its way, or thrown away for
/// its size.
///
/// What the own system refused is passed over: the send has told of it.
pub fn take_refusal(socket: &impl AsRawFd) -> Option<io::Error> {
    let mut space = cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
    loop {
        let mut payload = [0; 1];
        let mut iov = [IoSliceMut::new(&mut payload)];
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut iov, Some(&mut space), flags).ok()?;
        let report = message.cmsgs().ok()?.find_map(|control| match control {
            ControlMessageOwned::Ipv4RecvErr(report, _) | ControlMessageOwned::Ipv6RecvErr(report, _) => Some(report),
            _ => None,
        });
        if report.is_some_and(|report| report.ee_origin == libc::SO_EE_ORIGIN_LOCAL) {
            continue;
        }
        let code = report.and_then(|report| i32::try_from(report.ee_errno).ok());
        return Some(io::Error::from_raw_os_error(code.unwrap_or(libc::EIO)));
    }
}

/// Datagrams that the kernel dropped at this socket because its buffer was full; wraps at 32 bits. `None` where the system does not tell.
pub fn kernel_drops(socket: &UdpSocket) -> Option<u32> {
    getsockopt(socket, MemInfo).ok().map(|numbers| numbers[MEMINFO_DROPS])
}

impl From<Errno> for SendError {
    fn from(error: Errno) -> Self {
        match error {
            Errno::EMSGSIZE => Self::Unsendable(error.into()),
            Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM | Errno::EINTR => Self::Busy,
            _ => Self::Refused(error.into()),
        }
    }
}

fn local_address(control: &ControlMessageOwned) -> Option<IpAddr> {
    match control {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            Some(IpAddr::from(u32::from_be(info.ipi_addr.s_addr).to_be_bytes()))
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(IpAddr::from(info.ipi6_addr.s6_addr)),
        _ => None,
    }
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into())))
}
