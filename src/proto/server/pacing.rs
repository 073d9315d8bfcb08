//! How much is injected behind each sample, and how soon the next sample follows.
//!
//! Something is injected only right behind a sample, one *step* behind each: what the sample shows of remoted holds for the few microseconds until
//! then. While the socket overflows by others' doing a step is *careful*: it takes a quarter of the room that there is, so that others would have to
//! fill the rest while it is sent. Where there is none it is one datagram, since of two the first could be dropped and the second not, and OSSEC would
//! refuse the first ever after. The next step waits until it is known what became of this one. If something was dropped meanwhile, it is injected
//! again; but not for longer than `PATIENCE` in a row.

use std::time::Duration;

use super::overflow::Overflow;
use crate::proto::time::Time;

/// While each step is followed by a drop, so long nothing is taken for delivered; after that it counts as doubtful, so that nobody can stop the
/// streams for ever. It is what a remoted that reads 64 datagrams a second takes for the lot that the kernel frees at once.
const PATIENCE: Duration = Duration::from_secs(1);
/// A careful step takes this part of the room at most.
const CAREFUL_PART: u64 = 4;

/// While something that was injected has not been read, remoted is looked at so soon again, and twice as late each time that shows nothing new.
const LOOK_GAP_MIN: Duration = Duration::from_millis(1);
const LOOK_GAP_MAX: Duration = Duration::from_millis(50);

/// The pace of injection. See the head of this file.
#[derive(Debug)]
pub(super) struct Pacing {
    /// Most datagrams that the system surely takes in a row.
    step_datagrams_max: usize,
    /// What may be injected behind the newest sample.
    step: Option<Step>,
    /// Since when each step was followed by a drop, or could not be taken for one.
    impatient_since: Option<Time>,
    look_gap: Duration,
}

/// A step that is not over.
#[derive(Clone, Copy, Debug)]
struct Step {
    /// How many more datagrams.
    datagrams: usize,
    /// How much more, in buffer cost; none of it was used: one datagram, whatever it costs.
    bytes: u64,
    is_fresh: bool,
}

impl Pacing {
    pub(super) const fn new(step_datagrams_max: usize) -> Self {
        Self { step_datagrams_max, step: None, impatient_since: None, look_gap: LOOK_GAP_MIN }
    }

    /// A sample shows that something was dropped, or not: whether that is a reason to wait, and to inject the dropped again. It is one unless it has
    /// been one for long.
    pub(super) fn puts_off(&mut self, now: Time, has_dropped: bool, overflow: &Overflow, is_busy: bool) -> bool {
        (has_dropped || self.queue_room(overflow) == 0)
            && is_busy
            && now.since(*self.impatient_since.get_or_insert(now)) < PATIENCE
    }

    /// A step has come to remoted's socket whole, or nothing is to be injected.
    pub(super) const fn handle_calm(&mut self) {
        self.impatient_since = None;
    }

    /// A sample shows something new, or nothing.
    pub(super) fn handle_news(&mut self, news: bool) {
        self.look_gap = if news { LOOK_GAP_MIN } else { (2 * self.look_gap).min(LOOK_GAP_MAX) };
    }

    /// Something has come that is to be injected, or was injected: the last look is old.
    pub(super) const fn handle_work(&mut self) {
        self.look_gap = LOOK_GAP_MIN;
    }

    /// A step begins behind the sample of this moment. `unsettled`: it is not known what became of the last one. `room`: what surely fits into
    /// remoted's socket, in bytes.
    pub(super) fn begin_step(&mut self, now: Time, overflow: &Overflow, unsettled: bool, room: u64) {
        let is_careful = overflow.is_anywhere(now);
        let bytes = if is_careful { room / CAREFUL_PART } else { u64::MAX };
        let datagrams = self.queue_room(overflow).max(1);
        self.step = if is_careful && unsettled { None } else { Some(Step { datagrams, bytes, is_fresh: true }) };
    }

    /// No more is injected before the next sample.
    pub(super) const fn end_step(&mut self) {
        self.step = None;
    }

    /// What the step has left, in datagrams and bytes of buffer cost, if the next datagram costs `next`.
    pub(super) fn left(&self, next: u64) -> Option<(usize, u64)> {
        let step = self.step.filter(|step| step.datagrams > 0)?;
        Some((step.datagrams, if step.is_fresh { step.bytes.max(next) } else { step.bytes }))
    }

    /// So many datagrams of this buffer cost were injected.
    pub(super) fn handle_injected(&mut self, count: usize, cost: u64) {
        if let Some(step) = &mut self.step {
            step.datagrams = step.datagrams.saturating_sub(count);
            step.bytes = step.bytes.saturating_sub(cost);
            step.is_fresh &= count == 0;
        }
        self.handle_work();
    }

    /// How soon to look at remoted again while something is to be injected or read.
    pub(super) const fn look_gap(&self) -> Duration {
        self.look_gap
    }

    /// How many datagrams the system surely takes: queued ones have not come to a socket yet.
    fn queue_room(&self, overflow: &Overflow) -> usize {
        self.step_datagrams_max.saturating_sub(overflow.queued())
    }
}
