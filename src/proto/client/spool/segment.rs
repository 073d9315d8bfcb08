//! A segment: a file of records behind a header.
//!
//! ```text
//!   "OSBS"   version (u16)   0 (u16)   salt (u64)   first number (u64)   serial (u32)   crc (u32)   records
//! ```
//!
//! A segment is named by its serial, the number of its first datagram and its salt: names in order are segments in the
//! order in which they were made, and an empty segment left by a crash and the next one never share a name. From the
//! first number of any later segment on its datagrams do not count: they were written again.
//!
//! **A walk survives anything.** It yields every sound record in the order of the file. Where none is sound it goes on
//! byte by byte, and says how many bytes it passed over.

use super::record::{Item, Record};
use crate::proto::terms::Seq;

/// Bytes in front of the records.
pub const HEADER_BYTES: usize = 32;
/// The version of the format.
pub const VERSION: u16 = 1;
const MAGIC: &[u8; 4] = b"OSBS";
/// The end of a segment's name.
pub const SUFFIX: &str = ".seg";

/// Bits of a number that count the datagrams of a generation; the others name the generation.
const COUNT_BITS: u32 = 40;

/// The generation that a number belongs to: each process begins one.
pub const fn generation(number: Seq) -> u64 {
    number.0 >> COUNT_BITS
}

/// The place of a number in its generation.
pub const fn count(number: Seq) -> u64 {
    number.0 & ((1 << COUNT_BITS) - 1)
}

/// The first number of a generation; `None` if there is no such generation.
pub const fn first_of(generation: u64) -> Option<Seq> {
    if generation >> (u64::BITS - COUNT_BITS) == 0 { Some(Seq(generation << COUNT_BITS)) } else { None }
}

/// The header of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Random and secret: part of the checksum of each record.
    pub salt: u64,
    /// No datagram of the segment has a smaller number.
    pub first: Seq,
    /// The number of the segment since the spool was made; wraps.
    pub serial: u32,
}

/// Why a file is no segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// Its head is damaged.
    Damaged,
    /// A newer version of this program has written it, in this format.
    Newer(u16),
}

impl Header {
    /// The header as bytes.
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(MAGIC);
        bytes[4..6].copy_from_slice(&VERSION.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.salt.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.first.0.to_be_bytes());
        bytes[24..28].copy_from_slice(&self.serial.to_be_bytes());
        let crc = crc32fast::hash(&bytes[..28]);
        bytes[28..].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    /// Reads a header.
    ///
    /// # Errors
    /// The file is damaged, or of a newer version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, HeaderError> {
        let head = bytes.first_chunk::<HEADER_BYTES>().ok_or(HeaderError::Damaged)?;
        let number = |at: usize| u64::from_be_bytes(std::array::from_fn(|i| head[at + i]));
        let crc = u32::from_be_bytes([head[28], head[29], head[30], head[31]]);
        if head[..4] != *MAGIC || crc32fast::hash(&head[..28]) != crc {
            return Err(HeaderError::Damaged);
        }
        match u16::from_be_bytes([head[4], head[5]]) {
            VERSION => {
                let serial = u32::from_be_bytes(std::array::from_fn(|i| head[24 + i]));
                Ok(Self { salt: number(8), first: Seq(number(16)), serial })
            }
            version if version > VERSION => Err(HeaderError::Newer(version)),
            _ => Err(HeaderError::Damaged),
        }
    }

    /// Datagrams of the segment have numbers below this one: those of one process.
    pub fn end(&self) -> Seq {
        first_of(generation(self.first) + 1).unwrap_or(Seq(u64::MAX))
    }

    /// The name of the segment's file.
    pub fn file_name(&self) -> String {
        format!("{:08x}-{:016x}-{:016x}{SUFFIX}", self.serial, self.first.0, self.salt)
    }

    /// The header that the name of a file tells. `None` if no segment has such a name.
    pub fn from_file_name(name: &str) -> Option<Self> {
        let (serial, rest) = name.strip_suffix(SUFFIX)?.split_once('-')?;
        let (first, salt) = rest.split_once('-')?;
        let number = |hex: &str| u64::from_str_radix(hex, 16).ok();
        let serial = u32::try_from(number(serial)?).ok()?;
        let header = Self { first: Seq(number(first)?), salt: number(salt)?, serial };
        (header.file_name() == name).then_some(header)
    }
}

/// A walk over records, or over a part of them.
#[derive(Debug)]
pub struct Walk<'a> {
    salt: u64,
    bounds: (Seq, Seq),
    rest: &'a [u8],
    margin: usize,
    damaged_bytes: usize,
}

impl<'a> Walk<'a> {
    /// A walk over records behind the header, or from any place on. Datagrams have numbers below `until`. Where more
    /// follows, no record is looked for in the last `margin` bytes.
    pub const fn new(header: Header, until: Seq, records: &'a [u8], margin: usize) -> Self {
        Self { salt: header.salt, bounds: (header.first, until), rest: records, margin, damaged_bytes: 0 }
    }

    /// Bytes passed over so far. A record that was torn at the end of the file counts too.
    pub const fn damaged_bytes(&self) -> usize {
        self.damaged_bytes
    }

    /// No datagram that follows has a smaller number.
    pub const fn first(&self) -> Seq {
        self.bounds.0
    }

    /// Bytes behind the newest record.
    pub const fn rest(&self) -> usize {
        self.rest.len()
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        while self.rest.len() > self.margin {
            if let Some(record) = Record::decode(self.salt, self.bounds, self.rest) {
                self.rest = &self.rest[record.span()..];
                if let Item::Datagram { .. } = record.item {
                    // No log writes them in another order.
                    self.bounds.0 = record.number.next();
                }
                return Some(record);
            }
            self.damaged_bytes += 1;
            self.rest = &self.rest[1..];
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header { salt: 0xfeed, first: Seq(100), serial: 7 };

    /// Numbered datagrams, the payload of one being a record with another salt.
    fn records(numbers: impl IntoIterator<Item = u64>) -> Vec<u8> {
        let mut bytes = Vec::new();
        for number in numbers {
            let payload = format!("event {number}");
            let item = Item::Datagram { session: 1, arrived_ms: number, bytes: payload.as_bytes() };
            Record { number: Seq(number), item }.encode(HEADER.salt, &mut bytes);
        }
        bytes
    }

    fn walked(bytes: &[u8]) -> (Vec<u64>, usize) {
        let mut walk = Walk::new(HEADER, Seq(200), bytes, 0);
        let numbers = walk.by_ref().map(|record| record.number.0).collect();
        (numbers, walk.damaged_bytes())
    }

    #[test]
    fn a_header_is_read_as_it_was_written_and_each_flipped_bit_is_noticed() {
        let bytes = HEADER.to_bytes();
        assert_eq!(Header::from_bytes(&bytes), Ok(HEADER));
        for at in 0..bytes.len() * 8 {
            let mut damaged = bytes;
            damaged[at / 8] ^= 1 << (at % 8);
            assert_eq!(Header::from_bytes(&damaged), Err(HeaderError::Damaged), "bit {at}");
        }
        assert_eq!(Header::from_bytes(&bytes[..31]), Err(HeaderError::Damaged));
    }

    #[test]
    fn a_segment_of_a_newer_version_says_so() {
        let mut bytes = HEADER.to_bytes();
        bytes[5] = 2;
        let crc = crc32fast::hash(&bytes[..28]);
        bytes[28..].copy_from_slice(&crc.to_be_bytes());
        assert_eq!(Header::from_bytes(&bytes), Err(HeaderError::Newer(2)));
    }

    #[test]
    fn each_flipped_byte_costs_one_record_at_most() {
        let bytes = records(100..120);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0xff;
            let (numbers, passed) = walked(&damaged);
            assert!(numbers.len() >= 19 && passed > 0, "byte {at}: {numbers:?}");
        }
    }

    #[test]
    fn a_truncation_costs_what_was_cut() {
        let bytes = records(100..120);
        let span = bytes.len() / 20;
        for length in 0..bytes.len() {
            let (numbers, passed) = walked(&bytes[..length]);
            assert_eq!((numbers.len(), passed), (length / span, length % span));
        }
    }

    #[test]
    fn a_hole_costs_what_lay_in_it() {
        let mut bytes = records(100..120);
        let span = bytes.len() / 20;
        bytes[3 * span..7 * span].fill(0);
        let (numbers, passed) = walked(&bytes);
        assert_eq!((numbers, passed), ((100..103).chain(107..120).collect(), 4 * span));
    }

    #[test]
    fn records_with_numbers_of_the_next_segment_are_passed_over() {
        let bytes = records(195..205);
        let (numbers, passed) = walked(&bytes);
        assert_eq!((numbers, passed), ((195..200).collect(), bytes.len() / 2));
    }

    #[test]
    fn the_name_of_a_file_tells_what_its_records_need() {
        let named = Header::from_file_name(&HEADER.file_name());
        assert_eq!(named, Some(HEADER));
        for strange in
            ["", "lock", "1-2-3.seg", "00000007-0000000000000064-000000000000FEED.seg", "x.seg", "a-b-c.seg"]
        {
            assert_eq!(Header::from_file_name(strange), None, "{strange}");
        }
    }
}
