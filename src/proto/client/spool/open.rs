//! Opening a spool: what earlier processes have left, whatever happened to it.
//!
//! There is no index that must be right. Every segment is walked over, the newest first, and again where the newest
//! mark lies in it.
//! Damage is passed over and counted. A file with the name of a segment and nothing sound in it is set aside. Only a
//! segment of a newer version ends the opening: nothing that is held is set aside for its format.

use std::collections::HashMap;

use super::folder::{Blame, Folder};
use super::log::{Log, SET_ASIDE, Segment, Setting};
use super::record::{Agent, Clock, Item, Record};
use super::records::Mark;
use super::segment::{HEADER_BYTES, Header, HeaderError, SUFFIX, first_of, generation};
use super::struck::{Run, Struck};
use super::walk::{Reach, Walked, walk};
use crate::proto::client::buffer::Tally;
use crate::proto::terms::{Seq, StreamId};

/// What earlier processes have left.
#[derive(Debug)]
pub struct Found<E> {
    /// The name of the stream to go on in.
    pub stream: StreamId,
    /// The oldest held datagram, if there is one.
    pub first: Seq,
    /// The number of the next arrival: the first one of this process's generation.
    pub tail: Seq,
    /// Held datagrams.
    pub held: Tally,
    /// All known agents, the newest last, with the number of their held datagrams.
    pub agents: Vec<(Agent, u64)>,
    /// The accounting.
    pub mark: Mark,
    /// Bytes that belong to no sound record, and the number of segments that have such.
    pub damaged: (u64, usize),
    /// Why some of these bytes cannot be read, if that is so.
    pub unreadable: Option<E>,
    /// Number of files that were set aside.
    pub set_aside: usize,
    /// Why this process's generation is not on disk, if it is not. The stream is another one then.
    pub failure: Option<E>,
}

/// Why a spool cannot be used at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum OpenError<E> {
    #[error("a newer version of this program has written it (format {0}): run that one, or give another folder")]
    Newer(u16),
    #[error("its numbers are used up: give another folder")]
    Exhausted,
    #[error("{0}")]
    Unreadable(E),
}

/// A log, and what was found in it.
pub type Opened<F> = Result<(Log<F>, Found<<F as Folder>::Error>), OpenError<<F as Folder>::Error>>;
/// What was found, and the files that are no segments, with their lengths in bytes.
type Surveyed<E> = Result<(Found<E>, Vec<(String, u64)>), OpenError<E>>;

/// A file with the name of a segment.
enum Named {
    Segment(Header),
    /// The file says that it is another segment.
    Strange,
    Gone,
}

/// Datagrams of one segment.
#[derive(Debug, Default)]
struct Share {
    /// The first one, struck or not.
    first: Option<Seq>,
    tally: Tally,
    sessions: HashMap<u16, u64>,
}

impl Share {
    fn take(&mut self, record: &Record<'_>, struck: &Struck) {
        if let Item::Datagram { session, bytes, .. } = record.item {
            self.first.get_or_insert(record.number);
            if !struck.has(record.number) {
                self.tally.add(bytes.len());
                *self.sessions.entry(session).or_default() += 1;
            }
        }
    }

    fn join(&mut self, other: Self) {
        self.tally.join(other.tally);
        other.sessions.into_iter().for_each(|(session, count)| *self.sessions.entry(session).or_default() += count);
    }
}

/// Everything but datagrams, of one segment or of all.
#[derive(Debug, Default)]
struct Rest {
    mark: Option<Mark>,
    stream: Option<StreamId>,
    /// By place: the agent, and the number from which on it has the place.
    agents: HashMap<u16, (Seq, Agent)>,
    clocks: HashMap<u64, Clock>,
    struck: Vec<Run>,
}

impl Rest {
    /// A record that comes later in a segment says more.
    fn take(&mut self, record: &Record<'_>) {
        match record.item {
            Item::Datagram { .. } => {}
            Item::Mark(totals) => self.mark = Some(Mark { below: record.number, totals }),
            Item::Stream(name) => self.stream = Some(name),
            Item::Agent(agent) => {
                self.agents.insert(agent.session, (record.number, agent));
            }
            Item::Clock(clock) => {
                self.clocks.insert(generation(record.number), clock);
            }
            Item::Struck { end } => self.struck.push(Run { first: record.number, end }),
        }
    }

    fn is_empty(&self) -> bool {
        let says_nothing = self.mark.is_none() && self.stream.is_none() && self.struck.is_empty();
        says_nothing && self.agents.is_empty() && self.clocks.is_empty()
    }

    /// Adds what an earlier segment says and no later one has said.
    fn join_earlier(&mut self, earlier: Self) {
        self.mark = self.mark.or(earlier.mark);
        self.stream = self.stream.or(earlier.stream);
        earlier.agents.into_iter().for_each(|(place, agent)| {
            self.agents.entry(place).or_insert(agent);
        });
        earlier.clocks.into_iter().for_each(|(generation, clock)| {
            self.clocks.entry(generation).or_insert(clock);
        });
    }
}

/// What the walk over all segments has found.
#[derive(Debug)]
struct Sum<E> {
    rest: Rest,
    held: Share,
    struck: Struck,
    /// The largest number, as far as any record tells.
    newest: Seq,
    damaged: (u64, usize),
    unreadable: Option<E>,
    strange: Vec<(String, u64)>,
}

/// A segment as a walk over it has found it.
type Visited<E> = (Share, Rest, Walked<E>);

impl<F: Folder> Log<F> {
    /// Opens a spool, and begins a generation in it.
    ///
    /// # Errors
    /// See [`OpenError`]. A folder that can be read and not written is no error.
    pub fn open(folder: F, setting: Setting) -> Opened<F> {
        let stream = setting.stream;
        let mut log = Self::new(folder, setting);
        let (mut found, strange) = log.survey()?;
        for (name, bytes) in strange {
            log.set_aside(name, bytes);
        }
        let known =
            found.agents.iter().map(|&(agent, _)| agent).filter(|agent| *agent != Agent::unknown(agent.session));
        let known: Vec<Agent> = known.collect();
        log.anchor = log.segments.back().map(|segment| segment.header).unwrap_or_default();
        found.failure = log.begin_generation(found.tail, found.mark, &known).err();
        if found.failure.is_none() {
            // Everything that they said stands in the newest segment.
            log.take_empty().iter().for_each(|segment| log.discard(segment));
            let _ = log.sweep();
        } else {
            // Another process would take the same numbers for other datagrams.
            log.set_stream(stream);
            found.stream = stream;
        }
        Ok((log, found))
    }

    /// Looks at a spool without changing anything, also while a process uses it.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn look(folder: F, setting: Setting) -> Opened<F> {
        let mut log = Self::new(folder, setting);
        let (found, _) = log.survey()?;
        log.written = found.tail;
        Ok((log, found))
    }

    /// Whether this program knows the format of a spool, without a look at what is in it.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn check(folder: F) -> Result<(), OpenError<F::Error>> {
        Self::new(folder, Setting::default()).collect().map(|_| ())
    }

    /// Finds everything that earlier processes have left, and the files that are no segments.
    fn survey(&mut self) -> Surveyed<F::Error> {
        let mut strange = self.collect()?;
        let Sum { rest, mut held, struck, newest, damaged, unreadable, strange: more } =
            self.sum_up().map_err(OpenError::Unreadable)?;
        strange.extend(more);
        let tail = first_of(generation(newest) + 1).ok_or(OpenError::Exhausted)?;
        self.segments.iter_mut().for_each(|segment| segment.from = segment.from.min(tail));
        self.clocks = rest.clocks;
        self.struck = struck;
        self.stream = rest.stream.unwrap_or(self.stream);
        let mut agents: Vec<(Seq, Agent)> = rest.agents.into_values().collect();
        agents.sort_by_key(|&(since, agent)| (since, agent.session));
        let count = |(_, agent): (Seq, Agent)| (agent, held.sessions.remove(&agent.session).unwrap_or(0));
        let mut agents: Vec<(Agent, u64)> = agents.into_iter().map(count).collect();
        agents.extend(held.sessions.into_iter().map(|(session, count)| (Agent::unknown(session), count)));
        let found = Found {
            stream: self.stream,
            first: held.first.filter(|_| held.tally.datagrams > 0).unwrap_or(tail),
            tail,
            held: held.tally,
            agents,
            mark: rest.mark.unwrap_or_default(),
            damaged,
            unreadable,
            set_aside: strange.len(),
            failure: None,
        };
        Ok((found, strange))
    }

    /// Finds the segments, the oldest first. Returns the files that cannot be segments, with their lengths in bytes.
    fn collect(&mut self) -> Result<Vec<(String, u64)>, OpenError<F::Error>> {
        let mut segments = Vec::new();
        let mut strange = Vec::new();
        for (name, bytes) in self.folder.list().map_err(OpenError::Unreadable)? {
            if name.ends_with(SET_ASIDE) {
                self.set_aside.push_back((name, bytes));
            } else if let Some(named) = Header::from_file_name(&name) {
                match self.header(&name, named)? {
                    Named::Segment(header) => segments.push(Segment::left(header, bytes)),
                    Named::Strange => strange.push((name, bytes)),
                    Named::Gone => {}
                }
            } else if name.ends_with(SUFFIX) {
                strange.push((name, bytes));
            }
        }
        self.set_aside.make_contiguous().sort();
        segments.sort_by_key(|segment| segment.header.serial);
        self.serial =
            segments.iter().map(|segment| segment.header.serial).max().map_or(0, |last| last.wrapping_add(1));
        self.segments = segments.into();
        Ok(strange)
    }

    /// A file with the name of a segment. Where the file does not say what it is, its name does.
    fn header(&mut self, name: &str, named: Header) -> Result<Named, OpenError<F::Error>> {
        let mut bytes = [0; HEADER_BYTES];
        let read = match self.folder.read(name, 0, &mut bytes) {
            Ok(read) => read,
            Err(error) => match F::blame(&error) {
                Blame::Gone => return Ok(Named::Gone),
                Blame::Medium => 0,
                Blame::Other => return Err(OpenError::Unreadable(error)),
            },
        };
        match Header::from_bytes(&bytes[..read]) {
            Ok(header) if header == named => Ok(Named::Segment(header)),
            Ok(_) => Ok(Named::Strange),
            Err(HeaderError::Newer(version)) => Err(OpenError::Newer(version)),
            Err(HeaderError::Damaged) => Ok(Named::Segment(named)),
        }
    }

    /// Takes out the segments of earlier processes without a datagram.
    fn take_empty(&mut self) -> Vec<Segment> {
        let (empty, others): (Vec<Segment>, Vec<Segment>) =
            self.segments.drain(..).partition(|segment| segment.is_empty);
        self.segments = others.into();
        empty
    }

    fn set_aside(&mut self, name: String, bytes: u64) {
        let new = format!("{name}{SET_ASIDE}");
        // A folder that cannot be written keeps the name, and the file is passed over each time.
        let now = if self.folder.rename(&name, &new).is_ok() { new } else { name };
        self.set_aside.push_back((now, bytes));
    }

    /// Walks over everything, from the newest segment to the oldest: where both have a datagram, the newer one counts.
    fn sum_up(&mut self) -> Result<Sum<F::Error>, F::Error> {
        let mut sum = Sum {
            rest: Rest::default(),
            held: Share::default(),
            struck: Struck::default(),
            newest: Seq::default(),
            damaged: (0, 0),
            unreadable: None,
            strange: Vec::new(),
        };
        let mut until = Seq(u64::MAX);
        let mut segments = std::mem::take(&mut self.segments);
        while let Some(mut segment) = segments.pop_back() {
            let until_here = until.min(segment.header.end());
            let reach = Reach { header: segment.header, bytes: segment.bytes, until: until_here };
            let (mut share, mut rest, walked) = self.visit(reach, &sum.struck);
            sum.newest = sum.newest.max(segment.header.first);
            let mut damaged_bytes = walked.damaged_bytes;
            let is_read = walked.failure.is_none();
            if let Some(error) = walked.failure {
                match F::blame(&error) {
                    Blame::Gone => continue,
                    Blame::Medium => sum.unreadable = Some(error),
                    Blame::Other => return Err(error),
                }
                // Whatever follows is not counted, and so it must never be read.
                damaged_bytes += segment.bytes - walked.place;
                segment.bytes = walked.place;
            }
            // A file that cannot be read may be sound.
            let is_sound = share.first.is_some() || !rest.is_empty();
            if is_read && !is_sound && segment.bytes > HEADER_BYTES as u64 {
                sum.strange.push((segment.header.file_name(), segment.bytes));
                continue;
            }
            if damaged_bytes > 0 {
                sum.damaged = (sum.damaged.0 + damaged_bytes, sum.damaged.1 + 1);
            }
            let strikes = !rest.struck.is_empty();
            rest.struck.drain(..).for_each(|run| sum.struck.add(run));
            sum.rest.join_earlier(rest);
            let below = sum.rest.mark.map_or(Seq(0), |mark| mark.below);
            let counts_anew = |first| first < below || strikes && sum.struck.has_any(first, until_here);
            if share.first.is_some_and(counts_anew) {
                share = self.share_from(Reach { bytes: segment.bytes, ..reach }, below, &sum.struck);
            }
            segment.is_empty = is_read && share.first.is_none() && !strikes;
            segment.from = share.first.unwrap_or(until);
            until = until.min(segment.from);
            sum.held.first = share.first.or(sum.held.first);
            sum.held.join(share);
            self.segments.push_front(segment);
        }
        Ok(sum)
    }

    fn visit(&mut self, reach: Reach, struck: &Struck) -> Visited<F::Error> {
        let (mut share, mut rest) = (Share::default(), Rest::default());
        let walked = walk(&mut self.folder, reach, 0, |record| {
            rest.take(record);
            share.take(record, struck);
            true
        });
        (share, rest, walked)
    }

    /// The datagrams of a segment from this number on.
    fn share_from(&mut self, reach: Reach, below: Seq, struck: &Struck) -> Share {
        let mut share = Share::default();
        walk(&mut self.folder, reach, 0, |record| {
            if record.number >= below {
                share.take(record, struck);
            }
            true
        });
        share
    }
}
