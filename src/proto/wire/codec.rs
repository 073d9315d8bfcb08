//! Fields, frames and unfinished frames as bytes.

use std::net::{IpAddr, Ipv6Addr};

use super::{FRAME_BYTES_MAX, Frame};

const LENGTH_BYTES: usize = 4;
/// What an empty buffer of a connection keeps: room for heartbeats. One large frame must not cost each of thousands of connections its size for ever.
const KEPT_BYTES: usize = 4 * 1024;

/// Gives the memory of an emptied buffer back, all but the room that heartbeats need.
pub fn give_back(buffer: &mut Vec<u8>) {
    if buffer.is_empty() && buffer.capacity() > KEPT_BYTES {
        *buffer = Vec::new();
    }
}

/// Why a peer's bytes make no sense; the connection is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// A frame is longer than [`FRAME_BYTES_MAX`], or empty; the length it claims, in bytes.
    Length(u32),
    /// A `Hello` without our magic number: another protocol.
    Foreign,
    /// Datagrams that end in the middle, or are not in the order of their numbers.
    Datagrams,
}

impl std::fmt::Display for WireError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Length(bytes) => write!(f, "a frame of {bytes} bytes: not this protocol"),
            Self::Foreign => f.write_str("a greeting of another protocol"),
            Self::Datagrams => f.write_str("garbled datagrams"),
        }
    }
}

impl std::error::Error for WireError {}

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

/// Reads fields off a body; a field that is not there is zero.
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(super) const fn new(body: &'a [u8]) -> Self {
        Self(body)
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        if let Some((head, rest)) = self.0.split_first_chunk::<N>() {
            self.0 = rest;
            *head
        } else {
            self.0 = &[];
            [0; N]
        }
    }

    pub(super) fn u8(&mut self) -> u8 {
        u8::from_be_bytes(self.take())
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take())
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.take())
    }

    pub(super) fn u128(&mut self) -> u128 {
        u128::from_be_bytes(self.take())
    }

    /// An address: IPv6, or IPv4 mapped into it; `None` where there is none.
    pub(super) fn address(&mut self) -> Option<IpAddr> {
        let address = Ipv6Addr::from(self.u128());
        (!address.is_unspecified()).then(|| IpAddr::V6(address).to_canonical())
    }

    /// All that is left.
    pub(super) const fn rest(self) -> &'a [u8] {
        self.0
    }

    /// A text up to the end of the body, made safe to print: a peer must not write control characters into our log.
    pub(super) fn text(&mut self, bytes_max: usize) -> String {
        let bytes = &self.0[..self.0.len().min(bytes_max)];
        let safe = |c: char| if c.is_control() { '?' } else { c };
        let mut text: String = String::from_utf8_lossy(bytes).chars().map(safe).collect();
        // What stands for a byte that is no text is longer than it.
        text.truncate(text.floor_char_boundary(bytes_max));
        text
    }
}

/// Writes one frame: the length is filled in at the end.
pub(super) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Writer<'a> {
    pub(super) fn begin(out: &'a mut Vec<u8>, kind: u8) -> Self {
        let start = out.len();
        out.extend_from_slice(&[0; LENGTH_BYTES]);
        out.push(kind);
        Self { out, start }
    }

    /// The frame that starts there and is not finished.
    pub(super) const fn resume(out: &'a mut Vec<u8>, start: usize) -> Self {
        Self { out, start }
    }

    pub(super) fn u8(&mut self, value: u8) -> &mut Self {
        self.out.push(value);
        self
    }

    pub(super) fn u16(&mut self, value: u16) -> &mut Self {
        self.out.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.out.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.out.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(super) fn u128(&mut self, value: u128) -> &mut Self {
        self.out.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(super) fn address(&mut self, address: Option<IpAddr>) -> &mut Self {
        let wide = match address {
            None => Ipv6Addr::UNSPECIFIED,
            Some(IpAddr::V4(v4)) => v4.to_ipv6_mapped(),
            Some(IpAddr::V6(v6)) => v6,
        };
        self.u128(wide.into())
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.out.extend_from_slice(bytes);
        self
    }

    pub(super) fn text(&mut self, text: &str, bytes_max: usize) -> &mut Self {
        self.out.extend_from_slice(&text.as_bytes()[..text.floor_char_boundary(bytes_max)]);
        self
    }

    pub(super) fn finish(self) {
        let length = self.out.len() - self.start - LENGTH_BYTES;
        debug_assert!(length <= FRAME_BYTES_MAX, "every frame is far below the bound");
        self.out[self.start..self.start + LENGTH_BYTES].copy_from_slice(&(length as u32).to_be_bytes());
    }
}
