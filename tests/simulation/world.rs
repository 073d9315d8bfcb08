//! The world of a run: events in the order of their time, the real core at both ends, everything between them made up.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use ossec_broker::link::{self, Dialer, Probe};
use ossec_broker::relay::{Batch, Config, FullPolicy, Origin, Relay};
use ossec_broker::time::Time;
use ossec_broker::verdict::{Grant, Judge, Request, Room, Windows};
use ossec_broker::wire::{Ping, Pong, Verdict};

use crate::plan::{Fault, MS, Plan, SECOND, SENDING};
use crate::promise::{Ledger, Loss};
use crate::random::Random;
use crate::remoted::{BUFFER, Datagram, Reading, Remoted};

const SETTLE: Duration = Duration::from_millis(300);
const TIMEOUT: u64 = 2 * SECOND;
const SAMPLE_GAP: u64 = MS;

#[derive(Clone, Debug)]
enum Event {
    AgentSends(usize),
    Wake { client: usize, version: u64 },
    Sends(usize),
    Arrives { datagram: Datagram, sent: u64 },
    PingArrives { client: usize, connection: u64, ping: Ping },
    Looks,
    PongArrives { client: usize, connection: u64, pong: Pong },
    NoticeArrives { client: usize, connection: u64 },
    Connects { client: usize, attempt: u64, round_trip: u64 },
    RefusalArrives(usize),
    ResetArrives { client: usize, connection: u64 },
    Reads,
    Begins(usize),
    Ends(usize),
    Floods(u64),
}

/// A client with its threads rolled into one.
struct Client {
    relay: Relay,
    connection: Option<u64>,
    probes: VecDeque<Probe>,
    dialer: Dialer,
    /// Attempts under way, with the moment at which they are given up.
    attempts: Vec<(u64, u64)>,
    version: u64,
    batch: Batch,
    sending: bool,
    frozen: u64,
    /// When the last packet of each kind arrives: TCP keeps order, and so does UDP on most paths.
    last: Last,
    lease: u64,
    counter: u64,
    lengths: VecDeque<usize>,
}

#[derive(Clone, Copy, Default)]
struct Last {
    ping: u64,
    pong: u64,
    udp: u64,
}

/// The broker server.
struct Server {
    alive: bool,
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
    fn new(clients: usize) -> Self {
        Self {
            alive: true,
            next_look: None,
            connections: vec![None; clients],
            waiting: Vec::new(),
            looked: 0,
            judge: Judge::new(SETTLE),
            windows: Windows::default(),
            told: None,
            drops: 0,
            overflowed: None,
        }
    }
}

/// Everything.
pub(crate) struct World<'a> {
    plan: &'a Plan,
    random: Random,
    now: u64,
    events: BinaryHeap<Reverse<(u64, u64, usize)>>,
    pending: Vec<Option<Event>>,
    free: Vec<usize>,
    ties: u64,
    clients: Vec<Client>,
    server: Server,
    remoted: Remoted,
    reading: bool,
    connections: u64,
    refusals: (u64, u64),
    flood: u64,
    pub(crate) ledger: Ledger,
    trace: bool,
}

fn time(nanos: u64) -> Time {
    // Far from the origin, like a host that has been up for a while.
    Time::from_nanos(1_000 * SECOND + nanos)
}

fn nanos(time: Time) -> u64 {
    time.as_nanos().saturating_sub(1_000 * SECOND)
}

fn address(client: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, client as u8 + 1))
}

impl<'a> World<'a> {
    pub(crate) fn new(plan: &'a Plan, trace: bool) -> Self {
        let mut random = Random::new(plan.seed.wrapping_mul(31).wrapping_add(7));
        let config = Config {
            buffer_bytes: 16 << 20,
            full: FullPolicy::DropOldest,
            max_age: None,
            rate: None,
            resend: true,
            sessions_max: 4,
            link: link::Settings {
                interval: Duration::from_secs(1),
                lease: Duration::from_millis(100),
                timeout: Duration::from_nanos(TIMEOUT),
            },
        };
        let clients = (0..plan.clients).map(|_| Client {
            relay: Relay::new(config),
            connection: None,
            probes: VecDeque::new(),
            dialer: Dialer::new(time(0), random.next()),
            attempts: Vec::new(),
            version: 0,
            batch: Batch::default(),
            sending: false,
            frozen: 0,
            last: Last::default(),
            lease: 100 * MS,
            counter: 0,
            lengths: VecDeque::new(),
        });
        let clients: Vec<Client> = clients.collect();
        let mut world = Self {
            plan,
            now: 0,
            events: BinaryHeap::new(),
            pending: Vec::new(),
            free: Vec::new(),
            ties: 0,
            server: Server::new(plan.clients),
            // The one behind the last agent is the flood.
            remoted: Remoted::new(plan.clients + 1),
            reading: false,
            connections: 0,
            refusals: (6, 0),
            flood: 0,
            ledger: Ledger::new(plan.clients),
            trace,
            clients,
            random,
        };
        for client in 0..plan.clients {
            let first = world.random.range(0, 200 * MS);
            world.at(first, Event::AgentSends(client));
            world.act(client);
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
            if at > SENDING && self.is_drained() {
                return;
            }
            if at > SENDING + self.plan.drained_within() {
                let left: Vec<u64> =
                    self.clients.iter().map(|client| client.relay.snapshot(time(at)).held.datagrams).collect();
                self.ledger.complain(format!("not drained in time: {left:?} held"));
                return;
            }
            self.now = at;
            let event = self.pending[slot].take().expect("each is taken once");
            self.free.push(slot);
            self.handle(event);
        }
    }

    fn is_drained(&self) -> bool {
        let held = self.clients.iter().all(|client| client.relay.snapshot(time(self.now)).held.datagrams == 0);
        held && self.remoted.queue.is_empty()
    }

    /// Copies that the clients meant to send.
    pub(crate) fn copies(&self) -> (u64, u64) {
        let counters = self.clients.iter().map(|client| client.relay.snapshot(time(self.now)).counters);
        counters.fold((0, 0), |(copies, rewinds), one| (copies + one.copies, rewinds + one.rewinds))
    }

    fn at(&mut self, at: u64, event: Event) {
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
            Event::AgentSends(client)
            | Event::Sends(client)
            | Event::RefusalArrives(client)
            | Event::Wake { client, .. }
            | Event::PongArrives { client, .. }
            | Event::NoticeArrives { client, .. }
            | Event::Connects { client, .. }
            | Event::ResetArrives { client, .. } => Some(*client),
            _ => None,
        }
    }

    fn handle(&mut self, event: Event) {
        if let Some(client) = Self::host(&event)
            && self.clients[client].frozen > self.now
        {
            let until = self.clients[client].frozen;
            return self.at(until, event);
        }
        match event {
            Event::AgentSends(client) => self.agent_sends(client),
            Event::Wake { client, version } => {
                if self.clients[client].version == version {
                    self.act(client);
                }
            }
            Event::Sends(client) => self.sends(client),
            Event::Arrives { datagram, sent } => self.arrives(datagram, sent),
            Event::PingArrives { client, connection, ping } => self.ping_arrives(client, connection, ping),
            Event::Looks => self.looks(),
            Event::PongArrives { client, connection, pong } => self.pong_arrives(client, connection, &pong),
            Event::NoticeArrives { client, connection } => {
                if self.clients[client].connection == Some(connection) {
                    self.clients[client].relay.handle_notice();
                    self.act(client);
                }
            }
            Event::Connects { client, attempt, round_trip } => self.connects(client, attempt, round_trip),
            Event::RefusalArrives(client) => {
                self.say(|| format!("client {client}: refused"));
                self.clients[client].relay.handle_refused(time(self.now));
                self.act(client);
            }
            Event::ResetArrives { client, connection } => {
                if self.clients[client].connection == Some(connection) {
                    self.disconnect(client);
                }
            }
            Event::Reads => self.reads(),
            Event::Begins(index) => self.begins(index),
            Event::Ends(index) => self.ends(index),
            Event::Floods(rate) => self.floods(rate),
        }
    }

    // ------------------------------------------------------------------------------------------ the client's host

    fn agent_sends(&mut self, client: usize) {
        let length = self.random.range(self.plan.sizes.0, self.plan.sizes.1) as usize;
        let one = &mut self.clients[client];
        one.counter += 1;
        let mut payload = vec![0; length.max(16)];
        payload[..8].copy_from_slice(&one.counter.to_be_bytes());
        payload[8..16].copy_from_slice(&(client as u64).to_be_bytes());
        one.lengths.push_back(payload.len());
        let origin = Origin { agent: SocketAddr::from(([127, 0, 0, 1], 5_000)), local: None };
        one.relay.handle_datagram(time(self.now), origin, &payload);
        self.ledger.sent(client);
        let pause = SECOND / self.plan.rate;
        let next = self.now + self.random.range(pause / 2, pause * 3 / 2);
        if next < SENDING {
            self.at(next, Event::AgentSends(client));
        }
        self.act(client);
    }

    /// Does what is due, and sees to be woken for the next thing.
    fn act(&mut self, client: usize) {
        let now = time(self.now);
        self.dial(client);
        let one = &mut self.clients[client];
        let rewinds = one.relay.snapshot(now).counters.rewinds;
        one.relay.handle_time(now);
        if one.relay.snapshot(now).counters.rewinds > rewinds {
            self.say(|| format!("client {client}: a heartbeat is late: rewind"));
        }
        let one = &mut self.clients[client];
        if one.connection.is_some() && one.relay.is_silent(now) {
            one.dialer.handle_outage(now);
        }
        let due = one.relay.next_heartbeat(now).is_some_and(|at| at <= now);
        if let Some((probe, ping)) = due.then(|| one.relay.begin_heartbeat(now)).flatten() {
            one.lease = probe.lease().as_nanos() as u64;
            one.probes.push_back(probe);
            let connection = one.connection.unwrap_or(0);
            let last = one.last.ping;
            if let Some(at) = self.tcp(last, true) {
                self.clients[client].last.ping = at;
                self.at(at, Event::PingArrives { client, connection, ping });
            }
        }
        let one = &mut self.clients[client];
        if !one.sending && one.relay.poll_release(now, &mut one.batch) {
            one.sending = true;
            // Usually at once; now and then the thread loses the processor.
            let delay =
                if self.random.per_mille(5) { self.random.range(0, 20 * MS) } else { self.random.range(0, MS / 20) };
            let at = self.now + delay;
            self.at(at, Event::Sends(client));
        }
        let one = &mut self.clients[client];
        let dial = one.dialer.next_start(one.attempts.len()).map(nanos);
        let wakes = [one.relay.next_heartbeat(now).map(nanos), one.relay.next_deadline(now).map(nanos), dial];
        let attempts = one.attempts.iter().map(|(_, until)| *until).min();
        let release = one.relay.next_release(now).map(nanos);
        let next = wakes.into_iter().chain([attempts, release]).flatten().min();
        one.version += 1;
        let version = one.version;
        if let Some(next) = next {
            // A thread takes some microseconds from one thing to the next.
            self.at(next.max(self.now + 10_000), Event::Wake { client, version });
        }
    }

    fn sends(&mut self, client: usize) {
        let now = time(self.now);
        let batch = std::mem::take(&mut self.clients[client].batch);
        self.clients[client].sending = false;
        let sent = if now < batch.until() { batch.len() } else { 0 };
        for at in 0..sent {
            let payload = batch.payload(at);
            let counter = u64::from_be_bytes(payload[..8].try_into().expect("eight bytes"));
            self.transmit(client, Datagram { agent: client, counter, length: payload.len() });
        }
        if sent > 0 {
            let counter = |at: usize| u64::from_be_bytes(batch.payload(at)[..8].try_into().expect("eight bytes"));
            self.say(|| format!("client {client}: sends {} to {}", counter(0), counter(sent - 1)));
        }
        self.clients[client].relay.handle_sent(now, &batch, sent);
        self.clients[client].batch = batch;
        self.act(client);
    }

    fn dial(&mut self, client: usize) {
        let now = time(self.now);
        let round_trip = self.plan.round_trip_at(self.now);
        let one = &mut self.clients[client];
        one.attempts.retain(|(_, until)| *until > self.now);
        if one.dialer.next_start(one.attempts.len()).is_none_or(|at| at > now) {
            return;
        }
        one.dialer.handle_start(now);
        self.connections += 1;
        let attempt = self.connections;
        self.clients[client].attempts.push((attempt, self.now + TIMEOUT));
        // SYN and its answer, greeting and welcome; a lost SYN goes again after a second.
        for start in [self.now, self.now + SECOND] {
            let end = start + 2 * round_trip;
            let lost = self.plan.cut(false, true, start, end).is_some()
                || self.plan.cut(false, false, start, end).is_some()
                || self.random.per_mille(4 * self.plan.loss(start));
            if !lost {
                self.at(end, Event::Connects { client, attempt, round_trip });
                return;
            }
        }
    }

    fn connects(&mut self, client: usize, attempt: u64, round_trip: u64) {
        let known = self.clients[client].attempts.iter().any(|(id, _)| *id == attempt);
        if !known || !self.server.alive {
            self.clients[client].attempts.retain(|(id, _)| *id != attempt);
            return self.act(client);
        }
        self.say(|| format!("client {client}: connected"));
        self.server.connections[client] = Some(attempt);
        let one = &mut self.clients[client];
        one.attempts.clear();
        one.probes.clear();
        one.connection = Some(attempt);
        (one.last.ping, one.last.pong) = (self.now, self.now);
        one.dialer.handle_link();
        let target = SocketAddr::from(([10, 9, 9, 9], 1_514));
        one.relay.handle_connected(time(self.now), Duration::from_nanos(round_trip), target);
        self.act(client);
    }

    fn disconnect(&mut self, client: usize) {
        self.say(|| format!("client {client}: disconnected"));
        let now = time(self.now);
        let one = &mut self.clients[client];
        one.connection = None;
        one.probes.clear();
        one.dialer.handle_outage(now);
        one.relay.handle_disconnected(now);
        self.act(client);
    }

    fn pong_arrives(&mut self, client: usize, connection: u64, pong: &Pong) {
        let now = time(self.now);
        let one = &mut self.clients[client];
        if one.connection != Some(connection) {
            return;
        }
        while let Some(probe) = one.probes.pop_front() {
            if probe.number() != pong.number {
                continue;
            }
            let outcome = one.relay.handle_pong(now, probe, pong);
            if !one.relay.is_silent(now) {
                one.dialer.handle_link();
                one.attempts.clear();
            }
            if outcome.rewind.is_some() || outcome.confirm.is_some() || std::env::var_os("PONGS").is_some() {
                self.say(|| format!("client {client}: {outcome:?} {pong:?}"));
            }
            break;
        }
        self.act(client);
    }

    // ---------------------------------------------------------------------------------------------- the network

    /// When a segment that is sent now arrives: retransmitted until it passes, never before its predecessors. `None`: not in this run.
    fn tcp(&mut self, last: u64, towards_server: bool) -> Option<u64> {
        let round_trip = self.plan.round_trip_at(self.now);
        let mut start = self.now;
        // A tail loss probe, or the first timeout.
        let mut pause = if self.random.per_mille(300) { 2 * round_trip + 10 * MS } else { round_trip + 200 * MS };
        for _ in 0..8 {
            let end = start + round_trip / 2;
            let loss = self.plan.loss(start);
            if self.plan.cut(false, towards_server, start, end).is_none() && !self.random.per_mille(loss) {
                return Some(end.max(last));
            }
            start += pause;
            pause = pause.max(200 * MS) * 2;
        }
        None
    }

    fn transmit(&mut self, client: usize, datagram: Datagram) {
        let copies = if self.random.per_mille(self.plan.duplicated) { 2 } else { 1 };
        self.ledger.duplicated += copies - 1;
        let sent = self.ledger.transmitted(client);
        for _ in 0..copies {
            let lag = if self.plan.lag > 0 { self.random.range(0, self.plan.lag) } else { 0 };
            let mut end = self.now + self.plan.round_trip_at(self.now) / 2 + lag;
            let overtaken = self.random.per_mille(self.plan.reordered);
            if overtaken {
                end += self.random.range(0, 5 * MS);
            } else {
                end = end.max(self.clients[client].last.udp);
                self.clients[client].last.udp = end;
            }
            let lease = self.lease(client);
            if let Some(cut) = self.plan.cut(true, true, self.now, end) {
                // What those behind it have overtaken is lost by their doing.
                self.ledger.lost(datagram, if overtaken { Loss::Excused } else { Loss::of_outage(cut, lease) });
            } else if self.random.per_mille(self.plan.loss(self.now)) {
                self.ledger.lost(datagram, Loss::Excused);
            } else {
                self.at(end, Event::Arrives { datagram, sent });
            }
        }
    }

    fn arrives(&mut self, datagram: Datagram, sent: u64) {
        let flood = datagram.agent == self.plan.clients;
        if !self.remoted.alive {
            if !flood {
                let lease = self.lease(datagram.agent);
                let mut kills = self.plan.faults.iter().filter(|timed| matches!(timed.fault, Fault::Kill));
                let long = kills.any(|timed| {
                    timed.from <= self.now && self.now < timed.to && Loss::of_outage(timed, lease) == Loss::Covered
                });
                self.ledger.lost(datagram, if long { Loss::Covered } else { Loss::Excused });
                self.refuse(datagram.agent);
            }
            return;
        }
        if self.remoted.arrive(datagram) {
            self.ledger.queued.push_back(sent);
        } else if !flood {
            let of_others = self.remoted.queue.iter().any(|waiting| waiting.agent == self.plan.clients);
            let others = of_others || (self.flood > 0 && self.now < self.flood + SECOND);
            if !others {
                self.ledger.overflows += 1;
            }
            self.ledger.lost(datagram, if others { Loss::Excused } else { Loss::Covered });
        }
        self.start_reading();
    }

    /// The lease of the newest heartbeat, or of the one that begins next.
    fn lease(&self, client: usize) -> u64 {
        self.clients[client].lease.max(self.clients[client].relay.lease().as_nanos() as u64)
    }

    /// The server's host answers with ICMP: six at once, then one a second.
    fn refuse(&mut self, client: usize) {
        let (tokens, since) = self.refusals;
        let grown = (self.now - since) / SECOND;
        let tokens = (tokens + grown).min(6);
        let since = since + grown * SECOND;
        self.refusals = (tokens, since);
        let round_trip = self.plan.round_trip_at(self.now);
        let end = self.now + round_trip / 2;
        if tokens > 0 && self.plan.cut(true, false, self.now, end).is_none() {
            self.refusals.0 -= 1;
            self.at(end, Event::RefusalArrives(client));
        }
    }

    // ------------------------------------------------------------------------------------------ the server's host

    fn ping_arrives(&mut self, client: usize, connection: u64, ping: Ping) {
        if !self.server.alive || self.server.connections[client] != Some(connection) {
            let end = self.now + self.plan.round_trip_at(self.now) / 2;
            if self.plan.cut(false, false, self.now, end).is_none() {
                self.at(end, Event::ResetArrives { client, connection });
            }
            return;
        }
        self.server.waiting.push((client, connection, ping));
        self.look_soon();
    }

    fn look_soon(&mut self) {
        self.look_at((self.now + 20_000).max(self.server.looked + SAMPLE_GAP));
    }

    fn look_at(&mut self, at: u64) {
        if self.server.next_look.is_none_or(|next| at < next) {
            self.server.next_look = Some(at);
            self.at(at, Event::Looks);
        }
    }

    fn looks(&mut self) {
        if self.server.next_look != Some(self.now) || !self.server.alive {
            return;
        }
        self.server.next_look = None;
        self.server.looked = self.now;
        let now = time(self.now);
        self.server.judge.handle_sample(now, &self.remoted.sample(self.now));
        let verdict = self.server.judge.verdict();
        if self.server.judge.drops() != self.server.drops {
            self.server.drops = self.server.judge.drops();
            self.server.overflowed = Some(self.now);
        }
        let overflows = self.server.overflowed.is_some_and(|at| self.now < at + 10 * SECOND);
        if !overflows && verdict == Verdict::Up {
            self.server.windows.handle_queue(now, self.server.judge.queue());
        }
        for (client, connection, ping) in std::mem::take(&mut self.server.waiting) {
            let pong = self.answer(client, connection, &ping, overflows);
            let last = self.clients[client].last.pong;
            if let Some(at) = self.tcp(last, false) {
                if self.clients[client].connection == Some(connection) {
                    self.clients[client].last.pong = at;
                }
                self.at(at, Event::PongArrives { client, connection, pong });
            }
        }
        if self.server.told != Some(verdict) {
            self.say(|| format!("server: remoted {verdict}"));
            self.server.told = Some(verdict);
            for client in 0..self.plan.clients {
                let Some(connection) = self.server.connections[client] else { continue };
                let last = self.clients[client].last.pong;
                if let Some(at) = self.tcp(last, false) {
                    self.at(at, Event::NoticeArrives { client, connection });
                }
            }
        }
        let watch = match verdict {
            Verdict::Up if self.server.judge.queue() == 0 => None,
            Verdict::Up | Verdict::Stalled => Some(50 * MS),
            _ => Some(500 * MS),
        };
        let settled = self.server.judge.next_deadline().map(nanos);
        if let Some(at) = watch.map(|gap| self.now + gap).into_iter().chain(settled).min() {
            self.look_at(at.max(self.now + SAMPLE_GAP));
        }
    }

    fn answer(&mut self, client: usize, connection: u64, ping: &Ping, overflows: bool) -> Pong {
        let judge = &self.server.judge;
        let request = Request {
            client: connection,
            address: address(client),
            wants: ping.unsent > 0,
            next_cost: u64::from(ping.next_cost),
            unconfirmed_cost: ping.unconfirmed_cost,
            lease: Duration::from_millis(u64::from(ping.lease_ms)),
        };
        let reads = judge.is_reading(time(self.now));
        let room = Room { buffer: judge.buffer().unwrap_or(BUFFER), queue: judge.queue(), overflows, reads };
        let grant = if judge.verdict() == Verdict::Up {
            self.server.windows.handle_request(time(self.now), request, room)
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
            gap_us: 1_000,
            ask_again_ms: grant.ask_again.as_millis() as u32,
            active: self.server.windows.active(time(self.now)) as u32,
        }
    }

    fn start_reading(&mut self) {
        if !self.reading && self.remoted.reads() && !self.remoted.queue.is_empty() {
            self.reading = true;
            let at = self.now + self.plan.read;
            self.at(at, Event::Reads);
        }
    }

    fn reads(&mut self) {
        self.reading = false;
        if !self.remoted.reads() {
            return;
        }
        if let Some((datagram, reading)) = self.remoted.read() {
            let sent = self.ledger.queued.pop_front().unwrap_or(0);
            if datagram.agent < self.plan.clients {
                self.ledger.read(datagram, sent, reading == Reading::Accepted);
            }
        }
        self.start_reading();
    }

    // ------------------------------------------------------------------------------------------------ the faults

    fn begins(&mut self, index: usize) {
        let timed = self.plan.faults[index];
        self.say(|| format!("begins: {:?} until {:.3}", timed.fault, timed.to as f64 / SECOND as f64));
        match timed.fault {
            Fault::Stop => self.remoted.stopped = self.remoted.alive,
            Fault::Stall => self.remoted.stalled = true,
            Fault::Kill => {
                for datagram in self.remoted.queue.clone() {
                    let lease = if datagram.agent < self.clients.len() { self.lease(datagram.agent) } else { 0 };
                    self.ledger.lost(datagram, Loss::of_outage(&timed, lease));
                }
                self.ledger.queued.clear();
                self.ledger.forgotten();
                self.remoted.kill();
            }
            Fault::KillServer => {
                let connections = std::mem::replace(&mut self.server, Server::new(self.plan.clients)).connections;
                self.server.alive = false;
                for (client, connection) in connections.into_iter().enumerate() {
                    let Some(connection) = connection else { continue };
                    self.reset(client, connection);
                }
            }
            Fault::Reset(client) => {
                if let Some(connection) = self.server.connections[client].take() {
                    self.reset(client, connection);
                }
            }
            Fault::Flood(rate) => {
                self.flood = timed.to;
                self.at(self.now, Event::Floods(rate));
            }
            Fault::Suspend(client) => self.clients[client].frozen = self.clients[client].frozen.max(timed.to),
            Fault::Cut(_) | Fault::Loss(_) | Fault::RoundTrip(_) => {}
        }
    }

    fn reset(&mut self, client: usize, connection: u64) {
        let end = self.now + self.plan.round_trip_at(self.now) / 2;
        if self.plan.cut(false, false, self.now, end).is_none() {
            self.at(end, Event::ResetArrives { client, connection });
        }
    }

    fn ends(&mut self, index: usize) {
        let timed = self.plan.faults[index];
        // The last one of its kind to end sets things right.
        let still = |kind: fn(&Fault) -> bool| {
            self.plan.faults.iter().any(|t| kind(&t.fault) && t.from <= self.now && self.now < t.to)
        };
        match timed.fault {
            Fault::Stop if !still(|fault| matches!(fault, Fault::Stop)) => self.remoted.stopped = false,
            Fault::Stall if !still(|fault| matches!(fault, Fault::Stall)) => self.remoted.stalled = false,
            Fault::Kill if !still(|fault| matches!(fault, Fault::Kill)) => self.remoted.start(self.now),
            Fault::KillServer if !still(|fault| matches!(fault, Fault::KillServer)) => {
                self.server = Server::new(self.plan.clients);
            }
            _ => {}
        }
        self.start_reading();
    }

    fn floods(&mut self, rate: u64) {
        if self.now < self.flood {
            self.arrives(Datagram { agent: self.plan.clients, counter: self.now, length: 100 }, 0);
            let pause = SECOND / rate;
            let next = self.now + self.random.range(pause / 2, pause * 3 / 2).max(1);
            self.at(next, Event::Floods(rate));
        }
    }
}
