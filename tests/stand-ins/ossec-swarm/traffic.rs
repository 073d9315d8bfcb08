//! The datagrams that the agent behind one client sends.

use std::time::Duration;

use ossec_broker::proto::time::Time;

use crate::payload::Sizes;

/// The datagrams that each client gets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Datagrams before the start.
    pub(crate) held: u64,
    /// Datagrams a second from the start on, until `later` of them have come.
    pub(crate) rate: u32,
    /// Datagrams after the start.
    pub(crate) later: u64,
    pub(crate) sizes: Sizes,
}

/// The numbered datagrams of one agent.
#[derive(Debug)]
pub(crate) struct Traffic {
    agent: String,
    load: Load,
    made: u64,
    /// The moment when the first datagram after the start is due: agents do not keep step.
    begins: Time,
}

impl Traffic {
    /// `phase` is between 0 and 1: how far the agent is in its rhythm.
    pub(crate) fn new(now: Time, agent: String, load: Load, phase: f64) -> Self {
        let begins = now + Duration::from_secs(1).mul_f64(phase) / load.rate.max(1);
        Self { agent, load, made: 0, begins }
    }

    /// All datagrams that will ever come.
    pub(crate) const fn total(&self) -> u64 {
        self.load.held + self.load.later
    }

    /// The moment when the next datagram is due; `None` when all have come.
    pub(crate) fn next_arrival(&self) -> Option<Time> {
        if self.made < self.load.held {
            return Some(Time::ZERO);
        }
        let later = self.made - self.load.held;
        let due = || self.begins + Duration::from_secs(1).mul_f64(later as f64 / f64::from(self.load.rate));
        (later < self.load.later).then(due)
    }

    /// The next datagram, if it is due.
    pub(crate) fn take_due(&mut self, now: Time) -> Option<Vec<u8>> {
        self.next_arrival().filter(|&due| due <= now)?;
        let number = self.made;
        self.made += 1;
        Some(self.load.sizes.datagram(number, &self.agent, number + 1, "event"))
    }
}
