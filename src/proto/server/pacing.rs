//! How many datagrams are injected behind each sample, and how soon the next sample follows.
//!
//! Datagrams are injected only right behind a sample, one *step* behind each. The sample's view of remoted holds for
//! the few microseconds until then.
//!
//! While other senders overflow the socket, a step is *careful*: it takes a quarter of the free room. Other senders
//! would have to fill the rest while the step is sent. If there is no room, the step is one datagram. Of two datagrams
//! the first could be dropped and the second accepted, and OSSEC would refuse the first ever after.
//!
//! The next step waits until the fate of this one is known. Dropped datagrams are injected again, but not for longer
//! than `PATIENCE` in a row.

use std::time::Duration;

use super::overflow::Overflow;
use crate::proto::time::Time;

/// If every step is followed by a drop, datagrams count as undelivered for this long, and then as doubtful
/// ([`DROPS_CALM`](crate::proto::terms::DROPS_CALM)). A remoted that reads 64 datagrams a second takes this long for
/// one lot that the kernel frees.
const PATIENCE: Duration = Duration::from_secs(1);
/// A careful step takes at most this part of the room.
const CAREFUL_PART: u64 = 4;

/// The first delay between looks at remoted while injected datagrams are unread. The delay doubles each time that a
/// look shows nothing new.
const LOOK_GAP_MIN: Duration = Duration::from_millis(1);
const LOOK_GAP_MAX: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Pacing {
    /// The most datagrams that the system surely takes in a row.
    step_datagrams_max: usize,
    step: Option<Step>,
    /// Since this moment a drop has followed every step, or might have.
    impatient_since: Option<Time>,
    look_gap: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    datagrams: usize,
    /// The buffer cost left. If none of it was used yet, one datagram of any cost is allowed.
    bytes: u64,
    is_fresh: bool,
}

impl Pacing {
    pub(super) const fn new(step_datagrams_max: usize) -> Self {
        Self { step_datagrams_max, step: None, impatient_since: None, look_gap: LOOK_GAP_MIN }
    }

    /// A sample shows whether something was dropped. Returns whether to wait, and to inject the dropped datagrams
    /// again. Drops that have lasted long are no reason to wait.
    pub(super) fn puts_off(&mut self, now: Time, has_dropped: bool, overflow: &Overflow, is_busy: bool) -> bool {
        (has_dropped || self.queue_room(overflow) == 0)
            && is_busy
            && now.since(*self.impatient_since.get_or_insert(now)) < PATIENCE
    }

    /// A step has reached remoted's socket whole, or there is nothing to inject.
    pub(super) const fn handle_calm(&mut self) {
        self.impatient_since = None;
    }

    /// A sample shows something new, or nothing.
    pub(super) fn handle_news(&mut self, news: bool) {
        self.look_gap = if news { LOOK_GAP_MIN } else { (2 * self.look_gap).min(LOOK_GAP_MAX) };
    }

    /// Datagrams came in to be injected, or were injected: the last look is old.
    pub(super) const fn handle_work(&mut self) {
        self.look_gap = LOOK_GAP_MIN;
    }

    /// A step begins behind the sample of this moment. `unsettled`: the fate of the last step is unknown. `room`: the
    /// bytes that surely fit into remoted's socket.
    pub(super) fn begin_step(&mut self, now: Time, overflow: &Overflow, unsettled: bool, room: u64) {
        let is_careful = overflow.is_anywhere(now);
        let bytes = if is_careful { room / CAREFUL_PART } else { u64::MAX };
        let datagrams = self.queue_room(overflow).max(1);
        self.step = if is_careful && unsettled { None } else { Some(Step { datagrams, bytes, is_fresh: true }) };
    }

    pub(super) const fn end_step(&mut self) {
        self.step = None;
    }

    /// The rest of the step, in datagrams and bytes of buffer cost, if the next datagram costs `next`.
    pub(super) fn left(&self, next: u64) -> Option<(usize, u64)> {
        let step = self.step.filter(|step| step.datagrams > 0)?;
        Some((step.datagrams, if step.is_fresh { step.bytes.max(next) } else { step.bytes }))
    }

    /// `count` datagrams of this buffer cost were injected.
    pub(super) fn handle_injected(&mut self, count: usize, cost: u64) {
        if let Some(step) = &mut self.step {
            step.datagrams = step.datagrams.saturating_sub(count);
            step.bytes = step.bytes.saturating_sub(cost);
            step.is_fresh &= count == 0;
        }
        self.handle_work();
    }

    pub(super) const fn look_gap(&self) -> Duration {
        self.look_gap
    }

    /// The number of datagrams that the system surely takes. Datagrams in its queues have not reached a socket yet.
    fn queue_room(&self, overflow: &Overflow) -> usize {
        self.step_datagrams_max.saturating_sub(overflow.queued())
    }
}
