//! Injected datagrams that have not been read, grouped by the samples between which they were injected.
//!
//! ```text
//!   sample ── step: open ── sample ── closed ── sample ── settled, with its mark ── … ── read
//!             └────── a drop seen here may be one of its datagrams ─────┘
//! ```
//!
//! A step is settled, which means in the socket, at the second look after it, and has the mark of that look. At the
//! first look a busy system may have left it to ksoftirqd (up to Linux 6.4), or packet steering to another CPU.

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
pub(super) struct Outcome {
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
    pub(super) fn handle_sample(&mut self, reading: Reading) -> Outcome {
        let mut outcome = Outcome::default();
        for step in self.steps.iter_mut().filter(|step| step.closed && step.mark.is_none()) {
            step.mark = Some(reading.mark());
            outcome.settled.extend(step.spans.iter().map(|(&id, &span)| (id, span)));
        }
        let is_read = |step: &mut Step| step.mark.is_some_and(|mark| reading.has_passed(mark));
        while let Some(step) = self.steps.pop_front_if(is_read) {
            self.cost -= step.spans.values().map(|span| span.cost).sum::<u64>();
            outcome.read.extend(step.spans);
        }
        outcome.closed = self.steps.back_mut().is_some_and(|open| !std::mem::replace(&mut open.closed, true));
        outcome
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
        self.remove(id, |step| step.mark.is_none());
    }

    /// No datagram of this stream counts as injected.
    pub(super) fn forget(&mut self, id: StreamId) {
        self.remove(id, |_| true);
    }

    fn remove(&mut self, id: StreamId, of: impl Fn(&Step) -> bool) {
        for step in self.steps.iter_mut().filter(|step| of(step)) {
            self.cost -= step.spans.remove(&id).map_or(0, |span| span.cost);
        }
        self.steps.retain(|step| !step.spans.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: StreamId = 1;
    const COST: u64 = 832;

    fn injected() -> Steps {
        let mut steps = Steps::default();
        steps.handle_injected(ONE, Seq(0), Seq(1), COST, 7);
        steps
    }

    #[test]
    fn a_step_is_in_the_socket_at_the_second_look_after_it_and_no_sooner() {
        let mut steps = injected();
        let first = steps.handle_sample(Reading::default());
        assert!(first.closed && first.settled.is_empty() && steps.are_unsettled(), "it may be on its way");
        let second = steps.handle_sample(Reading { read: 0, queue: COST });
        assert!(!second.closed && second.settled.len() == 1 && !steps.are_unsettled());
        assert!(second.read.is_empty(), "it lies in the socket");
    }

    #[test]
    fn a_step_has_been_read_when_remoted_passes_the_mark_of_that_look() {
        let mut steps = injected();
        steps.handle_sample(Reading::default());
        steps.handle_sample(Reading { read: 0, queue: 2 * COST });
        assert!(steps.handle_sample(Reading { read: COST, queue: 9 * COST }).read.is_empty());
        let read = steps.handle_sample(Reading { read: 2 * COST, queue: 8 * COST }).read;
        assert_eq!((read[0].0, read[0].1.until, steps.cost()), (ONE, Seq(1), 0));
    }

    #[test]
    fn a_drop_before_that_look_may_be_of_the_step() {
        for looks in 0..3 {
            let mut steps = injected();
            for _ in 0..looks {
                steps.handle_sample(Reading { read: 0, queue: COST });
            }
            assert_eq!(steps.handle_drop(|_| true).len(), usize::from(looks < 2), "after {looks} looks");
        }
    }
}
