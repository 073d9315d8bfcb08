//! Where remoted receives: the addresses that its sockets and other sockets on its port are bound to.
//!
//! The kernel gives a datagram to the most narrowly bound socket: bound to its very address, else to all of its
//! family, else to all of both families (`compute_score` in its `net/ipv4/udp.c`). So a socket that is bound to one
//! address takes datagrams from another program's wildcard socket. remoted's wildcard socket may thus not receive
//! everywhere.

use std::net::IpAddr;

use crate::proto::terms::Receives;

/// The addresses that a socket is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// This address, in its canonical form, so never an IPv4-mapped one.
    One(IpAddr),
    /// All addresses of IPv4.
    AllOfV4,
    /// All addresses of IPv6 alone.
    AllOfV6,
    /// All addresses of both families: a dual-stack socket, or an IPv6 socket where the system does not tell.
    All,
}

impl Binding {
    /// The binding of a socket to this `address`. `v6_only`: it takes nothing of IPv4.
    pub fn of(address: IpAddr, v6_only: bool) -> Self {
        // `::` means both families, `::ffff:0.0.0.0` all of IPv4.
        match (address, address.to_canonical()) {
            (IpAddr::V6(v6), _) if v6.is_unspecified() && v6_only => Self::AllOfV6,
            (IpAddr::V6(v6), _) if v6.is_unspecified() => Self::All,
            (_, IpAddr::V4(v4)) if v4.is_unspecified() => Self::AllOfV4,
            (_, canonical) => Self::One(canonical),
        }
    }

    /// How narrow the binding is, as seen from a datagram to `target`; `None` if it does not receive the
    /// datagram. The narrowest socket gets it.
    pub fn rank(self, target: IpAddr) -> Option<u8> {
        match self {
            Self::One(address) => (address == target).then_some(2),
            Self::AllOfV4 => target.is_ipv4().then_some(1),
            Self::AllOfV6 => target.is_ipv6().then_some(1),
            Self::All => Some(u8::from(target.is_ipv6())),
        }
    }
}

/// The sockets on remoted's port in the server's network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bindings {
    /// The sockets that count as remoted's.
    pub remoted: Vec<Binding>,
    /// All other sockets.
    pub strangers: Vec<Binding>,
}

impl Bindings {
    /// Whether datagrams to this address of the server's host reach remoted.
    ///
    /// # Errors
    /// Where remoted receives instead.
    pub fn receive_at(&self, target: IpAddr) -> Result<(), Receives> {
        let target = target.to_canonical();
        let narrowest = |bindings: &[Binding]| bindings.iter().filter_map(|binding| binding.rank(target)).max();
        let (ours, others) = (narrowest(&self.remoted), narrowest(&self.strangers));
        if ours.is_some() && ours >= others {
            return Ok(());
        }
        Err(if self.remoted.is_empty() {
            Receives::Nowhere
        } else if ours.is_none() && self.remoted.contains(&Binding::AllOfV4) {
            Receives::Ipv4Alone
        } else if ours.is_none() && self.remoted.contains(&Binding::AllOfV6) {
            Receives::Ipv6Alone
        } else {
            Receives::Elsewhere
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_place_is_told_by_address_and_family() {
        for (address, v6_only, binding) in [
            ("0.0.0.0", false, Binding::AllOfV4),
            ("::ffff:0.0.0.0", false, Binding::AllOfV4),
            ("::", false, Binding::All),
            ("::", true, Binding::AllOfV6),
            ("10.0.0.1", false, Binding::One(ip("10.0.0.1"))),
            ("::ffff:10.0.0.1", false, Binding::One(ip("10.0.0.1"))),
            ("fd00::1", true, Binding::One(ip("fd00::1"))),
        ] {
            assert_eq!(Binding::of(ip(address), v6_only), binding, "{address}");
        }
    }

    #[test]
    fn the_narrowest_socket_gets_a_datagram() {
        let (one4, one6) = (Binding::One(ip("10.0.0.1")), Binding::One(ip("fd00::1")));
        let all = [Binding::AllOfV4, Binding::AllOfV6, Binding::All];
        let targets = ["10.0.0.1", "10.0.0.2", "::ffff:10.0.0.1", "fd00::1", "fd00::2"].map(ip);
        let elsewhere = Err(Receives::Elsewhere);
        let (v4, v6) = (Err(Receives::Ipv4Alone), Err(Receives::Ipv6Alone));
        for (remoted, strangers, expected) in [
            (vec![], vec![], [Err(Receives::Nowhere); 5]),
            (vec![], vec![Binding::All], [Err(Receives::Nowhere); 5]),
            (vec![Binding::All], vec![], [Ok(()); 5]),
            (vec![Binding::AllOfV4], vec![], [Ok(()), Ok(()), Ok(()), v4, v4]),
            (vec![Binding::AllOfV6], vec![], [v6, v6, v6, Ok(()), Ok(())]),
            (vec![one4], vec![], [Ok(()), elsewhere, Ok(()), elsewhere, elsewhere]),
            (vec![one6], vec![], [elsewhere, elsewhere, elsewhere, Ok(()), elsewhere]),
            (vec![one4, one6], vec![], [Ok(()), elsewhere, Ok(()), Ok(()), elsewhere]),
            // Another program has one address, or a family, to itself.
            (vec![Binding::All], vec![one4, one6], [elsewhere, Ok(()), elsewhere, elsewhere, Ok(())]),
            (vec![Binding::All], vec![Binding::AllOfV4], [elsewhere, elsewhere, elsewhere, Ok(()), Ok(())]),
            (vec![one4], all.to_vec(), [Ok(()), elsewhere, Ok(()), elsewhere, elsewhere]),
            // A group that shares a port.
            (vec![Binding::All], vec![Binding::All], [Ok(()); 5]),
        ] {
            let bindings = Bindings { remoted, strangers };
            assert_eq!(targets.map(|target| bindings.receive_at(target)), expected, "{bindings:?}");
        }
    }
}
