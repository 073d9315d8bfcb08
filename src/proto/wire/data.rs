//! Datagrams in frames: many in one, so that small ones cost little each.
//!
//! ```text
//!   epoch (u32)   { number (u64)   session (u16)   length (u16)   payload } ...
//! ```

use super::codec::{FRAME_BYTES_MAX, WireError, Writer};
use crate::proto::terms::{DATAGRAM_BYTES_MAX, Seq};

/// The kind of a frame of datagrams.
pub(super) const DATA: u8 = 11;

const HEADER_BYTES: usize = 12;
/// Kind and epoch.
const HEAD_BYTES: usize = 5;

/// Datagrams of a client's stream, in the order of their numbers. The client dropped the datagrams whose numbers are
/// missing.
#[derive(Clone, PartialEq, Eq)]
pub struct Data {
    /// The epoch of the newest [`Resume`](super::frame::Resume). Datagrams of another epoch count for nothing.
    pub epoch: u32,
    items: Vec<u8>,
}

/// One datagram of a frame.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct DataItem<'a> {
    /// Its number.
    pub seq: Seq,
    /// Its session's place in the client's table.
    pub session: u16,
    /// The datagram.
    pub bytes: &'a [u8],
}

impl Data {
    /// A frame of these datagrams, as [`DataWriter`] would write them. They must fit one frame, and their numbers must
    /// grow.
    pub fn new(epoch: u32, items: &[DataItem<'_>]) -> Self {
        let mut bytes = Vec::new();
        for item in items {
            item.write(&mut bytes);
        }
        debug_assert!(HEAD_BYTES + bytes.len() <= FRAME_BYTES_MAX, "they fit one frame");
        Self { epoch, items: bytes }
    }

    /// Reads datagrams from a frame: they must be whole, and their numbers must grow.
    pub(super) fn from_wire(epoch: u32, items: &[u8]) -> Result<Self, WireError> {
        let mut rest = items;
        let mut least = Seq(0);
        while !rest.is_empty() {
            let (item, after) = split(rest).ok_or(WireError::Datagrams)?;
            if item.seq < least || item.seq == Seq(u64::MAX) {
                return Err(WireError::Datagrams);
            }
            least = item.seq.next();
            rest = after;
        }
        Ok(Self { epoch, items: items.to_vec() })
    }

    /// The datagrams.
    pub fn items(&self) -> impl Iterator<Item = DataItem<'_>> {
        self.items_from(0)
    }

    /// The datagrams behind the first `skipped` bytes, as counted by [`DataItem::span`].
    pub fn items_from(&self, skipped: usize) -> impl Iterator<Item = DataItem<'_>> {
        let mut rest = self.items.get(skipped..).unwrap_or_default();
        std::iter::from_fn(move || {
            let (item, after) = split(rest)?;
            rest = after;
            Some(item)
        })
    }

    pub(super) fn items_bytes(&self) -> &[u8] {
        &self.items
    }
}

impl DataItem<'_> {
    /// The bytes that it takes in a frame.
    pub const fn span(&self) -> usize {
        HEADER_BYTES + self.bytes.len()
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.seq.0.to_be_bytes());
        out.extend_from_slice(&self.session.to_be_bytes());
        out.extend_from_slice(&(self.bytes.len() as u16).to_be_bytes());
        out.extend_from_slice(self.bytes);
    }
}

fn split(bytes: &[u8]) -> Option<(DataItem<'_>, &[u8])> {
    let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    let [seq @ .., s0, s1, l0, l1] = *header;
    let (bytes, after) = rest.split_at_checked(usize::from(u16::from_be_bytes([l0, l1])))?;
    Some((DataItem { seq: Seq(u64::from_be_bytes(seq)), session: u16::from_be_bytes([s0, s1]), bytes }, after))
}

impl std::fmt::Debug for Data {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Data")
            .field("epoch", &self.epoch)
            .field("datagrams", &self.items().count())
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for DataItem<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A log never shows a payload.
        let Self { seq, session, bytes } = self;
        f.debug_struct("DataItem").field("seq", seq).field("session", session).field("bytes", &bytes.len()).finish()
    }
}

/// Writes datagrams into as few frames as they fit.
pub struct DataWriter<'a> {
    out: &'a mut Vec<u8>,
    epoch: u32,
    /// Where the frame that is being filled starts.
    start: Option<usize>,
}

impl std::fmt::Debug for DataWriter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataWriter").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl<'a> DataWriter<'a> {
    /// Frames of this epoch are appended to `out`.
    pub const fn new(out: &'a mut Vec<u8>, epoch: u32) -> Self {
        Self { out, epoch, start: None }
    }

    /// Adds a datagram of at most [`DATAGRAM_BYTES_MAX`]; their numbers must grow.
    pub fn push(&mut self, seq: Seq, session: u16, bytes: &[u8]) {
        debug_assert!(bytes.len() <= DATAGRAM_BYTES_MAX, "UDP has none longer");
        let item = DataItem { seq, session, bytes };
        if self.start.is_some_and(|start| self.out.len() - start + item.span() > FRAME_BYTES_MAX) {
            self.close();
        }
        if self.start.is_none() {
            self.start = Some(self.out.len());
            Writer::begin(self.out, DATA).u32(self.epoch);
        }
        item.write(self.out);
    }

    /// Ends the last frame.
    pub fn finish(mut self) {
        self.close();
    }

    fn close(&mut self) {
        if let Some(start) = self.start.take() {
            Writer::resume(self.out, start).finish();
        }
    }
}

const _: () = assert!(HEAD_BYTES + HEADER_BYTES + DATAGRAM_BYTES_MAX <= FRAME_BYTES_MAX, "the largest fits");
