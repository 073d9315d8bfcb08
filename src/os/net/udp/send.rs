//! Sending: batches of datagrams, and reports of refused ones.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, recvmsg, sendmmsg, sendmsg,
};

/// Why datagrams could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The system says `EMSGSIZE`: this datagram is larger than it can send, or a router has thrown an earlier one
    /// away for its size.
    #[error(transparent)]
    Unsendable(io::Error),
    /// The system's buffers are full. That passes.
    #[error("the system has no room")]
    Busy,
    /// Anything else: no route, an address that is gone, or an earlier datagram was refused. All of it may pass.
    #[error(transparent)]
    Refused(io::Error),
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

/// Sends datagrams to one address, in order, without waiting. Returns how many were sent, and what stopped it.
pub fn send_batch(socket: &impl AsRawFd, to: SocketAddr, payloads: &[&[u8]]) -> (usize, Result<(), SendError>) {
    let messages: Vec<[IoSlice<'_>; 1]> = payloads.iter().map(|payload| [IoSlice::new(payload)]).collect();
    send_messages(socket, to, &messages)
}

/// Sends messages of several parts each like [`send_batch`].
pub(in crate::os::net) fn send_messages<const PARTS: usize>(
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
            // A short count means an error that the kernel keeps to itself until the next call, or the error queue.
            Ok(done) => sent += done.count().max(1),
            Err(Errno::EINTR) => {}
            Err(error) => return (sent, Err(SendError::from(error))),
        }
    }
    (sent, Ok(()))
}

/// Sends one datagram, from this host's address `local` where that is known.
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
    sendmsg(socket.as_raw_fd(), &iov, control.as_slice(), MsgFlags::MSG_DONTWAIT, Some(&address))?;
    Ok(())
}

/// Sends like [`send_batch`], and believes an `EMSGSIZE` only when it is certain to be about the datagram that would
/// be sent next.
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
/// its size. Refusals by this host's system are passed over, since the send has told of them.
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
