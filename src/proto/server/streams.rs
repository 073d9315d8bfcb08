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
mod stream;
#[cfg(test)]
mod tests;
mod turns;

pub use stream::{Offence, Told};

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use crate::proto::terms::{ConnectionId, Incarnation, StreamId};
use crate::proto::time::Time;
use crate::proto::wire::{Data, Session};
use kept::cost;
use steps::{Span, Steps};
use stream::{Injected, Stream};
use turns::Turns;

/// Most that one client may have sent and not seen acknowledged, in bytes of buffer cost: 5,000 small datagrams, or what 50,000 a second are over a
/// path of 100 ms.
const WINDOW_MAX: u64 = 4 << 20;
/// The same for all of them together; a client has an equal part of it.
const WINDOWS_TOTAL: u64 = 64 << 20;
/// The least part: 20 small datagrams.
const WINDOW_MIN: u64 = 16 << 10;
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
        let stream = self.by_id.entry(id).or_insert_with(|| Stream::new(now, address, once));
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
        self.attached(connection)?.1.handle_session(session)
    }

    /// Datagrams of a client.
    pub fn handle_data(&mut self, connection: ConnectionId, data: Data) -> Result<(), Offence> {
        let (id, stream) = self.attached(connection)?;
        let more = stream.handle_data(data)?;
        if more > 0 {
            self.waiting_cost += more;
            self.turns.join(id);
        }
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
            let told = stream.and_then(|stream| stream.poll_told(window));
            // What was read follows where to go on.
            if !matches!(told, Some(Told::Resume(_))) {
                self.told.remove(&connection);
            }
            if let Some(told) = told {
                return Some((connection, told));
            }
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
