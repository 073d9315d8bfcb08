//! Connections that have not said what they are, counted by where they come from; pure.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};

/// Strangers from one host: a quarter of all connections, within these bounds. More are refused, so that one host
/// cannot take all connections for itself.
const STRANGERS_MAX: usize = 1_024;
const STRANGERS_MIN: usize = 64;

#[derive(Debug)]
pub(super) struct Strangers {
    /// So many from one host are too many.
    most: usize,
    counts: HashMap<IpAddr, usize>,
}

impl Strangers {
    pub(super) fn new(connections_max: usize) -> Self {
        Self { most: (connections_max / 4).clamp(STRANGERS_MIN, STRANGERS_MAX), counts: HashMap::new() }
    }

    pub(super) fn is_crowded(&self, address: IpAddr) -> bool {
        self.counts.get(&host_of(address)).is_some_and(|&count| count >= self.most)
    }

    /// A connection says nothing of use.
    pub(super) fn note(&mut self, address: IpAddr) {
        *self.counts.entry(host_of(address)).or_default() += 1;
    }

    /// A connection has said what it is, or is gone.
    pub(super) fn forget(&mut self, address: IpAddr) {
        if let Entry::Occupied(mut count) = self.counts.entry(host_of(address)) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// An address stands for its host: in IPv6 a host has a whole /64.
fn host_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_all_connections_may_be_strangers_of_one_host_which_in_ipv6_is_a_whole_network() {
        let ip = |text: &str| -> IpAddr { text.parse().expect("an address") };
        let mut strangers = Strangers::new(4 * 100);
        for n in 0..100_u16 {
            assert!(!strangers.is_crowded(ip("fd00::1")));
            strangers.note(ip(&format!("fd00::{n:x}:1")));
        }
        assert!(strangers.is_crowded(ip("fd00::1")));
        assert!(!strangers.is_crowded(ip("fd00:0:0:1::1")) && !strangers.is_crowded(ip("10.0.0.1")));
        strangers.forget(ip("fd00::7"));
        assert!(!strangers.is_crowded(ip("fd00::1")));
        (0..99).for_each(|_| strangers.forget(ip("fd00::1")));
        assert!(strangers.counts.is_empty(), "it remembers no host that has none");
    }
}
