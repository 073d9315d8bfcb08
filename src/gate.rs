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

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::time::Duration;

use crate::streams::{ConnectionId, Offence, StreamId, Streams, Told, Volley};
use crate::time::Time;
use crate::verdict::{Judge, Responder, Sample};
use crate::wire::{Data, Ping, Pong, Session, Verdict};

/// While something that was injected has not been read, remoted is looked at so soon again, and twice as late each time that shows nothing new.
const LOOK_GAP_MIN: Duration = Duration::from_millis(1);
const LOOK_GAP_MAX: Duration = Duration::from_millis(50);

/// The server's logic. See the head of this file.
#[derive(Debug)]
pub struct Gate {
    responder: Responder,
    streams: Streams,
    drops: u64,
    /// Clients were sent back after a drop, and nothing has been acknowledged since.
    went_back: bool,
    /// The drops are others' doing, until there have been none for a while.
    others_drop: bool,
    look_gap: Duration,
    read: u64,
    sampled: Time,
}

impl Gate {
    /// One that has seen nothing. `settle`: how long remoted counts as starting.
    pub fn new(settle: Duration) -> Self {
        Self {
            responder: Responder::new(settle),
            streams: Streams::default(),
            drops: 0,
            went_back: false,
            others_drop: false,
            look_gap: LOOK_GAP_MIN,
            read: 0,
            sampled: Time::ZERO,
        }
    }

    /// What the newest sample led to.
    pub const fn judge(&self) -> &Judge {
        self.responder.judge()
    }

    /// Takes in a sample.
    pub fn handle_sample(&mut self, now: Time, sample: &Sample) {
        self.sampled = now;
        self.responder.handle_sample(now, sample);
        let judge = self.responder.judge();
        let (life, read, queue) = (judge.incarnation(), judge.read(), judge.queue());
        let overflows = self.responder.overflows(now);
        self.others_drop &= overflows;
        if judge.drops() > self.drops {
            // Perhaps ours. If it drops again before anything was read, it is others' doing, and to go back again and again would lead nowhere.
            if self.went_back {
                self.others_drop = true;
            } else if !self.others_drop {
                self.went_back = self.streams.handle_overflow();
            }
        }
        self.drops = judge.drops();
        self.streams.set_doubtful(overflows);
        let unread = self.streams.unread_cost();
        let more = self.streams.handle_sample(life, read, queue);
        self.went_back &= self.streams.unread_cost() >= unread;
        let news = more || read != self.read || self.streams.unread_cost() < unread;
        self.look_gap = if news { LOOK_GAP_MIN } else { (2 * self.look_gap).min(LOOK_GAP_MAX) };
        self.read = read;
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
        destination: Option<IpAddr>,
        ping: &Ping,
        gap: Duration,
    ) -> Pong {
        if self.streams.carries(connection) {
            // Its datagrams do not go to remoted by themselves.
            let ping = Ping { unsent: 0, unconfirmed_cost: 0, ..*ping };
            return self.responder.handle_ping(now, connection, address, None, &ping, gap);
        }
        self.responder.handle_ping(now, connection, address, destination, ping, gap)
    }

    /// A connection carries a stream from here on. The one that did before, if any, is to be closed.
    pub fn handle_attach(
        &mut self,
        now: Time,
        connection: ConnectionId,
        stream: StreamId,
        address: IpAddr,
    ) -> Option<ConnectionId> {
        self.streams.handle_attach(now, connection, stream, address)
    }

    /// An agent behind a client.
    pub fn handle_session(&mut self, connection: ConnectionId, session: Session) -> Result<(), Offence> {
        self.streams.handle_session(connection, session)
    }

    /// Datagrams of a client.
    pub fn handle_data(&mut self, connection: ConnectionId, data: Data) -> Result<(), Offence> {
        self.streams.handle_data(connection, data)
    }

    /// The next datagrams to inject, if remoted can take them at this moment.
    pub fn poll(&mut self, now: Time) -> Option<Volley<'_>> {
        if self.responder.judge().verdict() != Verdict::Up {
            return None;
        }
        let Some(next) = self.streams.next_cost() else {
            self.responder.handle_injected_all();
            return None;
        };
        let (waiting, unread) = (self.streams.waiting_cost(), self.streams.unread_cost());
        let room = self.responder.handle_injection(now, next, waiting, unread);
        self.streams.poll(room)
    }

    /// The first `count` datagrams of the volley that [`Self::poll`] gave were injected.
    pub fn handle_injected(&mut self, count: usize) {
        self.streams.handle_injected(count);
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
