//! Datagrams on their way out.

use std::net::SocketAddr;

use crate::proto::client::buffer::Entry;
use crate::proto::terms::{Seq, SessionName};
use crate::proto::time::Time;

/// Most datagrams in one batch: more brought nothing when measured.
const RELEASE_DATAGRAMS_MAX: usize = 64;
/// Most bytes in one batch: the copy under the lock stays short. One datagram always fits.
const RELEASE_BYTES_MAX: usize = 128 * 1024;

/// Datagrams on their way out, copied out of the buffer. One batch at a time is filled, sent and reported.
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
            items: Vec::with_capacity(RELEASE_DATAGRAMS_MAX),
            bytes: Vec::new(),
        }
    }
}

impl Batch {
    /// The address that the batch goes to.
    pub const fn target(&self) -> SocketAddr {
        self.target
    }

    /// The end of the lease under which the batch was taken out: none of its datagrams is sent at or after this
    /// moment.
    pub const fn until(&self) -> Time {
        self.until
    }

    /// The number of the source ports. When it changes, other source ports than before are taken.
    pub const fn ports(&self) -> u32 {
        self.ports
    }

    /// Number of datagrams in the batch.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// The batch has no datagrams.
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

    /// The epoch in which the batch was taken out.
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The number of the `at`-th datagram.
    pub fn seq(&self, at: usize) -> Seq {
        self.items[at].seq
    }

    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.items.is_empty()
            || (self.items.len() < RELEASE_DATAGRAMS_MAX && self.bytes.len() + bytes <= RELEASE_BYTES_MAX)
    }

    /// Sets the epoch, the lease, the target and the ports for the datagrams that follow.
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
