//! In the clients' names: raw sockets, whose packets bear the client's address and the UDP port of its agent.
//!
//! remoted's answers go there by themselves, to a client of this host as to any other. No port of this host is bound, and nothing is kept for an
//! agent. Before anything is injected in a name, a canary in it has to arrive: see [`passages`](crate::proto::server::passages).

use std::io;
use std::net::{IpAddr, SocketAddr};

use mio::{Poll, Token};

use super::{Outcome, TAPS_MAX, TOKENS_FROM, conclude};
use crate::os::net;
use crate::os::net::raw::{Lane, MARK_BYTES};
use crate::os::net::udp::{Inbox, SendError, watch};
use crate::os::remoted::Found;
use crate::proto::server::passages::{Passages, Step};
use crate::proto::server::streams::Volley;
use crate::proto::time::Time;

/// What seems to be sent from here is not to be answered (RFC 863): the port of an agent whose client has no UDP socket for it.
const DISCARD_PORT: u16 = 9;
/// A canary seems to come from where a client's first agent does.
const CANARY_PORT: u16 = 1_517;
/// Canaries sent at a time: they must fit the buffer of the tap, which holds 256 of them.
const CANARIES_AT_A_TIME_MAX: usize = 64;

/// The raw sockets, and in whose names they serve.
#[derive(Debug)]
pub(in crate::server) struct Spoof {
    /// One for each address family that remoted has an address of.
    lanes: Vec<Lane>,
    /// What every canary says. Nobody else knows it.
    canary: [u8; 16],
    passages: Passages,
    /// The newest canary that could not even be sent, and why.
    unsent: Option<(IpAddr, String)>,
}

impl Spoof {
    pub(super) fn open(remoted: &[SocketAddr]) -> io::Result<Self> {
        let canary = net::random().to_be_bytes();
        let mut mark = [0; MARK_BYTES];
        mark.copy_from_slice(&canary[..MARK_BYTES]);
        let (mut lanes, mut failed): (Vec<Lane>, _) = (Vec::with_capacity(TAPS_MAX), None);
        for &target in remoted {
            if lanes.iter().any(|lane| lane.target().is_ipv4() == target.is_ipv4()) {
                continue;
            }
            match Lane::open(target, mark) {
                Ok(lane) => lanes.push(lane),
                // A host may do without one of the families.
                Err(error) => {
                    log::debug!("cannot inject into {target}: {error}");
                    failed.get_or_insert(error);
                }
            }
        }
        match failed {
            Some(error) if lanes.is_empty() => Err(error),
            _ => Ok(Self { lanes, canary, passages: Passages::default(), unsent: None }),
        }
    }

    pub(super) fn watch(&self, poll: &Poll) -> io::Result<()> {
        self.lanes.iter().enumerate().try_for_each(|(at, lane)| watch(poll, lane.tap(), Token(TOKENS_FROM + at)))
    }

    pub(super) fn enter(&mut self, now: Time, address: IpAddr) -> Result<(), String> {
        if matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
            return Err(format!("cannot inject for {address}: from remoted no way leads back to a link-local address"));
        }
        if !self.lanes.iter().any(|lane| lane.target().is_ipv4() == address.is_ipv4()) {
            let family = net::family(address);
            return Err(format!("cannot inject for {address}: --remoted has no {family} address"));
        }
        self.passages.enter(now, address);
        Ok(())
    }

    pub(super) fn leave(&mut self, address: IpAddr) {
        self.passages.leave(address);
    }

    pub(super) fn send(&mut self, now: Time, found: &Found, volley: &Volley<'_>) -> (usize, Outcome) {
        let address = volley.address;
        let Some(lane) = self.lanes.iter_mut().find(|lane| lane.target().is_ipv4() == address.is_ipv4()) else {
            return (0, Outcome::Failed(format!("cannot inject for {address}: no way to remoted")));
        };
        let target = lane.target();
        if let Err(why) = found.receives_at(target.ip()) {
            return (0, Outcome::Failed(format!("cannot inject into {target}: {why}")));
        }
        if !self.passages.admits(now, address) {
            return (0, Outcome::Failed(blocked(address, target, None)));
        }
        let port = match volley.session.port {
            // remoted would answer to itself where a client of this host says so.
            port if port == 0 || port == target.port() => DISCARD_PORT,
            port => port,
        };
        conclude(target, volley, lane.send(SocketAddr::new(address, port), &volley.payloads))
    }

    pub(super) fn take_arrivals(&mut self, now: Time, token: Token, inbox: &mut Inbox) -> Vec<IpAddr> {
        let mut arrived = Vec::new();
        let Some(lane) = token.0.checked_sub(TOKENS_FROM).and_then(|at| self.lanes.get(at)) else {
            return arrived;
        };
        // Nothing comes here but what was sent by this room: no more than fits the buffer.
        loop {
            match inbox.receive(lane.tap()) {
                Ok(0) => return arrived,
                Ok(_) => {}
                Err(error) => {
                    log::debug!("cannot see what arrives: {error}");
                    return arrived;
                }
            }
            for received in inbox.iter().filter(|received| received.bytes.ends_with(&self.canary)) {
                let address = received.from.ip().to_canonical();
                if self.passages.handle_arrival(now, address) {
                    arrived.push(address);
                }
            }
        }
    }

    pub(super) fn poll_blocked(&mut self, now: Time) -> Option<(IpAddr, String)> {
        for _ in 0..CANARIES_AT_A_TIME_MAX {
            let Some(step) = self.passages.poll(now) else { break };
            let (Step::Canary(address) | Step::Failed(address)) = step;
            let Some(lane) = self.lanes.iter().find(|lane| lane.target().is_ipv4() == address.is_ipv4()) else {
                continue;
            };
            match step {
                Step::Canary(_) => match lane.probe(SocketAddr::new(address, CANARY_PORT), &self.canary) {
                    Ok(()) | Err(SendError::Busy) => {}
                    Err(SendError::Refused(error) | SendError::Unsendable(error)) => {
                        self.unsent = Some((address, error.to_string()));
                    }
                },
                Step::Failed(_) => {
                    let why = self.unsent.take().filter(|(of, _)| *of == address).map(|(_, why)| why);
                    return Some((address, blocked(address, lane.target(), why.as_deref())));
                }
            }
        }
        None
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.passages.next_deadline()
    }
}

/// Nothing in the name of this address gets through. A Refusal must hold it.
fn blocked(address: IpAddr, target: SocketAddr, error: Option<&str>) -> String {
    let why = error.map_or_else(
        || "on the server's host a firewall (a rule for lo) or rp_filter drops it".to_owned(),
        |error| format!("{error} (a firewall of the server's host?)"),
    );
    format!("cannot inject for {address}: nothing in its name reaches {target}: {why}; --inject local does without")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::wire::TEXT_BYTES_MAX;

    #[test]
    fn why_nothing_gets_through_fits_a_refusal() {
        let widest = IpAddr::from([0xFFFF; 8]);
        let error = io::Error::from_raw_os_error(libc::EPERM).to_string();
        for error in [None, Some(error.as_str())] {
            let text = blocked(widest, SocketAddr::new(widest, u16::MAX), error);
            assert!(text.len() <= TEXT_BYTES_MAX, "{} bytes", text.len());
        }
    }
}
