//! The text of a datagram of the stand-ins, and its length.
//!
//! A datagram is text: `AGENT COUNTER KIND padding`, with counters that count up by one; the stand-in `ossec-remoted`
//! says what the kinds mean.

use std::str::FromStr;

/// The largest UDP payload is 65,507 bytes.
const DATAGRAM_BYTES_MAX: usize = 65_507;

/// The sizes of datagrams, in bytes. A datagram is never shorter than its text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    min: usize,
    max: usize,
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse().map_err(|_| format!("`{text}` is not a number of bytes"));
        let (min, max) = text.split_once('-').unwrap_or((text, text));
        let sizes = Self { min: number(min)?, max: number(max)? };
        if sizes.min > sizes.max || sizes.max > DATAGRAM_BYTES_MAX {
            return Err(format!("sizes go up to {DATAGRAM_BYTES_MAX} bytes, the smaller one first"));
        }
        Ok(sizes)
    }
}

impl Sizes {
    /// All datagrams have so many bytes.
    pub(crate) const fn fixed(bytes: usize) -> Self {
        Self { min: bytes, max: bytes }
    }

    /// The datagram with that counter. `number` is its place among those that are sent: it decides on the size.
    pub(crate) fn datagram(self, number: u64, agent: &str, counter: u64, kind: &str) -> Vec<u8> {
        let mut datagram = format!("{agent} {counter} {kind} ").into_bytes();
        datagram.resize(datagram.len().max(self.of(number)), b'.');
        datagram
    }

    /// The size of the datagram `number`: spread over the range, the same in every run.
    fn of(self, number: u64) -> usize {
        // Knuth's multiplicative hash; its high bits are the good ones.
        let mixed = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
        self.min + mixed as usize % (self.max - self.min + 1)
    }
}
