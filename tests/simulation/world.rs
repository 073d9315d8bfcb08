//! The world of a run: events in the order of their time, the real core at both ends, everything between them made up.
//!
//! ```text
//!   agents ──► client (the real ClientCore), or a rival ──► network ──► remoted's socket ──► remoted ──► ledger
//!                    └── heartbeats ──► network ──► broker server (the real Judge and Windows) ──┘
//! ```

mod client;
mod connect;
mod faults;
mod network;
mod rivals;
mod server;
mod spool;
mod stream;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use ossec_broker::proto::terms::Verdict;
use ossec_broker::proto::time::Time;
use ossec_broker::proto::wire::{Frame, Ping, Pong};

use crate::disk::Disk;
use crate::plan::{Fault, Plan, SECOND};
use crate::promise::Ledger;
use crate::random::Random;
use crate::remoted::{Datagram, Remoted};
use client::Client;
use rivals::Rival;
use server::Server;
use stream::Upward;

/// The way that carries the agents' datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// This broker.
    Broker,
    /// The broker of 2015.
    Rival,
    /// Nothing: agents send straight to remoted.
    Bare,
}

/// The time after the last datagram. Datagrams under way arrive in it, and waiting broken connections are found out.
const AFTERMATH: u64 = 2 * SECOND;

#[derive(Clone, Debug)]
enum Event {
    AgentSends {
        client: usize,
        agent: usize,
    },
    Wake(usize),
    Sends(usize),
    Arrives {
        datagram: Datagram,
        sent: u64,
    },
    PingArrives {
        client: usize,
        connection: u64,
        ping: Ping,
    },
    Looks,
    PongArrives {
        client: usize,
        connection: u64,
        pong: Pong,
    },
    NoticeArrives {
        client: usize,
        connection: u64,
        verdict: Verdict,
    },
    Connects {
        client: usize,
        attempt: u64,
    },
    RefusalArrives(usize),
    ResetArrives {
        client: usize,
        connection: u64,
    },
    Check(rivals::Step),
    UpwardArrives {
        client: usize,
        connection: u64,
        frame: Upward,
    },
    Acknowledged {
        client: usize,
        connection: u64,
    },
    ToldArrives {
        client: usize,
        connection: u64,
        told: Frame,
    },
    Reads(usize),
    ReplyArrives(usize),
    Begins(usize),
    Ends(usize),
    Floods(u64),
    /// The errand of a client's spool is done, in this life of the client.
    Spools {
        client: usize,
        life: u64,
    },
}

/// Everything in a run.
pub(crate) struct World<'a> {
    plan: &'a Plan,
    way: Way,
    random: Random,
    now: u64,
    events: BinaryHeap<Reverse<(u64, u64, usize)>>,
    pending: Vec<Option<Event>>,
    free: Vec<usize>,
    ties: u64,
    clients: Vec<Client>,
    rivals: Vec<Rival>,
    /// The number of datagrams that each agent has sent.
    counters: Vec<u64>,
    /// The moment when the last UDP packet of each client arrives: most paths keep their order.
    last_udp: Vec<u64>,
    /// Two moments of each client: its last release until the end of the last fault, and its first release after that.
    released: Vec<(u64, Option<u64>)>,
    server: Server,
    remoted: Remoted,
    /// Whether each of remoted's sockets is being read.
    reading: Vec<bool>,
    connections: u64,
    refusals: (u64, u64),
    flood: u64,
    /// The source ports of each client that lead nowhere.
    stale_ports: Vec<Option<u32>>,
    /// The moment when remoted answers each agent next.
    replies_due: Vec<u64>,
    /// Datagrams that the server's host has dropped before they came to a socket.
    dropped_before: u64,
    /// The moment when remoted last read something.
    last_read: u64,
    pub(crate) ledger: Ledger,
    trace: bool,
}

fn time(nanos: u64) -> Time {
    // The clock is far from the origin, as on a host that has been up for a while.
    Time::from_nanos(1_000 * SECOND + nanos)
}

fn nanos(time: Time) -> u64 {
    time.as_nanos().saturating_sub(1_000 * SECOND)
}

impl<'a> World<'a> {
    pub(crate) fn new(plan: &'a Plan, way: Way, trace: bool) -> Self {
        let mut random = Random::new(plan.seed.wrapping_mul(31).wrapping_add(7));
        let agents = plan.clients * plan.agents;
        let mut world = Self {
            plan,
            way,
            now: 0,
            events: BinaryHeap::new(),
            pending: Vec::new(),
            free: Vec::new(),
            ties: 0,
            clients: (0..plan.clients)
                .map(|_| Client::new(plan.config(), random.next(), &connect::routes(plan)))
                .collect(),
            rivals: vec![Rival::default(); plan.clients],
            counters: vec![0; agents],
            last_udp: vec![0; plan.clients],
            released: vec![(0, None); plan.clients],
            server: Server::new(plan),
            // The agent behind the last one is the flood.
            remoted: Remoted::new(agents + 1, plan.sockets, connect::places(plan)),
            reading: vec![false; plan.sockets],
            connections: 0,
            refusals: (6, 0),
            flood: 0,
            stale_ports: vec![None; plan.clients],
            replies_due: vec![0; agents],
            dropped_before: 0,
            last_read: 0,
            ledger: Ledger::new(agents),
            trace,
            random,
        };
        for client in 0..plan.clients {
            if let Some(spool) = plan.spool {
                let disk = Disk::new(Random::new(world.random.next()));
                world.open_spool(client, disk, spool);
            }
            for agent in world.agents(client) {
                let first = world.random.range(0, 200 * crate::plan::MS);
                world.at(first, Event::AgentSends { client, agent });
            }
            if way == Way::Broker {
                world.act(client);
            }
        }
        for (index, timed) in plan.faults.iter().enumerate() {
            world.at(timed.from, Event::Begins(index));
            world.at(timed.to, Event::Ends(index));
        }
        world
    }

    /// Runs to the end: until everything is delivered, or until that has taken too long.
    pub(crate) fn run(&mut self) {
        while let Some(Reverse((at, _, slot))) = self.events.pop() {
            if at > self.plan.sending + AFTERMATH && self.is_drained() {
                break;
            }
            if at > self.plan.sending + self.plan.drained_within() {
                let left: Vec<u64> = (0..self.clients.len()).map(|client| self.held(client)).collect();
                self.ledger.complain(format!("not drained in time: {left:?} held"));
                break;
            }
            self.now = at;
            let event = self.pending[slot].take().expect("each is taken once");
            self.free.push(slot);
            self.handle(event);
        }
        self.settle();
    }

    /// The time for which this client still sent after the first fault began, until the end of the last fault. Beside
    /// it stands the time after that until the client sent again.
    pub(crate) fn noticed(&self, client: usize) -> (u64, Option<u64>) {
        let quiet = self.plan.quiet_from();
        let begun = self.plan.faults.iter().map(|timed| timed.from).min().unwrap_or(0);
        let (last, again) = self.released[client];
        (last.saturating_sub(begun), again.map(|at| at - quiet))
    }

    /// The moment when remoted last read something.
    pub(crate) const fn last_read(&self) -> u64 {
        self.last_read
    }

    fn held(&self, client: usize) -> u64 {
        match self.way {
            Way::Broker => self.clients[client].held(),
            Way::Rival => self.rivals[client].held(),
            Way::Bare => 0,
        }
    }

    fn is_drained(&self) -> bool {
        let is_idle = |client| self.held(client) == 0 && !self.clients[client].is_away();
        self.remoted.waiting().next().is_none() && (0..self.plan.clients).all(is_idle)
    }

    /// The agents behind this client.
    fn agents(&self, client: usize) -> Range<usize> {
        client * self.plan.agents..(client + 1) * self.plan.agents
    }

    /// The agent that stands for all senders without a broker.
    fn stranger(&self) -> usize {
        self.plan.clients * self.plan.agents
    }

    fn at(&mut self, at: u64, event: Event) {
        if at == u64::MAX {
            return;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.pending.push(None);
            self.pending.len() - 1
        });
        self.pending[slot] = Some(event);
        self.ties += 1;
        self.events.push(Reverse((at.max(self.now), self.ties, slot)));
    }

    fn say(&self, text: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>12.6} {}", self.now as f64 / SECOND as f64, text());
        }
    }

    /// The client that an event belongs to, if its host may be suspended.
    const fn host(event: &Event) -> Option<usize> {
        match event {
            Event::AgentSends { client, .. }
            | Event::Sends(client)
            | Event::RefusalArrives(client)
            | Event::Wake(client)
            | Event::PongArrives { client, .. }
            | Event::NoticeArrives { client, .. }
            | Event::Connects { client, .. }
            | Event::ToldArrives { client, .. }
            | Event::Spools { client, .. }
            | Event::ResetArrives { client, .. } => Some(*client),
            Event::Check(step) => step.client(),
            Event::Arrives { .. }
            | Event::PingArrives { .. }
            | Event::UpwardArrives { .. }
            | Event::Acknowledged { .. }
            | Event::Looks
            | Event::Reads(_)
            | Event::ReplyArrives(_)
            | Event::Begins(_)
            | Event::Ends(_)
            | Event::Floods(_) => None,
        }
    }

    fn handle(&mut self, event: Event) {
        if let Some(until) = Self::host(&event).and_then(|client| self.suspended(client)) {
            return self.at(until, event);
        }
        let away = Self::host(&event).is_some_and(|client| self.clients[client].is_away());
        match event {
            Event::AgentSends { client, agent } => self.agent_sends(client, agent),
            _ if away => {}
            Event::Wake(client) => self.wake(client),
            Event::Sends(client) => self.sends(client),
            Event::Arrives { datagram, sent } => self.arrives(datagram, sent),
            Event::PingArrives { client, connection, ping } => self.ping_arrives(client, connection, ping),
            Event::Looks => self.looks(),
            Event::PongArrives { client, connection, pong } => self.pong_arrives(client, connection, &pong),
            Event::NoticeArrives { client, connection, verdict } => self.notice_arrives(client, connection, verdict),
            Event::Connects { client, attempt } => self.connects(client, attempt),
            Event::RefusalArrives(client) => self.refusal_arrives(client),
            Event::ResetArrives { client, connection } => self.reset_arrives(client, connection),
            Event::Check(step) => self.check(step),
            Event::UpwardArrives { client, connection, frame } => self.upward_arrives(client, connection, frame),
            Event::Acknowledged { client, connection } => self.acknowledged(client, connection),
            Event::ToldArrives { client, connection, told } => self.told_arrives(client, connection, told),
            Event::Reads(socket) => self.reads(socket),
            Event::ReplyArrives(agent) => self.reply_arrives(agent),
            Event::Begins(index) => self.begins(index),
            Event::Ends(index) => self.ends(index),
            Event::Floods(rate) => self.floods(rate),
            Event::Spools { client, life } => self.spools(client, life),
        }
    }

    /// The moment until which this client's host is suspended, if it is.
    fn suspended(&self, client: usize) -> Option<u64> {
        let here = |timed: &&crate::plan::Timed| matches!(timed.fault, Fault::Suspend(one) if one == client);
        let mut active =
            self.plan.faults.iter().filter(here).filter(|timed| timed.from <= self.now && self.now < timed.to);
        active.next().map(|timed| timed.to)
    }

    fn agent_sends(&mut self, client: usize, agent: usize) {
        let length = self.random.range(self.plan.sizes.0, self.plan.sizes.1).max(16) as usize;
        self.counters[agent] += 1;
        let datagram = Datagram { agent, counter: self.counters[agent], length };
        self.ledger.sent(agent);
        match self.way {
            Way::Broker => self.receive(client, datagram),
            Way::Rival => self.rivals[client].handle_datagram(datagram),
            Way::Bare => self.transmit(client, datagram, connect::last(self.plan)),
        }
        let pause = SECOND * self.plan.agents as u64 / self.plan.rate;
        let next = self.now + self.random.range(pause / 2, pause * 3 / 2);
        if next < self.plan.sending {
            self.at(next, Event::AgentSends { client, agent });
        }
        match self.way {
            Way::Broker if self.clients[client].is_away() => {}
            Way::Broker => self.act(client),
            Way::Rival => self.begin_check(client),
            Way::Bare => {}
        }
    }

    /// Takes notice that a client sends something towards remoted.
    fn note_release(&mut self, client: usize) {
        let quiet = self.plan.quiet_from();
        let (last, again) = &mut self.released[client];
        if self.now < quiet {
            *last = self.now;
        } else {
            again.get_or_insert(self.now);
        }
    }

    fn start_reading(&mut self) {
        for socket in 0..self.remoted.sockets() {
            if !self.reading[socket] && self.remoted.reads(socket) {
                self.reading[socket] = true;
                let at = self.now + self.plan.read;
                self.at(at, Event::Reads(socket));
            }
        }
    }

    fn reads(&mut self, socket: usize) {
        self.reading[socket] = false;
        if !self.remoted.reads(socket) {
            return;
        }
        if let Some((datagram, sent, reading)) = self.remoted.read(socket) {
            self.last_read = self.now;
            if datagram.agent != self.stranger() {
                self.ledger.read(datagram, sent, reading == crate::remoted::Reading::Accepted);
                self.reply(datagram.agent);
            }
        }
        self.start_reading();
    }

    /// The socket of remoted that this agent's datagrams go to. Each client comes by one address family.
    fn socket_of(&self, agent: usize) -> usize {
        agent / self.plan.agents % self.plan.sockets
    }
}
