//! Datagrams on their way out.

use std::net::SocketAddr;

use crate::proto::client::buffer::Entry;
use crate::proto::terms::{Seq, SessionName};
use crate::proto::time::Time;

/// Datagrams in one batch: more brought nothing when measured.
const BATCH_DATAGRAMS_MAX: usize = 64;
/// Bytes in one batch: keeps the copy under the lock short. One datagram always fits.
const BATCH_BYTES_MAX: usize = 128 * 1024;

/// Datagrams on their way out, copied out of the buffer. One at a time is filled, sent and reported.
#[derive(Debug)]
pub struct Batch {
    epoch: u64,
    until: Time,
    target: SocketAddr,
    ports: u32,
    items: Vec<Item>,
    bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Item {
    seq: Seq,
    session: SessionName,
    start: usize,
    end: usize,
}

impl Default for Batch {
    fn default() -> Self {
        let target = SocketAddr::from(([0, 0, 0, 0], 0));
        Self {
            epoch: 0,
            until: Time::ZERO,
            target,
            ports: 0,
            items: Vec::with_capacity(BATCH_DATAGRAMS_MAX),
            bytes: Vec::new(),
        }
    }
}

impl Batch {
    /// Where it goes.
    pub const fn target(&self) -> SocketAddr {
        self.target
    }

    /// The lease under which it was taken out: nothing of it is sent at or after this moment.
    pub const fn until(&self) -> Time {
        self.until
    }

    /// Each other number means that the source ports are to be others than before.
    pub const fn ports(&self) -> u32 {
        self.ports
    }

    /// How many datagrams it holds.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// It holds none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The session of the `at`-th datagram.
    pub fn session(&self, at: usize) -> SessionName {
        self.items[at].session
    }

    /// The payload of the `at`-th datagram.
    pub fn payload(&self, at: usize) -> &[u8] {
        let item = self.items[at];
        &self.bytes[item.start..item.end]
    }

    /// The epoch in which it was taken out.
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The number of the `at`-th datagram.
    pub fn seq(&self, at: usize) -> Seq {
        self.items[at].seq
    }

    /// Another datagram of so many bytes may be added.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.items.is_empty() || (self.items.len() < BATCH_DATAGRAMS_MAX && self.bytes.len() + bytes <= BATCH_BYTES_MAX)
    }

    /// Says for what the datagrams are taken out.
    pub(super) const fn begin(&mut self, epoch: u64, until: Time, target: SocketAddr, ports: u32) {
        (self.epoch, self.until, self.target, self.ports) = (epoch, until, target, ports);
    }

    pub(super) fn clear(&mut self) {
        self.items.clear();
        self.bytes.clear();
    }

    pub(super) fn push(&mut self, entry: &Entry<'_>, session: SessionName) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(entry.bytes);
        self.items.push(Item { seq: entry.seq, session, start, end: self.bytes.len() });
    }
}
