//! How far UDP may lag behind TCP on this path.
//!
//! A heartbeat that overtakes datagrams must not confirm them, nor open the window for more. An outage that begins in
//! between would swallow datagrams that count as read, and datagrams piled up on the way would overflow remoted's
//! socket. So a datagram must be a [`GRACE`] old when a heartbeat confirms it. That bounds a client to one window in
//! each grace, which is slow where the socket is small.
//!
//! Therefore a path can *prove* a shorter lag. When a burst was released and remoted's socket is seen to fill by a
//! good part of it, the datagrams were no later than that. Only a client that is alone can tell: the datagrams of
//! others fill the socket in the same way.

use std::time::Duration;

use crate::proto::cost::buffer_cost;
use crate::proto::terms::{LAG_MAX, Mark};
use crate::proto::time::Time;
use crate::proto::wire::Pong;

/// The lag of UDP behind TCP that is assumed on an unknown path.
pub(super) const GRACE: Duration = LAG_MAX;

/// Least cost of a burst: a smaller one is read before it can be seen.
const BURST_COST_MIN: u64 = 16 * buffer_cost(0);
/// Time for which a proof holds: paths change.
const PROVEN_FOR: Duration = Duration::from_secs(10);
/// Time after drops in which nothing is proof enough: others may fill the socket.
const BARRED_FOR: Duration = Duration::from_mins(1);

#[derive(Debug, Default)]
pub(super) struct Lag {
    /// The proven grace, and the moment until which it holds.
    proven: Option<(Duration, Time)>,
    barred: Time,
    /// The bytes that had come in at remoted at the newest good heartbeat, at least.
    arrived: Option<Mark>,
    burst: Option<Burst>,
}

/// Datagrams released between two heartbeats.
#[derive(Clone, Copy, Debug)]
struct Burst {
    began: Time,
    cost: u64,
    /// The bytes that had come in before the burst.
    base: Mark,
    /// The first heartbeat that began after the burst.
    covered_by: Option<u64>,
}

impl Lag {
    pub(super) fn grace(&self, now: Time) -> Duration {
        self.proven.filter(|(_, until)| now < *until).map_or(GRACE, |(grace, _)| grace)
    }

    /// Datagrams of this buffer cost were released. `first`: nothing was under way before them; only then do they
    /// alone fill the socket.
    pub(super) fn handle_released(&mut self, now: Time, cost: u64, first: bool) {
        match (&mut self.burst, self.arrived) {
            (Some(burst), _) if burst.covered_by.is_none() => burst.cost += cost,
            (None, Some(base)) if first => self.burst = Some(Burst { began: now, cost, base, covered_by: None }),
            (Some(_) | None, _) => {}
        }
    }

    pub(super) fn handle_begin(&mut self, number: u64) {
        if let Some(burst) = &mut self.burst {
            burst.covered_by.get_or_insert(number);
        }
    }

    pub(super) fn handle_good(&mut self, now: Time, pong: &Pong) {
        let arrived = pong.reading().mark();
        self.arrived = Some(arrived);
        let Some(burst) = self.burst.filter(|burst| burst.covered_by.is_some_and(|number| number <= pong.number))
        else {
            return;
        };
        let span = now.since(burst.began);
        if pong.active != 1 || burst.cost < BURST_COST_MIN || 2 * span > GRACE {
            self.burst = None;
        } else if now >= self.barred && burst.base.until(arrived) >= burst.cost / 2 {
            self.proven = Some((2 * span, now + PROVEN_FOR));
            self.burst = None;
        }
    }

    pub(super) fn handle_drops(&mut self, now: Time) {
        *self = Self { barred: now + BARRED_FOR, ..Self::default() };
    }

    /// The connection or the incarnation is another one, or there was a rewind. Datagrams that were under way say
    /// nothing any more, and the path may be another.
    pub(super) fn handle_break(&mut self) {
        *self = Self { barred: self.barred, ..Self::default() };
    }
}
