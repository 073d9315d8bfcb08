//! The heartbeats of one connection after the other: their number under way, their rhythm, their round trips and their
//! silence.

use std::collections::VecDeque;
use std::time::Duration;

use super::rtt::RoundTrip;
use crate::proto::terms::Seq;
use crate::proto::time::Time;

/// Most heartbeats under way at once: enough for one each fifth of a lease, and a bound for a server that never
/// answers.
pub const HEARTBEATS_MAX: usize = 8;

/// Least time between the beginnings of two heartbeats before the server has asked for more.
const GAP_MIN: Duration = Duration::from_millis(1);

/// Durations of the command line.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Time between two heartbeats of an idle link.
    pub interval: Duration,
    /// Time for which a heartbeat allows release, added to the round trip.
    pub lease: Duration,
    /// Bound of the lease, unless the path itself takes longer.
    pub timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { interval: Duration::from_secs(1), lease: Duration::from_millis(100), timeout: Duration::from_secs(2) }
    }
}

/// A heartbeat under way. Neither `Copy` nor `Clone`: its pong redeems it once, or its connection takes it along.
#[derive(Debug)]
pub struct Probe {
    number: u64,
    connection: u64,
    pub(super) epoch: u64,
    begun: Time,
    lease: Duration,
    /// The usual round trip when the heartbeat began.
    pub(super) usual: Duration,
    /// Every datagram below this had been sent when the heartbeat began.
    pub(super) released: Seq,
}

impl Probe {
    /// The number that its pong carries.
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// The moment at which the heartbeat began.
    pub const fn begun(&self) -> Time {
        self.begun
    }

    /// The time, from the heartbeat's beginning, for which a good answer allows release.
    pub const fn lease(&self) -> Duration {
        self.lease
    }
}

/// The heartbeats of all connections so far, and those of the present connection in detail.
#[derive(Debug)]
pub(super) struct Heartbeats {
    pub(super) settings: Settings,
    pub(super) rtt: RoundTrip,
    connection: Option<Connection>,
    connections: u64,
    numbers: u64,
}

#[derive(Debug)]
struct Connection {
    id: u64,
    /// The heartbeats under way, the oldest first.
    outstanding: VecDeque<Outstanding>,
    last_begun: Option<Time>,
    /// The last moment at which something came in, or the other host acknowledged something.
    last_heard: Time,
    gap: Duration,
    /// The server said that something has changed.
    nudged: bool,
}

#[derive(Clone, Copy, Debug)]
struct Outstanding {
    number: u64,
    begun: Time,
    lease: Duration,
    late: bool,
}

impl Heartbeats {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, rtt: RoundTrip::default(), connection: None, connections: 0, numbers: 0 }
    }

    pub(super) fn handle_connected(&mut self, now: Time, round_trip: Duration) {
        self.rtt.handle_path(round_trip);
        self.connections += 1;
        self.connection = Some(Connection {
            id: self.connections,
            outstanding: VecDeque::new(),
            last_begun: None,
            last_heard: now,
            gap: GAP_MIN,
            nudged: false,
        });
    }

    /// The connection is gone. Returns whether there was one.
    pub(super) fn handle_disconnected(&mut self) -> bool {
        self.connection.take().is_some()
    }

    pub(super) const fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// Begins a heartbeat. `None` without a connection or with [`HEARTBEATS_MAX`] under way.
    pub(super) fn begin(&mut self, now: Time, lease: Duration, epoch: u64, released: Seq) -> Option<Probe> {
        let connection = self.connection.as_mut().filter(|c| c.outstanding.len() < HEARTBEATS_MAX)?;
        self.numbers += 1;
        let number = self.numbers;
        connection.outstanding.push_back(Outstanding { number, begun: now, lease, late: false });
        connection.last_begun = Some(now);
        connection.nudged = false;
        Some(Probe {
            number,
            connection: connection.id,
            epoch,
            begun: now,
            lease,
            usual: self.rtt.smoothed(),
            released,
        })
    }

    /// A heartbeat of this connection was answered. Returns whether it had been found late before; `None` if it is of
    /// another connection.
    ///
    /// Heartbeats before it will never be answered: a connection keeps order.
    pub(super) fn handle_pong(&mut self, now: Time, probe: &Probe, gap: Duration) -> Option<bool> {
        let connection = self.connection.as_mut().filter(|c| c.id == probe.connection)?;
        connection.last_heard = now;
        connection.gap = gap.min(self.settings.interval).max(GAP_MIN);
        let at = connection.outstanding.iter().position(|heartbeat| heartbeat.number == probe.number);
        Some(at.and_then(|at| connection.outstanding.drain(..=at).next_back()).is_some_and(|heartbeat| heartbeat.late))
    }

    pub(super) fn handle_heard(&mut self, at: Time) {
        if let Some(connection) = &mut self.connection {
            connection.last_heard = connection.last_heard.max(at);
        }
    }

    pub(super) const fn handle_notice(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.nudged = true;
        }
    }

    /// Heartbeats that are not answered within their lease become late. Returns whether one has.
    pub(super) fn handle_time(&mut self, now: Time) -> bool {
        let outstanding = self.connection.iter_mut().flat_map(|connection| &mut connection.outstanding);
        let mut some = false;
        for heartbeat in
            outstanding.filter(|heartbeat| !heartbeat.late && now.since(heartbeat.begun) > heartbeat.lease)
        {
            heartbeat.late = true;
            some = true;
        }
        some
    }

    /// The moment just before [`Self::handle_time`] finds the next heartbeat late.
    pub(super) fn next_late(&self) -> Option<Time> {
        let outstanding = self.connection.iter().flat_map(|connection| &connection.outstanding);
        outstanding.filter(|heartbeat| !heartbeat.late).map(|heartbeat| heartbeat.begun + heartbeat.lease).min()
    }

    /// The moment since which an answer is due and nothing has come in.
    pub(super) fn unanswered_since(&self) -> Option<Time> {
        let connection = self.connection.as_ref()?;
        Some(connection.outstanding.front()?.begun.max(connection.last_heard))
    }

    /// The moment at which the rhythm alone begins the next heartbeat; `None` if none can begin. `due`: the policy's
    /// answer for a link that was asked at a given moment.
    pub(super) fn next(&self, due: impl FnOnce(Time) -> Time) -> Option<Time> {
        let connection = self.connection.as_ref().filter(|c| c.outstanding.len() < HEARTBEATS_MAX)?;
        Some(match connection.last_begun {
            None => connection.last_heard,
            Some(last) if connection.nudged => last + connection.gap,
            Some(last) => due(last),
        })
    }

    /// The moment at which the newest heartbeat of this connection began.
    pub(super) fn last_begun(&self) -> Option<Time> {
        self.connection.as_ref()?.last_begun
    }

    pub(super) fn are_answered(&self) -> bool {
        self.connection.as_ref().is_none_or(|connection| connection.outstanding.is_empty())
    }

    pub(super) fn gap(&self) -> Duration {
        self.connection.as_ref().map_or(GAP_MIN, |connection| connection.gap)
    }
}
