//! The datagrams of one stream that were injected and may have to be injected again.
//!
//! ```text
//!   injected, perhaps dropped │ to be injected again
//!   ──────────────────────────┼─────────────────────► then what the stream has not injected yet
//! ```
//!
//! The client keeps all of them too, so this state can be lost at any time.

use std::collections::VecDeque;

use crate::proto::cost::buffer_cost;
use crate::proto::terms::Seq;
use crate::proto::wire::Session;

/// Datagrams of one stream, in the order of their numbers.
#[derive(Debug, Default)]
pub(super) struct Kept {
    items: VecDeque<Item>,
    /// The number of them, from the front, that are injected.
    injected: usize,
}

#[derive(Debug)]
pub(super) struct Item {
    pub(super) seq: Seq,
    pub(super) session: Session,
    pub(super) bytes: Box<[u8]>,
}

impl Item {
    pub(super) fn cost(&self) -> u64 {
        buffer_cost(self.bytes.len())
    }
}

impl Kept {
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(super) fn oldest(&self) -> Option<Seq> {
        self.items.front().map(|item| item.seq)
    }

    /// The datagrams to be injected again.
    pub(super) fn again(&self) -> impl Iterator<Item = &Item> {
        self.items.range(self.injected..)
    }

    /// The buffer cost of the datagrams to be injected again.
    pub(super) fn again_cost(&self) -> u64 {
        self.again().map(Item::cost).sum()
    }

    pub(super) fn handle_injected_again(&mut self) {
        self.injected = (self.injected + 1).min(self.items.len());
    }

    /// A datagram was injected for the first time: none is left to be injected again.
    pub(super) fn handle_injected(&mut self, item: Item) {
        debug_assert_eq!(self.injected, self.items.len(), "what was injected before comes first");
        self.items.push_back(item);
        self.injected = self.items.len();
    }

    /// All datagrams below this number are in remoted's socket.
    pub(super) fn handle_settled(&mut self, below: Seq) {
        while self.injected > 0 && self.items.pop_front_if(|item| item.seq < below).is_some() {
            self.injected -= 1;
        }
        if self.items.is_empty() {
            // The memory goes too.
            self.items = VecDeque::new();
        }
    }

    /// From this number on all datagrams are to be injected again. Returns the buffer cost that this adds.
    pub(super) fn go_back(&mut self, to: Seq) -> u64 {
        let below = self.items.partition_point(|item| item.seq < to).min(self.injected);
        let cost = self.items.range(below..self.injected).map(Item::cost).sum();
        self.injected = below;
        cost
    }
}
