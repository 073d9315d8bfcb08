//! Sockets and the clock: what the system does for us, and where systems differ.
//!
//! The rooms above never see a file descriptor's options. UDP is received and sent in batches ([`udp`]); TCP connections are made without
//! blocking. Nothing here decides anything.

pub mod framed;
pub mod packet;
pub mod raw;
pub mod udp;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, ToSocketAddrs};

use mio::net::{TcpListener, TcpStream, UdpSocket};
use nix::net::if_::if_nametoindex;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{setsockopt, sockopt};
use nix::time::{ClockId, clock_gettime};
use socket2::{Domain, Protocol, Socket, Type};

use crate::proto::time::Time;

/// Connections that may wait to be accepted: all clients of a server that comes back.
const BACKLOG: i32 = 4_096;

/// Asked for each upstream socket: a server's push of configuration to an agent is some 1,250 datagrams of a kilobyte.
const REPLY_BUFFER_BYTES: usize = 4 << 20;

/// This moment. The clock goes on while the system is suspended, so that a lease does not survive a suspension.
pub fn now() -> Time {
    let read = clock_gettime(ClockId::CLOCK_BOOTTIME).or_else(|_| clock_gettime(ClockId::CLOCK_MONOTONIC));
    let span = read.map_or_else(|_| std::time::Duration::ZERO, std::time::Duration::from);
    Time::from_nanos(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX))
}

/// A random number: names a stream, spreads retries.
pub fn random() -> u128 {
    let half = || getrandom::u64().unwrap_or_else(|_| now().as_nanos() ^ u64::from(std::process::id()) << 32);
    u128::from(half()) << 64 | u128::from(half())
}

/// Raises the limit of open descriptors to `wanted`, or as far as it may be raised. What it is then.
pub fn raise_descriptor_limit(wanted: u64) -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return 0;
    };
    let target = wanted.min(hard);
    if soft < target && setrlimit(Resource::RLIMIT_NOFILE, target, hard).is_ok() { target } else { soft }
}

/// The system has no descriptors or buffers left at this moment; it will have again.
pub fn is_shortage(error: &io::Error) -> bool {
    use libc::{EMFILE, ENFILE, ENOBUFS, ENOMEM};
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS | ENOMEM))
}

/// The memory of this host in bytes, swap included, where the system tells.
pub fn memory_bytes() -> Option<u64> {
    let info = nix::sys::sysinfo::sysinfo().ok()?;
    info.ram_total().checked_add(info.swap_total())
}

/// A host, by name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// A name, or an IPv4 or IPv6 address without brackets; a link-local one has an interface: `fe80::1%eth0`.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl HostPort {
    /// The address, if the host is one: nothing is to be resolved then. An interface is a name like any other: it may come later than this
    /// program, and come again with another number.
    pub fn address(&self) -> Option<SocketAddr> {
        match self.zoned() {
            Some((address, zone)) => zone.parse().ok().map(|index| self.at(address, index)),
            None => self.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip.to_canonical(), self.port)),
        }
    }

    /// An address and its interface, if the host is such.
    fn zoned(&self) -> Option<(Ipv6Addr, &str)> {
        let (address, zone) = self.host.split_once('%')?;
        Some((address.parse().ok()?, zone))
    }

    fn at(&self, address: Ipv6Addr, interface: u32) -> SocketAddr {
        SocketAddrV6::new(address, self.port, 0, interface).into()
    }

    /// All addresses of the host, as the system's resolver orders them. May block for as long as that takes.
    pub fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        if let Some(address) = self.address() {
            return Ok(vec![address]);
        }
        if let Some((address, zone)) = self.zoned() {
            let interface = if_nametoindex(zone);
            let index = interface.map_err(|_| io::Error::other(format!("there is no interface {zone}")))?;
            return Ok(vec![self.at(address, index)]);
        }
        let found: Vec<SocketAddr> = (self.host.as_str(), self.port).to_socket_addrs()?.map(canonical).collect();
        if found.is_empty() {
            Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
        } else {
            Ok(found)
        }
    }
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// The address that is meant: an IPv4 address written as an IPv6 one is an IPv4 address.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => SocketAddr::new(v4.into(), address.port()),
        // With its scope.
        IpAddr::V6(_) => address,
    }
}

/// Whether what is sent to `target` arrives at this host's socket that is bound to `bound`.
pub fn comes_back(bound: SocketAddr, target: SocketAddr) -> bool {
    let (bound_ip, ip) = (bound.ip().to_canonical(), target.ip().to_canonical());
    let takes = bound_ip.is_ipv4() == ip.is_ipv4() || bound_ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    // The system takes "any address" for the loopback address of that family.
    let at_own = |ip: IpAddr| ip.is_unspecified() || ip.is_loopback() || is_own(ip);
    let same =
        bound_ip == ip || bound_ip.is_unspecified() && at_own(ip) || ip.is_unspecified() && bound_ip.is_loopback();
    bound.port() == target.port() && takes && same
}

/// An error of `bind`, with the likely cause where there is one.
pub fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "address in use".into(),
        io::ErrorKind::AddrNotAvailable => "no such address on this host".into(),
        io::ErrorKind::PermissionDenied => "permission denied (a port below 1024 needs root)".into(),
        _ => error.to_string(),
    }
}

/// Binds the socket that agents send to, and asks for a receive buffer of `buffer_bytes`.
pub fn bind_agent(address: SocketAddr, buffer_bytes: usize) -> io::Result<UdpSocket> {
    let socket = udp_socket(address)?;
    // All before bind: from then on datagrams come in, and each must have its packet information (see `udp::Inbox`).
    enlarge(&socket, buffer_bytes);
    if address.ip().is_unspecified() {
        // Replies must leave from the very address that the agent sent to.
        match address {
            SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
            SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
        }
    }
    socket.bind(&address.into())?;
    Ok(UdpSocket::from_std(socket.into()))
}

/// Lets nothing more into an agent's socket, which can still be read empty and send: it is connected to itself, and a datagram from anywhere else
/// is answered as if nobody listened.
pub fn turn_away(socket: &UdpSocket) -> io::Result<()> {
    let mut own = socket.local_addr()?;
    match own.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => own.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => own.set_ip(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    socket.connect(own)
}

/// Binds a socket for sending to remoted and for its replies.
///
/// It stays unconnected: the system then picks the source address for each datagram, so a changed address or route needs no new socket and no
/// new port. Errors that come back as ICMP are reported all the same, through the error queue.
pub fn bind_upstream(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = udp_socket(address)?;
    enlarge(&socket, REPLY_BUFFER_BYTES);
    match address {
        SocketAddr::V4(_) => {
            setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
            setsockopt(&socket, udp::Ipv4MtuDiscover, &libc::IP_PMTUDISC_DONT)?;
        }
        SocketAddr::V6(_) => {
            setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
            setsockopt(&socket, udp::Ipv6MtuDiscover, &libc::IPV6_PMTUDISC_DONT)?;
            socket.set_only_v6(true)?;
        }
    }
    socket.bind(&address.into())?;
    Ok(UdpSocket::from_std(socket.into()))
}

/// Binds a socket that sends to a remoted on this host, from an address of this host.
pub fn bind_source(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = udp_socket(address)?;
    socket.bind(&address.into())?;
    Ok(UdpSocket::from_std(socket.into()))
}

/// Whether an address is one of this host's: the system would reach it from itself. Nothing is sent.
///
/// Not by binding: where `ip_nonlocal_bind` is set, as beside failover software, every address can be bound.
pub fn is_own(address: IpAddr) -> bool {
    let from = |unspecified: IpAddr| {
        let socket = std::net::UdpSocket::bind((unspecified, 0))?;
        // Any port: to connect is only to ask for the way.
        socket.connect((address, 9))?;
        socket.local_addr()
    };
    let unspecified = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    from(unspecified).is_ok_and(|local| local.ip() == address)
}

/// The name of an address's family, for people.
pub const fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn udp_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Asks for a receive buffer; by force where that is allowed, else as far as `net.core.rmem_max` goes. A smaller one is not an error: what was
/// got is logged.
fn enlarge(socket: &Socket, bytes: usize) {
    if setsockopt(socket, sockopt::RcvBufForce, &bytes).is_err() {
        let _ = socket.set_recv_buffer_size(bytes);
    }
}

/// Size of a socket's receive buffer in bytes as it was asked for: the kernel doubles it for its own overhead and reports the double.
pub fn receive_buffer(socket: &UdpSocket) -> Option<usize> {
    socket2::SockRef::from(socket).recv_buffer_size().ok().map(|doubled| doubled / 2)
}

/// Binds the socket that clients connect to. An unspecified IPv6 address takes IPv4 as well.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        socket.set_only_v6(false)?;
    }
    // A restart must not wait for the old connections to time out.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

/// What a connection may have taken to send and not sent: for as long as there is more it does not count as writable.
const NOTSENT_BYTES_MAX: u32 = 16 * 1024;

/// Starts to connect to `address`, from `source` if that is given, with segments of at most `segment_bytes_max` in both directions. The stream is
/// writable when it is connected or has failed.
pub fn dial(address: SocketAddr, source: Option<IpAddr>, segment_bytes_max: Option<u16>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    // What waits in the system cannot be overtaken by a heartbeat any more.
    setsockopt(&socket, framed::NotsentLowat, &NOTSENT_BYTES_MAX)?;
    if let Some(bytes) = segment_bytes_max {
        setsockopt(&socket, sockopt::TcpMaxSeg, &bytes.into())?;
    }
    if let Some(source) = source.filter(|source| source.is_ipv4() == address.is_ipv4()) {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    Ok(TcpStream::from_std(socket.into()))
}

#[cfg(test)]
mod tests;
