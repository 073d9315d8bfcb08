//! Hosts with ports, and addresses of this host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::os::net::HostPort;
use crate::proto::terms::{BROKER_PORT, REMOTED_PORT};

pub(in crate::cli) fn remoted(text: &str) -> Result<HostPort, String> {
    host_port(text, REMOTED_PORT)
}

pub(in crate::cli) fn broker(text: &str) -> Result<HostPort, String> {
    host_port(text, BROKER_PORT)
}

/// `name`, `name:1514`, `10.0.0.1:1514`, `::1`, `[::1]:1514`, `[fe80::1%eth0]:1514`; without a port at `default_port`.
fn host_port(text: &str, default_port: u16) -> Result<HostPort, String> {
    let (host, port) = split(text)?;
    let port = port.map_or(Ok(default_port), port_number)?;
    Ok(HostPort { host: host.into(), port })
}

fn split(text: &str) -> Result<(&str, Option<&str>), String> {
    if is_ipv6(text)? {
        return Ok((text, None));
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or_else(|| format!("{text}: the ']' is missing"))?;
        if !is_ipv6(host)? {
            return Err(format!("{host} is no IPv6 address"));
        }
        return match port.strip_prefix(':') {
            None if !port.is_empty() => Err(format!("{text}: expected a ':' and a port after the ']'")),
            port => Ok((host, port)),
        };
    }
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
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
    Ok((host, port))
}

/// Whether a text is an IPv6 address, with a zone where it needs one: a link-local address means another host on each
/// link.
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

pub(in crate::cli) fn source(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text.parse().map_err(|_| format!("{text:?} is no IP address"))?;
    check_single(address)?;
    match address.to_canonical() {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Err(format!(
            "{text} is link-local: leave --source out; towards a server at [fe80::1%eth0] the system takes it by \
             itself"
        )),
        canonical => Ok(canonical),
    }
}

fn port_number(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|&port| port > 0).ok_or_else(|| format!("{text:?} is no port (1 to 65535)"))
}
