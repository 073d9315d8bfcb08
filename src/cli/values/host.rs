//! Where to: hosts with ports, and addresses of this host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A host with an optional port: `name`, `name:1514`, `10.0.0.1:1514`, `::1`, `[::1]:1514`, `[fe80::1%eth0]:1514`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Host {
    pub(in crate::cli) host: String,
    pub(in crate::cli) port: Option<u16>,
}

/// An address of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Source(pub(in crate::cli) IpAddr);

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let whole = |host: &str| Self { host: host.into(), port: None };
        if is_ipv6(text)? {
            return Ok(whole(text));
        }
        if let Some(rest) = text.strip_prefix('[') {
            let (host, port) = rest.split_once(']').ok_or_else(|| format!("{text}: the ']' is missing"))?;
            if !is_ipv6(host)? {
                return Err(format!("{host} is no IPv6 address"));
            }
            return match port.strip_prefix(':') {
                Some(port) => Ok(Self { host: host.into(), port: Some(port_number(port)?) }),
                None if port.is_empty() => Ok(whole(host)),
                None => Err(format!("{text}: expected a ':' and a port after the ']'")),
            };
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(port_number(port)?)),
            None => (text, None),
        };
        if host.is_empty() || host.contains(char::is_whitespace) {
            return Err(format!("{text:?} names no host"));
        }
        // Resolvers take a bare number for an address: 1517 is 0.0.5.237.
        if host.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(format!("{text:?} names no host, only a number"));
        }
        if let Ok(address) = host.parse() {
            check_single(address)?;
        }
        Ok(Self { host: host.into(), port })
    }
}

/// Whether it is an IPv6 address, with a zone where it needs one: a link-local address means another host on each link.
fn is_ipv6(text: &str) -> Result<bool, String> {
    let (address, zone) = text.split_once('%').map_or((text, None), |(address, zone)| (address, Some(zone)));
    let Ok(address) = address.parse::<Ipv6Addr>() else {
        return Ok(false);
    };
    check_single(address.into())?;
    match zone {
        None if address.is_unicast_link_local() => {
            Err(format!("{address} is link-local: say on which interface, as {address}%eth0"))
        }
        Some("") => Err(format!("{text}: the name of an interface is missing")),
        Some(_) if !address.is_unicast_link_local() => {
            Err(format!("{text}: only a link-local address (fe80::1) has an interface"))
        }
        None | Some(_) => Ok(true),
    }
}

/// An address must be a single host's.
fn check_single(address: IpAddr) -> Result<(), String> {
    let address = address.to_canonical();
    if address.is_multicast() {
        Err(format!("{address} is a multicast address: one of a single host is wanted"))
    } else if address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        Err(format!("{address} is the broadcast address: one of a single host is wanted"))
    } else {
        Ok(())
    }
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address: IpAddr = text.parse().map_err(|_| format!("{text:?} is no IP address"))?;
        check_single(address)?;
        match address.to_canonical() {
            IpAddr::V6(v6) if v6.is_unicast_link_local() => Err(format!(
                "{text} is link-local: leave --source out; towards a server at [fe80::1%eth0] the system takes it by itself"
            )),
            canonical => Ok(Self(canonical)),
        }
    }
}

fn port_number(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|&port| port > 0).ok_or_else(|| format!("{text:?} is no port (1 to 65535)"))
}
