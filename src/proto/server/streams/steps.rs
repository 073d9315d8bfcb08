//! Injected datagrams that have not been read, grouped by the samples between which they were injected.
//!
//! ```text
//!   sample ── step: open ── sample ── closed ── sample ── settled, with its mark ── … ── read
//!             └────── a drop seen here may be one of its datagrams ─────┘
//! ```
//!
//! Datagrams injected since the last sample may not be in the socket at the next. A busy system leaves them to
//! ksoftirqd (up to Linux 6.4), and packet steering leaves them to another CPU. So a step is settled at the second
//! sample after it, and its mark is the queue at that sample.

use std::collections::{HashMap, VecDeque};

use crate::proto::terms::{Mark, Reading, Seq, StreamId};

#[derive(Debug, Default)]
pub(super) struct Steps {
    steps: VecDeque<Step>,
    cost: u64,
}

/// The datagrams injected between two samples.
#[derive(Debug, Default)]
struct Step {
    /// A sample has followed it.
    closed: bool,
    /// `None` until the step is settled.
    mark: Option<Mark>,
    spans: HashMap<StreamId, Span>,
}

/// The datagrams that one stream injected in a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) from: Seq,
    /// The number behind its last datagram.
    pub(super) until: Seq,
    pub(super) cost: u64,
    /// The digest of its last datagram; 0 if unknown.
    pub(super) digest: u64,
    /// Some of its datagrams may have been dropped and are not injected again.
    pub(super) doubtful: bool,
}

/// The consequences of a sample.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The spans that are in the socket by now, whole or doubtful.
    pub(super) settled: Vec<(StreamId, Span)>,
    /// The spans that have been read by now.
    pub(super) read: Vec<(StreamId, Span)>,
    /// A step was closed: the next sample settles it.
    pub(super) closed: bool,
}

impl Steps {
    pub(super) const fn cost(&self) -> u64 {
        self.cost
    }

    /// Some datagrams may yet turn out to have been dropped.
    pub(super) fn are_unsettled(&self) -> bool {
        self.steps.back().is_some_and(|step| step.mark.is_none())
    }

    pub(super) fn handle_injected(&mut self, id: StreamId, from: Seq, until: Seq, cost: u64, digest: u64) {
        if self.steps.back().is_none_or(|step| step.closed) {
            self.steps.push_back(Step::default());
        }
        if let Some(step) = self.steps.back_mut() {
            let span = step.spans.entry(id).or_insert(Span { from, until, cost: 0, digest, doubtful: false });
            (span.until, span.digest) = (until, digest);
            span.cost += cost;
            self.cost += cost;
        }
    }

    /// Takes in a sample of the same life of remoted.
    pub(super) fn handle_sample(&mut self, reading: Reading) -> Progress {
        let mut progress = Progress::default();
        for step in self.steps.iter_mut().filter(|step| step.closed && step.mark.is_none()) {
            step.mark = Some(reading.mark());
            progress.settled.extend(step.spans.iter().map(|(&id, &span)| (id, span)));
        }
        let is_read = |step: &mut Step| step.mark.is_some_and(|mark| reading.has_passed(mark));
        while let Some(step) = self.steps.pop_front_if(is_read) {
            self.cost -= step.spans.values().map(|span| span.cost).sum::<u64>();
            progress.read.extend(step.spans);
        }
        progress.closed = self.steps.back_mut().is_some_and(|open| !std::mem::replace(&mut open.closed, true));
        progress
    }

    /// Something was dropped, perhaps some unsettled datagrams. If a stream `comes_again`, its unsettled datagrams
    /// count as never injected. The unsettled datagrams of other streams are doubtful.
    pub(super) fn handle_drop(&mut self, comes_again: impl Fn(StreamId) -> bool) -> Vec<(StreamId, Span)> {
        let mut again = Vec::new();
        for step in self.steps.iter_mut().filter(|step| step.mark.is_none()) {
            for span in step.spans.values_mut() {
                span.doubtful = true;
            }
            again.extend(step.spans.extract_if(|&id, _| comes_again(id)));
        }
        self.cost -= again.iter().map(|(_, span)| span.cost).sum::<u64>();
        self.steps.retain(|step| !step.spans.is_empty());
        again
    }

    /// The unsettled datagrams of this stream no longer count as injected.
    pub(super) fn forget_unsettled(&mut self, id: StreamId) {
        self.handle_drop_of(id, |step| step.mark.is_none());
    }

    /// No datagram of this stream counts as injected.
    pub(super) fn forget(&mut self, id: StreamId) {
        self.handle_drop_of(id, |_| true);
    }

    fn handle_drop_of(&mut self, id: StreamId, of: impl Fn(&Step) -> bool) {
        for step in self.steps.iter_mut().filter(|step| of(step)) {
            self.cost -= step.spans.remove(&id).map_or(0, |span| span.cost);
        }
        self.steps.retain(|step| !step.spans.is_empty());
    }
}
