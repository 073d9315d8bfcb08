//! The broker of 2015, for comparison, as its author describes it: for each datagram it asks the server over TCP
//! whether remoted is alive. If so, it sends what it holds and then this one, and forgets both; if not, it holds the
//! datagram too.
//!
//! Where the description is silent, the rival is given the benefit: an unbounded receive queue and a timeout of two
//! seconds. It also asks again each second while it holds something and nothing comes in.

use std::collections::VecDeque;

use super::{Event, Way, World};
use crate::plan::SECOND;
use crate::remoted::Datagram;

const TIMEOUT: u64 = 2 * SECOND;
const ASK_AGAIN: u64 = SECOND;

#[derive(Clone, Debug, Default)]
pub(super) struct Rival {
    /// Datagrams that have come in and were not asked for yet.
    arrived: VecDeque<Datagram>,
    held: VecDeque<Datagram>,
    /// The question under way.
    question: Option<u64>,
    questions: u64,
}

/// The stages of a question.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Asked { client: usize, question: u64 },
    Answered { client: usize, question: u64, alive: bool },
    Again(usize),
}

impl Step {
    /// The client at whose host the step happens.
    pub(super) const fn client(&self) -> Option<usize> {
        match self {
            Self::Asked { .. } => None,
            Self::Answered { client, .. } | Self::Again(client) => Some(*client),
        }
    }
}

impl Rival {
    pub(super) fn held(&self) -> u64 {
        (self.arrived.len() + self.held.len()) as u64
    }

    pub(super) fn handle_datagram(&mut self, datagram: Datagram) {
        self.arrived.push_back(datagram);
    }
}

impl World<'_> {
    /// Asks, unless a question is under way or nothing needs one.
    pub(super) fn begin_check(&mut self, client: usize) {
        let rival = &mut self.rivals[client];
        if self.way != Way::Rival || rival.question.is_some() || rival.held() == 0 {
            return;
        }
        rival.questions += 1;
        let question = rival.questions;
        rival.question = Some(question);
        // A question has a connection of its own: SYN and its answer, then the question.
        let end = self.now + self.plan.round_trip_at(self.now) * 3 / 2;
        let cut = self.plan.cut(false, true, self.now, end).or_else(|| self.plan.cut(false, false, self.now, end));
        if cut.is_none() {
            self.at(end, Event::Check(Step::Asked { client, question }));
        }
        let late = Step::Answered { client, question, alive: false };
        self.at(self.now + TIMEOUT, Event::Check(late));
    }

    pub(super) fn check(&mut self, step: Step) {
        match step {
            Step::Asked { client, question } => {
                let end = self.now + self.plan.round_trip_at(self.now) / 2;
                if self.server_stopped().is_none() && self.plan.cut(false, false, self.now, end).is_none() {
                    // The server looks for the process alone: a stopped process counts as alive.
                    let alive = self.server.alive && self.remoted.alive;
                    self.at(end, Event::Check(Step::Answered { client, question, alive }));
                }
            }
            Step::Answered { client, question, alive } if self.rivals[client].question == Some(question) => {
                self.rivals[client].question = None;
                self.answered(client, alive);
            }
            Step::Answered { .. } => {}
            Step::Again(client) => self.begin_check(client),
        }
    }

    fn answered(&mut self, client: usize, alive: bool) {
        let this = self.rivals[client].arrived.pop_front();
        self.rivals[client].held.extend(this);
        if alive {
            for datagram in std::mem::take(&mut self.rivals[client].held) {
                self.transmit(client, datagram, super::connect::last(self.plan));
            }
        }
        if self.rivals[client].arrived.is_empty() {
            let at = self.now + ASK_AGAIN;
            self.at(at, Event::Check(Step::Again(client)));
        } else {
            self.begin_check(client);
        }
    }
}
