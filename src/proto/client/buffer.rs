//! A bounded FIFO of datagrams with a cursor.
//!
//! ```text
//!              confirmed │◄── unconfirmed ──►│◄──── unsent ────►│
//!     (forgotten)      oldest              next               tail
//! ```
//!
//! A datagram is pushed at `tail`, released by moving `next` to the right, forgotten by moving `oldest` to the right.
//! When something went wrong, `next` goes back to `oldest`. There is nothing else: live forwarding, replay and the
//! drain at shutdown are the same walk.
//!
//! Datagrams lie one after the other in chunks, each behind a header of 8 bytes. Their place gives them their number:
//!
//! ```text
//!   length (u16) │ session (u15), struck (bit) │ arrival (u32: ms since the chunk's first) │ payload
//! ```
//!
//! Chunks are allocated as they fill and given back as they empty, so that memory follows the held datagrams. A
//! `VecDeque` of chunks has a tenth of the overhead of a vector for each datagram, and its records can be written to
//! disk as they are.
//!
//! A record can be *struck*, which drops a datagram from the middle. It keeps its number, is neither released nor
//! counted any more, and goes when its turn comes. A chunk with only struck records gives its memory back at once. It
//! stays as a *hollow* chunk, which knows only how many numbers it stands for. So expired datagrams behind one
//! datagram under way do not keep newer ones out.
//!
//! **Disk.** Where datagrams are written to disk as well, a chunk of written ones in the middle can be *spilled*: its
//! memory is given back, and it stays as a chunk that knows its numbers and its tally. There is one spilled chunk, and
//! the FIFO is head in memory, middle on disk, tail in memory. The cursor stops before the middle. Datagrams that were
//! read back are filled in at the end of the head, and leave the middle by its front.
//!
//! **Memory.** When the system gives no memory for another chunk, the buffer is full, below its bound. Until it has
//! been empty once it holds a little less than at that moment, so that the rest of the program has something to live
//! on.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use crate::proto::terms::Seq;
use crate::proto::time::Time;

/// Bytes in front of each payload.
pub const HEADER_BYTES: usize = 8;

/// Smallest bound that a buffer can be given, in bytes.
pub const BUFFER_BYTES_MIN: usize = 64 * 1024;

/// Most bytes of a chunk: large enough that allocating is rare, small enough that memory follows the load.
const CHUNK_BYTES_MAX: usize = 256 * 1024;
/// Memory left to the rest of the program when the system gives no more. The three uncharged chunks, some batches and
/// the buffers of connections need it. The sum is doubled, since one thread may be unable to use the memory that
/// another gives back.
const SPARED_BYTES: usize = 4 * 1024 * 1024;
/// With spilled datagrams this part of the memory is kept for datagrams that are read back.
const HEAD_PART_MIN: usize = 8;
/// With a spool the cursor leads by this part of the memory at most, so that there is something to spill.
const LEAD_PART_MIN: usize = 4;
/// Datagrams are read back when there is room for this part of the memory at least.
const READ_PART_MIN: usize = 16;
/// After datagrams were given back to the disk for newer ones, others are read back when there is room for this part.
const REST_PART_MIN: usize = 4;
/// Least bytes of a chunk. A small buffer has smaller chunks, so that their unused ends stay a small part of it.
const CHUNK_BYTES_MIN: usize = 4 * 1024;

/// The session of a record: an index into the core's table. The top bit is the record's `struck`.
pub type SessionId = u16;
/// Bound of [`SessionId`], exclusive.
pub const SESSION_ID_MAX: SessionId = STRUCK;
const STRUCK: u16 = 1 << 15;

/// A datagram in the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The datagram's number.
    pub seq: Seq,
    /// The datagram's session.
    pub session: SessionId,
    /// The arrival of the datagram, to the millisecond.
    pub arrived: Time,
    /// The datagram's payload.
    pub bytes: &'a [u8],
}

/// A datagram that has left the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone {
    /// The datagram's number.
    pub seq: Seq,
    /// The datagram's session.
    pub session: SessionId,
    /// The arrival of the datagram.
    pub arrived: Time,
    /// Length of the payload in bytes.
    pub length: usize,
    /// The datagram has been released since the last rewind.
    pub released: bool,
}

/// There is no room for the datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// Dropping older datagrams makes room, if there are any: the buffer has reached its bound, or the system gives no
    /// more memory.
    ByOthers,
    /// The datagram is larger than the whole buffer.
    ByItself,
}

/// The FIFO. See the head of this file.
#[derive(Debug)]
pub struct Buffer {
    chunks: VecDeque<Chunk>,
    /// An empty chunk kept for the next one needed: a steady stream then never allocates.
    spare: Option<Vec<u8>>,
    chunk_bytes: usize,
    charged_max: usize,
    /// The bound of `charged` since the system gave no more memory.
    short: Option<usize>,
    /// Bytes of held records, and of the unused ends of closed chunks.
    charged: usize,
    oldest: Place,
    next: Place,
    tail: Seq,
    held: Tally,
    unsent: Tally,
    /// The datagrams that lie on disk alone.
    spilled: Tally,
    /// The cursor has never been beyond this number, and no batch either.
    reached: Seq,
    /// The room in bytes that the next datagram to be read back needs, if there was too little.
    needed: usize,
}

/// Number and payload bytes of datagrams, without struck ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Number of datagrams.
    pub datagrams: u64,
    /// Bytes of their payloads together.
    pub bytes: u64,
}

impl Tally {
    /// One more datagram of this length in bytes.
    pub const fn add(&mut self, length: usize) {
        self.join(Self { datagrams: 1, bytes: length as u64 });
    }

    const fn remove(&mut self, length: usize) {
        self.part(Self { datagrams: 1, bytes: length as u64 });
    }

    /// All of the other's, too.
    pub const fn join(&mut self, other: Self) {
        self.datagrams += other.datagrams;
        self.bytes += other.bytes;
    }

    /// This tally without the other, which is a part of it.
    #[must_use]
    pub const fn without(mut self, other: Self) -> Self {
        self.part(other);
        self
    }

    const fn part(&mut self, other: Self) {
        self.datagrams -= other.datagrams;
        self.bytes = self.bytes.saturating_sub(other.bytes);
    }
}

#[derive(Debug)]
struct Chunk {
    /// Arrival times in the chunk count from this moment.
    since: Time,
    /// The records. The vector never grows beyond its capacity.
    data: Vec<u8>,
    /// Bytes at the end that no record fitted into; charged once the chunk is closed.
    unused: usize,
    /// Number of the record after the chunk's last.
    end: Seq,
    /// The records that are neither struck nor forgotten.
    live: Tally,
}

impl Chunk {
    /// All records of the chunk are struck, and their memory is given back.
    fn is_hollow(&self) -> bool {
        self.data.capacity() == 0 && self.live.datagrams == 0
    }

    /// The records of the chunk lie on disk alone.
    fn is_spilled(&self) -> bool {
        self.data.capacity() == 0 && self.live.datagrams > 0
    }

    fn has_room(&self, span: usize) -> bool {
        self.data.capacity() - self.data.len() >= span
    }

    fn append(&mut self, arrived: Time, session: SessionId, bytes: &[u8]) {
        let age = u32::try_from(arrived.since(self.since).as_millis()).unwrap_or(u32::MAX);
        self.data.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
        self.data.extend_from_slice(&session.to_be_bytes());
        self.data.extend_from_slice(&age.to_be_bytes());
        self.data.extend_from_slice(bytes);
        self.live.add(bytes.len());
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    seq: Seq,
    chunk: usize,
    offset: usize,
}

struct Record<'a> {
    struck: bool,
    entry: Entry<'a>,
}

impl Record<'_> {
    const fn span(&self) -> usize {
        HEADER_BYTES + self.entry.bytes.len()
    }
}

impl Buffer {
    /// An empty buffer that never takes more than `bytes` of memory, its own overhead included.
    ///
    /// # Panics
    /// If `bytes` is below [`BUFFER_BYTES_MIN`].
    pub fn new(bytes: usize) -> Self {
        assert!(bytes >= BUFFER_BYTES_MIN, "the command line refuses a smaller buffer");
        let chunk_bytes = (bytes / 32).clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX);
        Self {
            chunks: VecDeque::new(),
            spare: None,
            chunk_bytes,
            // Three parts are uncharged: the forgotten part of the first chunk, the unused part of the last one, and
            // the spare.
            charged_max: bytes - 3 * chunk_bytes,
            short: None,
            charged: 0,
            oldest: Place::default(),
            next: Place::default(),
            tail: Seq::default(),
            held: Tally::default(),
            unsent: Tally::default(),
            spilled: Tally::default(),
            reached: Seq::default(),
            needed: 0,
        }
    }

    /// Number of the oldest datagram in the buffer; equal to `tail` when empty.
    pub const fn oldest(&self) -> Seq {
        self.oldest.seq
    }

    /// Number of the next datagram to release.
    pub const fn next(&self) -> Seq {
        self.next.seq
    }

    /// Number that the next arrival gets.
    pub const fn tail(&self) -> Seq {
        self.tail
    }

    /// No datagram from this number on was ever released, or taken out to be sent.
    pub fn reached(&self) -> Seq {
        self.reached.max(self.next.seq)
    }

    /// The datagrams below `end` were taken out to be sent: they stay where they are until that is done.
    pub fn handle_taken_out(&mut self, end: Seq) {
        self.reached = self.reached.max(end);
    }

    /// The tally of held datagrams, released or not.
    pub const fn held(&self) -> Tally {
        self.held
    }

    /// The tally of held datagrams that are not released.
    pub const fn unsent(&self) -> Tally {
        self.unsent
    }

    /// Appends a datagram. `session` is below [`SESSION_ID_MAX`].
    pub fn push(&mut self, now: Time, session: SessionId, bytes: &[u8]) -> Result<Seq, Full> {
        debug_assert!(session < SESSION_ID_MAX, "the table of sessions is smaller");
        let span = HEADER_BYTES + bytes.len();
        if span > self.charged_max {
            return Err(Full::ByItself);
        }
        // The rest is for datagrams that are read back, so that the head never starves.
        let reserve = if self.spilled.datagrams > 0 { self.charged_max / HEAD_PART_MIN } else { 0 };
        let at = self.chunks.len();
        if !self.fits(at, span, self.short.unwrap_or(self.charged_max) - reserve) {
            return Err(Full::ByOthers);
        }
        let seq = self.tail;
        self.place(at, now, session, bytes)?;
        self.tail = seq.next();
        if let Some(chunk) = self.chunks.back_mut() {
            chunk.end = self.tail;
        }
        self.held.add(bytes.len());
        self.unsent.add(bytes.len());
        Ok(seq)
    }

    /// Whether a record of this span can be placed at `at` within `bound`.
    fn fits(&self, at: usize, span: usize, bound: usize) -> bool {
        let before = at.checked_sub(1).map(|before| &self.chunks[before]);
        let room = before.is_some_and(|before| before.has_room(span));
        let more = match before {
            // Every chunk but the last is charged as a whole.
            _ if at < self.chunks.len() => {
                if room {
                    0
                } else {
                    self.chunk_bytes.max(span)
                }
            }
            Some(last) if !room => last.data.capacity() - last.data.len() + span,
            Some(_) | None => span,
        };
        self.charged + more <= bound
    }

    /// Appends to the chunk before `at`, or to a new one at `at`. Returns the index of the chunk behind.
    fn place(&mut self, mut at: usize, arrived: Time, session: SessionId, bytes: &[u8]) -> Result<usize, Full> {
        let span = HEADER_BYTES + bytes.len();
        let before = at.checked_sub(1).map(|before| &self.chunks[before]);
        // A chunk counts time from its first record on.
        if before.is_none_or(|chunk| !chunk.has_room(span) || arrived < chunk.since) {
            self.open_chunk(at, arrived, span)?;
            at += 1;
        }
        let is_last = at == self.chunks.len();
        let chunk = &mut self.chunks[at - 1];
        chunk.append(arrived, session, bytes);
        if is_last {
            self.charged += span;
        } else {
            chunk.unused -= span;
        }
        Ok(at)
    }

    /// Gives back the memory of a chunk in the middle, if its datagrams are on disk: all below `durable` are. Whatever
    /// the cursor has ever passed stays in memory. Returns whether there was such a chunk.
    pub fn spill(&mut self, durable: Seq) -> bool {
        let spilled = self.spilled_chunk();
        let is_fit = |at: &usize| {
            let is_fit = |chunk: &Chunk| chunk.end <= durable && !chunk.is_hollow();
            *at + 1 < self.chunks.len() && self.chunks.get(*at).is_some_and(is_fit)
        };
        let at = if let Some(at) = spilled {
            Some(at + 1).filter(is_fit)
        } else {
            let untouched = |at: &usize| *at > self.next.chunk && self.start(*at) >= self.reached;
            (1..=self.chunks.len() / 2).rev().find(|at| untouched(at) && is_fit(at))
        };
        let Some(at) = at else {
            return spilled.is_some_and(|at| self.unread(at));
        };
        let chunk = &mut self.chunks[at];
        self.charged -= chunk.data.len() + std::mem::take(&mut chunk.unused);
        let (data, live, end) = (std::mem::take(&mut chunk.data), chunk.live, chunk.end);
        self.keep_spare(data);
        self.spilled.join(live);
        if let Some(before) = spilled {
            self.chunks[before].live.join(live);
            self.chunks[before].end = end;
            self.chunks.remove(at);
        }
        true
    }

    /// Gives back the memory of the last chunk of the head, which was read back. Returns whether that could be done:
    /// not with the first one, nor with what the cursor has ever passed.
    fn unread(&mut self, spilled: usize) -> bool {
        let mut at = spilled;
        while at > self.next.chunk + 1 && self.start(at - 1) >= self.reached {
            at -= 1;
            let Some(Chunk { data, unused, live, .. }) = self.chunks.remove(at) else {
                return false;
            };
            self.charged -= data.len() + unused;
            self.spilled.join(live);
            self.chunks[at].live.join(live);
            if data.capacity() > 0 {
                self.keep_spare(data);
                // Arrivals need the memory: for a while nothing is read back.
                self.needed = self.needed.max(self.charged_max / REST_PART_MIN);
                return true;
            }
        }
        false
    }

    /// The number from which on datagrams are to be read back, and how many payload bytes there is room for; `None`
    /// if no datagram is spilled.
    pub fn wanted(&self) -> Option<(Seq, usize)> {
        let at = self.spilled_chunk()?;
        let head: usize = self.chunks.iter().take(at).map(|chunk| chunk.data.len()).sum();
        let free = self.charged_max.saturating_sub(self.charged);
        Some((self.start(at), (self.charged_max / 2).saturating_sub(head).min(free)))
    }

    /// Takes in datagrams that were read back, in the order of their numbers. Stops where there is no room for more;
    /// one is always taken when the head has none.
    pub fn fill<'a>(&mut self, entries: impl Iterator<Item = Entry<'a>>) -> Result<(), Full> {
        let outcome = self.fill_head(entries);
        self.free_chunks();
        outcome
    }

    fn fill_head<'a>(&mut self, entries: impl Iterator<Item = Entry<'a>>) -> Result<(), Full> {
        let Some(mut at) = self.spilled_chunk() else {
            return Ok(());
        };
        let mut room = self.wanted().map_or(0, |(_, room)| room);
        for entry in entries {
            let from = self.start(at);
            // More than was counted does not count.
            if entry.seq >= self.chunks[at].end || self.spilled.datagrams == 0 {
                break;
            }
            if entry.seq < from {
                continue;
            }
            let span = HEADER_BYTES + entry.bytes.len();
            if self.front().is_some() && (span > room || !self.fits(at, span, self.charged_max)) {
                self.needed = self.chunk_bytes.max(span);
                return Err(Full::ByOthers);
            }
            self.needed = 0;
            if entry.seq > from {
                at = self.skip_to(at, entry.seq);
            }
            at = self.place(at, entry.arrived, entry.session, entry.bytes)?;
            self.chunks[at - 1].end = entry.seq.next();
            self.chunks[at].live.remove(entry.bytes.len());
            self.spilled.remove(entry.bytes.len());
            room = room.saturating_sub(span);
        }
        Ok(())
    }

    /// Nothing more can be read back: spilled datagrams are lost. Returns their tally.
    pub fn forget_spilled(&mut self) -> Tally {
        if let Some(at) = self.spilled_chunk() {
            self.chunks[at].live = Tally::default();
        }
        let lost = std::mem::take(&mut self.spilled);
        self.held.part(lost);
        self.unsent.part(lost);
        self.free_chunks();
        lost
    }

    /// Makes an empty buffer one whose datagrams all lie on disk: from the number `first` on. The next arrival gets
    /// the number `tail`.
    pub fn reopen(&mut self, first: Seq, tail: Seq, spilled: Tally) {
        debug_assert!(self.chunks.is_empty(), "nothing came in before");
        let place = Place { seq: if spilled.datagrams > 0 { first } else { tail }, ..Place::default() };
        (self.oldest, self.next, self.tail) = (place, place, tail);
        (self.held, self.unsent, self.spilled) = (spilled, spilled, spilled);
        if spilled.datagrams > 0 {
            self.chunks.push_back(Chunk { since: Time::ZERO, data: Vec::new(), unused: 0, end: tail, live: spilled });
        }
    }

    /// The number behind the spilled datagrams.
    pub fn spilled_end(&self) -> Seq {
        self.spilled_chunk().map_or(self.oldest.seq, |at| self.chunks[at].end)
    }

    /// The sessions of all held datagrams in memory, each as often as it has one.
    pub fn sessions(&self) -> impl Iterator<Item = SessionId> {
        let head = self.records(self.oldest).filter(|record| !record.struck).map(|record| record.entry.session);
        let tail = self.spilled_chunk().map(|at| self.entries_from(self.chunks[at].end).map(|entry| entry.session));
        head.chain(tail.into_iter().flatten())
    }

    /// Spilled datagrams can be read back into this `room`: the head starves, or there is room for a good part of what
    /// it may have.
    pub fn can_fill(&self, room: usize) -> bool {
        self.front().is_none() || room >= self.needed.max(self.charged_max / READ_PART_MIN)
    }

    /// Whether so many more datagrams with so many bytes can be released without keeping all others in memory.
    pub const fn may_lead(&self, more: Tally) -> bool {
        let datagrams = self.held.datagrams - self.unsent.datagrams + more.datagrams;
        let bytes = self.held.bytes - self.unsent.bytes + more.bytes;
        let lead = datagrams * HEADER_BYTES as u64 + bytes;
        self.spilled.datagrams > 0 || datagrams <= 1 || lead <= (self.charged_max / LEAD_PART_MIN) as u64
    }

    /// This part of the memory is full: a quarter for 4.
    pub const fn is_full_to(&self, part: usize) -> bool {
        self.charged >= self.charged_max / part
    }

    fn spilled_chunk(&self) -> Option<usize> {
        if self.spilled.datagrams == 0 { None } else { self.chunks.iter().position(Chunk::is_spilled) }
    }

    /// The number from which on records lie in this chunk.
    fn start(&self, at: usize) -> Seq {
        at.checked_sub(1).map_or(self.oldest.seq, |before| self.chunks[before].end)
    }

    /// The numbers up to `seq` are missing before this chunk. Returns the chunk's index.
    fn skip_to(&mut self, at: usize, seq: Seq) -> usize {
        if let Some(before) =
            at.checked_sub(1).map(|before| &mut self.chunks[before]).filter(|before| before.is_hollow())
        {
            before.end = seq;
            return at;
        }
        self.chunks
            .insert(at, Chunk { since: Time::ZERO, data: Vec::new(), unused: 0, end: seq, live: Tally::default() });
        at + 1
    }

    /// The datagram at `next`; struck ones are passed over.
    pub fn peek(&mut self) -> Option<Entry<'_>> {
        while self.record(self.next)?.struck {
            self.next = self.after(self.next);
        }
        self.record(self.next).map(|record| record.entry)
    }

    /// The datagram with this number, if it is held, struck or not. The search walks to it from the oldest.
    pub fn entry(&self, seq: Seq) -> Option<Entry<'_>> {
        self.records(self.oldest)
            .map(|record| record.entry)
            .find(|entry| entry.seq >= seq)
            .filter(|entry| entry.seq == seq)
    }

    /// The datagrams from `next` on, struck ones left out.
    pub fn unsent_entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.records(self.next).filter(|record| !record.struck).map(|record| record.entry)
    }

    /// The datagrams in the tail from this number on, struck ones left out: where nothing is spilled, of the whole
    /// FIFO.
    pub fn entries_from(&self, seq: Seq) -> impl Iterator<Item = Entry<'_>> {
        let behind = self.chunks.iter().rposition(|chunk| chunk.is_spilled() || chunk.end <= seq);
        let start = behind.map(|at| Place { seq: self.chunks[at].end, chunk: at + 1, offset: 0 });
        let start = start.unwrap_or(self.oldest);
        let records = self.records(start).skip_while(move |record| record.entry.seq < seq);
        records.filter(|record| !record.struck).map(|record| record.entry)
    }

    /// The records in memory from this place on, up to the spilled ones.
    fn records(&self, mut place: Place) -> impl Iterator<Item = Record<'_>> {
        std::iter::from_fn(move || {
            let record = self.record(place)?;
            place = self.after(place);
            Some(record)
        })
    }

    /// Releases the datagram at `next`.
    pub fn advance(&mut self) -> Option<Gone> {
        let gone = self.peek().map(|entry| gone(&entry, true))?;
        self.next = self.after(self.next);
        self.reached = self.reached.max(self.next.seq);
        self.unsent.remove(gone.length);
        Some(gone)
    }

    /// Strikes the datagram at `next`: it is dropped where it lies. At the front its place is free at once. Behind a
    /// datagram under way its place waits for that one, or until its whole chunk is struck.
    pub fn strike(&mut self) -> Option<Gone> {
        let gone = self.peek().map(|entry| gone(&entry, false))?;
        let mark = self.next.offset + 2;
        let session = (gone.session | STRUCK).to_be_bytes();
        let at = self.next.chunk;
        self.chunks[at].data[mark..mark + 2].copy_from_slice(&session);
        self.chunks[at].live.remove(gone.length);
        self.next = self.after(self.next);
        self.reached = self.reached.max(self.next.seq);
        self.unsent.remove(gone.length);
        self.held.remove(gone.length);
        // The first chunk has a datagram under way, or goes as a whole.
        if at > 0 && self.chunks[at].live.datagrams == 0 {
            self.hollow(at);
        }
        self.shed_struck();
        Some(gone)
    }

    /// `next` goes back to `oldest`.
    pub fn rewind(&mut self) {
        self.next = self.oldest;
        self.unsent = self.held;
    }

    /// Forgets the oldest datagram, released or not. `None` when nothing is held.
    pub fn pop(&mut self) -> Option<Gone> {
        let gone = gone(&self.record(self.oldest)?.entry, self.oldest.seq < self.next.seq);
        self.remove_front();
        self.held.remove(gone.length);
        if !gone.released {
            self.unsent.remove(gone.length);
        }
        self.shed_struck();
        Some(gone)
    }

    /// Forgets the oldest released datagram with a number below `bound`.
    pub fn pop_released(&mut self, bound: Seq) -> Option<Gone> {
        if self.oldest.seq < bound.min(self.next.seq) { self.pop() } else { None }
    }

    /// The oldest held datagram.
    pub fn front(&self) -> Option<Entry<'_>> {
        self.record(self.oldest).map(|record| record.entry)
    }

    /// The system has given no memory for more, and the buffer has not been empty since.
    pub const fn is_short(&self) -> bool {
        self.short.is_some()
    }

    /// Memory in use, in bytes; never above the bound given to `new`.
    pub fn memory(&self) -> usize {
        let chunks: usize = self.chunks.iter().map(|chunk| chunk.data.capacity()).sum();
        chunks + self.spare.as_ref().map_or(0, Vec::capacity)
    }

    fn remove_front(&mut self) {
        let (span, struck) = self.record(self.oldest).map_or((0, true), |record| (record.span(), record.struck));
        self.charged -= span;
        if !struck && let Some(chunk) = self.chunks.front_mut() {
            chunk.live.remove(span - HEADER_BYTES);
        }
        let after = self.after(self.oldest);
        if self.next.seq <= self.oldest.seq {
            self.next = after;
        }
        self.oldest = after;
        self.free_chunks();
    }

    /// Removes struck records from the front. A struck record takes no room for longer than it must, and never counts
    /// as under way.
    fn shed_struck(&mut self) {
        while self.record(self.oldest).is_some_and(|record| record.struck) {
            self.remove_front();
        }
    }

    /// Gives back the memory of a chunk with only struck records. Hollow neighbours become one: datagrams dropped for
    /// hours must not add up.
    fn hollow(&mut self, at: usize) {
        let chunk = &mut self.chunks[at];
        self.charged -= chunk.data.len() + chunk.unused;
        chunk.unused = 0;
        let end = chunk.end;
        let data = std::mem::take(&mut chunk.data);
        self.keep_spare(data);
        if let Some(before) = self.chunks.get_mut(at - 1).filter(|before| before.is_hollow()) {
            before.end = end;
            self.chunks.remove(at);
            // The cursor was in that chunk, or behind it.
            if self.next.chunk == at {
                self.next = Place { seq: end, chunk: at - 1, offset: 0 };
            } else if self.next.chunk > at {
                self.next.chunk -= 1;
            }
        } else if self.next.chunk == at {
            self.next = Place { seq: end, chunk: at, offset: 0 };
        }
        self.next = self.settled(self.next);
    }

    /// The record at `place`; a place at the end of a chunk means the first record of the following one.
    fn record(&self, place: Place) -> Option<Record<'_>> {
        let place = self.settled(place);
        let chunk = self.chunks.get(place.chunk)?;
        let (header, rest) = chunk.data.get(place.offset..)?.split_first_chunk::<HEADER_BYTES>()?;
        let [l0, l1, s0, s1, a0, a1, a2, a3] = *header;
        let session = u16::from_be_bytes([s0, s1]);
        let arrived = chunk.since + Duration::from_millis(u64::from(u32::from_be_bytes([a0, a1, a2, a3])));
        let bytes = &rest[..usize::from(u16::from_be_bytes([l0, l1]))];
        let entry = Entry { seq: place.seq, session: session & !STRUCK, arrived, bytes };
        Some(Record { struck: session & STRUCK != 0, entry })
    }

    /// The place of the record after the one at `place`, which exists.
    fn after(&self, place: Place) -> Place {
        let place = self.settled(place);
        let span = self.record(place).map_or(0, |record| record.span());
        self.settled(Place { seq: place.seq.next(), chunk: place.chunk, offset: place.offset + span })
    }

    /// The same place, but at the end of a chunk the start of the following one. Hollow chunks have no places, and are
    /// passed over. At the end of the head it stays.
    fn settled(&self, mut place: Place) -> Place {
        while let Some(chunk) = self.chunks.get(place.chunk)
            && !chunk.is_spilled()
            && place.offset == chunk.data.len()
        {
            place.seq = place.seq.max(chunk.end);
            if self.chunks.get(place.chunk + 1).is_none_or(Chunk::is_spilled) {
                break;
            }
            (place.chunk, place.offset) = (place.chunk + 1, 0);
        }
        place
    }

    fn open_chunk(&mut self, at: usize, since: Time, span: usize) -> Result<(), Full> {
        let Some(data) = self.chunk_data(span) else {
            let room = self.charged.saturating_sub(SPARED_BYTES).max(BUFFER_BYTES_MIN);
            self.short = Some(self.short.map_or(room, |short| short.min(room)));
            return Err(Full::ByOthers);
        };
        let (end, is_last, mut unused) = (self.start(at), at == self.chunks.len(), 0);
        if !is_last {
            unused = data.capacity();
            self.charged += unused;
        } else if let Some(last) = self.chunks.back_mut() {
            last.unused = last.data.capacity() - last.data.len();
            self.charged += last.unused;
        }
        self.chunks.insert(at, Chunk { since, data, unused, end, live: Tally::default() });
        self.oldest = self.settled(self.oldest);
        self.next = self.settled(self.next);
        Ok(())
    }

    /// Memory for a chunk with a record of this size; `None` if the system gives none.
    fn chunk_data(&mut self, span: usize) -> Option<Vec<u8>> {
        self.chunks.try_reserve(1).ok()?;
        if let Some(spare) = self.spare.take_if(|spare| spare.capacity() >= span) {
            return Some(spare);
        }
        let (bytes, mut data) = (self.chunk_bytes.max(span), Vec::new());
        // Asked for with the chunk and given back at once: when this fails, other threads still get what they need.
        data.try_reserve_exact(bytes + SPARED_BYTES).ok()?;
        data.shrink_to(bytes);
        Some(data)
    }

    /// Gives back the chunks that lie wholly before `oldest`.
    fn free_chunks(&mut self) {
        self.oldest = self.settled(self.oldest);
        self.next = self.settled(self.next);
        for _ in 0..self.oldest.chunk {
            let chunk = self.chunks.pop_front().expect("`oldest` lies in a later chunk");
            self.charged -= chunk.unused;
            self.keep_spare(chunk.data);
        }
        self.next.chunk -= self.oldest.chunk;
        self.oldest.chunk = 0;
        if self.oldest.seq == self.tail
            && let Some(chunk) = self.chunks.pop_back()
        {
            self.keep_spare(chunk.data);
            self.oldest.offset = 0;
            self.next = self.oldest;
            self.short = None;
        }
    }

    fn keep_spare(&mut self, mut data: Vec<u8>) {
        data.clear();
        if data.capacity() == self.chunk_bytes {
            self.spare = Some(data);
        }
    }
}

const fn gone(entry: &Entry<'_>, released: bool) -> Gone {
    Gone { seq: entry.seq, session: entry.session, arrived: entry.arrived, length: entry.bytes.len(), released }
}
