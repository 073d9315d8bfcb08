//! Segments as one log: appended to at its end, read from any number on, forgotten at its front.
//!
//! ```text
//!   confirm ──► [ segment ][ segment ] … [ segment ] ◄── append          bound_bytes ≥ all of them
//!                  read ───────────────────┘    └── sync: everything below `durable` survives a power cut
//! ```
//!
//! * **Nothing is changed in place.** A segment is appended to, cut back after a write that failed, and removed. A
//!   segment of an earlier process is never appended to.
//! * **One durable segment stays**, since numbers and position stand in it. Where nothing is held any more a mark says
//!   so.
//! * **After a write that failed** the segment is cut back to what had got in before, and the next write begins
//!   another one. After a failed sync nobody knows what is on disk, and asking again would not tell (Linux forgets the
//!   error): everything that was not durable counts as never written, and goes into another segment. What cannot be
//!   cut back or removed at once is tried again before each sync: another process would take it for written.
//! * **Segments hold nothing that another must tell**: each begins with the stream, the clock and a mark, and names an
//!   agent before its first datagram.

use std::collections::{HashMap, VecDeque};

use super::folder::Folder;
use super::record::{self, Agent, Clock, Item, Record};
use super::records::{Mark, Records};
use super::segment::{HEADER_BYTES, Header, SUFFIX, generation};
use super::struck::{Run, Struck};
use super::walk::{Reach, walk};
use crate::proto::client::buffer::Entry;
use crate::proto::terms::{Seq, StreamId};
use crate::proto::time::Time;

/// The end of the names of files that make no sense.
pub(super) const SET_ASIDE: &str = ".bad";
/// Bytes of a segment, at least and at most.
const SEGMENT_BYTES_MIN: u64 = 4 << 10;
const SEGMENT_BYTES_MAX: u64 = 1 << 20;
/// Segments that a full spool has, if they are not longer than [`SEGMENT_BYTES_MAX`].
const SEGMENTS_MIN: u64 = 16;
/// More bytes than a header and the records at the head of a segment take.
const HEAD_BYTES_MAX: u64 = 512;
/// A smaller change of the clock is no news: sources of time correct it all the time.
const CLOCK_STEP_MS_MIN: u64 = 1_000;
/// Bytes of a record of an agent.
const AGENT_SPAN: usize = record::HEADER_BYTES + record::AGENT_BYTES;
/// Smallest bound of a spool, in bytes.
pub const SPOOL_BYTES_MIN: u64 = 64 << 10;

/// What a new process has to know.
#[derive(Debug, Default)]
pub struct Setting {
    /// Bound of the spool, in bytes.
    pub bound_bytes: u64,
    /// The name of the stream, unless an earlier process has left one.
    pub stream: StreamId,
    /// The clock of this process.
    pub clock: Clock,
    /// The moment of the opening.
    pub now: Time,
}

/// A log of segments in a folder. See the head of this file.
#[derive(Debug)]
pub struct Log<F> {
    pub(super) folder: F,
    bound_bytes: u64,
    pub(super) segments: VecDeque<Segment>,
    /// Files that made no sense, with their lengths in bytes; the oldest first.
    pub(super) set_aside: VecDeque<(String, u64)>,
    /// Files that count no more and are not removed yet, with their lengths in bytes.
    refuse: Vec<(String, u64)>,
    /// The last segment takes more records.
    is_open: bool,
    /// The agents that the open segment names.
    named: HashMap<u16, Agent>,
    /// Names of files have changed since they were synced.
    names_changed: bool,
    /// The newest segment that would survive a power cut. It stays until there is a newer one: with it the generation
    /// would go, and another process would give its numbers again.
    pub(super) anchor: Header,
    pub(super) serial: u32,
    /// The stream of the datagrams.
    pub(super) stream: StreamId,
    clock: Clock,
    /// The clocks of all generations that have one.
    pub(super) clocks: HashMap<u64, Clock>,
    /// What earlier processes have dropped from the middle.
    pub(super) struck: Struck,
    /// The moment at which this log was opened: datagrams of unknown age count from here on.
    opened: Time,
    pub(super) written: Seq,
    durable: Seq,
    mark: Mark,
    /// The segment that could not be read last time.
    unreadable: Option<Header>,
    /// Where the newest reading ended: the segment, the bytes before, and the number of the next datagram.
    place: Option<(Header, u64, Seq)>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) header: Header,
    /// No datagram below this number is read from here.
    pub(super) from: Seq,
    /// An earlier process has left it.
    is_past: bool,
    /// An earlier process has left no datagram in it.
    pub(super) is_empty: bool,
    /// Bytes that count.
    pub(super) bytes: u64,
    durable_bytes: u64,
    /// The file has changed since it was synced, by this process or by an earlier one.
    is_dirty: bool,
    /// Bytes that the file may have: more where it could not be cut back.
    space_bytes: u64,
    /// The file has more bytes than count, and is to be cut back to so many.
    cut_back: Option<u64>,
}

impl Segment {
    /// A segment that an earlier process has left.
    pub(super) const fn left(header: Header, bytes: u64) -> Self {
        Self {
            header,
            from: header.first,
            is_past: true,
            is_empty: false,
            bytes,
            durable_bytes: bytes,
            is_dirty: true,
            space_bytes: bytes,
            cut_back: None,
        }
    }
}

/// Why something was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble<E> {
    /// The log has reached its bound.
    Full,
    /// The folder says so.
    Failed(E),
}

impl<E> From<E> for Trouble<E> {
    fn from(error: E) -> Self {
        Self::Failed(error)
    }
}

impl<F: Folder> Log<F> {
    /// An empty log.
    pub(super) fn new(folder: F, Setting { bound_bytes, stream, clock, now }: Setting) -> Self {
        Self {
            folder,
            bound_bytes,
            segments: VecDeque::new(),
            set_aside: VecDeque::new(),
            refuse: Vec::new(),
            is_open: false,
            named: HashMap::new(),
            names_changed: false,
            anchor: Header::default(),
            serial: 0,
            stream,
            clock,
            clocks: HashMap::new(),
            struck: Struck::default(),
            opened: now,
            written: Seq::default(),
            durable: Seq::default(),
            mark: Mark::default(),
            unreadable: None,
            place: None,
        }
    }

    /// Every datagram below this number was written, as far as it was held.
    pub const fn written(&self) -> Seq {
        self.written
    }

    /// Every datagram below this number would survive a power cut.
    pub const fn durable(&self) -> Seq {
        self.durable
    }

    /// Whether a file of this name belongs to a log, set aside or not.
    pub fn owns(name: &str) -> bool {
        name.ends_with(SUFFIX) || name.ends_with(SET_ASIDE)
    }

    /// Everything that earlier processes have left would survive a power cut.
    pub fn is_past_durable(&self) -> bool {
        self.segments.iter().all(|segment| !segment.is_past || !segment.is_dirty)
    }

    /// The folder of the log.
    pub const fn folder(&mut self) -> &mut F {
        &mut self.folder
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        let segments: u64 = self.segments.iter().map(|segment| segment.space_bytes).sum();
        segments + self.set_aside.iter().chain(&self.refuse).map(|(_, bytes)| bytes).sum::<u64>()
    }

    /// The number below which every datagram is forgotten with the oldest segment.
    pub fn oldest_end(&self) -> Seq {
        self.segments.get(1).map_or(self.written, |second| second.from)
    }

    /// The client goes on in this stream.
    pub fn set_stream(&mut self, stream: StreamId) {
        if std::mem::replace(&mut self.stream, stream) != stream {
            self.close();
        }
    }

    /// The clock shows another time, or has become right. Small corrections change nothing.
    pub fn set_clock(&mut self, clock: Clock) {
        let Clock { boot, offset_ms, trusted } = self.clock;
        let step = clock.offset_ms.wrapping_sub(offset_ms).cast_signed().unsigned_abs();
        if (clock.boot, clock.trusted) != (boot, trusted) || step >= CLOCK_STEP_MS_MIN {
            self.clock = clock;
            self.close();
        }
    }

    /// Appends datagrams, and before them what has changed of the accounting. Some may have been written although it
    /// fails: see [`Self::written`].
    pub fn append(&mut self, records: &Records) -> Result<(), Trouble<F::Error>> {
        // First, since it makes room.
        self.confirm(records.mark)?;
        let mut pending = Vec::new();
        self.encode_struck(records, &mut pending)?;
        if self.is_open {
            self.encode_mark(records.mark, &mut pending);
        }
        let (written, mut room) = (self.written, self.room());
        for Entry { seq, session, arrived, bytes } in records.entries().filter(|entry| entry.seq >= written) {
            let item = Item::Datagram { session, arrived_ms: arrived.as_nanos() / 1_000_000, bytes };
            let record = Record { number: seq, item };
            let agent = records.agents.iter().find(|agent| agent.session == session);
            let span = (record.span() + agent.map_or(0, |_| AGENT_SPAN)) as u64;
            // The room is a sum over all segments.
            if !self.is_open_for(span, &pending) || pending.len() as u64 + span > room {
                self.make_place(seq, span, records.mark, &mut pending)?;
                room = self.room();
            }
            self.encode_agent(seq, agent, &mut pending);
            self.encode(record, &mut pending);
        }
        self.flush(&mut pending, records.end.max(self.written))
    }

    /// Writes the accounting, and agents that have no datagram to stand before; no datagrams.
    pub fn append_state(&mut self, records: &Records) -> Result<(), Trouble<F::Error>> {
        let mark = records.mark;
        self.confirm(mark)?;
        let mut pending = Vec::new();
        self.encode_struck(records, &mut pending)?;
        let agents = self.newest(&records.agents);
        let span = (HEAD_BYTES_MAX as usize + agents.len() * AGENT_SPAN) as u64;
        self.make_place(self.written, span, mark, &mut pending)?;
        self.encode_mark(mark, &mut pending);
        for agent in agents {
            self.encode_agent(self.written, Some(agent), &mut pending);
        }
        self.flush(&mut pending, self.written)
    }

    /// As many of these agents as a segment has room for: the last ones.
    fn newest<'a>(&self, agents: &'a [Agent]) -> &'a [Agent] {
        let places = (self.segment_bytes() - HEAD_BYTES_MAX) as usize / AGENT_SPAN;
        &agents[agents.len().saturating_sub(places)..]
    }

    /// Begins the first segment of a process: its generation is on disk when this returns. As many of the agents are
    /// named in it as it has room for.
    pub(super) fn begin_generation(&mut self, first: Seq, mark: Mark, agents: &[Agent]) -> Result<(), F::Error> {
        let mut pending = Vec::new();
        (self.written, self.durable) = (first, first);
        self.create(first, mark, &mut pending)?;
        for agent in self.newest(agents) {
            self.encode_agent(first, Some(agent), &mut pending);
        }
        let failed = |trouble| match trouble {
            Trouble::Failed(error) => error,
            Trouble::Full => unreachable!("a segment that was begun takes its head"),
        };
        self.flush(&mut pending, first).map_err(failed)?;
        self.sync()
    }

    /// Returns when everything that was written would survive a power cut.
    pub fn sync(&mut self) -> Result<(), F::Error> {
        let _ = self.sweep();
        self.sync_all().inspect_err(|_| self.forget_undurable())?;
        self.trust();
        if let Some(newest) = self.segments.iter().rfind(|segment| segment.bytes > 0) {
            self.anchor = newest.header;
        }
        Ok(())
    }

    /// Data first: a name whose data are missing would be worth nothing.
    fn sync_all(&mut self) -> Result<(), F::Error> {
        for segment in self.segments.iter_mut().filter(|segment| segment.is_dirty) {
            self.folder.sync(&segment.header.file_name())?;
            segment.is_dirty = false;
        }
        if self.names_changed {
            self.folder.sync_names()?;
            self.names_changed = false;
        }
        Ok(())
    }

    /// Takes everything that was written for durable: a kernel that goes on will write it some time.
    pub fn trust(&mut self) {
        self.durable = self.written;
        self.segments.iter_mut().for_each(|segment| segment.durable_bytes = segment.bytes);
    }

    /// No datagram below the mark is held any more: removes the segments that hold no other.
    pub fn confirm(&mut self, mark: Mark) -> Result<(), Trouble<F::Error>> {
        while let Some(second) = self.segments.get(1)
            && second.from <= mark.below
        {
            if self.segments[0].header == self.anchor {
                self.sync()?;
            }
            self.folder.remove(&self.segments[0].header.file_name())?;
            self.segments.pop_front();
            self.names_changed = true;
        }
        Ok(())
    }

    /// Reads datagrams from a number on, as many as fit `room` bytes of payload, but one at least. Returns the number
    /// below which everything was read that can be; it is `from` when there is nothing more.
    pub fn read(&mut self, from: Seq, room: usize, records: &mut Records) -> Result<Seq, F::Error> {
        records.clear();
        let behind = self.segments.partition_point(|segment| segment.from <= from);
        for at in behind.saturating_sub(1)..self.segments.len() {
            let segment = self.segments[at];
            let until = self.segments.get(at + 1).map_or(self.written, |next| next.from).min(segment.header.end());
            let known = self.place.filter(|(header, _, number)| *header == segment.header && *number <= from);
            let start = known.map_or(HEADER_BYTES as u64, |(_, place, _)| place);
            let (clock, clocks, opened, struck) = (self.clock, &self.clocks, self.opened, &self.struck);
            let reach = Reach { header: segment.header, bytes: segment.bytes, until };
            let mut next = from;
            let end = walk(&mut self.folder, reach, start, |record| {
                if let Item::Datagram { session, arrived_ms, bytes } = record.item
                    && record.number >= from
                    && !struck.has(record.number)
                {
                    let past = clocks.get(&generation(record.number));
                    let known = past.and_then(|&past| clock.translate(past, arrived_ms));
                    let arrived = known.map_or(opened, Time::from_millis);
                    if !records.is_empty() && records.bytes() + bytes.len() > room {
                        return false;
                    }
                    records.push(Entry { seq: record.number, session, arrived, bytes });
                    next = record.number.next();
                }
                true
            });
            match end.failure {
                Some(_) if !records.is_empty() => return Ok(next),
                Some(error) => {
                    self.unreadable = Some(segment.header);
                    return Err(error);
                }
                None => {}
            }
            self.place = Some((segment.header, end.place, next));
            if !end.is_whole {
                return Ok(next);
            }
            if !records.is_empty() {
                return Ok(until);
            }
        }
        Ok(self.written.max(from))
    }

    /// The segment that could not be read last time is passed over from here on.
    pub fn give_up(&mut self) {
        let Some(unreadable) = self.unreadable.take() else {
            return;
        };
        if self.segments.back().is_some_and(|last| last.header == unreadable) {
            self.close();
        }
        if let Some(segment) = self.segments.iter_mut().find(|segment| segment.header == unreadable) {
            segment.bytes = 0;
        }
    }

    /// The open segment takes so many bytes more behind the pending ones.
    fn is_open_for(&self, span: u64, pending: &[u8]) -> bool {
        let filled = self.segments.back().map_or(0, |segment| segment.bytes) + pending.len() as u64;
        self.is_open && filled + span <= self.segment_bytes()
    }

    /// Makes sure that the open segment takes so many bytes, from the datagram `first` on: a new one if need be.
    fn make_place(
        &mut self,
        first: Seq,
        span: u64,
        mark: Mark,
        pending: &mut Vec<u8>,
    ) -> Result<(), Trouble<F::Error>> {
        if self.is_open_for(span, pending) {
            let room = self.make_room(pending.len() as u64 + span);
            if room.is_err() {
                self.flush(pending, first)?;
            }
            return room;
        }
        self.flush(pending, first)?;
        self.make_room(HEAD_BYTES_MAX + span)?;
        Ok(self.create(first, mark, pending)?)
    }

    /// Bytes that fit beside all files and the first segment of the next process.
    fn room(&self) -> u64 {
        self.bound_bytes.saturating_sub(self.bytes() + self.segment_bytes())
    }

    /// Makes sure that so many more bytes fit.
    fn make_room(&mut self, more: u64) -> Result<(), Trouble<F::Error>> {
        if more > self.room() {
            self.sweep()?;
        }
        while more > self.room() {
            let Some((name, _)) = self.set_aside.front() else {
                return Err(Trouble::Full);
            };
            self.folder.remove(name)?;
            self.set_aside.pop_front();
        }
        Ok(())
    }

    fn create(&mut self, first: Seq, mark: Mark, pending: &mut Vec<u8>) -> Result<(), F::Error> {
        self.close();
        let header = Header { salt: self.folder.random(), first, serial: self.serial };
        self.folder.create(&header.file_name())?;
        self.serial = self.serial.wrapping_add(1);
        (self.is_open, self.names_changed) = (true, true);
        self.segments.push_back(Segment { is_past: false, ..Segment::left(header, 0) });
        pending.extend(header.to_bytes());
        self.clocks.insert(generation(first), self.clock);
        self.encode(Record { number: first, item: Item::Stream(self.stream) }, pending);
        self.encode(Record { number: first, item: Item::Clock(self.clock) }, pending);
        self.mark = mark;
        self.encode(Record { number: mark.below, item: Item::Mark(mark.totals) }, pending);
        Ok(())
    }

    /// Takes no more records in the last segment.
    fn close(&mut self) {
        self.is_open = false;
        self.named.clear();
    }

    fn encode(&self, record: Record<'_>, pending: &mut Vec<u8>) {
        if let Some(segment) = self.segments.back() {
            record.encode(segment.header.salt, pending);
        }
    }

    fn encode_mark(&mut self, mark: Mark, pending: &mut Vec<u8>) {
        if std::mem::replace(&mut self.mark, mark) != mark {
            self.encode(Record { number: mark.below, item: Item::Mark(mark.totals) }, pending);
        }
    }

    /// Before the mark: its totals count these.
    fn encode_struck(&mut self, records: &Records, pending: &mut Vec<u8>) -> Result<(), Trouble<F::Error>> {
        for &Run { first, end } in &records.struck {
            let record = Record { number: first, item: Item::Struck { end } };
            self.make_place(self.written, record.span() as u64, records.mark, pending)?;
            self.encode(record, pending);
        }
        Ok(())
    }

    fn encode_agent(&mut self, number: Seq, agent: Option<&Agent>, pending: &mut Vec<u8>) {
        if let Some(&agent) = agent
            && self.named.insert(agent.session, agent) != Some(agent)
        {
            self.encode(Record { number, item: Item::Agent(agent) }, pending);
        }
    }

    /// Writes what is pending; then every datagram below `until` was written.
    fn flush(&mut self, pending: &mut Vec<u8>, until: Seq) -> Result<(), Trouble<F::Error>> {
        if let Some(segment) = self.segments.back_mut()
            && !pending.is_empty()
        {
            let (name, length) = (segment.header.file_name(), pending.len() as u64);
            let (taken, outcome) = self.folder.append(&name, pending);
            pending.clear();
            segment.space_bytes += taken as u64;
            if let Err(error) = outcome {
                segment.cut_back = Some(segment.bytes);
                self.close();
                if let Some(empty) = self.segments.pop_back_if(|segment| segment.bytes == 0) {
                    self.discard(&empty);
                }
                let _ = self.sweep();
                return Err(Trouble::Failed(error));
            }
            segment.bytes += length;
            segment.is_dirty = true;
        }
        self.written = until;
        Ok(())
    }

    fn forget_undurable(&mut self) {
        self.close();
        self.written = self.durable;
        while let Some(segment) = self.segments.pop_back_if(|segment| segment.durable_bytes == 0) {
            self.discard(&segment);
        }
        for segment in self.segments.iter_mut().filter(|segment| segment.bytes > segment.durable_bytes) {
            segment.bytes = segment.durable_bytes;
            segment.cut_back = Some(segment.bytes);
        }
        let _ = self.sweep();
    }

    /// The numbers of this segment count no more.
    pub(super) fn discard(&mut self, segment: &Segment) {
        self.refuse.push((segment.header.file_name(), segment.space_bytes));
    }

    /// Cuts off and removes what counts no more, as far as the folder lets that be done. While something is left, it
    /// only takes space: the next segment says that its numbers do not count.
    pub(super) fn sweep(&mut self) -> Result<(), F::Error> {
        while let Some((name, _)) = self.refuse.last() {
            self.folder.remove(name)?;
            self.refuse.pop();
        }
        for segment in &mut self.segments {
            if let Some(bytes) = segment.cut_back {
                self.folder.truncate(&segment.header.file_name(), bytes)?;
                (segment.space_bytes, segment.cut_back) = (bytes, None);
            }
        }
        Ok(())
    }

    fn segment_bytes(&self) -> u64 {
        segment_bytes(self.bound_bytes)
    }
}

const fn segment_bytes(bound_bytes: u64) -> u64 {
    let part = bound_bytes / SEGMENTS_MIN;
    if part < SEGMENT_BYTES_MIN {
        SEGMENT_BYTES_MIN
    } else if part > SEGMENT_BYTES_MAX {
        SEGMENT_BYTES_MAX
    } else {
        part
    }
}

/// The longest datagram that a spool of so many bytes takes, in bytes: beside it there is room for another as long,
/// since the last segment stays.
pub const fn datagram_bytes_max(bound_bytes: u64) -> u64 {
    (bound_bytes - segment_bytes(bound_bytes)) / 2 - HEAD_BYTES_MAX
}
