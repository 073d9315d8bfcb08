//! The server's whole logic: verdict, windows and the streams of transport tcp as one state machine.
//!
//! ```text
//!                      ┌─────────────────────┐
//!                      │        judge        │ ◄── handle_sample ── remoted
//!   client ── ping ──► │   judge, windows    │ ── pong ──► client
//!   client ── data ──► │ streams, pacing     │ ── poll, handle_injected ──► remoted's socket
//!                      └─────────────────────┘ ── poll_frame: where to go on, what was read ──► client
//! ```
//!
//! * `judge`: the verdict and F, from samples of remoted.
//! * `windows`: how much each client may have under way; injection counts as one more client.
//! * `streams`: datagrams that wait for injection, and the fate of injected datagrams.
//! * `pacing`: how much is injected behind each sample. `overflow`: whether remoted's socket drops.
//!
//! The serving thread calls one method for each event and does the input and output. The simulation does the same on
//! virtual time.

pub mod allotment;
pub mod conversation;
pub mod delivery;
pub mod judge;
mod overflow;
mod pacing;
pub mod passages;
pub mod streams;
#[cfg(test)]
mod tests;
pub mod windows;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::proto::cost::buffer_cost;
use crate::proto::terms::{ConnectionId, DATAGRAM_BYTES_MAX, LEASE_MAX, StreamId, Verdict};
use crate::proto::time::Time;
use crate::proto::wire::{Data, Frame, Ping, Pong, Session};
use delivery::Delivery;
use judge::{Judge, OnTheWay, Sample};
use overflow::Overflow;
use pacing::Pacing;
use streams::{Offence, Streams, Volley};
use windows::{Capacity, Demand, Grant, Windows, usable};

/// remoted's buffer where the system does not tell: the kernel's default.
const BUFFER_BYTES_DEFAULT: u64 = 212_992;
/// The most that a client can have under way: no receive buffer is larger.
const CLAIM_BYTES_MAX: u64 = 1 << 32;
/// Injection asks for windows like one client among the others. Connections are numbered from 0.
const INJECTOR: ConnectionId = ConnectionId::MAX;
/// The lifetime of a grant to injection. Its datagrams reach remoted's socket at once, so it uses a grant at once or
/// asks for another.
const INJECTION_LEASE: Duration = Duration::from_millis(5);
/// How often to look unasked while clients wait for remoted, so that they soon learn of it.
const AWAY_LOOK_GAP: Duration = Duration::from_millis(500);
/// How often to look while datagrams wait in remoted's socket. With rarer looks, a socket that fills as fast as it is
/// read would seem to stand still.
const QUEUE_LOOK_GAP: Duration = Duration::from_millis(50);

/// The server's logic. See the head of this file.
#[derive(Debug)]
pub struct ServerCore {
    judge: Judge,
    windows: Windows,
    overflow: Overflow,
    streams: Streams,
    pacing: Pacing,
    sampled: Time,
}

impl ServerCore {
    /// A core that has seen nothing. `settle`: how long remoted counts as starting. `step_datagrams_max`: the number
    /// of datagrams that the system surely takes in a row.
    pub fn new(settle: Duration, step_datagrams_max: usize) -> Self {
        Self {
            judge: Judge::new(settle),
            windows: Windows::default(),
            overflow: Overflow::default(),
            streams: Streams::default(),
            pacing: Pacing::new(step_datagrams_max),
            sampled: Time::ZERO,
        }
    }

    /// The judge, with its conclusions from the newest sample.
    pub const fn judge(&self) -> &Judge {
        &self.judge
    }

    /// The streams of all clients.
    pub const fn streams(&self) -> &Streams {
        &self.streams
    }

    /// The verdict from the newest sample for a client whose datagrams come to remoted like this.
    pub fn verdict_for(&self, delivery: Delivery) -> Verdict {
        match delivery {
            Delivery::Direct(to) => self.judge.verdict_at(to),
            Delivery::Injected => self.judge.verdict(),
        }
    }

    /// Takes in a sample. `on_the_way`: packets that have not reached a socket, if the caller looked at them.
    ///
    /// Until [`Self::end_step`] datagrams may be injected, unless remoted is `lost`: the sample shows that it is not
    /// where it was found.
    pub fn handle_sample(&mut self, now: Time, sample: &Sample, on_the_way: Option<OnTheWay>, lost: bool) {
        self.sampled = now;
        let before = self.judge.reading();
        self.judge.handle_sample(now, sample);
        let (life, reading) = (self.judge.incarnation(), self.judge.reading());
        let has_dropped = self.overflow.handle_sample(now, self.judge.drops(), on_the_way);
        let is_up = self.judge.verdict() == Verdict::Up;
        if is_up {
            self.windows.handle_queue(now, self.judge.backlog(), self.overflow.is_in_socket(now));
        }
        let puts_off = self.pacing.puts_off(now, has_dropped, &self.overflow, self.is_busy());
        if has_dropped {
            self.streams.handle_drop(puts_off);
        }
        let unread = self.streams.unread_cost();
        let progress = self.streams.handle_sample(life, reading);
        if progress.whole || !self.is_busy() {
            self.pacing.handle_calm();
        }
        let news = progress.more || has_dropped || reading.read != before.read || self.streams.unread_cost() < unread;
        self.pacing.handle_news(news);
        if lost || puts_off || !is_up {
            self.pacing.end_step();
        } else {
            self.pacing.begin_step(now, &self.overflow, self.streams.is_unsettled(), self.room());
        }
    }

    /// No more datagrams are injected before the next sample.
    pub const fn end_step(&mut self) {
        self.pacing.end_step();
    }

    /// A connection is gone.
    pub fn handle_gone(&mut self, now: Time, connection: ConnectionId) {
        self.windows.handle_gone(connection);
        self.streams.handle_gone(now, connection);
    }

    /// Answers a client at this address from the newest sample. `gap`: the least time between the beginnings of two
    /// heartbeats.
    pub fn handle_ping(
        &mut self,
        now: Time,
        connection: ConnectionId,
        address: IpAddr,
        delivery: Delivery,
        ping: &Ping,
        gap: Duration,
    ) -> Pong {
        let verdict = self.verdict_for(delivery);
        let ping = match delivery {
            Delivery::Direct(_) => *ping,
            // This server injects the client's datagrams: a window for them would keep that room from injection.
            Delivery::Injected => Ping { unsent: 0, unconfirmed_cost: 0, ..*ping },
        };
        let grant = if verdict == Verdict::Up {
            self.grant(now, demand(connection, address, &ping), ping.unsent_cost())
        } else {
            Grant::NONE
        };
        let reading = self.judge.reading();
        Pong {
            number: ping.number,
            verdict,
            incarnation: self.judge.incarnation(),
            pid: self.judge.pid(),
            read: reading.read,
            queue: reading.queue,
            drops: self.judge.drops(),
            window: grant.window,
            gap_us: u32::try_from(gap.as_micros()).unwrap_or(u32::MAX),
            ask_again_ms: u32::try_from(grant.ask_again.as_millis()).unwrap_or(u32::MAX),
            active: u32::try_from(self.windows.active(now)).unwrap_or(u32::MAX),
        }
    }

    /// From here on this connection carries this stream. Returns the connection that carried it before, which is to be
    /// closed. `once`: no datagram of the stream is injected twice.
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

    /// Datagrams from a client.
    pub fn handle_data(&mut self, connection: ConnectionId, data: Data) -> Result<(), Offence> {
        if self.streams.waiting_cost() == 0 {
            self.pacing.handle_work();
        }
        self.streams.handle_data(connection, data)
    }

    /// The next datagrams to inject, if remoted can take them at this moment.
    pub fn poll(&mut self, now: Time) -> Option<Volley<'_>> {
        let Some(next) = self.streams.next_cost() else {
            // Others need not share with injection.
            self.windows.handle_gone(INJECTOR);
            return None;
        };
        let (datagrams, bytes) = self.pacing.left(next)?;
        let unread = self.streams.unread_cost();
        let demand = Demand {
            client: INJECTOR,
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            wants: true,
            next_cost: next,
            unconfirmed_cost: unread,
            lease: INJECTION_LEASE,
        };
        let window = self.grant(now, demand, self.streams.waiting_cost().min(bytes)).window;
        self.streams.poll(window.saturating_sub(unread).min(bytes), datagrams)
    }

    /// The first `count` datagrams of the volley from [`Self::poll`] were injected.
    pub fn handle_injected(&mut self, count: usize) {
        let cost = self.streams.handle_injected(count);
        self.pacing.handle_injected(count, cost);
    }

    /// No datagram of this stream can be injected. Returns the connection to be told so, if there is one.
    pub fn handle_uninjectable(&mut self, now: Time, stream: StreamId) -> Option<ConnectionId> {
        self.streams.handle_uninjectable(now, stream)
    }

    /// Datagrams wait to be injected, or were injected and not read.
    pub const fn is_busy(&self) -> bool {
        self.streams.unread_cost() > 0 || self.streams.waiting_cost() > 0
    }

    /// The next frame for a connection.
    pub fn poll_frame(&mut self) -> Option<(ConnectionId, Frame)> {
        self.streams.poll_frame()
    }

    /// When to look at remoted unasked: for waiting clients, for a queue in remoted's socket, and for datagrams to be
    /// injected or read.
    pub fn next_look(&self) -> Option<Time> {
        let verdict = self.judge.verdict();
        let watch = match verdict {
            Verdict::Up if self.judge.reading().queue == 0 => None,
            Verdict::Up | Verdict::Stalled => Some(QUEUE_LOOK_GAP),
            Verdict::NoProcess(_) | Verdict::NoSocket(_) | Verdict::Stopped | Verdict::Starting(_) => {
                Some(AWAY_LOOK_GAP)
            }
        };
        let may_read = matches!(verdict, Verdict::Up | Verdict::Stalled);
        let pace = (self.is_busy() && may_read).then(|| self.pacing.look_gap());
        let gap = watch.into_iter().chain(pace).min()?;
        Some(self.sampled + gap)
    }

    /// The bytes that surely fit into remoted's socket, as the newest sample shows it.
    fn room(&self) -> u64 {
        usable(self.buffer()).saturating_sub(self.judge.backlog())
    }

    fn buffer(&self) -> u64 {
        self.judge.buffer().unwrap_or(BUFFER_BYTES_DEFAULT)
    }

    fn grant(&mut self, now: Time, demand: Demand, need: u64) -> Grant {
        if self.judge.verdict() != Verdict::Up {
            return Grant::NONE;
        }
        let capacity = Capacity {
            buffer: self.buffer(),
            queue: self.judge.backlog(),
            overflows: self.overflow.is_in_socket(now),
            reads: self.judge.is_reading(now),
        };
        self.windows.handle_demand(now, demand, need.min(CLAIM_BYTES_MAX), capacity)
    }
}

/// The demand in a heartbeat. A client's report is believed within reason.
fn demand(client: ConnectionId, address: IpAddr, ping: &Ping) -> Demand {
    Demand {
        client,
        address,
        wants: ping.unsent > 0,
        next_cost: ping.next_cost.min(buffer_cost(DATAGRAM_BYTES_MAX)),
        unconfirmed_cost: ping.unconfirmed_cost.min(CLAIM_BYTES_MAX),
        lease: Duration::from_millis(u64::from(ping.lease_ms)).min(LEASE_MAX),
    }
}
