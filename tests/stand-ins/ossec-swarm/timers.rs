//! The moments when clients are to be looked at.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use ossec_broker::proto::time::Time;

/// A heap of moments, at most one of which counts for each client.
///
/// A moment that has become later stays where it is: the client is then looked at once for nothing, which is cheaper
/// than an entry for each of its heartbeats.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Time, usize)>>,
    armed: Vec<Option<Time>>,
}

impl Timers {
    /// Room for one more client.
    pub(crate) fn add(&mut self) {
        self.armed.push(None);
    }

    /// The client is to be looked at by then at the latest.
    pub(crate) fn arm(&mut self, client: usize, at: Time) {
        if self.armed[client].is_none_or(|armed| at < armed) {
            self.armed[client] = Some(at);
            self.heap.push(Reverse((at, client)));
        }
    }

    /// The earliest moment.
    pub(crate) fn next(&self) -> Option<Time> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// A client whose moment has come.
    pub(crate) fn take_due(&mut self, now: Time) -> Option<usize> {
        while self.next()? <= now {
            let Reverse((at, client)) = self.heap.pop()?;
            if self.armed[client] == Some(at) {
                self.armed[client] = None;
                return Some(client);
            }
        }
        None
    }
}
