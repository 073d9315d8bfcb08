//! The two ways out: datagrams as the agent would send them, or a stream to the broker server.
//!
//! Buffer, sessions, bounds and accounting are the same for both. What differs is when something may go out, and what proves that it was read.

use std::time::Duration;

use crate::proto::client::link::stream::Stream;
use crate::proto::client::link::{Flight, Link, Outcome, Permit, Probe, Rewind, Settings, Standing, Work};
use crate::proto::terms::Verdict;
use crate::proto::time::Time;
use crate::proto::wire::Pong;

/// How datagrams travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// Client to remoted, as the agent would.
    #[default]
    Udp,
    /// Over the connection to the broker server, which injects them.
    Tcp,
}

/// The state of one of them.
#[derive(Debug)]
pub(super) enum Way {
    Udp(Box<Link>),
    Tcp(Box<Stream>),
}

impl Way {
    pub(super) fn new(transport: Transport, settings: Settings) -> Self {
        match transport {
            Transport::Udp => Self::Udp(Box::new(Link::new(settings))),
            Transport::Tcp => Self::Tcp(Box::new(Stream::new(settings))),
        }
    }

    pub(super) fn epoch(&self) -> u64 {
        match self {
            Self::Udp(link) => link.epoch(),
            Self::Tcp(stream) => stream.epoch(),
        }
    }

    pub(super) fn lease(&self) -> Duration {
        match self {
            Self::Udp(link) => link.lease(),
            Self::Tcp(stream) => stream.lease(),
        }
    }

    /// How long the answer to a heartbeat takes at most, as far as is known.
    pub(super) fn round_trip(&self) -> Duration {
        match self {
            Self::Udp(link) => link.round_trip(),
            // No release waits for a heartbeat.
            Self::Tcp(_) => Duration::ZERO,
        }
    }

    /// How long the answer to a heartbeat takes as a rule.
    pub(super) fn usual_round_trip(&self) -> Duration {
        match self {
            Self::Udp(link) => link.usual_round_trip(),
            Self::Tcp(_) => Duration::ZERO,
        }
    }

    /// How much older than a heartbeat a release must be to be confirmed by it.
    pub(super) fn grace(&self, now: Time) -> Duration {
        match self {
            Self::Udp(link) => link.grace(now),
            Self::Tcp(_) => Duration::ZERO,
        }
    }

    pub(super) fn handle_connected(&mut self, now: Time, round_trip: Duration, flight: Flight) -> Option<Rewind> {
        match self {
            Self::Udp(link) => link.handle_connected(now, round_trip, flight),
            Self::Tcp(stream) => {
                stream.handle_connected(now, round_trip);
                None
            }
        }
    }

    pub(super) fn handle_disconnected(&mut self, now: Time, flight: Flight) -> Option<Rewind> {
        match self {
            Self::Udp(link) => link.handle_disconnected(now, flight),
            // The server will say what has arrived.
            Self::Tcp(stream) => {
                stream.handle_disconnected();
                None
            }
        }
    }

    pub(super) fn begin(&mut self, now: Time, flight: Flight) -> Option<Probe> {
        match self {
            Self::Udp(link) => link.begin(now, flight),
            Self::Tcp(stream) => stream.begin(now, flight),
        }
    }

    pub(super) fn handle_pong(&mut self, now: Time, probe: Probe, pong: &Pong, flight: Flight) -> Outcome {
        match self {
            Self::Udp(link) => link.handle_pong(now, probe, pong, flight),
            Self::Tcp(stream) => {
                stream.handle_pong(now, &probe, pong);
                Outcome::default()
            }
        }
    }

    pub(super) const fn handle_notice(&mut self, verdict: Verdict) {
        match self {
            // A datagram goes its own way: only a heartbeat says when it may.
            Self::Udp(link) => link.handle_notice(),
            Self::Tcp(stream) => stream.handle_notice(verdict),
        }
    }

    pub(super) fn handle_time(&mut self, now: Time, flight: Flight) -> Option<Rewind> {
        match self {
            Self::Udp(link) => link.handle_time(now, flight),
            Self::Tcp(_) => None,
        }
    }

    pub(super) fn handle_released(&mut self, now: Time, cost: u64, first: bool) {
        match self {
            Self::Udp(link) => link.handle_released(now, cost, first),
            Self::Tcp(_) => {}
        }
    }

    pub(super) fn handle_refused(&mut self, now: Time, flight: Flight) -> Option<Rewind> {
        match self {
            Self::Udp(link) => Some(link.handle_refused(now, flight)),
            // No datagram of ours was on that way.
            Self::Tcp(_) => None,
        }
    }

    pub(super) fn permit(&self, now: Time) -> Option<Permit> {
        match self {
            Self::Udp(link) => link.permit(now),
            Self::Tcp(stream) => stream.permit(),
        }
    }

    pub(super) fn next_heartbeat(&self, work: Work) -> Option<Time> {
        match self {
            Self::Udp(link) => link.next_heartbeat(work),
            Self::Tcp(stream) => stream.next_heartbeat(work),
        }
    }

    pub(super) fn next_deadline(&self, now: Time) -> Option<Time> {
        match self {
            Self::Udp(link) => link.next_deadline(now),
            Self::Tcp(stream) => stream.next_deadline(now),
        }
    }

    pub(super) fn is_silent(&self, now: Time) -> bool {
        match self {
            Self::Udp(link) => link.is_silent(now),
            Self::Tcp(stream) => stream.is_silent(now),
        }
    }

    pub(super) fn standing(&self, now: Time) -> Standing {
        match self {
            Self::Udp(link) => link.standing(),
            Self::Tcp(stream) => stream.standing(now),
        }
    }
}
