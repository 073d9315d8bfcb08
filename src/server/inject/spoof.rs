//! In the clients' names: raw sockets, whose packets bear the client's address and the UDP port of its agent.
//!
//! remoted's answers go there by themselves, to a client of this host as to any other. No port of this host is bound,
//! and nothing is kept for an agent. Before anything is injected in a name, a canary in it has to arrive: see
//! [`passages`](crate::proto::server::passages).

use std::io;
use std::net::{IpAddr, SocketAddr};

use mio::{Poll, Token};

use super::error::{Error, Sent};
use super::tokens::{TAPS_MAX, TOKENS_FROM};
use crate::os::net::raw::{Lane, MARK_BYTES};
use crate::os::net::udp::{Inbox, SendError, watch};
use crate::os::{net, remoted::Found};
use crate::proto::server::passages::{Passages, Step};
use crate::proto::{server::streams::Volley, time::Time};

/// Nobody answers to this port (RFC 863): it stands for an agent whose client has no UDP socket for it.
const DISCARD_PORT: u16 = 9;
/// A canary seems to come from where a client's first agent does.
const CANARY_PORT: u16 = 1_517;
/// Canaries sent at a time: they must fit the buffer of the tap, which holds 256 of them.
const CANARIES_AT_A_TIME_MAX: usize = 64;

/// The raw sockets, and the names in which they may be used.
#[derive(Debug)]
pub(in crate::server) struct Spoof {
    /// One for each address family that remoted has an address of.
    lanes: Vec<Lane>,
    /// The payload of every canary. Nobody else knows it.
    canary: [u8; 16],
    pub(super) passages: Passages,
    /// The newest canary that could not even be sent, and why.
    unsent: Option<(IpAddr, io::Error)>,
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

    pub(super) fn enter(&mut self, now: Time, address: IpAddr) -> Result<(), Error> {
        if matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
            return Err(Error::LinkLocal { address });
        }
        self.lane(address)?;
        self.passages.enter(now, address);
        Ok(())
    }

    pub(super) fn send(&mut self, now: Time, found: &Found, volley: &Volley<'_>) -> Result<Sent, Error> {
        let lane = self.admitted(now, found, volley.address)?;
        let target = lane.target();
        let port = match volley.session.port {
            // remoted would answer to itself where a client of this host says so.
            port if port == 0 || port == target.port() => DISCARD_PORT,
            port => port,
        };
        let (sent, outcome) = lane.send(SocketAddr::new(volley.address, port), &volley.payloads);
        Ok((target, sent, outcome))
    }

    /// The lane for datagrams in this name, if they get through.
    fn admitted(&mut self, now: Time, found: &Found, address: IpAddr) -> Result<&mut Lane, Error> {
        let target = self.lane(address)?.target();
        found.receives_at(target.ip()).map_err(|why| Error::NotReceived { target, why })?;
        if !self.passages.admits(now, address) {
            return Err(Error::Blocked { address, target, source: None });
        }
        self.lane(address)
    }

    fn lane(&mut self, address: IpAddr) -> Result<&mut Lane, Error> {
        let mut lanes = self.lanes.iter_mut();
        lanes.find(|lane| lane.target().is_ipv4() == address.is_ipv4()).ok_or(Error::Family { address })
    }

    /// The addresses in whose names datagrams have just been seen to get through.
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

    /// Sends the canaries that are due. An address in whose name none has arrived, and why that seems to be so.
    pub(super) fn poll_blocked(&mut self, now: Time) -> Option<(IpAddr, Error)> {
        for _ in 0..CANARIES_AT_A_TIME_MAX {
            match self.passages.poll(now)? {
                Step::Canary(address) => self.send_canary(address),
                Step::Failed(address) => {
                    let Ok(target) = self.lane(address).map(|lane| lane.target()) else { continue };
                    let source = self.unsent.take().filter(|(name, _)| *name == address).map(|(_, error)| error);
                    return Some((address, Error::Blocked { address, target, source }));
                }
            }
        }
        None
    }

    fn send_canary(&mut self, address: IpAddr) {
        let canary = self.canary;
        let Ok(lane) = self.lane(address) else { return };
        match lane.probe(SocketAddr::new(address, CANARY_PORT), &canary) {
            Ok(()) | Err(SendError::Busy) => {}
            Err(SendError::Refused(error) | SendError::Unsendable(error)) => self.unsent = Some((address, error)),
        }
    }
}
