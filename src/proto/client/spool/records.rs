//! Datagrams on their way to the disk or back.

use super::record::{Agent, Totals};
use super::struck::Run;
use crate::proto::client::buffer::Entry;
use crate::proto::terms::{Seq, StreamId};
use crate::proto::time::Time;

/// Datagrams with everything that is written beside them. One is filled, written and reported at a time.
#[derive(Debug, Default)]
pub struct Records {
    items: Vec<Item>,
    bytes: Vec<u8>,
    /// The agents of the datagrams.
    pub agents: Vec<Agent>,
    /// What was dropped from the middle since the last time, of all that may lie on disk.
    pub struck: Vec<Run>,
    /// How many times something was, until now.
    pub strikes: u64,
    /// The state of the accounting before these datagrams.
    pub mark: Mark,
    /// The name of their stream.
    pub stream: StreamId,
    /// Every datagram below this number is here, on disk already, or held no more.
    pub end: Seq,
}

/// The state of the accounting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// No datagram below this number is held.
    pub below: Seq,
    /// The datagrams that are held no more.
    pub totals: Totals,
}

#[derive(Clone, Copy, Debug)]
struct Item {
    seq: Seq,
    session: u16,
    arrived: Time,
    start: usize,
    end: usize,
}

/// The accounting alone.
impl From<Mark> for Records {
    fn from(mark: Mark) -> Self {
        Self { mark, ..Self::default() }
    }
}

impl Records {
    /// Forgets everything, and keeps the memory.
    pub fn clear(&mut self) {
        self.items.clear();
        self.bytes.clear();
        self.agents.clear();
        self.struck.clear();
    }

    /// Adds a datagram.
    pub fn push(&mut self, entry: Entry<'_>) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(entry.bytes);
        let Entry { seq, session, arrived, .. } = entry;
        self.items.push(Item { seq, session, arrived, start, end: self.bytes.len() });
    }

    /// The datagrams, in the order of their numbers.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        let entry = |item: &Item| {
            let Item { seq, session, arrived, start, end } = *item;
            Entry { seq, session, arrived, bytes: &self.bytes[start..end] }
        };
        self.items.iter().map(entry)
    }

    /// There is no datagram.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Bytes of the payloads together.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }
}
