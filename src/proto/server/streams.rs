//! Transport tcp at the server: it takes in clients' datagrams, and says what to inject, what to acknowledge and where
//! to resume.
//!
//! ```text
//!   client ──► handle_data ──► [ queue of its stream ] ──► poll ──► handle_injected ──► remoted's socket
//!      ◄── Resume, Ack ── poll_frame ◄──────────────────────────────────── handle_sample (what was read)
//! ```
//!
//! A *stream* is the numbered sequence of datagrams that one client sends from its start to its end. It travels over
//! one connection after the other, and its newest connection carries it. Datagrams that an older connection brought
//! and nobody injected are discarded. The newest connection is told to resume behind the last injected datagram.
//!
//! * **The client can replace everything here.** It keeps every datagram that is not acknowledged. The state of this
//!   room can be lost at any time.
//! * **Only read datagrams are acknowledged.** An injected datagram may still be lost, because remoted may die.
//!   A datagram has the mark of the second look after its injection (`steps`).
//! * **Datagrams that may have been dropped are injected again**, before anything newer of their stream. They are kept
//!   here until they are known to be in the socket. If the client wants no copies, they are acknowledged as doubtful
//!   instead.
//! * **Another life of remoted.** Unread datagrams are gone with the old socket, so each client that has some goes
//!   back to them.
//! * **Order.** Each stream has one queue and is injected from its front alone. Streams take turns. A restarted client
//!   has a new stream with the agents of the old one. So it follows the streams without a connection that still have
//!   datagrams here from the same address.
//!
//! This room does no input or output and reads no clock.

mod kept;
mod schedule;
mod steps;
mod stream;
#[cfg(test)]
mod tests;

pub use stream::Offence;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use crate::proto::cost::buffer_cost;
use crate::proto::terms::{ConnectionId, Incarnation, Reading, StreamId};
use crate::proto::time::Time;
use crate::proto::wire::{Data, Frame, Session};
use schedule::Schedule;
use steps::{Span, Steps};
use stream::{Injected, Stream};

/// The most that one client may have sent without an acknowledgement, in bytes of buffer cost. It allows 5,000 small
/// datagrams, or 50,000 a second over a path of 100 ms.
const WINDOW_MAX: u64 = 4 << 20;
/// The same limit for all clients together; each client has an equal part of it.
const WINDOWS_TOTAL: u64 = 64 << 20;
/// The smallest part: 20 small datagrams.
const WINDOW_MIN: u64 = 16 << 10;
/// With more waiting streams than this, a stream that loses its connection loses its queue too.
const WAITING_MAX: usize = 1_024;
/// The number of streams remembered. The stream without a connection for longest is forgotten first. If it comes back,
/// its client sends again every datagram that is not acknowledged.
const STREAMS_MAX: usize = 16_384;

/// All streams.
#[derive(Debug, Default)]
pub struct Streams {
    by_id: HashMap<StreamId, Stream>,
    connections: HashMap<ConnectionId, StreamId>,
    schedule: Schedule,
    steps: Steps,
    life: Incarnation,
    /// The connections with a frame to be sent.
    due: BTreeSet<ConnectionId>,
    waiting_cost: u64,
    repeated: u64,
}

/// The progress of all streams that a sample shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Datagrams were injected since the last sample: another sample soon shows more.
    pub more: bool,
    /// Some datagrams are known to be in remoted's socket.
    pub whole: bool,
}

/// Datagrams of one agent to inject, in this order.
#[derive(Debug)]
pub struct Volley<'a> {
    /// The stream of the datagrams.
    pub stream: StreamId,
    /// The address of its client.
    pub address: IpAddr,
    /// The agent that sent the datagrams.
    pub session: Session,
    /// The datagrams; at least one.
    pub payloads: Vec<&'a [u8]>,
}

impl Streams {
    /// From here on this connection carries this stream. Returns the connection that carried it before, which is of no
    /// more use. `once`: its client wants no datagram injected twice, even if it may have been dropped.
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
            leaders.for_each(|(&leader, _)| self.schedule.follow(id, leader));
        }
        let stream = self.by_id.entry(id).or_insert_with(|| Stream::new(now, address, once));
        (stream.address, stream.once) = (address, once);
        let before = stream.connection.replace(connection).filter(|&before| before != connection);
        self.waiting_cost -= stream.begin_epoch();
        if let Some(before) = before {
            self.connections.remove(&before);
            self.due.remove(&before);
        }
        self.connections.insert(connection, id);
        self.due.insert(connection);
        self.take_turns(id);
        before
    }

    /// A connection is gone. Its datagrams are still injected, because its client may never come back. If too much
    /// waits already, they are discarded, so that short connections cannot fill the memory.
    pub fn handle_gone(&mut self, now: Time, connection: ConnectionId) {
        self.due.remove(&connection);
        let crowded = self.waiting_cost > WINDOWS_TOTAL || self.schedule.len() > WAITING_MAX;
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

    /// Datagrams from a client.
    pub fn handle_data(&mut self, connection: ConnectionId, data: Data) -> Result<(), Offence> {
        let (id, stream) = self.attached(connection)?;
        let more = stream.handle_data(data)?;
        if more > 0 {
            self.waiting_cost += more;
            self.schedule.join(id);
        }
        Ok(())
    }

    /// Takes in a sample of remoted: its life (the default means none), and how far it has read.
    pub fn handle_sample(&mut self, life: Incarnation, reading: Reading) -> Progress {
        if life != self.life {
            self.life = life;
            self.restart();
            return Progress::default();
        }
        let progress = self.steps.handle_sample(reading);
        for (id, span) in &progress.settled {
            if let Some(stream) = self.by_id.get_mut(id) {
                stream.kept.handle_settled(span.until);
                if stream.has_nothing_left() {
                    if stream.connection.is_none() {
                        // The next epoch names the agents again, so only the numbers of this stream are kept.
                        stream.begin_epoch();
                    }
                    self.schedule.leave(*id);
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
                self.due.extend(stream.connection);
            }
        }
        let whole = progress.settled.iter().any(|(_, span)| !span.doubtful);
        Progress { more: progress.closed, whole }
    }

    /// The system dropped something on its way into remoted's socket since the last sample. It may be any datagram
    /// that is not known to be in the socket. Such datagrams are injected `again`, or count as doubtful.
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

    /// The number of datagrams injected again so far, because they may have been dropped.
    pub const fn repeated(&self) -> u64 {
        self.repeated
    }

    /// Some injected datagrams may yet turn out to have been dropped.
    pub fn is_unsettled(&self) -> bool {
        self.steps.are_unsettled()
    }

    /// The buffer cost of datagrams that were injected and not read, in bytes.
    pub const fn unread_cost(&self) -> u64 {
        self.steps.cost()
    }

    /// The buffer cost of the next datagram to inject; `None` if there is none.
    pub fn next_cost(&mut self) -> Option<u64> {
        let (id, _) = self.next_stream()?;
        self.by_id.get(&id)?.upcoming().next().map(|(_, bytes)| buffer_cost(bytes.len()))
    }

    /// The buffer cost of all datagrams that wait to be injected.
    pub const fn waiting_cost(&self) -> u64 {
        self.waiting_cost
    }

    /// The next datagrams to inject: as many as fit `room` bytes of buffer cost, and at most `most`.
    pub fn poll(&mut self, room: u64, most: usize) -> Option<Volley<'_>> {
        let (id, turn) = self.next_stream()?;
        let stream = self.by_id.get(&id)?;
        let (session, _) = stream.upcoming().next()?;
        let mut left = room;
        let fits = |(whose, bytes): &(Session, &[u8])| {
            let fits = *whose == session && buffer_cost(bytes.len()) <= left;
            left = left.saturating_sub(buffer_cost(bytes.len()));
            fits
        };
        let payloads: Vec<&[u8]> =
            stream.upcoming().take(turn.min(most)).take_while(fits).map(|(_, bytes)| bytes).collect();
        (!payloads.is_empty()).then_some(Volley { stream: id, address: stream.address, session, payloads })
    }

    /// The first `count` datagrams of the volley from [`Self::poll`] were injected. Returns their buffer cost.
    pub fn handle_injected(&mut self, count: usize) -> u64 {
        let Some((id, _)) = self.schedule.first() else {
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
        self.schedule.handle_injected(injected);
        sum
    }

    /// No datagram of this stream can be injected. Its datagrams are discarded, its client keeps them, and other
    /// streams go on. Returns the connection that carried the stream, if any; it carries nothing any more.
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

    fn next_stream(&mut self) -> Option<(StreamId, usize)> {
        loop {
            let (id, turn) = self.schedule.first()?;
            if let Some(stream) = self.by_id.get_mut(&id) {
                if stream.skip_names() {
                    return Some((id, turn));
                }
                if stream.connection.is_none() {
                    // The next epoch names the agents again, and each kept datagram carries its session.
                    self.waiting_cost -= stream.begin_epoch();
                }
            }
            self.take_turns(id);
        }
    }

    /// A stream has turns while it has something to inject. Its followers also wait while it has datagrams that may
    /// have been dropped.
    fn take_turns(&mut self, id: StreamId) {
        match self.by_id.get(&id) {
            Some(stream) if stream.queued_cost > 0 => self.schedule.join(id),
            Some(stream) if !stream.kept.is_empty() => self.schedule.rest(id),
            Some(_) | None => self.schedule.leave(id),
        }
    }

    /// The next frame for a connection: where to resume, or the datagrams that remoted has read.
    pub fn poll_frame(&mut self) -> Option<(ConnectionId, Frame)> {
        let window = self.window();
        loop {
            let &connection = self.due.first()?;
            let stream = self.connections.get(&connection).and_then(|id| self.by_id.get_mut(id));
            let frame = stream.and_then(|stream| stream.poll_frame(window));
            // An `Ack` follows a `Resume`.
            if !matches!(frame, Some(Frame::Resume(_))) {
                self.due.remove(&connection);
            }
            if let Some(frame) = frame {
                return Some((connection, frame));
            }
        }
    }

    /// Everything in remoted's socket is gone. Waiting datagrams also go back to their client if it is connected,
    /// because only the client drops them when they are too old.
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
                self.due.extend(stream.connection);
                went_back.push(id);
            }
        }
        for id in went_back {
            self.take_turns(id);
        }
    }

    fn window(&self) -> u64 {
        (WINDOWS_TOTAL / self.connections.len().max(1) as u64).clamp(WINDOW_MIN, WINDOW_MAX)
    }

    fn attached(&mut self, connection: ConnectionId) -> Result<(StreamId, &mut Stream), Offence> {
        let id = *self.connections.get(&connection).ok_or(Offence::Unattached)?;
        let stream = self.by_id.get_mut(&id).ok_or(Offence::Unattached)?;
        Ok((id, stream))
    }

    fn make_room(&mut self, newcomer: StreamId) {
        if self.by_id.len() < STREAMS_MAX || self.by_id.contains_key(&newcomer) {
            return;
        }
        let parted = self.by_id.iter().filter(|(_, stream)| stream.connection.is_none());
        if let Some((&id, _)) = parted.min_by_key(|(_, stream)| stream.parted) {
            self.waiting_cost -= self.by_id.remove(&id).map_or(0, |stream| stream.queued_cost);
            self.schedule.forget(id);
            // If the stream comes back, its numbers begin anew.
            self.steps.forget(id);
        }
    }
}
