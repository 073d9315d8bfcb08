//! The server's whole logic: verdict, windows and the streams of transport tcp as one state machine.
//!
//! ```text
//!                      ┌───────────┐ ◄── handle_sample ── remoted
//!   client ── ping ──► │ responder │ ── pong ──► client
//!                      │           │
//!   client ── data ──► │  streams  │ ── poll, handle_injected ──► remoted's socket
//!                      └───────────┘ ── poll_told: where to go on, what was read ──► client
//! ```
//!
//! The serving thread calls one method for each thing that comes in and does the input and output; the simulation does the same on virtual time.
//!
//! **Steps.** Something is injected only right behind a sample, one step behind each: what the sample shows of remoted holds for the few
//! microseconds until then. While the socket overflows by others' doing (a drop within the last `CALM`) a step is *careful*: it takes a quarter of
//! the room that there is, so that others would have to fill the rest while it is sent; where there is none it is one datagram, since of two the
//! first could be dropped and the second not, and OSSEC would refuse the first ever after. The next one waits until it is known what became of it.
//! If something was dropped meanwhile, it is injected again; but not for longer than `PATIENCE` in a row.

pub mod allotment;
pub mod conversation;
pub mod destination;
pub mod judge;
pub mod passages;
pub mod responder;
pub mod streams;
#[cfg(test)]
mod tests;
pub mod windows;

use std::net::IpAddr;
use std::time::Duration;

use crate::proto::server::judge::{Judge, OnTheWay, Sample};
use crate::proto::server::responder::Responder;
use crate::proto::server::streams::{Offence, Streams, Told, Volley};
use crate::proto::terms::Verdict;
use crate::proto::terms::{ConnectionId, StreamId};
use crate::proto::time::Time;
use crate::proto::wire::{Data, Ping, Pong, Session};

/// How long a way that dropped something is used with care.
const CALM: Duration = Duration::from_secs(10);
/// While each step is followed by a drop, so long nothing is taken for delivered; after that it counts as doubtful, so that nobody can stop the
/// streams for ever. It is what a remoted that reads 64 datagrams a second takes for the lot that the kernel frees at once.
const PATIENCE: Duration = Duration::from_secs(1);
/// A careful step takes this part of the room at most.
const CAREFUL_PART: u64 = 4;

/// While something that was injected has not been read, remoted is looked at so soon again, and twice as late each time that shows nothing new.
const LOOK_GAP_MIN: Duration = Duration::from_millis(1);
const LOOK_GAP_MAX: Duration = Duration::from_millis(50);

/// The server's logic. See the head of this file.
#[derive(Debug)]
pub struct ServerCore {
    responder: Responder,
    streams: Streams,
    drops: u64,
    /// What was on its way to whatever socket when that was looked at last.
    on_the_way: Option<OnTheWay>,
    /// When something was seen to have been dropped last.
    dropped: Option<Time>,
    /// Since when each step was followed by a drop, or could not be taken for one.
    impatient_since: Option<Time>,
    /// Most datagrams of a step.
    step_max: usize,
    /// What may be injected behind the newest sample.
    step: Option<Step>,
    look_gap: Duration,
    read: u64,
    sampled: Time,
}

/// How a client's datagrams come to remoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The client sends them to this address of the server's host, if that is known and matters.
    Direct(Option<IpAddr>),
    /// They come over the connection, and this server injects them.
    Injected,
}

/// A step that is not over.
#[derive(Clone, Copy, Debug)]
struct Step {
    /// How many more datagrams.
    datagrams: usize,
    /// How much more, in buffer cost; none of it was used: one datagram, whatever it costs.
    bytes: u64,
    is_fresh: bool,
}

impl ServerCore {
    /// One that has seen nothing. `settle`: how long remoted counts as starting. `step_max`: how many datagrams the system surely takes in a row.
    pub fn new(settle: Duration, step_max: usize) -> Self {
        Self {
            responder: Responder::new(settle),
            streams: Streams::default(),
            drops: 0,
            on_the_way: None,
            dropped: None,
            impatient_since: None,
            step_max,
            step: None,
            look_gap: LOOK_GAP_MIN,
            read: 0,
            sampled: Time::ZERO,
        }
    }

    /// What the newest sample led to.
    pub const fn judge(&self) -> &Judge {
        self.responder.judge()
    }

    /// Takes in a sample. `on_the_way`: what has not come to a socket, if that was looked at.
    ///
    /// Until [`Self::end_step`] something may be injected, unless the sample shows that remoted is not where it was found: `lost`.
    pub fn handle_sample(&mut self, now: Time, sample: &Sample, on_the_way: Option<OnTheWay>, lost: bool) {
        self.sampled = now;
        self.responder.handle_sample(now, sample);
        let judge = self.responder.judge();
        let (life, read, queue) = (judge.incarnation(), judge.read(), judge.queue());
        let dropped_before = self.on_the_way.zip(on_the_way).is_some_and(|(before, now)| now.dropped > before.dropped);
        let has_dropped = judge.drops() > self.drops || dropped_before;
        if judge.drops() < self.drops {
            // Another life, whose socket has dropped nothing.
            self.dropped = None;
        }
        (self.drops, self.on_the_way) = (judge.drops(), on_the_way);
        let puts_off = (has_dropped || self.queue_room() == 0) && self.is_patient(now);
        if has_dropped {
            self.dropped = Some(now);
            self.streams.handle_drop(puts_off);
        }
        let unread = self.streams.unread_cost();
        let progress = self.streams.handle_sample(life, read, queue);
        if progress.whole || !self.is_busy() {
            self.impatient_since = None;
        }
        let news = progress.more || has_dropped || read != self.read || self.streams.unread_cost() < unread;
        self.look_gap = if news { LOOK_GAP_MIN } else { (2 * self.look_gap).min(LOOK_GAP_MAX) };
        self.read = read;
        self.step = if lost || puts_off { None } else { self.begin_step(now) };
    }

    /// A drop is a reason to wait, and to inject again: it has not been one for long.
    fn is_patient(&mut self, now: Time) -> bool {
        self.is_busy() && now.since(*self.impatient_since.get_or_insert(now)) < PATIENCE
    }

    /// How many datagrams the system surely takes: what waits there has not come to a socket yet.
    fn queue_room(&self) -> usize {
        self.step_max.saturating_sub(self.on_the_way.map_or(0, |on_the_way| on_the_way.longest))
    }

    fn begin_step(&self, now: Time) -> Option<Step> {
        if self.responder.judge().verdict() != Verdict::Up {
            return None;
        }
        let is_careful = self.dropped.is_some_and(|dropped| now.since(dropped) < CALM);
        if is_careful && self.streams.is_unsettled() {
            return None;
        }
        let bytes = if is_careful { self.responder.room() / CAREFUL_PART } else { u64::MAX };
        Some(Step { datagrams: self.queue_room().max(1), bytes, is_fresh: true })
    }

    /// No more is injected before the next sample.
    pub const fn end_step(&mut self) {
        self.step = None;
    }

    /// A connection is gone.
    pub fn handle_gone(&mut self, now: Time, connection: ConnectionId) {
        self.responder.handle_gone(connection);
        self.streams.handle_gone(now, connection);
    }

    /// Answers a heartbeat. See [`Responder::handle_ping`].
    pub fn handle_ping(
        &mut self,
        now: Time,
        connection: ConnectionId,
        address: IpAddr,
        delivery: Delivery,
        ping: &Ping,
        gap: Duration,
    ) -> Pong {
        match delivery {
            Delivery::Direct(to) => self.responder.handle_ping(now, connection, address, to, ping, gap),
            // A window for its datagrams would keep room in remoted's buffer from this server, which injects them.
            Delivery::Injected => {
                let ping = Ping { unsent: 0, unconfirmed_cost: 0, ..*ping };
                self.responder.handle_ping(now, connection, address, None, &ping, gap)
            }
        }
    }

    /// A connection carries a stream from here on. The one that did before, if any, is to be closed. `once`: nothing of it is injected twice.
    pub fn handle_attach(
        &mut self,
        now: Time,
        connection: ConnectionId,
        stream: StreamId,
        address: IpAddr,
        once: bool,
    ) -> Option<ConnectionId> {
        self.streams.handle_attach(now, connection, stream, address, once)
    }

    /// An agent behind a client.
    pub fn handle_session(&mut self, connection: ConnectionId, session: Session) -> Result<(), Offence> {
        self.streams.handle_session(connection, session)
    }

    /// Datagrams of a client.
    pub fn handle_data(&mut self, connection: ConnectionId, data: Data) -> Result<(), Offence> {
        if self.streams.waiting_cost() == 0 {
            // The last look is old.
            self.look_gap = LOOK_GAP_MIN;
        }
        self.streams.handle_data(connection, data)
    }

    /// The next datagrams to inject, if remoted can take them at this moment.
    pub fn poll(&mut self, now: Time) -> Option<Volley<'_>> {
        let Some(next) = self.streams.next_cost() else {
            self.responder.handle_injected_all();
            return None;
        };
        let step = self.step.filter(|step| step.datagrams > 0)?;
        let bytes = if step.is_fresh { step.bytes.max(next) } else { step.bytes };
        let need = self.streams.waiting_cost().min(bytes);
        let room = self.responder.handle_injection(now, next, need, self.streams.unread_cost());
        self.streams.poll(room.min(bytes), step.datagrams)
    }

    /// The first `count` datagrams of the volley that [`Self::poll`] gave were injected.
    pub fn handle_injected(&mut self, count: usize) {
        let cost = self.streams.handle_injected(count);
        if let Some(step) = &mut self.step {
            step.datagrams = step.datagrams.saturating_sub(count);
            step.bytes = step.bytes.saturating_sub(cost);
            step.is_fresh &= count == 0;
        }
        self.look_gap = LOOK_GAP_MIN;
    }

    /// Nothing of this stream can be injected. The connection that is to be told so, if there is one.
    pub fn handle_uninjectable(&mut self, now: Time, stream: StreamId) -> Option<ConnectionId> {
        self.streams.handle_uninjectable(now, stream)
    }

    /// The connection that carries this stream.
    pub fn connection(&self, stream: StreamId) -> Option<ConnectionId> {
        self.streams.connection(stream)
    }

    /// This connection carries a stream.
    pub fn carries(&self, connection: ConnectionId) -> bool {
        self.streams.carries(connection)
    }

    /// Buffer cost of what was injected and has not been read.
    pub const fn unread_cost(&self) -> u64 {
        self.streams.unread_cost()
    }

    /// Datagrams that were injected again so far, because they may have been dropped.
    pub const fn repeated(&self) -> u64 {
        self.streams.repeated()
    }

    /// Something waits to be injected, or was injected and has not been read.
    pub const fn is_busy(&self) -> bool {
        self.streams.unread_cost() > 0 || self.streams.waiting_cost() > 0
    }

    /// The next thing to tell a connection.
    pub fn poll_told(&mut self) -> Option<(ConnectionId, Told)> {
        self.streams.poll_told()
    }

    /// When to look at remoted unasked.
    pub fn next_look(&self) -> Option<Time> {
        let gap = match (self.is_busy(), self.responder.judge().verdict(), self.responder.watch_gap()) {
            (true, Verdict::Up | Verdict::Stalled, gap) => {
                Some(gap.map_or(self.look_gap, |gap| gap.min(self.look_gap)))
            }
            (_, _, gap) => gap,
        };
        gap.map(|gap| self.sampled + gap)
    }
}
