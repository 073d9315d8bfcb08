//! The way to remoted: heartbeats in; release, hold, rewind and confirm out.
//!
//! This room decides when the client may send towards remoted, and when it may forget. It knows numbers and moments,
//! no datagrams.
//!
//! ```text
//!                    ┌────────────┐
//!   ping, pong ◄───► │ heartbeats │   round trip, gap, silence; the epoch
//!                    ├────────────┤
//!                    │   policy   │   transport udp: lease    what may be released, what is confirmed,
//!                    └────────────┘   transport tcp: acks     when everything is released again
//! ```
//!
//! Both transports share the heartbeats. The policy decides what allows release and what confirms: see `lease` and
//! `acks`. An *epoch* ends when released datagrams count as never sent, and with each connection.
//!
//! A connection is silent when an answer is due and nothing has come in for too long. Over udp that is two leases,
//! over tcp the longest time that an answer may take. Over tcp an acknowledgement by the other host's kernel counts as
//! well: over a narrow link an answer may take long behind the data. Bytes that this system took for sending say
//! nothing: it takes some hundred kilobytes for a host that is gone.

mod acks;
mod drops;
mod heartbeats;
mod lag;
mod lease;
mod proof;
mod rtt;
mod terms;
#[cfg(test)]
mod tests;

pub use heartbeats::{HEARTBEATS_MAX, Probe, Settings};
pub use terms::{Flight, Foreign, Outcome, Permit, Resumption, Rewind, Standing, Work};

use std::time::Duration;

use crate::proto::terms::{Seq, Verdict};
use crate::proto::time::Time;
use crate::proto::wire::{Ack, Pong, Resume};
use acks::Acks;
use heartbeats::Heartbeats;
use lease::{LATE_LEASES_MAX, Lease};

/// How datagrams travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// From the client to remoted, as the agent would send them.
    #[default]
    Udp,
    /// Over the connection to the broker server, which injects them.
    Tcp,
}

/// The state of the way to remoted. See the head of this file.
#[derive(Debug)]
pub struct Link {
    beats: Heartbeats,
    policy: Policy,
    epoch: u64,
}

#[derive(Debug)]
enum Policy {
    Lease(Box<Lease>),
    Acks(Acks),
}

impl Link {
    pub(super) fn new(transport: Transport, settings: Settings) -> Self {
        let policy = match transport {
            Transport::Udp => Policy::Lease(Box::default()),
            Transport::Tcp => Policy::Acks(Acks::default()),
        };
        Self { beats: Heartbeats::new(settings), policy, epoch: 0 }
    }

    pub(super) const fn transport(&self) -> Transport {
        match self.policy {
            Policy::Lease(_) => Transport::Udp,
            Policy::Acks(_) => Transport::Tcp,
        }
    }

    /// The current epoch.
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The time that a heartbeat that begins at this moment may take. Over udp it would also allow release for that
    /// time.
    pub fn lease(&self) -> Duration {
        let patience = self.beats.rtt.patience(self.beats.settings);
        match self.policy {
            Policy::Lease(_) => patience.min(self.beats.settings.lease + self.beats.rtt.allowance()),
            Policy::Acks(_) => patience,
        }
    }

    /// The least age that a release must have when a heartbeat confirms it; zero over tcp, where heartbeats confirm
    /// nothing.
    pub(super) fn grace(&self, now: Time) -> Duration {
        match &self.policy {
            Policy::Lease(lease) => lease.grace(now),
            Policy::Acks(_) => Duration::ZERO,
        }
    }

    /// How long a datagram that is released at this moment takes to be confirmed if remoted reads at once (`proof`): a
    /// heartbeat covers it when it has landed, and another one a grace later is answered. Zero over tcp.
    pub(super) fn time_to_confirm(&self, now: Time) -> Duration {
        2 * self.grace(now) + self.round_trip()
    }

    /// The usual wait of a release for a heartbeat; zero over tcp, where no release waits.
    pub(super) fn usual_round_trip(&self) -> Duration {
        match self.policy {
            Policy::Lease(_) => self.beats.rtt.smoothed(),
            Policy::Acks(_) => Duration::ZERO,
        }
    }

    /// The usual round trip with four times its usual variation.
    pub(super) fn round_trip(&self) -> Duration {
        match self.policy {
            Policy::Lease(_) => self.beats.rtt.allowance(),
            Policy::Acks(_) => Duration::ZERO,
        }
    }

    /// A connection was made and greeted in `round_trip`. The link gives up any earlier connection.
    pub(super) fn handle_connected(&mut self, now: Time, round_trip: Duration, flight: Flight) -> Option<Rewind> {
        let rewind = self.handle_disconnected(now, flight);
        self.beats.handle_connected(now, round_trip);
        if let Policy::Lease(lease) = &mut self.policy {
            lease.handle_connected(now);
        }
        rewind
    }

    pub(super) fn handle_disconnected(&mut self, now: Time, flight: Flight) -> Option<Rewind> {
        if !self.beats.handle_disconnected() {
            return None;
        }
        self.epoch += 1;
        match &mut self.policy {
            Policy::Lease(lease) => Some(lease.handle_disconnected(now, flight, &self.beats)),
            // The server will say which datagrams have arrived.
            Policy::Acks(acks) => {
                acks.handle_other_connection();
                None
            }
        }
    }

    /// Begins a heartbeat. [`Self::next_heartbeat`] says when.
    ///
    /// `None` without a connection or with [`HEARTBEATS_MAX`] under way.
    pub(super) fn begin(&mut self, now: Time, flight: Flight) -> Option<Probe> {
        let (duration, last, gap) = (self.lease(), self.beats.last_begun(), self.beats.gap());
        let probe = self.beats.begin(now, duration, self.epoch, flight.next)?;
        if let Policy::Lease(lease) = &mut self.policy {
            lease.handle_begin(now, duration, last, &probe, gap);
        }
        Some(probe)
    }

    pub(super) fn handle_pong(&mut self, now: Time, probe: Probe, pong: &Pong, flight: Flight) -> Outcome {
        let Some(was_late) = self.beats.handle_pong(now, &probe, Duration::from_micros(u64::from(pong.gap_us))) else {
            return Outcome::default();
        };
        let round_trip = now.since(probe.begun());
        match &mut self.policy {
            Policy::Lease(lease) => {
                // A late answer may have waited for an outage to end: it says that the path is slower, not by how
                // much.
                self.beats.rtt.handle_sample(round_trip, LATE_LEASES_MAX * probe.lease());
                let outcome = lease.handle_pong(now, (&probe, was_late), pong, flight, self.epoch, &self.beats);
                self.epoch += u64::from(outcome.rewind.is_some());
                outcome
            }
            Policy::Acks(acks) => {
                self.beats.rtt.handle_sample(round_trip, Duration::MAX);
                acks.handle_verdict(pong.verdict);
                Outcome::default()
            }
        }
    }

    /// The server said, unasked, that its verdict has changed: a heartbeat is due. Over udp only that says when
    /// datagrams may go, since they go another way.
    pub(super) const fn handle_notice(&mut self, verdict: Verdict) {
        self.beats.handle_notice();
        if let Policy::Acks(acks) = &mut self.policy {
            acks.handle_verdict(verdict);
        }
    }

    /// Transport tcp: the server says where to go on. `digest` is of the last datagram below that place, where it is
    /// held.
    pub(super) fn handle_resume(
        &mut self,
        resume: &Resume,
        flight: Flight,
        digest: Option<u64>,
    ) -> Result<Option<Resumption>, Foreign> {
        let (Policy::Acks(acks), true) = (&mut self.policy, self.beats.is_connected()) else {
            return Ok(None);
        };
        let resumption = acks.handle_resume(resume, flight, digest)?;
        self.epoch += 1;
        Ok(Some(resumption))
    }

    pub(super) fn handle_ack(&mut self, ack: &Ack, flight: Flight) -> Result<Option<Seq>, Foreign> {
        match &mut self.policy {
            Policy::Lease(_) => Ok(None),
            Policy::Acks(acks) => acks.handle_ack(ack, flight),
        }
    }

    pub(super) fn handle_alive(&mut self, at: Time) {
        if self.transport() == Transport::Tcp {
            self.beats.handle_heard(at);
        }
    }

    /// Time has passed: a heartbeat may have become late, or it begins too late.
    pub(super) fn handle_time(&mut self, now: Time, flight: Flight) -> Option<Rewind> {
        let duration = self.lease();
        let Policy::Lease(lease) = &mut self.policy else {
            return None;
        };
        if !self.beats.is_connected() {
            return None;
        }
        let late = self.beats.handle_time(now);
        let rewind = lease.handle_time(now, late, flight, duration, &self.beats);
        self.epoch += u64::from(rewind.is_some());
        rewind
    }

    /// Datagrams of this buffer cost were sent: a heartbeat must begin after them. `first`: nothing was under way
    /// before them.
    pub(super) fn handle_released(&mut self, now: Time, cost: u64, first: bool) {
        if let Policy::Lease(lease) = &mut self.policy {
            lease.handle_released(now, cost, first);
        }
    }

    /// A datagram was refused by the far end (ICMP), or by this system for want of a route. Over tcp no datagram goes
    /// that way.
    pub(super) fn handle_refused(&mut self, now: Time, flight: Flight) -> Option<Rewind> {
        self.rewind(|lease, beats| lease.handle_refused(now, flight, beats))
    }

    pub(super) fn handle_silence(&mut self, now: Time, flight: Flight) -> Option<Rewind> {
        self.rewind(|lease, beats| lease.handle_silence(now, flight, beats))
    }

    pub(super) fn permit(&self, now: Time) -> Option<Permit> {
        match &self.policy {
            Policy::Lease(lease) => lease.permit(now, self.lease(), self.epoch, &self.beats),
            Policy::Acks(acks) => {
                Some(Permit { until: Time::FAR, window: acks.window()?, single: false, epoch: self.epoch })
            }
        }
    }

    /// Transport tcp: the epoch that frames must carry; `None` while nothing may be sent.
    pub(super) const fn server_epoch(&self) -> Option<u32> {
        match &self.policy {
            Policy::Lease(_) => None,
            Policy::Acks(acks) => acks.server_epoch(),
        }
    }

    pub(super) fn next_heartbeat(&self, work: Work) -> Option<Time> {
        self.beats.next(|last| match &self.policy {
            Policy::Lease(lease) => lease.next_heartbeat(last, work, self.lease(), &self.beats),
            // Silence shows only after a question: with datagrams under way the next question must come soon.
            Policy::Acks(_) if work.under_way => last + self.beats.settings.interval.min(self.lease()),
            Policy::Acks(_) => last + self.beats.settings.interval,
        })
    }

    /// The moment at which `handle_time` or [`Self::is_silent`] has something new to say.
    pub fn next_deadline(&self, now: Time) -> Option<Time> {
        let late = match self.policy {
            Policy::Lease(_) => self.beats.next_late(),
            Policy::Acks(_) => None,
        };
        // A silence that has begun says nothing new any more.
        let silent = self.silent_from().filter(|&from| from >= now);
        late.into_iter().chain(silent).min().map(|at| at + Duration::from_micros(1))
    }

    /// The client should not wait for the connection any longer.
    pub fn is_silent(&self, now: Time) -> bool {
        self.silent_from().is_some_and(|from| now > from)
    }

    /// The state of the way to remoted at this moment.
    pub fn standing(&self, now: Time) -> Standing {
        if !self.beats.is_connected() {
            return Standing::Unreachable;
        }
        match &self.policy {
            Policy::Lease(lease) => lease.standing(),
            Policy::Acks(_) if self.is_silent(now) => Standing::Unanswered,
            Policy::Acks(acks) => acks.standing(),
        }
    }

    fn silent_from(&self) -> Option<Time> {
        let leases = match self.policy {
            Policy::Lease(_) => 2,
            Policy::Acks(_) => 1,
        };
        Some(self.beats.unanswered_since()? + leases * self.lease())
    }

    /// Over udp: ends the epoch.
    fn rewind(&mut self, policy: impl FnOnce(&mut Lease, &Heartbeats) -> Rewind) -> Option<Rewind> {
        let Policy::Lease(lease) = &mut self.policy else {
            return None;
        };
        self.epoch += 1;
        Some(policy(lease, &self.beats))
    }
}
