//! One client's stream: its datagrams, its injected datagrams, and the messages for its connection.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;

use super::kept::{Item, Kept};
use crate::proto::cost::buffer_cost;
use crate::proto::terms::{ConnectionId, DATAGRAM_BYTES_MAX, Seq, digest};
use crate::proto::time::Time;
use crate::proto::wire::{Ack, Data, DataItem, Frame, Resume, Session};

/// The most that a single datagram may cost.
pub(super) const DATAGRAM_COST_MAX: u64 = buffer_cost(DATAGRAM_BYTES_MAX);
/// The most frames of one stream that may wait, however small.
const QUEUED_MAX: usize = 16_384;

/// An offence of a connection against the rules of its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum Offence {
    #[error("datagrams of no stream")]
    Unattached,
    #[error("datagrams out of their order")]
    Order,
    #[error("more datagrams than it was allowed")]
    TooMuch,
    #[error("a datagram of an agent that was not named")]
    Unnamed,
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) connection: Option<ConnectionId>,
    /// The address that its newest connection comes from.
    pub(super) address: IpAddr,
    /// Its client wants no datagram injected twice.
    pub(super) once: bool,
    /// The number of its epoch. Frames of an earlier epoch were under way when that epoch ended.
    epoch: u32,
    /// Injected datagrams that may have been dropped. Datagrams to be injected again go before the queue.
    pub(super) kept: Kept,
    queue: VecDeque<Queued>,
    /// The buffer cost of datagrams to be injected, or injected again.
    pub(super) queued_cost: u64,
    /// The largest window that the client was given in this epoch.
    granted: u64,
    /// The agents that the connection named in this epoch, and the agents of the next datagrams.
    pub(super) named: HashSet<u16>,
    pub(super) sessions: HashMap<u16, Session>,
    /// All numbers; `None` until the first datagram of an unknown client.
    pub(super) known: Option<Known>,
    /// The connection is to be told where to resume.
    resumes: bool,
    /// Some datagrams that count as read since the last acknowledgement may have been dropped instead.
    pub(super) doubtful: bool,
    pub(super) parted: Time,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// All datagrams below this number have been read.
    pub(super) read: Seq,
    /// The digests of the last datagrams below `read` and below `injected`; 0 if unknown.
    pub(super) read_digest: u64,
    pub(super) injected_digest: u64,
    /// All datagrams below this number were injected into this life of remoted, or read before. Some of them may have
    /// to be injected again.
    pub(super) injected: Seq,
    /// All datagrams below this number may have been injected into some life.
    reached: Seq,
    /// The lowest number that may still come in this epoch.
    expected: Seq,
}

#[derive(Debug)]
enum Queued {
    /// From here on a place belongs to another agent.
    Session(Session),
    /// Datagrams, and the number of their bytes that were injected.
    Data(Data, usize),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Injected {
    /// From this number on nothing had been injected before, unless the datagram is injected again.
    pub(super) from: Seq,
    pub(super) seq: Seq,
    pub(super) cost: u64,
    pub(super) digest: u64,
}

impl Stream {
    pub(super) fn new(now: Time, address: IpAddr, once: bool) -> Self {
        Self {
            connection: None,
            address,
            once,
            epoch: 0,
            kept: Kept::default(),
            queue: VecDeque::new(),
            queued_cost: 0,
            granted: 0,
            named: HashSet::new(),
            sessions: HashMap::new(),
            known: None,
            resumes: false,
            doubtful: false,
            parted: now,
        }
    }

    pub(super) fn handle_session(&mut self, session: Session) -> Result<(), Offence> {
        if self.queue.len() > QUEUED_MAX {
            return Err(Offence::TooMuch);
        }
        self.named.insert(session.name.id);
        self.queue.push_back(Queued::Session(session));
        Ok(())
    }

    /// Takes in datagrams of the client. Returns the buffer cost of the datagrams to be injected.
    pub(super) fn handle_data(&mut self, data: Data) -> Result<u64, Offence> {
        let (Some(first), Some(last)) = (data.items().next(), data.items().last()) else {
            return Ok(0);
        };
        if data.epoch != self.epoch {
            // The client sent these before it knew where to resume.
            return Ok(0);
        }
        let known = self.known.get_or_insert(Known {
            read: first.seq,
            read_digest: 0,
            injected_digest: 0,
            injected: first.seq,
            reached: first.seq,
            expected: first.seq,
        });
        if first.seq < known.expected {
            return Err(Offence::Order);
        }
        if data.items().any(|item| !self.named.contains(&item.session)) {
            return Err(Offence::Unnamed);
        }
        known.expected = last.seq.next();
        let more = data.items().map(|item| buffer_cost(item.bytes.len())).sum::<u64>();
        // One datagram is always allowed.
        if self.queued_cost + more > self.granted + DATAGRAM_COST_MAX || self.queue.len() > QUEUED_MAX {
            return Err(Offence::TooMuch);
        }
        self.queued_cost += more;
        self.queue.push_back(Queued::Data(data, 0));
        Ok(more)
    }

    /// The next frame for the connection: where to resume, or the datagrams that were read.
    pub(super) fn poll_frame(&mut self, window: u64) -> Option<Frame> {
        let known = self.known;
        self.granted = self.granted.max(window);
        if std::mem::take(&mut self.resumes) {
            return Some(Frame::Resume(Resume {
                epoch: self.epoch,
                from: known.map(|known| known.injected),
                reached: known.map_or(Seq(u64::MAX), |known| known.reached),
                window,
                digest: known.map_or(0, |known| known.injected_digest),
            }));
        }
        let read = known?.read;
        Some(Frame::Ack(Ack { read, window, doubtful: std::mem::take(&mut self.doubtful) }))
    }

    /// Discards all waiting datagrams except the kept ones; the client is told where to resume. Returns the buffer
    /// cost of the discarded datagrams.
    pub(super) fn begin_epoch(&mut self) -> u64 {
        self.epoch = self.epoch.wrapping_add(1);
        self.granted = 0;
        // The memory goes too.
        (self.queue, self.named, self.sessions) = (VecDeque::new(), HashSet::new(), HashMap::new());
        self.resumes = true;
        if let Some(known) = &mut self.known {
            known.expected = known.injected;
        }
        let left = self.kept.again_cost();
        std::mem::replace(&mut self.queued_cost, left) - left
    }

    /// No datagram is injected again. Returns the buffer cost of the datagrams that would have been.
    pub(super) fn forget_kept(&mut self) -> u64 {
        let cost = std::mem::take(&mut self.kept).again_cost();
        self.queued_cost -= cost;
        cost
    }

    /// No datagram is to be injected, and none may have been dropped.
    pub(super) fn has_nothing_left(&self) -> bool {
        self.queued_cost == 0 && self.kept.is_empty()
    }

    /// Takes entries that are no datagrams off the front of the queue. Returns whether a datagram is left to inject.
    pub(super) fn skip_names(&mut self) -> bool {
        loop {
            match self.queue.front() {
                Some(Queued::Session(session)) => {
                    self.sessions.insert(session.name.id, *session);
                    self.queue.pop_front();
                }
                Some(Queued::Data(data, injected)) if data.items_from(*injected).next().is_some() => return true,
                Some(Queued::Data(..)) => {
                    self.queue.pop_front();
                }
                None => return self.kept.again().next().is_some(),
            }
        }
    }

    /// The next datagrams to inject, with their sessions: datagrams to be injected again, then those of one frame.
    pub(super) fn upcoming(&self) -> impl Iterator<Item = (Session, &[u8])> {
        let again = self.kept.again().map(|item| (item.session, &item.bytes[..]));
        let fresh = self.items().map_while(|item| Some((*self.sessions.get(&item.session)?, item.bytes)));
        again.chain(fresh)
    }

    fn items(&self) -> impl Iterator<Item = DataItem<'_>> {
        let front = match self.queue.front() {
            Some(Queued::Data(data, injected)) => Some(data.items_from(*injected)),
            Some(Queued::Session(_)) | None => None,
        };
        front.into_iter().flatten()
    }

    /// The next datagram was injected. `is_last`: it is the last one injected at this time.
    pub(super) fn advance(&mut self, is_last: bool) -> Option<Injected> {
        let again = self.kept.again().next().map(|item| {
            let digest = if is_last { digest(&item.bytes) } else { 0 };
            Injected { from: item.seq, seq: item.seq, cost: item.cost(), digest }
        });
        let injected = if let Some(injected) = again {
            self.kept.handle_injected_again();
            injected
        } else {
            self.advance_queue(is_last)?
        };
        self.queued_cost -= injected.cost;
        Some(injected)
    }

    fn advance_queue(&mut self, is_last: bool) -> Option<Injected> {
        let item = self.items().next()?;
        let (seq, cost, span) = (item.seq, buffer_cost(item.bytes.len()), item.span());
        let session = *self.sessions.get(&item.session)?;
        let digest = if is_last { digest(item.bytes) } else { 0 };
        let kept = (!self.once).then(|| Item { seq, session, bytes: item.bytes.into() });
        if let Some(Queued::Data(_, injected)) = self.queue.front_mut() {
            *injected += span;
        }
        if let Some(item) = kept {
            self.kept.handle_injected(item);
        }
        let known = self.known.as_mut()?;
        let from = std::mem::replace(&mut known.injected, seq.next());
        known.injected_digest = digest;
        known.reached = known.reached.max(known.injected);
        Some(Injected { from, seq, cost, digest })
    }
}
