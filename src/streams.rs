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
//! * **Another life of remoted.** What was injected and not read is gone with its socket: each client that has some goes back to it.
//! * **Order.** One queue for each stream, injected from its front alone. Streams take turns; but a client that was started anew has a new stream
//!   and the agents of the old one, so it follows what streams without a connection have left here from the same address.
//!
//! No input or output happens here, and no clock is read.

#[cfg(test)]
mod tests;
mod turns;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::net::IpAddr;

use crate::time::Time;
use crate::wire::{Ack, DATAGRAM_BYTES_MAX, Data, DataItem, Incarnation, Resume, Seq, Session, buffer_cost};
use turns::Turns;

/// One connection of a client, as the server numbers them.
pub type ConnectionId = u64;
/// One client's stream, as it names it at random.
pub type StreamId = u128;

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
    /// What was injected and has not been read, by the samples between which it was injected.
    steps: VecDeque<Step>,
    /// Buffer cost of all of them.
    unread_cost: u64,
    life: Incarnation,
    /// Connections that are to be told something.
    told: BTreeSet<ConnectionId>,
    /// Buffer cost of all that waits to be injected.
    waiting_cost: u64,
    /// remoted's socket overflows by others' doing: what was read may not be all.
    doubtful: bool,
}

/// One client's stream.
#[derive(Debug)]
struct Stream {
    connection: Option<ConnectionId>,
    /// Where its newest connection comes from.
    address: IpAddr,
    /// Frames of another epoch were under way when it ended.
    epoch: u32,
    queue: VecDeque<Queued>,
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
    parted: Time,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    /// Everything below has been read.
    read: Seq,
    /// Everything below was injected into this life of remoted, or read before.
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

/// What was injected between two samples.
#[derive(Debug, Default)]
struct Step {
    /// A sample has followed it.
    closed: bool,
    /// It has been read when the sum of falls is this; `None` before a second sample has followed it.
    mark: Option<u64>,
    cost: u64,
    /// From where on each stream was injected, and how far.
    spans: HashMap<StreamId, (Seq, Seq)>,
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
    /// This connection carries this stream from here on. The one that did before, if any, is of no more use.
    pub fn handle_attach(
        &mut self,
        now: Time,
        connection: ConnectionId,
        id: StreamId,
        address: IpAddr,
    ) -> Option<ConnectionId> {
        self.make_room(id);
        self.turns.leave(id);
        if !self.by_id.contains_key(&id) {
            let left =
                |stream: &Stream| stream.connection.is_none() && stream.queued_cost > 0 && stream.address == address;
            let leaders = self.by_id.iter().filter(|(_, stream)| left(stream));
            leaders.for_each(|(&leader, _)| self.turns.follow(id, leader));
        }
        let stream = self.by_id.entry(id).or_insert_with(|| Stream {
            connection: None,
            address,
            epoch: 0,
            queue: VecDeque::new(),
            queued_cost: 0,
            granted: 0,
            named: HashSet::new(),
            sessions: HashMap::new(),
            known: None,
            resumes: false,
            parted: now,
        });
        stream.address = address;
        let before = stream.connection.replace(connection).filter(|&before| before != connection);
        self.waiting_cost -= stream.begin_epoch();
        if let Some(before) = before {
            self.connections.remove(&before);
            self.told.remove(&before);
        }
        self.connections.insert(connection, id);
        self.told.insert(connection);
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
                self.turns.leave(id);
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
        let more = data.items().map(|item| cost(&item)).sum::<u64>();
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
    /// What was injected since the last look may not be in the socket yet: a busy system leaves it to ksoftirqd (up to Linux 6.4). So the queue that
    /// it stands in is the one at the look after that. Returns whether there is such a step, and another look soon shows more.
    pub fn handle_sample(&mut self, life: Incarnation, read: u64, queue: u64) -> bool {
        if life != self.life {
            self.life = life;
            self.restart();
            return false;
        }
        for step in self.steps.iter_mut().rev().filter(|step| step.closed).take_while(|step| step.mark.is_none()) {
            step.mark = Some(read.saturating_add(queue));
        }
        let is_read = |step: &Step| step.mark.is_some_and(|mark| queue == 0 || mark <= read);
        while self.steps.front().is_some_and(is_read) {
            let step = self.steps.pop_front().unwrap_or_default();
            self.unread_cost -= step.cost;
            for (id, (_, until)) in step.spans {
                if let Some(stream) = self.by_id.get_mut(&id)
                    && let Some(known) = &mut stream.known
                    && until > known.read
                {
                    known.read = until;
                    self.told.extend(stream.connection);
                }
            }
        }
        self.steps.back_mut().is_some_and(|open| !std::mem::replace(&mut open.closed, true))
    }

    /// remoted's socket has dropped something since the last sample: perhaps what was injected since then. Its clients go back to it. Whether
    /// there was anything.
    pub fn handle_overflow(&mut self) -> bool {
        let Some(step) = self.steps.pop_back_if(|step| !step.closed) else {
            return false;
        };
        self.unread_cost -= step.cost;
        for (id, (from, _)) in step.spans {
            if let Some(stream) = self.by_id.get_mut(&id)
                && let Some(known) = &mut stream.known
            {
                known.injected = known.injected.min(from);
                self.waiting_cost -= stream.begin_epoch();
                self.told.extend(stream.connection);
            }
        }
        true
    }

    /// Bytes of buffer cost that were injected and not read.
    pub const fn unread_cost(&self) -> u64 {
        self.unread_cost
    }

    /// Buffer cost of the next datagram to inject; `None` if there is none.
    pub fn next_cost(&mut self) -> Option<u64> {
        let (id, _) = self.next_stream()?;
        self.by_id.get(&id)?.items().next().map(|item| cost(&item))
    }

    /// Buffer cost of all that waits to be injected.
    pub const fn waiting_cost(&self) -> u64 {
        self.waiting_cost
    }

    /// Whether what is acknowledged from here on may have been dropped by remoted's overflowing socket.
    pub const fn set_doubtful(&mut self, doubtful: bool) {
        self.doubtful = doubtful;
    }

    /// The next datagrams to inject, as many as fit `room` bytes of buffer cost.
    pub fn poll(&mut self, room: u64) -> Option<Volley<'_>> {
        let (id, turn) = self.next_stream()?;
        let stream = self.by_id.get(&id)?;
        let first = stream.items().next()?;
        let session = *stream.sessions.get(&first.session)?;
        let mut left = room;
        let fits = |item: &DataItem<'_>| {
            let fits = item.session == first.session && cost(item) <= left;
            left = left.saturating_sub(cost(item));
            fits
        };
        let payloads: Vec<&[u8]> = stream.items().take(turn).take_while(fits).map(|item| item.bytes).collect();
        (!payloads.is_empty()).then_some(Volley { stream: id, address: stream.address, session, payloads })
    }

    /// The first `count` datagrams of the volley that [`Self::poll`] gave were injected.
    pub fn handle_injected(&mut self, count: usize) {
        let Some((id, _)) = self.turns.first() else {
            return;
        };
        let Some(stream) = self.by_id.get_mut(&id) else {
            return;
        };
        let mut injected = 0;
        while injected < count
            && let Some((from, seq, cost)) = stream.advance()
        {
            if self.steps.back().is_none_or(|step| step.closed) {
                self.steps.push_back(Step::default());
            }
            if let Some(step) = self.steps.back_mut() {
                step.cost += cost;
                self.unread_cost += cost;
                self.waiting_cost -= cost;
                step.spans.entry(id).or_insert((from, from)).1 = seq.next();
            }
            injected += 1;
        }
        self.turns.handle_injected(injected);
    }

    /// Nothing of this stream can be injected: what it brought is discarded, its client keeps it, and others go on. The connection that carried
    /// it, if there is one, carries nothing any more.
    pub fn handle_uninjectable(&mut self, now: Time, id: StreamId) -> Option<ConnectionId> {
        let stream = self.by_id.get_mut(&id)?;
        self.waiting_cost -= stream.begin_epoch();
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
                    // Agents are named again in its next epoch: nothing but numbers is kept of it.
                    self.waiting_cost -= stream.begin_epoch();
                }
            }
            self.turns.leave(id);
        }
    }

    /// The next thing to tell a connection.
    pub fn poll_told(&mut self) -> Option<(ConnectionId, Told)> {
        let (window, doubtful) = (self.window(), self.doubtful);
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
                    };
                    return Some((connection, Told::Resume(resume)));
                }
                self.told.remove(&connection);
                if let Some(known) = known {
                    return Some((connection, Told::Ack(Ack { read: known.read, window, doubtful })));
                }
            }
            self.told.remove(&connection);
        }
    }

    /// Everything in remoted's socket is gone. What waited to be injected goes back too, where there is a client to have it: only there it can
    /// become too old.
    fn restart(&mut self) {
        self.steps.clear();
        self.unread_cost = 0;
        for stream in self.by_id.values_mut() {
            let Some(known) = &mut stream.known else {
                continue;
            };
            if known.injected > known.read || (stream.queued_cost > 0 && stream.connection.is_some()) {
                known.injected = known.read;
                self.waiting_cost -= stream.begin_epoch();
                self.told.extend(stream.connection);
            }
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
            for step in &mut self.steps {
                step.spans.remove(&id);
            }
        }
    }
}

impl Stream {
    /// What was under way to be injected counts for nothing: the client is told where to go on. Returns the buffer cost of what waited.
    fn begin_epoch(&mut self) -> u64 {
        self.epoch = self.epoch.wrapping_add(1);
        self.granted = 0;
        // Their memory goes too.
        (self.queue, self.named, self.sessions) = (VecDeque::new(), HashSet::new(), HashMap::new());
        self.resumes = true;
        if let Some(known) = &mut self.known {
            known.expected = known.injected;
        }
        std::mem::take(&mut self.queued_cost)
    }

    /// Takes what is no datagram off the front of the queue; whether a datagram is left.
    fn settle(&mut self) -> bool {
        loop {
            match self.queue.front() {
                None => return false,
                Some(Queued::Session(session)) => {
                    self.sessions.insert(session.name.id, *session);
                    self.queue.pop_front();
                }
                Some(Queued::Data(data, injected)) if data.items_from(*injected).next().is_some() => return true,
                Some(Queued::Data(..)) => {
                    self.queue.pop_front();
                }
            }
        }
    }

    /// The datagrams at the front, one frame's.
    fn items(&self) -> impl Iterator<Item = DataItem<'_>> {
        let front = match self.queue.front() {
            Some(Queued::Data(data, injected)) => Some(data.items_from(*injected)),
            Some(Queued::Session(_)) | None => None,
        };
        front.into_iter().flatten()
    }

    /// The datagram at the front was injected: from where on nothing had been, its number and its cost.
    fn advance(&mut self) -> Option<(Seq, Seq, u64)> {
        let item = self.items().next()?;
        let (seq, cost, span) = (item.seq, cost(&item), item.span());
        if let Some(Queued::Data(_, injected)) = self.queue.front_mut() {
            *injected += span;
        }
        self.queued_cost -= cost;
        let known = self.known.as_mut()?;
        let from = std::mem::replace(&mut known.injected, seq.next());
        known.reached = known.reached.max(known.injected);
        Some((from, seq, cost))
    }
}

fn cost(item: &DataItem<'_>) -> u64 {
    u64::from(buffer_cost(item.bytes.len()))
}
