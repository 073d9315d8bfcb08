//! Unfinished frames: what a connection brings, cut into frames.

use super::codec::{FRAME_BYTES_MAX, LENGTH_BYTES, WireError};
use super::frame::Frame;

/// What an empty buffer of a connection keeps: room for heartbeats. One large frame must not cost each of thousands of connections its size for ever.
const KEPT_BYTES: usize = 4 * 1024;

/// Gives the memory of an emptied buffer back, all but the room that heartbeats need.
pub fn give_back(buffer: &mut Vec<u8>) {
    if buffer.is_empty() && buffer.capacity() > KEPT_BYTES {
        *buffer = Vec::new();
    }
}

/// Collects what a stream brings and cuts it into frames. Never holds more than one read and one frame.
#[derive(Debug, Default)]
pub struct Assembler {
    bytes: Vec<u8>,
    /// Where the next frame starts in `bytes`.
    start: usize,
}

impl Assembler {
    /// Takes in what was read.
    pub fn push(&mut self, read: &[u8]) {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(read);
    }

    /// Bytes of memory that are set aside.
    pub const fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// What has come in and is not part of a frame taken out.
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// The next whole frame; `None` when more has to be read. Frames of unknown kinds are passed over.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, WireError> {
        loop {
            let Some((head, after)) = self.bytes[self.start..].split_first_chunk::<LENGTH_BYTES>() else {
                if self.rest().is_empty() {
                    self.start = 0;
                    self.bytes.clear();
                    give_back(&mut self.bytes);
                }
                return Ok(None);
            };
            let length = u32::from_be_bytes(*head);
            if length == 0 || length as usize > FRAME_BYTES_MAX {
                return Err(WireError::Length(length));
            }
            let Some(frame) = after.get(..length as usize) else {
                return Ok(None);
            };
            self.start += LENGTH_BYTES + length as usize;
            if let Some(frame) = Frame::decode(frame[0], &frame[1..])? {
                return Ok(Some(frame));
            }
        }
    }
}
