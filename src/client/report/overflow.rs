//! Times during which the buffer overflowed: a line when one begins, and a line when it is over.

use std::time::SystemTime;

use humantime::format_rfc3339_seconds;

use super::pauses::{LASTING, SUMMARY};
use crate::os::line::Line;
use crate::proto::amounts::amount;
use crate::proto::client::{Counters, DropReason, Hindrance, Snapshot};
use crate::proto::time::Time;

/// `2026-11-24T`.
const DATE_BYTES: usize = 11;

#[derive(Debug)]
pub(super) struct Overflows {
    current: Option<Overflow>,
    /// Drops that were taken in.
    dropped: u64,
}

#[derive(Clone, Copy, Debug)]
struct Overflow {
    began: Time,
    from: SystemTime,
    to: SystemTime,
    dropped: u64,
    latest: Time,
}

impl Overflows {
    pub(super) fn new(counters: &Counters) -> Self {
        Self { current: None, dropped: counters.dropped(DropReason::Overflow) }
    }

    /// Takes in the drops; the line about an overflow that begins or ends.
    pub(super) fn observe(&mut self, now: Time, wall: SystemTime, snapshot: &Snapshot, up: bool) -> Option<Line> {
        let total = snapshot.counters.dropped(DropReason::Overflow);
        let dropped = total - std::mem::replace(&mut self.dropped, total);
        if dropped == 0 {
            return if self.next_deadline(up)? <= now { self.end(wall) } else { None };
        }
        let begins = self.current.is_none();
        let overflow =
            self.current.get_or_insert(Overflow { began: now, from: wall, to: wall, dropped: 0, latest: now });
        overflow.dropped += dropped;
        (overflow.to, overflow.latest) = (wall, now);
        let why = match snapshot.hindrance {
            _ if snapshot.short => ", the system gives no more memory",
            Some(Hindrance::Failing) => ", the spool cannot be written",
            Some(Hindrance::Slow) => ", the disk of the spool is slower than the input",
            Some(Hindrance::Burst) => ", more came in at once than it takes",
            Some(Hindrance::Full) | None => "",
        };
        begins.then(|| Line::warn(format!("buffer is full with {}{why}: dropping", amount(snapshot.held))))
    }

    pub(super) fn end(&mut self, wall: SystemTime) -> Option<Line> {
        let Overflow { from, to, dropped, .. } = self.current.take()?;
        let [from, to, said] = [from, to, wall].map(|at| format_rfc3339_seconds(at).to_string());
        // Times of the day on which this is said need no date.
        let is_today = [&from, &to].iter().all(|at| at[..DATE_BYTES] == said[..DATE_BYTES]);
        let begin = if is_today { DATE_BYTES } else { 0 };
        Some(Line::warn(format!("buffer was full from {} to {}: {dropped} dropped", &from[begin..], &to[begin..])))
    }

    /// When the overflow counts as over, if nothing more is dropped.
    ///
    /// A full and idle buffer is still full: an agent that says something now and then must not cause two lines each
    /// time. A link that is `up` makes room, and even then two lines a minute are enough.
    pub(super) fn next_deadline(&self, up: bool) -> Option<Time> {
        let overflow = self.current.as_ref()?;
        let lull = if up { LASTING } else { SUMMARY };
        Some((overflow.latest + lull).max(overflow.began + SUMMARY))
    }
}
