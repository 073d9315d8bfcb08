//! What the log says, and when.
//!
//! A change of the link that lasts a second is a line; shorter changes, drops and repeats are summed up once a
//! minute. An outage of a million datagrams is three lines. Pure: the moment and the state come with each call, lines
//! go out.

mod blocked;
mod link;
mod overflow;
mod pauses;
mod sums;
#[cfg(test)]
mod tests;

use std::time::SystemTime;

use crate::os::line::Line;
use crate::proto::amounts::amount;
use crate::proto::client::{Counters, Snapshot, buffer::Tally};
use crate::proto::time::Time;
use blocked::Blocked;
use link::Link;
use overflow::Overflows;
use sums::Sums;

#[derive(Debug)]
pub(super) struct Report {
    link: Link,
    overflows: Overflows,
    blocked: Blocked,
    sums: Sums,
}

impl Report {
    /// Nothing is told of what the counters count already, nor of what the kernel has dropped so far.
    pub(super) fn new(now: Time, counters: &Counters, kernel_drops: u32) -> Self {
        Self {
            link: Link::new(now),
            overflows: Overflows::new(counters),
            blocked: Blocked::default(),
            sums: Sums::new(counters, kernel_drops),
        }
    }

    /// The kernel has dropped so many datagrams at the agents' socket so far. The counter wraps.
    pub(super) const fn handle_kernel_drops(&mut self, counter: u32) {
        self.sums.handle_kernel_drops(counter);
    }

    /// Takes in the state; the lines that follow from it. `trouble` says why there is no connection.
    pub(super) fn observe(&mut self, now: Time, wall: SystemTime, snapshot: &Snapshot, trouble: &str) -> Vec<Line> {
        let link = self.link.observe(now, snapshot, trouble);
        let overflow = self.overflows.observe(now, wall, snapshot, self.link.is_up());
        let blocked = self.blocked.observe(now, snapshot);
        self.sums.observe(now, snapshot, self.link.flaps);
        [link, overflow, blocked].into_iter().flatten().chain(self.sums.poll(now)).collect()
    }

    /// The last words: everything untold, and what became of all datagrams. Of those that are left, `lost` are not on
    /// disk.
    pub(super) fn farewell(&mut self, now: Time, wall: SystemTime, snapshot: &Snapshot, lost: Tally) -> Vec<Line> {
        let link = self.link.farewell(now, snapshot);
        let overflow = self.overflows.observe(now, wall, snapshot, self.link.is_up());
        let mut lines: Vec<Line> = [link, overflow, self.overflows.end(wall)].into_iter().flatten().collect();
        self.sums.observe(now, snapshot, self.link.flaps);
        lines.extend(self.sums.tell(now));
        let (counters, held) = (snapshot.counters, snapshot.held);
        lines.push(Line::info(format!(
            "stopped: {} received, {} confirmed, {} dropped, {} left",
            counters.received,
            counters.confirmed,
            counters.dropped_total(),
            held.datagrams
        )));
        let kept = held.without(lost);
        if kept.datagrams > 0 {
            lines.push(Line::info(format!("kept in the spool: {}", amount(kept))));
        }
        if lost.datagrams > 0 {
            lines.push(Line::warn(format!("lost with this stop: {}, not confirmed", amount(lost))));
        }
        lines
    }

    /// When [`Self::observe`] has something to say although nothing happens.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        let overflow = self.overflows.next_deadline(self.link.is_up());
        [self.link.next_deadline(), overflow, self.sums.next_deadline()].into_iter().flatten().min()
    }
}
