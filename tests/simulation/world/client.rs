//! The client: the real core, its threads rolled into one.

use std::collections::VecDeque;
use std::net::SocketAddr;

use ossec_broker::proto::client::dial::Dialer;
use ossec_broker::proto::client::link::{HEARTBEATS_MAX, Probe};
use ossec_broker::proto::client::routes::{Route, Routes};
use ossec_broker::proto::client::{Batch, ClientCore, Config, Counters, DropReason, Origin, Transport};
use ossec_broker::proto::terms::SessionName;
use ossec_broker::proto::terms::Verdict;
use ossec_broker::proto::wire::Pong;

use super::connect::Attempt;
use super::spool::{Past, Spool};
use super::stream::Uplink;
use super::{Event, Way, World, nanos, time};
use crate::plan::{End, Fault, MS, Options, Timed};
use crate::remoted::Datagram;

/// Datagrams that may reach remoted twice for each rewind: a window of half a default buffer of the smallest
/// datagrams.
const COPIES_PER_REWIND_MAX: u64 = 128;
/// Datagrams that may reach remoted twice when a server was started anew and knows nothing: a window of the smallest
/// datagrams.
const COPIES_PER_RESUME_MAX: u64 = (4 << 20) / 832;
/// Datagrams that may reach remoted twice for each batch that was taken out before a rewind.
const BATCH_MAX: u64 = 64;
/// A thread takes some microseconds from one thing to the next.
const STEP: u64 = 10_000;

pub(super) struct Client {
    pub(super) core: ClientCore,
    pub(super) connection: Option<u64>,
    pub(super) probes: VecDeque<Probe>,
    pub(super) dialer: Dialer,
    /// The addresses of the server's host, and the fate of the attempts at them.
    pub(super) routes: Routes,
    /// Attempts under way.
    pub(super) attempts: Vec<Attempt>,
    /// An attempt that was answered, and waits for the address that worked before.
    pub(super) answered: Option<Attempt>,
    /// The route of the connection.
    pub(super) route: Option<Route>,
    /// The moment when its next `Wake` comes, `u64::MAX` for never.
    wakes_at: u64,
    pub(super) batch: Batch,
    sending: bool,
    /// Batches that were sent after a rewind had made them copies.
    stale: u64,
    /// The moments when the last segment of each direction arrives: TCP keeps order.
    pub(super) last_ping: u64,
    pub(super) last_pong: u64,
    lease: u64,
    /// The agent of each session, as far as agents have sent.
    pub(super) sessions: Vec<(SessionName, usize)>,
    /// The last moment when the client released something or had nothing to release.
    pub(super) contented: u64,
    /// The name of the client's stream over tcp, and the path to the server.
    pub(super) stream: u128,
    pub(super) uplink: Uplink,
    pub(super) spool: Option<Spool>,
    /// The process has ended until this moment.
    pub(super) away: Option<u64>,
    /// Datagrams that wait in the agents' socket for the next process.
    pub(super) waiting: Vec<Datagram>,
    pub(super) past: Past,
}

impl Client {
    pub(super) fn new(config: Config, seed: u64, routes: &[Route]) -> Self {
        let mut client = Self {
            core: ClientCore::new(config, 1),
            connection: None,
            probes: VecDeque::new(),
            dialer: Dialer::new(time(0), seed),
            routes: Routes::default(),
            attempts: Vec::new(),
            answered: None,
            route: None,
            wakes_at: u64::MAX,
            batch: Batch::default(),
            sending: false,
            stale: 0,
            last_ping: 0,
            last_pong: 0,
            lease: 0,
            sessions: Vec::new(),
            contented: 0,
            stream: u128::from(seed),
            uplink: Uplink::default(),
            spool: None,
            away: None,
            waiting: Vec::new(),
            past: Past::default(),
        };
        client.routes.handle_routes(routes);
        client
    }

    /// The longest lease that matters to datagrams released at this moment: the lease of a heartbeat under way, of the
    /// newest heartbeat, or of the next.
    pub(super) fn lease(&self) -> u64 {
        let under_way = self.probes.iter().map(Probe::lease).max().unwrap_or_default();
        self.lease.max(under_way.max(self.core.link().lease()).as_nanos() as u64)
    }

    pub(super) fn held(&self) -> u64 {
        self.core.snapshot(time(0)).held.datagrams
    }

    pub(super) fn counters(&self) -> Counters {
        self.core.snapshot(time(0)).counters
    }

    /// The moment when the newest pong arrives.
    pub(super) fn last_pong(&self) -> u64 {
        self.last_pong
    }

    pub(super) fn set_last_pong(&mut self, connection: u64, at: u64) {
        if self.connection == Some(connection) {
            self.last_pong = at;
        }
    }

    /// An agent sends.
    pub(super) fn handle_datagram(&mut self, now: u64, datagram: Datagram) {
        let payload = datagram.payload();
        let agent = SocketAddr::from(([127, 0, 0, datagram.agent as u8 + 1], 5_000));
        self.core.handle_datagram(time(now), Origin { agent, local: None }, &payload);
    }

    /// remoted has answered an agent.
    pub(super) fn handle_reply(&mut self, now: u64, agent: usize) {
        let session = self.sessions.iter().find(|(_, owner)| *owner == agent).map(|(session, _)| *session);
        if let (Some(session), Some(route)) = (session, self.route) {
            self.core.handle_reply(time(now), session, route.target);
        }
    }

    /// The `at`-th datagram of the batch.
    pub(super) fn batched(&self, at: usize) -> Datagram {
        Datagram::of(self.batch.payload(at))
    }

    /// Whether the datagram leaves by its own agent's socket.
    fn leaves_by_its_own(&mut self, at: usize) -> bool {
        let (session, agent) = (self.batch.session(at), self.batched(at).agent);
        if let Some((_, owner)) = self.sessions.iter().find(|(known, _)| *known == session) {
            return *owner == agent;
        }
        self.sessions.push((session, agent));
        self.core.handle_port(session, 1_517 + agent as u16);
        true
    }
}

impl World<'_> {
    pub(super) fn wake(&mut self, client: usize) {
        // An earlier `Wake` may have taken the place of this one.
        if self.clients[client].wakes_at <= self.now {
            self.clients[client].wakes_at = u64::MAX;
            self.act(client);
        }
    }

    /// Does everything that is due, and arranges to be woken for the next thing.
    pub(super) fn act(&mut self, client: usize) {
        let now = time(self.now);
        self.dial(client);
        self.take_answered(client);
        let one = &mut self.clients[client];
        one.core.handle_time(now);
        if one.connection.is_some() && one.core.link().is_silent(now) {
            one.dialer.handle_outage(now);
        }
        self.begin_heartbeat(client);
        match self.plan.transport {
            Transport::Udp => self.take_out(client),
            Transport::Tcp => self.pump(client),
        }
        self.poll_spool(client);
        self.watch_starving(client);
        let one = &mut self.clients[client];
        let wakes = [
            one.core.next_heartbeat(now).map(nanos),
            one.core.link().next_deadline(now).map(nanos),
            one.core.next_release(now).map(nanos),
            one.next_start().map(nanos),
            one.attempts.iter().map(|attempt| attempt.until).min(),
            one.answered.and(one.routes.waits_until()).map(nanos),
            one.spool_due(now).map(nanos),
        ];
        if let Some(next) = wakes.into_iter().flatten().min() {
            self.wake_at(client, next);
        }
    }

    pub(super) fn wake_at(&mut self, client: usize, at: u64) {
        let at = at.max(self.now + STEP);
        if at < self.clients[client].wakes_at {
            self.clients[client].wakes_at = at;
            self.at(at, Event::Wake(client));
        }
    }

    fn begin_heartbeat(&mut self, client: usize) {
        let now = time(self.now);
        let one = &mut self.clients[client];
        let due = one.core.next_heartbeat(now).is_some_and(|at| at <= now);
        let Some((probe, ping)) = due.then(|| one.core.begin_heartbeat(now)).flatten() else {
            return;
        };
        one.lease = probe.lease().as_nanos() as u64;
        let (number, lease) = (probe.number(), one.lease);
        one.probes.push_back(probe);
        let under_way = one.probes.len();
        let (connection, last) = (one.connection.unwrap_or(0), one.last_ping);
        self.say(|| format!("client {client}: heartbeat {number}, lease {} ms", lease / MS));
        if under_way > HEARTBEATS_MAX {
            self.ledger.complain(format!("client {client}: {under_way} heartbeats under way"));
        }
        let arrives = self.tcp(last, true);
        self.clients[client].last_ping = arrives;
        self.at(arrives, Event::PingArrives { client, connection, ping });
    }

    /// Takes a batch out. It is sent a moment later.
    fn take_out(&mut self, client: usize) {
        let one = &mut self.clients[client];
        if !one.sending && one.core.poll_release(time(self.now), &mut one.batch) {
            one.sending = true;
            // The batch usually leaves at once. Every now and then the thread loses the processor.
            let delay =
                if self.random.per_mille(5) { self.random.range(0, 20 * MS) } else { self.random.range(0, MS / 20) };
            let at = self.now + delay;
            self.at(at, Event::Sends(client));
        }
    }

    pub(super) fn sends(&mut self, client: usize) {
        let now = time(self.now);
        if !std::mem::take(&mut self.clients[client].sending) {
            return;
        }
        let refused = self.plan.refuses(self.now);
        let sent =
            if !refused && now < self.clients[client].batch.until() { self.clients[client].batch.len() } else { 0 };
        for at in 0..sent {
            let datagram = self.clients[client].batched(at);
            if !self.clients[client].leaves_by_its_own(at) {
                self.ledger.complain(format!("client {client}: {datagram:?} leaves by another's socket"));
            }
            self.transmit(client, datagram, self.clients[client].batch.target());
        }
        if sent > 0 {
            let (first, last) = (self.clients[client].batched(0), self.clients[client].batched(sent - 1));
            self.say(|| format!("client {client}: sends {} to {}", first.counter, last.counter));
            self.clients[client].contented = self.now;
        }
        let one = &mut self.clients[client];
        let copies = one.counters().copies;
        one.core.handle_sent(now, &one.batch, sent);
        one.stale += u64::from(one.counters().copies > copies);
        if refused {
            self.say(|| format!("client {client}: cannot send"));
            self.clients[client].core.handle_refused(now);
        }
        self.act(client);
    }

    pub(super) fn reset_arrives(&mut self, client: usize, connection: u64) {
        if self.clients[client].connection != Some(connection) {
            return;
        }
        self.say(|| format!("client {client}: disconnected"));
        let now = time(self.now);
        let one = &mut self.clients[client];
        (one.connection, one.route) = (None, None);
        one.probes.clear();
        one.routes.handle_lost();
        one.dialer.handle_outage(now);
        one.core.handle_disconnected(now);
        self.act(client);
    }

    pub(super) fn notice_arrives(&mut self, client: usize, connection: u64, verdict: Verdict) {
        if self.clients[client].connection == Some(connection) {
            self.clients[client].core.handle_notice(verdict);
            self.act(client);
        }
    }

    pub(super) fn refusal_arrives(&mut self, client: usize) {
        if self.way == Way::Broker {
            self.say(|| format!("client {client}: refused"));
            self.clients[client].core.handle_refused(time(self.now));
            self.act(client);
        }
    }

    pub(super) fn pong_arrives(&mut self, client: usize, connection: u64, pong: &Pong) {
        let now = time(self.now);
        let one = &mut self.clients[client];
        if one.connection != Some(connection) {
            return;
        }
        while let Some(probe) = one.probes.pop_front() {
            if probe.number() != pong.number {
                continue;
            }
            let outcome = one.core.handle_pong(now, probe, pong);
            if !one.core.link().is_silent(now) {
                one.handle_answering(now, pong.verdict);
            }
            self.say(|| format!("client {client}: {outcome:?} {pong:?}"));
            break;
        }
        self.act(client);
    }

    /// After the last fault, a client that has something to send must get to send.
    fn watch_starving(&mut self, client: usize) {
        let quiet = self.plan.quiet_from();
        let one = &mut self.clients[client];
        if one.core.snapshot(time(self.now)).unsent.datagrams == 0 {
            one.contented = self.now;
        } else if self.now > one.contented.max(quiet) + self.plan.starved_after() {
            let waited = self.now - one.contented.max(quiet);
            one.contented = self.now;
            self.ledger.complain(format!("client {client} could not send for {} ms", waited / MS));
        }
    }

    /// Checks what must be true at the end.
    pub(super) fn settle(&mut self) {
        if self.way != Way::Broker {
            return;
        }
        let mut allowed = self.ledger.duplicated + self.ledger.repeated;
        for client in 0..self.clients.len() {
            let counters = self.clients[client].counters();
            let past = self.clients[client].past;
            let agents = self.agents(client);
            let (sent, held) = (self.ledger.sent_by(agents.clone()) - past.missed, self.held(client));
            let is_sound = counters.received == counters.confirmed + held + counters.dropped_total();
            if !is_sound || past.is_exact && counters.received != sent {
                self.ledger.complain(format!("client {client}: {sent} sent, {held} held, {counters:?}"));
            }
            let doubtful = if self.plan.transport == Transport::Tcp { counters.doubtful + past.doubtful } else { 0 };
            self.ledger.settle(agents, counters.dropped_total() + past.dropped + doubtful);
            allowed += counters.copies + past.copies;
            let per_rewind = match self.plan.transport {
                Transport::Udp => COPIES_PER_REWIND_MAX,
                Transport::Tcp => COPIES_PER_RESUME_MAX,
            };
            if counters.copies > (counters.rewinds + past.lives) * per_rewind + self.clients[client].stale * BATCH_MAX
            {
                self.ledger.complain(format!("client {client}: too many copies: {counters:?}"));
            }
            self.watch_options(client, counters);
        }
        let copies = self.ledger.sums().copies;
        let crashes = |timed: &Timed| {
            let ends = matches!(timed.fault, Fault::Ends(_, End::Kill | End::PowerCut) | Fault::Disk(..));
            ends || matches!(timed.fault, Fault::Kill | Fault::KillServer | Fault::Flood(_) | Fault::LoopbackDrops)
        };
        if self.plan.transport == Transport::Tcp && copies > 0 && !self.plan.faults.iter().any(crashes) {
            self.ledger.complain(format!("{copies} copies, and nothing crashed"));
        }
        if copies > allowed {
            self.ledger.complain(format!("{copies} copies arrived, {allowed} were meant"));
        }
        if self.ledger.overflows > 0
            && self.flood == 0
            && (self.plan.lag == 0 || self.plan.transport == Transport::Tcp)
        {
            self.ledger
                .complain(format!("{} drops at remoted's socket, and nobody else sends", self.ledger.overflows));
        }
    }

    /// Datagrams are dropped only for the reasons that the options give.
    fn watch_options(&mut self, client: usize, counters: Counters) {
        let reason = match self.plan.options {
            Options::Defaults | Options::Rate(_) => None,
            Options::SmallBuffer(..) => Some(DropReason::Overflow),
            Options::MaxAge(_) => Some(DropReason::Expired),
            Options::ResendNever => Some(DropReason::NotResent),
        };
        let overflow =
            Some(DropReason::Overflow).filter(|_| self.plan.spool.is_some() && reason != Some(DropReason::Overflow));
        let meant: u64 = reason.into_iter().chain(overflow).map(|reason| counters.dropped(reason)).sum();
        if counters.dropped_total() != meant || (reason == Some(DropReason::NotResent) && counters.copies > 0) {
            self.ledger.complain(format!("client {client}: {:?} and {counters:?}", self.plan.options));
        }
    }
}
