//! Repeats and drops, summed up once a minute.

use super::pauses::{LASTING, SUMMARY};
use crate::os::line::Line;
use crate::proto::client::{Counters, DropReason, Snapshot};
use crate::proto::time::Time;

#[derive(Debug, Default)]
pub(super) struct Sums {
    counts: Counts,
    /// The counts of the last summary.
    told: Counts,
    /// The kernel's counter of the agent's socket.
    kernel_drops: u32,
    /// When a count first grew after the last summary.
    added: Option<Time>,
    summed: Option<Time>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    flaps: u64,
    kernel_drops: u64,
    others_drops: u64,
    doubtful: u64,
    dropped: [u64; DropReason::ALL.len()],
}

impl Counts {
    fn drops_of(counters: &Counters) -> [u64; DropReason::ALL.len()] {
        let mut dropped = DropReason::ALL.map(|reason| counters.dropped(reason));
        // Overflows of the buffer have their lines elsewhere.
        dropped[DropReason::Overflow as usize] = 0;
        dropped
    }
}

impl Sums {
    pub(super) fn new(counters: &Counters, kernel_drops: u32) -> Self {
        let counts = Counts { dropped: Counts::drops_of(counters), ..Counts::default() };
        Self { counts, told: counts, kernel_drops, ..Self::default() }
    }

    pub(super) const fn handle_kernel_drops(&mut self, counter: u32) {
        self.counts.kernel_drops += counter.wrapping_sub(self.kernel_drops) as u64;
        self.kernel_drops = counter;
    }

    /// Takes in the counters, and how often the link was down for a moment.
    pub(super) fn observe(&mut self, now: Time, snapshot: &Snapshot, flaps: u64) {
        self.counts.flaps = flaps;
        self.counts.others_drops = snapshot.counters.others_drops;
        self.counts.doubtful = snapshot.counters.doubtful;
        self.counts.dropped = Counts::drops_of(&snapshot.counters);
        if self.counts != self.told {
            self.added.get_or_insert(now);
        }
    }

    /// The first count of a kind is told after a second, the following ones once a minute.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        let added = self.added? + LASTING;
        Some(self.summed.map_or(added, |summed| added.max(summed + SUMMARY)))
    }

    pub(super) fn poll(&mut self, now: Time) -> Vec<Line> {
        if self.next_deadline().is_some_and(|due| now >= due) { self.tell(now) } else { Vec::new() }
    }

    /// Everything that has added up since the last summary.
    pub(super) fn tell(&mut self, now: Time) -> Vec<Line> {
        let Some(added) = self.added.take() else {
            return Vec::new();
        };
        self.summed = Some(now);
        let (counts, told) = (self.counts, std::mem::replace(&mut self.told, self.counts));
        let mut lines = Vec::new();
        let mut tell = |more: u64, text: &dyn Fn(u64) -> String| {
            if more > 0 {
                lines.push(Line::warn(text(more)));
            }
        };
        tell(counts.flaps - told.flaps, &|flaps| {
            let times = if flaps == 1 { "once".into() } else { format!("{flaps} times") };
            format!("link was down {times} more, for less than a second or too often for a line each")
        });
        tell(counts.others_drops - told.others_drops, &|others| {
            let rate = others as f64 / now.since(added).as_secs_f64().max(1.0);
            format!("remoted's socket overflows: {rate:.0}/s, by other senders")
        });
        tell(counts.doubtful - told.doubtful, &|doubtful| {
            format!(
                "{doubtful} confirmed are doubtful: remoted's socket was overflowing by other senders, \
                 or its replies had stopped"
            )
        });
        tell(counts.kernel_drops - told.kernel_drops, &|drops| {
            format!("the kernel dropped {drops} datagrams from agents: raise --rcvbuf")
        });
        for reason in DropReason::ALL {
            let dropped = counts.dropped[reason as usize] - told.dropped[reason as usize];
            tell(dropped, &|dropped| format!("{dropped} dropped: {}", reason.text()));
        }
        lines
    }
}
