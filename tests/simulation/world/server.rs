//! The broker server: the real verdict and windows, its serving loop made up.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ossec_broker::proto::server::ServerCore;
use ossec_broker::proto::server::delivery::Delivery;
use ossec_broker::proto::server::judge::OnTheWay;
use ossec_broker::proto::terms::Verdict;
use ossec_broker::proto::wire::Ping;

use super::{Event, World, nanos, time};
use crate::plan::{Fault, MS, Plan};

/// The time between two looks at remoted.
const SAMPLE_GAP: u64 = MS;
/// The time that a look takes.
const SAMPLE: u64 = 20_000;

/// Datagrams that the kernel takes in a row.
const STEP_DATAGRAMS: usize = 500;

pub(super) struct Server {
    pub(super) alive: bool,
    /// The moment when remoted is looked at next.
    next_look: Option<u64>,
    connections: Vec<Option<u64>>,
    /// The way on which the datagrams of each client come to remoted.
    deliveries: Vec<Delivery>,
    /// Connections that their clients have given up, and nobody has closed here.
    half_open: Vec<(usize, u64)>,
    waiting: Vec<(usize, u64, Ping)>,
    looked: u64,
    pub(super) core: ServerCore,
    told: Option<Verdict>,
}

impl Server {
    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            alive: true,
            next_look: None,
            connections: vec![None; plan.clients],
            deliveries: vec![Delivery::Direct(None); plan.clients],
            half_open: Vec::new(),
            waiting: Vec::new(),
            looked: 0,
            core: ServerCore::new(plan.settle, STEP_DATAGRAMS),
            told: None,
        }
    }

    /// Starts the process anew: it remembers nothing.
    pub(super) fn start(&mut self, plan: &Plan) {
        *self = Self::new(plan);
    }

    /// Ends the process. Returns its connections.
    pub(super) fn kill(&mut self) -> Vec<Option<u64>> {
        self.alive = false;
        self.next_look = None;
        self.waiting.clear();
        self.half_open.clear();
        let none = vec![None; self.connections.len()];
        std::mem::replace(&mut self.connections, none)
    }

    pub(super) fn disconnect(&mut self, now: u64, client: usize) -> Option<u64> {
        let connection = self.connections[client].take()?;
        self.core.handle_gone(time(now), connection);
        Some(connection)
    }

    /// Whether the server has this connection of the client.
    pub(super) fn knows(&self, client: usize, connection: u64) -> bool {
        self.connections[client] == Some(connection) || self.half_open.contains(&(client, connection))
    }

    /// Closes this connection of the client.
    pub(super) fn forget(&mut self, client: usize, connection: u64) {
        if self.connections[client] == Some(connection) {
            self.connections[client] = None;
        }
        self.half_open.retain(|known| *known != (client, connection));
    }

    pub(super) fn client_of(&self, connection: u64) -> Option<usize> {
        self.connections.iter().position(|known| *known == Some(connection))
    }

    /// Takes a new connection of a client.
    pub(super) fn connect(&mut self, client: usize, connection: u64, delivery: Delivery) {
        self.deliveries[client] = delivery;
        if let Some(before) = self.connections[client].replace(connection) {
            self.half_open.push((client, before));
        }
    }
}

impl World<'_> {
    /// The moment until which the broker server's process is stopped, if it is.
    pub(super) fn server_stopped(&self) -> Option<u64> {
        let stopped = |at: u64| {
            let stops = self.plan.faults.iter().filter(|timed| matches!(timed.fault, Fault::StopServer));
            stops.filter(|timed| timed.from <= at && at < timed.to).map(|timed| timed.to).max()
        };
        // One stop may follow another without a pause.
        std::iter::successors(stopped(self.now), |&until| stopped(until)).last()
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
        let on_the_way = OnTheWay { dropped: self.dropped_before, longest: 0 };
        self.server.core.handle_sample(now, &sample, Some(on_the_way), false);
        self.inject();
        for (client, connection, ping) in std::mem::take(&mut self.server.waiting) {
            let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, client as u8 + 1));
            let gap = Duration::from_nanos(SAMPLE_GAP);
            let pong =
                self.server.core.handle_ping(now, connection, address, self.server.deliveries[client], &ping, gap);
            let arrives = self.tcp(self.clients[client].last_pong(), false);
            self.clients[client].set_last_pong(connection, arrives);
            self.at(arrives, Event::PongArrives { client, connection, pong });
        }
        self.tell(self.server.core.judge().verdict());
        self.look_if_due();
    }

    /// Arranges that remoted is looked at when that is due.
    pub(super) fn look_if_due(&mut self) {
        let settled = self.server.core.judge().next_deadline();
        if let Some(at) = self.server.core.next_look().into_iter().chain(settled).min() {
            self.look_at(nanos(at).max(self.now + SAMPLE).max(self.server.looked + SAMPLE_GAP));
        }
    }

    /// The server tells a changed verdict unasked.
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
            self.at(arrives, Event::NoticeArrives { client, connection, verdict });
        }
    }
}
