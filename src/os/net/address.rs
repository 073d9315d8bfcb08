//! Addresses: hosts that are given by name or number, and which addresses are this host's.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, ToSocketAddrs, UdpSocket};

use nix::net::if_::if_nametoindex;

/// A host, by name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// A name, or an IPv4 or IPv6 address without brackets; a link-local one has an interface: `fe80::1%eth0`.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl HostPort {
    /// The address, if the host is given by one, so that nothing has to be resolved. An interface is a name like any
    /// other: it may come later than this program, and come again with another number.
    pub fn address(&self) -> Option<SocketAddr> {
        match self.zoned() {
            Some((address, zone)) => zone.parse().ok().map(|index| self.at(address, index)),
            None => self.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip.to_canonical(), self.port)),
        }
    }

    /// The address and the interface of a host like `fe80::1%eth0`.
    fn zoned(&self) -> Option<(Ipv6Addr, &str)> {
        let (address, zone) = self.host.split_once('%')?;
        Some((address.parse().ok()?, zone))
    }

    fn at(&self, address: Ipv6Addr, interface: u32) -> SocketAddr {
        SocketAddrV6::new(address, self.port, 0, interface).into()
    }

    /// All addresses of the host, in the order of the system's resolver; at least one. Blocks as long as the resolver
    /// takes.
    ///
    /// # Errors
    /// The resolver's error; `NotFound` for a name without address; there is no such interface.
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

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// The address in its canonical form: an IPv4 address that is written as an IPv6 one becomes an IPv4 address.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => SocketAddr::new(v4.into(), address.port()),
        // The scope is kept.
        IpAddr::V6(_) => address,
    }
}

/// Whether datagrams sent to `target` arrive at this host's socket that is bound to `bound`.
pub fn comes_back(bound: SocketAddr, target: SocketAddr) -> bool {
    let (bound_ip, ip) = (bound.ip().to_canonical(), target.ip().to_canonical());
    let takes = bound_ip.is_ipv4() == ip.is_ipv4() || bound_ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    // The system takes "any address" for the loopback address of that family.
    let is_here = |ip: IpAddr| ip.is_unspecified() || ip.is_loopback() || is_local(ip);
    let same =
        bound_ip == ip || bound_ip.is_unspecified() && is_here(ip) || ip.is_unspecified() && bound_ip.is_loopback();
    bound.port() == target.port() && takes && same
}

/// Whether an address is one of this host's, so that the system reaches it from itself. Sends nothing.
///
/// Binding to the address would not tell: with `ip_nonlocal_bind`, as beside failover software, every address can be
/// bound.
pub fn is_local(address: IpAddr) -> bool {
    let unspecified: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let source = UdpSocket::bind((unspecified, 0)).and_then(|socket| {
        // Connecting only asks for the route, so any port will do.
        socket.connect((address, 9))?;
        socket.local_addr()
    });
    source.is_ok_and(|source| source.ip() == address)
}

/// The name of an address's family, for people.
pub const fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}
