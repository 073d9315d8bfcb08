//! The broker server: the real verdict and windows, its serving loop made up.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ossec_broker::verdict::{Grant, Judge, Request, Room, Windows};
use ossec_broker::wire::{Ping, Pong, Verdict};

use super::{Event, World, nanos, time};
use crate::plan::{Fault, MS, Plan, SECOND};
use crate::remoted::BUFFER;

/// Between two looks at remoted.
const SAMPLE_GAP: u64 = MS;
/// What a look takes.
const SAMPLE: u64 = 20_000;
/// How often a socket that is not empty is looked at without a ping, and a remoted that is away.
const WATCH_QUEUE: u64 = 50 * MS;
const WATCH_AWAY: u64 = 500 * MS;
/// Others count as overflowing the socket for so long after a drop.
const OVERFLOWS: u64 = 10 * SECOND;

pub(super) struct Server {
    pub(super) alive: bool,
    /// When remoted is looked at next.
    next_look: Option<u64>,
    connections: Vec<Option<u64>>,
    waiting: Vec<(usize, u64, Ping)>,
    looked: u64,
    judge: Judge,
    windows: Windows,
    told: Option<Verdict>,
    drops: u64,
    overflowed: Option<u64>,
}

impl Server {
    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            alive: true,
            next_look: None,
            connections: vec![None; plan.clients],
            waiting: Vec::new(),
            looked: 0,
            judge: Judge::new(plan.settle),
            windows: Windows::default(),
            told: None,
            drops: 0,
            overflowed: None,
        }
    }

    /// A process anew: it remembers nothing.
    pub(super) fn start(&mut self, plan: &Plan) {
        *self = Self::new(plan);
    }

    /// The process is gone; its connections.
    pub(super) fn kill(&mut self) -> Vec<Option<u64>> {
        self.alive = false;
        self.next_look = None;
        self.waiting.clear();
        let none = vec![None; self.connections.len()];
        std::mem::replace(&mut self.connections, none)
    }

    pub(super) fn disconnect(&mut self, client: usize) -> Option<u64> {
        let connection = self.connections[client].take()?;
        self.windows.handle_gone(connection);
        Some(connection)
    }

    fn overflows(&self, now: u64) -> bool {
        self.overflowed.is_some_and(|at| now < at + OVERFLOWS)
    }

    /// Takes a new connection, if the process is there.
    pub(super) fn connect(&mut self, client: usize, connection: u64) -> bool {
        if self.alive {
            self.connections[client] = Some(connection);
        }
        self.alive
    }

    fn answer(&mut self, now: u64, (client, connection, ping): (usize, u64, Ping)) -> Pong {
        let (now, judge) = (time(now), &self.judge);
        let request = Request {
            client: connection,
            address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, client as u8 + 1)),
            wants: ping.unsent > 0,
            next_cost: u64::from(ping.next_cost),
            unconfirmed_cost: ping.unconfirmed_cost,
            lease: Duration::from_millis(u64::from(ping.lease_ms)),
        };
        let reads = judge.is_reading(now);
        let overflows = self.overflows(nanos(now));
        let room = Room { buffer: judge.buffer().unwrap_or(BUFFER), queue: judge.queue(), overflows, reads };
        let grant = if judge.verdict() == Verdict::Up {
            self.windows.handle_request(now, request, room)
        } else {
            Grant { window: 0, ask_again: Duration::ZERO }
        };
        Pong {
            number: ping.number,
            verdict: judge.verdict(),
            incarnation: judge.incarnation(),
            pid: judge.pid(),
            read: judge.read(),
            queue: judge.queue(),
            drops: judge.drops(),
            window: grant.window,
            gap_us: (SAMPLE_GAP / 1_000) as u32,
            ask_again_ms: grant.ask_again.as_millis() as u32,
            active: self.windows.active(now) as u32,
        }
    }
}

impl World<'_> {
    /// Until when the broker server's process is stopped, if it is.
    pub(super) fn server_stopped(&self) -> Option<u64> {
        let stops = self.plan.faults.iter().filter(|timed| matches!(timed.fault, Fault::StopServer));
        stops.filter(|timed| timed.from <= self.now && self.now < timed.to).map(|timed| timed.to).max()
    }

    pub(super) fn ping_arrives(&mut self, client: usize, connection: u64, ping: Ping) {
        if !self.server.alive || self.server.connections[client] != Some(connection) {
            return self.reset(client, connection);
        }
        self.server.waiting.push((client, connection, ping));
        self.look_at((self.now + SAMPLE).max(self.server.looked + SAMPLE_GAP));
    }

    fn look_at(&mut self, at: u64) {
        if self.server.next_look.is_none_or(|next| at < next) {
            self.server.next_look = Some(at);
            self.at(at, Event::Looks);
        }
    }

    pub(super) fn looks(&mut self) {
        if self.server.next_look != Some(self.now) || !self.server.alive {
            return;
        }
        self.server.next_look = None;
        if let Some(until) = self.server_stopped() {
            return self.look_at(until);
        }
        self.server.looked = self.now;
        let (now, sample) = (time(self.now), self.remoted.sample(self.now));
        let server = &mut self.server;
        server.judge.handle_sample(now, &sample);
        let verdict = server.judge.verdict();
        if server.judge.drops() != server.drops {
            server.drops = server.judge.drops();
            server.overflowed = Some(self.now);
        }
        if verdict == Verdict::Up {
            server.windows.handle_queue(now, server.judge.queue(), server.overflows(self.now));
        }
        for (client, connection, ping) in std::mem::take(&mut self.server.waiting) {
            let pong = self.server.answer(self.now, (client, connection, ping));
            let arrives = self.tcp(self.clients[client].last_pong(), false);
            self.clients[client].set_last_pong(connection, arrives);
            self.at(arrives, Event::PongArrives { client, connection, pong });
        }
        self.tell(verdict);
        let watch = match verdict {
            Verdict::Up if self.server.judge.queue() == 0 => None,
            Verdict::Up | Verdict::Stalled => Some(self.now + WATCH_QUEUE),
            _ => Some(self.now + WATCH_AWAY),
        };
        let settled = self.server.judge.next_deadline().map(nanos);
        if let Some(at) = watch.into_iter().chain(settled).min() {
            self.look_at(at.max(self.now + SAMPLE_GAP));
        }
    }

    /// A changed verdict is told unasked.
    fn tell(&mut self, verdict: Verdict) {
        if self.server.told == Some(verdict) {
            return;
        }
        self.say(|| format!("server: remoted {verdict}"));
        self.server.told = Some(verdict);
        for client in 0..self.plan.clients {
            let Some(connection) = self.server.connections[client] else { continue };
            let arrives = self.tcp(self.clients[client].last_pong(), false);
            self.clients[client].set_last_pong(connection, arrives);
            self.at(arrives, Event::NoticeArrives { client, connection });
        }
    }
}
