//! Unfinished frames: the bytes of a connection, cut into frames.

use super::codec::{FRAME_BYTES_MAX, LENGTH_BYTES, WireError};
use super::frame::Frame;

/// The memory that an empty buffer of a connection keeps: room for heartbeats. One large frame must not take its size
/// from each of thousands of connections for ever.
const KEPT_BYTES: usize = 4 * 1024;

/// Releases the memory of an emptied buffer, except the room that heartbeats need.
pub fn give_back(buffer: &mut Vec<u8>) {
    if buffer.is_empty() && buffer.capacity() > KEPT_BYTES {
        *buffer = Vec::new();
    }
}

/// Collects the bytes of a stream and cuts them into frames. Holds at most one read and one frame.
#[derive(Debug)]
pub struct Assembler {
    bytes: Vec<u8>,
    start: usize,
    frame_bytes_max: usize,
}

impl Default for Assembler {
    fn default() -> Self {
        Self { bytes: Vec::new(), start: 0, frame_bytes_max: FRAME_BYTES_MAX }
    }
}

impl Assembler {
    /// Takes no longer frames from here on, in bytes without the length in front; [`FRAME_BYTES_MAX`] at most.
    pub fn bound(&mut self, frame_bytes_max: usize) {
        self.frame_bytes_max = frame_bytes_max.min(FRAME_BYTES_MAX);
    }

    /// Takes in the bytes of one read.
    pub fn push(&mut self, read: &[u8]) {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(read);
    }

    /// The bytes of memory that are set aside.
    pub const fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// The bytes that have come in and are not part of a returned frame.
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// The next whole frame; `None` if more bytes are needed. Frames of unknown kinds are skipped.
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
            if length == 0 || length as usize > self.frame_bytes_max {
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
