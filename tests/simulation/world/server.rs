//! The broker server: the real verdict and windows, its serving loop made up.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ossec_broker::verdict::Responder;
use ossec_broker::wire::{Ping, Verdict};

use super::{Event, World, nanos, time};
use crate::plan::{Fault, MS, Plan};

/// Between two looks at remoted.
const SAMPLE_GAP: u64 = MS;
/// What a look takes.
const SAMPLE: u64 = 20_000;

pub(super) struct Server {
    pub(super) alive: bool,
    /// When remoted is looked at next.
    next_look: Option<u64>,
    connections: Vec<Option<u64>>,
    waiting: Vec<(usize, u64, Ping)>,
    looked: u64,
    responder: Responder,
    told: Option<Verdict>,
}

impl Server {
    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            alive: true,
            next_look: None,
            connections: vec![None; plan.clients],
            waiting: Vec::new(),
            looked: 0,
            responder: Responder::new(plan.settle),
            told: None,
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
        self.responder.handle_gone(connection);
        Some(connection)
    }

    /// Takes a new connection, if the process is there.
    pub(super) fn connect(&mut self, client: usize, connection: u64) -> bool {
        if self.alive {
            self.connections[client] = Some(connection);
        }
        self.alive
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
        self.server.responder.handle_sample(now, &sample);
        for (client, connection, ping) in std::mem::take(&mut self.server.waiting) {
            let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, client as u8 + 1));
            let gap = Duration::from_nanos(SAMPLE_GAP);
            let pong = self.server.responder.handle_ping(now, connection, address, &ping, gap);
            let arrives = self.tcp(self.clients[client].last_pong(), false);
            self.clients[client].set_last_pong(connection, arrives);
            self.at(arrives, Event::PongArrives { client, connection, pong });
        }
        self.tell(self.server.responder.judge().verdict());
        let watch = self.server.responder.watch_gap().map(|gap| now + gap);
        let settled = self.server.responder.judge().next_deadline();
        if let Some(at) = watch.into_iter().chain(settled).min() {
            self.look_at(nanos(at).max(self.now + SAMPLE_GAP));
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
