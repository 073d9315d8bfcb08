//! A walk over a segment in a folder, a part at a time.

use super::folder::Folder;
use super::record::{RECORD_BYTES_MAX, Record};
use super::segment::{HEADER_BYTES, Header, Walk};
use crate::proto::terms::Seq;

/// Bytes read at once: the longest record and as much again.
const READ_BYTES: usize = 2 * RECORD_BYTES_MAX;

/// The segment to walk over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach {
    pub(super) header: Header,
    /// Its length in bytes.
    pub(super) bytes: u64,
    /// Its datagrams have numbers below this one.
    pub(super) until: Seq,
}

/// How a walk has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walked<E> {
    /// Bytes of the segment before the next record.
    pub(super) place: u64,
    /// There is no next record.
    pub(super) is_whole: bool,
    /// Bytes that belong to no sound record.
    pub(super) damaged_bytes: u64,
    /// Why the rest cannot be read, if it cannot.
    pub(super) failure: Option<E>,
}

/// Walks over the records from this place on, and stops before the first one that is not taken.
pub(super) fn walk<F: Folder>(
    folder: &mut F,
    segment: Reach,
    start: u64,
    mut take: impl FnMut(&Record<'_>) -> bool,
) -> Walked<F::Error> {
    let name = segment.header.file_name();
    let place = start.max(HEADER_BYTES as u64);
    let mut end = Walked { place, is_whole: true, damaged_bytes: 0, failure: None };
    let (mut bytes, mut header) = (Vec::new(), segment.header);
    while end.place < segment.bytes {
        let length = (segment.bytes - end.place).min(READ_BYTES as u64) as usize;
        bytes.resize(length, 0);
        let read = match folder.read(&name, end.place, &mut bytes) {
            Ok(read) => read,
            Err(error) => return Walked { failure: Some(error), ..end },
        };
        let is_last = read < length || end.place + read as u64 >= segment.bytes;
        let mut walk = Walk::new(header, segment.until, &bytes[..read], if is_last { 0 } else { RECORD_BYTES_MAX });
        while let Some(record) = walk.next() {
            if !take(&record) {
                let place = end.place + (read - walk.rest() - record.span()) as u64;
                return Walked { place, is_whole: false, ..end };
            }
        }
        header.first = walk.first();
        end.damaged_bytes += walk.damaged_bytes() as u64;
        end.place += (read - walk.rest()) as u64;
        if is_last {
            break;
        }
    }
    end
}
