//! How a client's datagrams reach remoted, and whether this server can answer for their destination.
//!
//! A client's greeting says where it sends to. If that is an address of this host, its datagrams arrive there.
//! Otherwise the path translates addresses, and does so for the connection too. Then the address that the connection
//! reached counts instead.

use std::net::IpAddr;

use crate::proto::wire::Target;

/// How a client's datagrams reach remoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The client sends them to this address of the server's host, if that is known and matters.
    Direct(Option<IpAddr>),
    /// The datagrams come over the connection, and this server injects them.
    Injected,
}

/// Where one client's datagrams arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    named: Target,
    /// The address that the client's connection reached.
    reached: Option<IpAddr>,
    /// The named address is one of this host's.
    here: bool,
    /// The datagrams come over the connection.
    streams: bool,
}

impl Destination {
    /// The destination of a client from `peer` whose connection reached the address `reached`, all in canonical form.
    /// `is_own` says whether an address is one of this host's.
    pub fn new(
        named: Target,
        peer: IpAddr,
        reached: Option<IpAddr>,
        streams: bool,
        is_own: impl Fn(IpAddr) -> bool,
    ) -> Self {
        let own = |address: IpAddr| Some(address) == reached || address.is_loopback() || is_own(address);
        let here = named.address.is_some_and(|address| {
            // Each host has loopback addresses: they are this host's if the client is on it.
            own(address) && (!address.is_loopback() || own(peer))
        });
        Self { named, reached, here, streams }
    }

    /// How the datagrams reach remoted.
    pub fn delivery(&self) -> Delivery {
        if self.streams {
            return Delivery::Injected;
        }
        // A connection that ends at the loopback came through a proxy or a tunnel, where no datagram comes from.
        let stands_in = self.reached.filter(|reached| !reached.is_loopback());
        Delivery::Direct(self.named.address.and_then(|named| if self.here { Some(named) } else { stands_in }))
    }

    /// Why a server that watches this port is of no use to the client. `at_home`: remoted is in the server's network
    /// namespace.
    pub fn mismatch(&self, watched: u16, at_home: bool) -> Option<String> {
        let port = self.named.port;
        // An address translation, as before a container, may also translate ports.
        let known = self.streams || self.here && at_home;
        (port != 0 && port != watched && known).then(|| {
            format!(
                "datagrams are meant for UDP port {port} (--server), and this server watches port {watched} \
                 (--remoted): make them the same, or name with --broker the server that watches port {port}"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: u16 = 1_514;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// A client whose connection reached 10.0.0.2, on a host that has 10.0.0.3, too.
    fn destination(named: Option<&str>, port: u16, peer: &str, streams: bool) -> Destination {
        let target = Target { address: named.map(ip), port };
        Destination::new(target, ip(peer), Some(ip("10.0.0.2")), streams, |address| address == ip("10.0.0.3"))
    }

    #[test]
    fn datagrams_arrive_where_they_are_sent_if_that_is_an_address_of_this_host_else_where_the_connection_does() {
        for (named, peer, expected) in [
            (None, "10.0.0.9", None),
            (Some("10.0.0.2"), "10.0.0.9", Some("10.0.0.2")),
            (Some("10.0.0.3"), "10.0.0.9", Some("10.0.0.3")),
            (Some("192.0.2.1"), "10.0.0.9", Some("10.0.0.2")),
            // The client's loopback, and this host's.
            (Some("127.0.0.1"), "10.0.0.9", Some("10.0.0.2")),
            (Some("127.0.0.1"), "127.0.0.1", Some("127.0.0.1")),
            (Some("127.0.0.1"), "10.0.0.3", Some("127.0.0.1")),
        ] {
            let delivery = destination(named, PORT, peer, false).delivery();
            assert_eq!(delivery, Delivery::Direct(expected.map(ip)), "{named:?} from {peer}");
            assert_eq!(destination(named, PORT, peer, true).delivery(), Delivery::Injected);
        }
    }

    #[test]
    fn a_tunnel_to_this_host_says_nothing_of_the_datagrams_way() {
        let through = |named| {
            let target = Target { address: Some(ip(named)), port: PORT };
            let loopback = ip("127.0.0.1");
            Destination::new(target, loopback, Some(loopback), false, |address| address == ip("10.0.0.3")).delivery()
        };
        assert_eq!(through("192.0.2.1"), Delivery::Direct(None));
        for named in ["10.0.0.3", "127.0.0.1"] {
            assert_eq!(through(named), Delivery::Direct(Some(ip(named))));
        }
    }

    #[test]
    fn a_client_that_means_another_port_is_refused_unless_ports_may_be_translated() {
        let refused = |named, port, streams, at_home| {
            destination(Some(named), port, "10.0.0.9", streams).mismatch(PORT, at_home).is_some()
        };
        assert!(refused("10.0.0.2", 1_515, false, true));
        assert!(refused("10.0.0.2", 1_515, true, true));
        assert!(refused("10.0.0.2", 1_515, true, false));
        assert!(refused("192.0.2.1", 1_515, true, true));
        assert!(!refused("192.0.2.1", 1_515, false, true), "an address is translated");
        assert!(!refused("10.0.0.2", 1_515, false, false), "remoted is in a container");
        for streams in [false, true] {
            assert!(!refused("10.0.0.2", PORT, streams, true));
            assert!(!refused("10.0.0.2", 0, streams, true), "it does not say");
        }
        let why = destination(Some("10.0.0.2"), u16::MAX, "10.0.0.9", true).mismatch(u16::MAX - 1, true);
        assert!(why.is_some_and(|why| why.contains("65535") && why.contains("65534") && why.len() <= 256));
    }
}
