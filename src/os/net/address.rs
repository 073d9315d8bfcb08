//! Hosts by name or address, and the addresses of this host.

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
            Some((ip, zone)) => Some(SocketAddrV6::new(ip, self.port, 0, zone.parse().ok()?).into()),
            None => self.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip.to_canonical(), self.port)),
        }
    }

    /// The address and the interface of a host like `fe80::1%eth0`.
    fn zoned(&self) -> Option<(Ipv6Addr, &str)> {
        let (address, zone) = self.host.split_once('%')?;
        Some((address.parse().ok()?, zone))
    }

    /// All addresses of the host, at least one, as the system's resolver orders them. Blocks while the resolver works.
    ///
    /// # Errors
    /// The resolver's; `NotFound` for a name without address; a missing interface.
    pub fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        if let Some(address) = self.address() {
            return Ok(vec![address]);
        }
        if let Some((ip, zone)) = self.zoned() {
            let index = if_nametoindex(zone);
            let index = index.map_err(|_| io::Error::other(format!("there is no interface {zone}")))?;
            return Ok(vec![SocketAddrV6::new(ip, self.port, 0, index).into()]);
        }
        let found: Vec<SocketAddr> = (self.host.as_str(), self.port).to_socket_addrs()?.map(canonical).collect();
        let none = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        Some(found).filter(|found| !found.is_empty()).ok_or_else(none)
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{open}{}{close}:{}", self.host, self.port)
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
    // The system takes the unspecified address for the loopback address of its family.
    let is_here = |ip: IpAddr| ip.is_unspecified() || ip.is_loopback() || is_local(ip);
    let same =
        bound_ip == ip || bound_ip.is_unspecified() && is_here(ip) || ip.is_unspecified() && bound_ip.is_loopback();
    bound.port() == target.port() && takes && same
}

/// Whether an address is one of this host's, so that the system reaches it from itself. Sends nothing. Binding would
/// not tell: with `ip_nonlocal_bind`, as beside failover software, every address can be bound.
pub fn is_local(address: IpAddr) -> bool {
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let source = UdpSocket::bind((any, 0)).and_then(|socket| {
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
