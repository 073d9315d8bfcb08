//! Sockets with their options: UDP for agents and for remoted, TCP between client and server.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use mio::net::{TcpListener, TcpStream, UdpSocket};
use nix::sys::socket::{setsockopt, sockopt};
use nix::{getsockopt_impl, setsockopt_impl, sockopt_impl};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

sockopt_impl!(Ipv4MtuDiscover, Both, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::c_int);
sockopt_impl!(Ipv6MtuDiscover, Both, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::c_int);

/// The system makes no receive buffer larger, whatever is asked for: it keeps twice the size in 31 bits.
pub const RECEIVE_BUFFER_BYTES_MAX: usize = i32::MAX as usize / 2;
/// Connections that may wait to be accepted: all clients of a server that comes back.
const PENDING_CONNECTIONS_MAX: i32 = 4_096;
/// Receive buffer of an upstream socket: a server pushes a configuration to an agent as 1,250 datagrams of a kilobyte.
const REPLY_BUFFER_BYTES: usize = 4 << 20;
/// A connection with more bytes that the system has taken and not yet sent does not count as writable.
const NOTSENT_BYTES_MAX: u32 = 16 * 1024;

/// Binds the socket that agents send to, and asks for a receive buffer of `buffer_bytes`.
pub fn bind_agent(address: SocketAddr, buffer_bytes: usize) -> io::Result<UdpSocket> {
    let socket = open(address, Type::DGRAM, Protocol::UDP)?;
    // Options come before bind: each datagram after it must have its packet information (see `udp::Inbox`).
    enlarge(&socket, buffer_bytes);
    inform(&socket, address)?;
    bind(socket, address)
}

/// Takes over the socket that agents send to. It keeps its receive buffer if that is larger than `buffer_bytes`.
pub fn take_agent(socket: std::net::UdpSocket, buffer_bytes: usize) -> io::Result<UdpSocket> {
    socket.set_nonblocking(true)?;
    let socket = Socket::from(socket);
    if socket.recv_buffer_size()? / 2 < buffer_bytes {
        // Only by force: else the system could make it smaller than it is.
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &buffer_bytes);
    }
    let address = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::InvalidInput)?;
    inform(&socket, address)?;
    Ok(UdpSocket::from_std(socket.into()))
}

/// Another descriptor of a socket, for the next process.
pub fn duplicate(socket: &UdpSocket) -> io::Result<OwnedFd> {
    socket.as_fd().try_clone_to_owned()
}

/// Takes over a socket that the process before this one has sent to remoted with.
pub fn take_upstream(socket: std::net::UdpSocket) -> io::Result<UdpSocket> {
    socket.set_nonblocking(true)?;
    Ok(UdpSocket::from_std(socket))
}

/// Replies must leave from the very address that the agent sent to.
fn inform(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.ip().is_unspecified() {
        match address {
            SocketAddr::V4(_) => setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?,
            SocketAddr::V6(_) => setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?,
        }
    }
    Ok(())
}

/// Lets nothing more into an agent's socket, which can still be read empty and send. The socket is connected to
/// itself, and the system answers a datagram from anywhere else as if nobody listened.
pub fn turn_away(socket: &UdpSocket) -> io::Result<()> {
    let mut local = socket.local_addr()?;
    if local.ip().is_unspecified() {
        local.set_ip(if local.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    socket.connect(local)
}

/// Binds a socket for sending to remoted and for its replies. It stays unconnected: the system then picks the source
/// address for each datagram, so that a changed route needs no new socket and no new port. Errors that come back as
/// ICMP are reported all the same, through the error queue.
pub fn bind_upstream(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = open(address, Type::DGRAM, Protocol::UDP)?;
    enlarge(&socket, REPLY_BUFFER_BYTES);
    match address {
        SocketAddr::V4(_) => {
            setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
            setsockopt(&socket, Ipv4MtuDiscover, &libc::IP_PMTUDISC_DONT)?;
        }
        SocketAddr::V6(_) => {
            setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
            setsockopt(&socket, Ipv6MtuDiscover, &libc::IPV6_PMTUDISC_DONT)?;
            socket.set_only_v6(true)?;
        }
    }
    bind(socket, address)
}

/// Binds a socket that sends to a remoted on this host, from an address of this host.
pub fn bind_source(address: SocketAddr) -> io::Result<UdpSocket> {
    bind(open(address, Type::DGRAM, Protocol::UDP)?, address)
}

/// Binds the socket that clients connect to. An unspecified IPv6 address takes IPv4 as well.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = open(address, Type::STREAM, Protocol::TCP)?;
    // A restart must not wait for the old connections to time out.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(PENDING_CONNECTIONS_MAX)?;
    Ok(TcpListener::from_std(socket.into()))
}

/// Starts to connect to `address`, from `source` if that is given and of the same family. Segments carry at most
/// `segment_bytes_max` in both directions. The stream is writable when it is connected or has failed.
pub fn dial(address: SocketAddr, source: Option<IpAddr>, segment_bytes_max: Option<u16>) -> io::Result<TcpStream> {
    let socket = open(address, Type::STREAM, Protocol::TCP)?;
    socket.set_tcp_nodelay(true)?;
    // A heartbeat cannot overtake bytes that the system has already taken.
    socket.set_tcp_notsent_lowat(NOTSENT_BYTES_MAX)?;
    if let Some(bytes) = segment_bytes_max {
        socket.set_tcp_mss(bytes.into())?;
    }
    if let Some(source) = source.filter(|source| source.is_ipv4() == address.is_ipv4()) {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        Ok(()) | Err(_) => Ok(TcpStream::from_std(socket.into())),
    }
}

/// An error of `bind` for people, with the likely cause where there is one.
pub fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "address in use".into(),
        io::ErrorKind::AddrNotAvailable => "no such address on this host".into(),
        io::ErrorKind::PermissionDenied => "permission denied (a port below 1024 needs root)".into(),
        _ => error.to_string(),
    }
}

/// Size of a socket's receive buffer in bytes as it was asked for; `None` if the system does not tell. The kernel
/// doubles the size for its overhead, and reports the double.
pub fn receive_buffer(socket: &UdpSocket) -> Option<usize> {
    SockRef::from(socket).recv_buffer_size().ok().map(|doubled| doubled / 2)
}

/// A socket for `address` that never blocks. With the unspecified IPv6 address it takes IPv4 as well.
fn open(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn bind(socket: Socket, address: SocketAddr) -> io::Result<UdpSocket> {
    socket.bind(&address.into())?;
    Ok(UdpSocket::from_std(socket.into()))
}

/// Asks for a receive buffer: by force where that is allowed, else as far as `net.core.rmem_max` goes. A smaller
/// buffer is no error, since the caller logs its size.
fn enlarge(socket: &Socket, bytes: usize) {
    if setsockopt(socket, sockopt::RcvBufForce, &bytes).is_err() {
        let _ = socket.set_recv_buffer_size(bytes);
    }
}
