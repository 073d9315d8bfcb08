//! Transport tcp at the server: the clients' datagrams in; what to inject, what to acknowledge and where to go on out.
//!
//! ```text
//!   client ──► handle_data ──► [ queue of its stream ] ──► poll ──► handle_injected ──► remoted's socket
//!      ◄── Resume, Ack ── poll_told ◄──────────────────────────────────── handle_sample (what was read)
//! ```
//!
//! A *stream* is what one client sends from its start to its end, numbered, over one connection after the other. Its newest connection carries
//! it; what an older one brought and nobody injected is discarded, because the newest is told to go on behind what was injected.
//!
//! * **Nothing is kept that could be lost.** The client keeps what is not acknowledged. This room can be forgotten at any time.
//! * **Acknowledge what was read.** What was in the socket at a sample has been read when the sum of falls reaches that sample's sum and queue, or
//!   when a later sample shows the queue empty; and what was injected before the sample before it was in the socket. Injected is not read: remoted may die.
//! * **What may have been dropped is injected again**, before anything newer of its stream: until it is known to be in the socket it is kept here.
//!   A client that wants nothing twice has it acknowledged as doubtful.
//! * **Another life of remoted.** What was injected and not read is gone with its socket: each client that has some goes back to it.
//! * **Order.** One queue for each stream, injected from its front alone. Streams take turns; but a client that was started anew has a new stream
//!   and the agents of the old one, so it follows what streams without a connection have left here from the same address.
//!
//! No input or output happens here, and no clock is read.

mod kept;
mod steps;
#[cfg(test)]
mod tests;
mod turns;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::net::IpAddr;

use crate::proto::cost::buffer_cost;
use crate::proto::terms::{ConnectionId, DATAGRAM_BYTES_MAX, Incarnation, Seq, StreamId, digest};
use crate::proto::time::Time;
use crate::proto::wire::{Ack, Data, DataItem, Resume, Session};
use kept::{Item, Kept};
use steps::{Span, Steps};
use turns::Turns;

/// Most that one client may have sent and not seen acknowledged, in bytes of buffer cost: 5,000 small datagrams, or what 50,000 a second are over a
/// path of 100 ms.
const WINDOW_MAX: u64 = 4 << 20;
/// The same for all of them together; a client has an equal part of it.
const WINDOWS_TOTAL: u64 = 64 << 20;
/// The least part: 20 small datagrams.
const WINDOW_MIN: u64 = 16 << 10;
/// What a single datagram may cost.
const DATAGRAM_COST_MAX: u64 = buffer_cost(DATAGRAM_BYTES_MAX) as u64;
/// Frames of one stream that wait, however small.
const QUEUED_MAX: usize = 16_384;
/// Streams that have something to inject, when the next one that loses its connection loses that too.
const WAITING_MAX: usize = 1_024;
/// Streams remembered. The one that has been without a connection for longest is forgotten first: if it comes back it sends again what it has not
/// seen acknowledged.
const STREAMS_MAX: usize = 16_384;

/// All streams.
#[derive(Debug, Default)]
pub struct Streams {
    by_id: HashMap<StreamId, Stream>,
    connections: HashMap<ConnectionId, StreamId>,
    /// Those with something to inject.
    turns: Turns,
    /// What was injected and has not been read.
    steps: Steps,
    life: Incarnation,
    /// Connections that are to be told something.
    told: BTreeSet<ConnectionId>,
    /// Buffer cost of all that waits to be injected.
    waiting_cost: u64,
    /// Datagrams that were injected again so far.
    repeated: u64,
}

/// One client's stream.
#[derive(Debug)]
struct Stream {
    connection: Option<ConnectionId>,
    /// Where its newest connection comes from.
    address: IpAddr,
    /// Its client wants nothing injected twice.
    once: bool,
    /// Frames of another epoch were under way when it ended.
    epoch: u32,
    /// What was injected and may have been dropped; what of it is to be injected again comes before the queue.
    kept: Kept,
    queue: VecDeque<Queued>,
    /// Buffer cost of what is to be injected, or injected again.
    queued_cost: u64,
    /// The largest window that the client was told of in this epoch.
    granted: u64,
    /// Agents named by the connection in this epoch, and those whose datagrams are next.
    named: HashSet<u16>,
    sessions: HashMap<u16, Session>,
    /// All numbers; `None` until the first datagram of a client that nothing is known of.
    known: Option<Known>,
    /// The connection is to be told where to go on.
    resumes: bool,
    /// Some of what was read since the last acknowledgement may have been dropped instead.
    doubtful: bool,
    parted: Time,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    /// Everything below has been read.
    read: Seq,
    /// The digests of the last datagrams below `read` and below `injected`; 0 where they are not known.
    read_digest: u64,
    injected_digest: u64,
    /// Everything below was injected into this life of remoted, or read before; some of it is perhaps to be injected again.
    injected: Seq,
    /// Everything below may have been injected into some life.
    reached: Seq,
    /// No datagram below it may come any more in this epoch.
    expected: Seq,
}

#[derive(Debug)]
enum Queued {
    /// A place gets another agent: from here on.
    Session(Session),
    /// Datagrams; so many bytes of them were injected.
    Data(Data, usize),
}

/// A datagram that was injected.
#[derive(Clone, Copy, Debug)]
struct Injected {
    /// From there on nothing had been, unless it is injected again.
    from: Seq,
    seq: Seq,
    cost: u64,
    digest: u64,
}

/// What a sample showed of the streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Something was injected since the last sample: another one soon shows more.
    pub more: bool,
    /// Something is known to be in remoted's socket.
    pub whole: bool,
}

/// Datagrams of one agent to inject, in this order.
#[derive(Debug)]
pub struct Volley<'a> {
    /// Whose they are.
    pub stream: StreamId,
    /// Where its client is.
    pub address: IpAddr,
    /// Their agent.
    pub session: Session,
    /// The datagrams; at least one.
    pub payloads: Vec<&'a [u8]>,
}

/// What a connection must not send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offence {
    /// Datagrams on a connection that carries no stream.
    Unattached,
    /// Numbers that do not grow.
    Order,
    /// More than any window.
    TooMuch,
    /// A datagram of an agent that was not named.
    Unnamed,
}

impl std::fmt::Display for Offence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unattached => "datagrams of no stream",
            Self::Order => "datagrams out of their order",
            Self::TooMuch => "more datagrams than it was allowed",
            Self::Unnamed => "a datagram of an agent that was not named",
        })
    }
}

/// What a connection is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Where to go on.
    Resume(Resume),
    /// What was read.
    Ack(Ack),
}

impl Streams {
    /// This connection carries this stream from here on. The one that did before, if any, is of no more use. `once`: its client wants nothing
    /// injected twice, whatever may have been dropped.
    pub fn handle_attach(
        &mut self,
        now: Time,
        connection: ConnectionId,
        id: StreamId,
        address: IpAddr,
        once: bool,
    ) -> Option<ConnectionId> {
        self.make_room(id);
        if !self.by_id.contains_key(&id) {
            let left = |stream: &Stream| {
                stream.connection.is_none() && !stream.has_nothing_left() && stream.address == address
            };
            let leaders = self.by_id.iter().filter(|(_, stream)| left(stream));
            leaders.for_each(|(&leader, _)| self.turns.follow(id, leader));
        }
        let stream = self.by_id.entry(id).or_insert_with(|| Stream {
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
        });
        (stream.address, stream.once) = (address, once);
        let before = stream.connection.replace(connection).filter(|&before| before != connection);
        self.waiting_cost -= stream.begin_epoch();
        if let Some(before) = before {
            self.connections.remove(&before);
            self.told.remove(&before);
        }
        self.connections.insert(connection, id);
        self.told.insert(connection);
        self.take_turns(id);
        before
    }

    /// A connection is gone. What it brought is still injected, because its client may never come back; unless so much waits already that whoever
    /// comes and goes would fill the memory: then it has to come back.
    pub fn handle_gone(&mut self, now: Time, connection: ConnectionId) {
        self.told.remove(&connection);
        let crowded = self.waiting_cost > WINDOWS_TOTAL || self.turns.len() > WAITING_MAX;
        let Some(id) = self.connections.remove(&connection) else {
            return;
        };
        if let Some(stream) = self.by_id.get_mut(&id) {
            stream.connection = None;
            stream.parted = now;
            if crowded || stream.queued_cost == 0 {
                self.waiting_cost -= stream.begin_epoch();
                self.take_turns(id);
            }
        }
    }

    /// The connection that carries this stream.
    pub fn connection(&self, id: StreamId) -> Option<ConnectionId> {
        self.by_id.get(&id)?.connection
    }

    /// This connection carries a stream.
    pub fn carries(&self, connection: ConnectionId) -> bool {
        self.connections.contains_key(&connection)
    }

    /// An agent behind a client.
    pub fn handle_session(&mut self, connection: ConnectionId, session: Session) -> Result<(), Offence> {
        let (_, stream) = self.attached(connection)?;
        if stream.queue.len() > QUEUED_MAX {
            return Err(Offence::TooMuch);
        }
        stream.named.insert(session.name.id);
        stream.queue.push_back(Queued::Session(session));
        Ok(())
    }

    /// Datagrams of a client.
    pub fn handle_data(&mut self, connection: ConnectionId, data: Data) -> Result<(), Offence> {
        let (id, stream) = self.attached(connection)?;
        let (Some(first), Some(last)) = (data.items().next(), data.items().last()) else {
            return Ok(());
        };
        if data.epoch != stream.epoch {
            // Sent before the client knew where to go on.
            return Ok(());
        }
        let known = stream.known.get_or_insert(Known {
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
        if data.items().any(|item| !stream.named.contains(&item.session)) {
            return Err(Offence::Unnamed);
        }
        known.expected = last.seq.next();
        let more = data.items().map(|item| cost(item.bytes)).sum::<u64>();
        stream.queued_cost += more;
        // One datagram is always allowed.
        if stream.queued_cost > stream.granted + DATAGRAM_COST_MAX || stream.queue.len() > QUEUED_MAX {
            stream.queued_cost -= more;
            return Err(Offence::TooMuch);
        }
        stream.queue.push_back(Queued::Data(data, 0));
        self.waiting_cost += more;
        self.turns.join(id);
        Ok(())
    }

    /// remoted was looked at: which life of it was seen (the default: none), what it has read so far, and what waits in its socket. Of several
    /// sockets the judge gives a sum and a queue that hold for all of them: the queue is 0 only if all are empty.
    ///
    /// What was injected since the last look may not be in the socket yet: so the queue that it stands in is the one at the look after that.
    pub fn handle_sample(&mut self, life: Incarnation, read: u64, queue: u64) -> Progress {
        if life != self.life {
            self.life = life;
            self.restart();
            return Progress::default();
        }
        let progress = self.steps.handle_sample(read, queue);
        for (id, span) in &progress.settled {
            if let Some(stream) = self.by_id.get_mut(id) {
                stream.kept.handle_settled(span.until);
                if stream.has_nothing_left() {
                    if stream.connection.is_none() {
                        // Agents are named again in its next epoch: nothing but numbers is kept of it.
                        stream.begin_epoch();
                    }
                    self.turns.leave(*id);
                }
            }
        }
        for (id, span) in progress.read {
            if let Some(stream) = self.by_id.get_mut(&id)
                && let Some(known) = &mut stream.known
                && span.until > known.read
            {
                (known.read, known.read_digest) = (span.until, span.digest);
                stream.doubtful |= span.doubtful;
                self.told.extend(stream.connection);
            }
        }
        let whole = progress.settled.iter().any(|(_, span)| !span.doubtful);
        Progress { more: progress.closed, whole }
    }

    /// Something was dropped on its way into remoted's socket since the last sample: perhaps what is not known to be in it. That is injected
    /// `again`, or counts as doubtful.
    pub fn handle_drop(&mut self, again: bool) {
        let by_id = &self.by_id;
        let comes_again = |id: StreamId| again && by_id.get(&id).is_some_and(|stream| !stream.once);
        for (id, Span { from, .. }) in self.steps.handle_drop(comes_again) {
            if let Some(stream) = self.by_id.get_mut(&id) {
                let cost = stream.kept.go_back(from);
                stream.queued_cost += cost;
                self.waiting_cost += cost;
                self.take_turns(id);
            }
        }
    }

    /// Datagrams that were injected again so far, because they may have been dropped.
    pub const fn repeated(&self) -> u64 {
        self.repeated
    }

    /// Some of what was injected may yet turn out to have been dropped.
    pub fn is_unsettled(&self) -> bool {
        self.steps.are_unsettled()
    }

    /// Bytes of buffer cost that were injected and not read.
    pub const fn unread_cost(&self) -> u64 {
        self.steps.cost()
    }

    /// Buffer cost of the next datagram to inject; `None` if there is none.
    pub fn next_cost(&mut self) -> Option<u64> {
        let (id, _) = self.next_stream()?;
        self.by_id.get(&id)?.upcoming().next().map(|(_, bytes)| cost(bytes))
    }

    /// Buffer cost of all that waits to be injected.
    pub const fn waiting_cost(&self) -> u64 {
        self.waiting_cost
    }

    /// The next datagrams to inject, as many as fit `room` bytes of buffer cost, and no more than `most`.
    pub fn poll(&mut self, room: u64, most: usize) -> Option<Volley<'_>> {
        let (id, turn) = self.next_stream()?;
        let stream = self.by_id.get(&id)?;
        let (session, _) = stream.upcoming().next()?;
        let mut left = room;
        let fits = |(whose, bytes): &(Session, &[u8])| {
            let fits = *whose == session && cost(bytes) <= left;
            left = left.saturating_sub(cost(bytes));
            fits
        };
        let payloads: Vec<&[u8]> =
            stream.upcoming().take(turn.min(most)).take_while(fits).map(|(_, bytes)| bytes).collect();
        (!payloads.is_empty()).then_some(Volley { stream: id, address: stream.address, session, payloads })
    }

    /// The first `count` datagrams of the volley that [`Self::poll`] gave were injected. Their buffer cost.
    pub fn handle_injected(&mut self, count: usize) -> u64 {
        let Some((id, _)) = self.turns.first() else {
            return 0;
        };
        let Some(stream) = self.by_id.get_mut(&id) else {
            return 0;
        };
        let (mut injected, mut sum) = (0, 0);
        self.repeated += stream.kept.again().take(count).count() as u64;
        while injected < count
            && let Some(Injected { from, seq, cost, digest }) = stream.advance(injected + 1 == count)
        {
            self.steps.handle_injected(id, from, seq.next(), cost, digest);
            injected += 1;
            sum += cost;
        }
        self.waiting_cost -= sum;
        self.turns.handle_injected(injected);
        sum
    }

    /// Nothing of this stream can be injected: what it brought is discarded, its client keeps it, and others go on. The connection that carried
    /// it, if there is one, carries nothing any more.
    pub fn handle_uninjectable(&mut self, now: Time, id: StreamId) -> Option<ConnectionId> {
        let stream = self.by_id.get_mut(&id)?;
        if let (Some(known), Some(oldest)) = (&mut stream.known, stream.kept.oldest()) {
            (known.injected, known.injected_digest) = (known.injected.min(oldest), 0);
            self.steps.forget_unsettled(id);
        }
        self.waiting_cost -= stream.forget_kept() + stream.begin_epoch();
        let connection = stream.connection?;
        self.handle_gone(now, connection);
        Some(connection)
    }

    /// The first in the order of turns that has something, and how many datagrams of it.
    fn next_stream(&mut self) -> Option<(StreamId, usize)> {
        loop {
            let (id, turn) = self.turns.first()?;
            if let Some(stream) = self.by_id.get_mut(&id) {
                if stream.settle() {
                    return Some((id, turn));
                }
                if stream.connection.is_none() {
                    // Agents are named again in its next epoch: what may have been dropped says itself whose it is.
                    self.waiting_cost -= stream.begin_epoch();
                }
            }
            self.take_turns(id);
        }
    }

    /// A stream has turns while it has something to inject. Who follows it waits, too, while it has something that may have been dropped.
    fn take_turns(&mut self, id: StreamId) {
        match self.by_id.get(&id) {
            Some(stream) if stream.queued_cost > 0 => self.turns.join(id),
            Some(stream) if !stream.kept.is_empty() => self.turns.rest(id),
            Some(_) | None => self.turns.leave(id),
        }
    }

    /// The next thing to tell a connection.
    pub fn poll_told(&mut self) -> Option<(ConnectionId, Told)> {
        let window = self.window();
        loop {
            let &connection = self.told.first()?;
            let stream = self.connections.get(&connection).and_then(|id| self.by_id.get_mut(id));
            if let Some(stream) = stream {
                let known = stream.known;
                stream.granted = stream.granted.max(window);
                if std::mem::take(&mut stream.resumes) {
                    let resume = Resume {
                        epoch: stream.epoch,
                        from: known.map(|known| known.injected),
                        reached: known.map_or(Seq(u64::MAX), |known| known.reached),
                        window,
                        digest: known.map_or(0, |known| known.injected_digest),
                    };
                    return Some((connection, Told::Resume(resume)));
                }
                self.told.remove(&connection);
                if let Some(known) = known {
                    let doubtful = std::mem::take(&mut stream.doubtful);
                    return Some((connection, Told::Ack(Ack { read: known.read, window, doubtful })));
                }
            }
            self.told.remove(&connection);
        }
    }

    /// Everything in remoted's socket is gone. What waited to be injected goes back too, where there is a client to have it: only there it can
    /// become too old.
    fn restart(&mut self) {
        self.steps = Steps::default();
        let mut went_back = Vec::new();
        for (&id, stream) in &mut self.by_id {
            let Some(known) = &mut stream.known else {
                continue;
            };
            if known.injected > known.read || (stream.queued_cost > 0 && stream.connection.is_some()) {
                (known.injected, known.injected_digest) = (known.read, known.read_digest);
                self.waiting_cost -= stream.forget_kept() + stream.begin_epoch();
                self.told.extend(stream.connection);
                went_back.push(id);
            }
        }
        for id in went_back {
            self.take_turns(id);
        }
    }

    /// An equal part for each client.
    fn window(&self) -> u64 {
        (WINDOWS_TOTAL / self.connections.len().max(1) as u64).clamp(WINDOW_MIN, WINDOW_MAX)
    }

    fn attached(&mut self, connection: ConnectionId) -> Result<(StreamId, &mut Stream), Offence> {
        let id = *self.connections.get(&connection).ok_or(Offence::Unattached)?;
        let stream = self.by_id.get_mut(&id).ok_or(Offence::Unattached)?;
        Ok((id, stream))
    }

    /// Forgets a stream for the sake of a new one.
    fn make_room(&mut self, newcomer: StreamId) {
        if self.by_id.len() < STREAMS_MAX || self.by_id.contains_key(&newcomer) {
            return;
        }
        let parted = self.by_id.iter().filter(|(_, stream)| stream.connection.is_none());
        if let Some((&id, _)) = parted.min_by_key(|(_, stream)| stream.parted) {
            self.waiting_cost -= self.by_id.remove(&id).map_or(0, |stream| stream.queued_cost);
            self.turns.forget(id);
            // Should it come back, its numbers begin anew.
            self.steps.forget(id);
        }
    }
}

impl Stream {
    /// What was under way to be injected counts for nothing, all but what is kept: the client is told where to go on. Returns the buffer cost of
    /// what waited.
    fn begin_epoch(&mut self) -> u64 {
        self.epoch = self.epoch.wrapping_add(1);
        self.granted = 0;
        // Their memory goes too.
        (self.queue, self.named, self.sessions) = (VecDeque::new(), HashSet::new(), HashMap::new());
        self.resumes = true;
        if let Some(known) = &mut self.known {
            known.expected = known.injected;
        }
        let left = self.kept.again_cost();
        std::mem::replace(&mut self.queued_cost, left) - left
    }

    /// Nothing is injected again. Returns the buffer cost of what was to be.
    fn forget_kept(&mut self) -> u64 {
        let cost = std::mem::take(&mut self.kept).again_cost();
        self.queued_cost -= cost;
        cost
    }

    /// Nothing is to be injected, and nothing may have been dropped.
    fn has_nothing_left(&self) -> bool {
        self.queued_cost == 0 && self.kept.is_empty()
    }

    /// Takes what is no datagram off the front of the queue; whether a datagram is left to inject.
    fn settle(&mut self) -> bool {
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

    /// The next datagrams to inject, and whose they are: what is injected again, and then one frame's.
    fn upcoming(&self) -> impl Iterator<Item = (Session, &[u8])> {
        let again = self.kept.again().map(|item| (item.session, &item.bytes[..]));
        let fresh = self.items().map_while(|item| Some((*self.sessions.get(&item.session)?, item.bytes)));
        again.chain(fresh)
    }

    /// The datagrams at the front, one frame's.
    fn items(&self) -> impl Iterator<Item = DataItem<'_>> {
        let front = match self.queue.front() {
            Some(Queued::Data(data, injected)) => Some(data.items_from(*injected)),
            Some(Queued::Session(_)) | None => None,
        };
        front.into_iter().flatten()
    }

    /// The next datagram was injected. `is_last`: no other one with it.
    fn advance(&mut self, is_last: bool) -> Option<Injected> {
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
        let (seq, cost, span) = (item.seq, cost(item.bytes), item.span());
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

fn cost(bytes: &[u8]) -> u64 {
    u64::from(buffer_cost(bytes.len()))
}
