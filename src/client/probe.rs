//! Heartbeats: the connection to the broker server, and the attempts to get a better one.

mod peer;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::Receiver;
use mio::{Events, Interest, Poll, Token};

use super::report::Report;
use super::resolve::{Addresses, Resolver};
use super::stream::Outgoing;
use super::{Config, Shared, events};
use crate::link::{ATTEMPTS_MAX, Dialer, Probe};
use crate::net::udp::kernel_drops;
use crate::net::{self};
use crate::relay::{Bells, Relay, SessionRef, Transport};
use crate::seal::Key;
use crate::threads::{DOORBELL, Stop};
use crate::time::Time;
use crate::wire::{Attach, Features, Frame, Hello, Ping, Reply, Target, VERSION};
use peer::{Peer, Stage};

/// A name is not asked for again before this is over.
const RESOLVE_PAUSE: Duration = Duration::from_secs(2);

/// The thread that keeps the link.
pub(super) struct Prober<'a> {
    shared: Shared,
    config: &'a Config,
    key: Option<Key>,
    poll: Poll,
    resolver: Resolver,
    addresses: Option<Addresses>,
    asked: Time,
    dialer: Dialer,
    /// Attempts and the connection in use, by token.
    peers: Vec<Peer>,
    tokens: usize,
    /// The connection in use.
    chosen: Option<Token>,
    /// Heartbeats under way on it, oldest first.
    probes: VecDeque<Probe>,
    turn: usize,
    /// What a connection begins with; where its datagrams go is filled in by each.
    hello: Hello,
    /// That nothing protects the connection was said.
    plain_told: bool,
    /// Why there is no connection, for the log.
    trouble: String,
    report: Report,
    kernel_drops: u32,
    /// Transport tcp: what is to be written.
    outgoing: Receiver<Outgoing>,
}

impl<'a> Prober<'a> {
    pub(super) fn new(
        shared: Shared,
        config: &'a Config,
        key: Option<Key>,
        resolver: Resolver,
        poll: Poll,
        outgoing: Receiver<Outgoing>,
    ) -> Self {
        let now = net::now();
        let stream = net::random();
        let interval_ms = u32::try_from(config.relay.link.interval.as_millis()).unwrap_or(u32::MAX);
        let features = match config.relay.transport {
            Transport::Udp => Features::NONE,
            Transport::Tcp => Features::STREAM.with(Features::EMPTY_DATAGRAMS),
        };
        Self {
            shared,
            config,
            key,
            poll,
            resolver,
            addresses: None,
            asked: now,
            dialer: Dialer::new(now, stream as u64),
            peers: Vec::new(),
            tokens: 0,
            chosen: None,
            probes: VecDeque::new(),
            turn: 0,
            hello: Hello { version: VERSION, features, stream, interval_ms, target: Target::NONE },
            plain_told: false,
            trouble: "not connected yet".into(),
            report: Report::new(now),
            kernel_drops: 0,
            outgoing,
        }
    }

    /// Keeps the link until the stop.
    pub(super) fn run(mut self, stop: &Stop) -> Result<(), String> {
        let mut events = events();
        while !stop.is_set() {
            let wait = self.act();
            match self.poll.poll(&mut events, wait) {
                Err(error) if error.kind() != std::io::ErrorKind::Interrupted => {
                    return Err(format!("cannot wait for the server: {error}"));
                }
                Ok(()) | Err(_) => {}
            }
            self.take_events(&events);
        }
        Ok(())
    }

    /// Does all that is due at this moment. How long to wait for events after that.
    fn act(&mut self) -> Option<Duration> {
        let now = net::now();
        self.give_up_attempts(now);
        self.ask_names(now);
        self.dial(now);
        let (bells, heartbeat) = self.keep_time(now);
        self.shared.ring(bells);
        if let Some((probe, ping)) = heartbeat {
            self.send_heartbeat(probe, ping);
        }
        // Behind the heartbeats: they must not wait for data.
        self.write_stream();
        self.tell(now);
        let (bells, heartbeat, link) = {
            let now = net::now();
            let mut relay = self.shared.relay.lock();
            let heartbeat = relay.next_heartbeat(now);
            relay.handle_probe_waits(heartbeat);
            // A pause may have ended since the bells above: what may be released needs no heartbeat any more, and nobody else would tell.
            (relay.bells(now), heartbeat, relay.next_deadline(now))
        };
        self.shared.ring(bells);
        let attempts = self.peers.iter().filter(|peer| Some(peer.token) != self.chosen).count();
        let dial = match self.addresses {
            Some(_) => self.dialer.next_start(attempts),
            None => Some(self.asked + RESOLVE_PAUSE),
        };
        let attempt = self
            .peers
            .iter()
            .filter(|peer| Some(peer.token) != self.chosen)
            .map(|peer| peer.since + self.config.timeout)
            .min();
        let report = self.report.next_deadline();
        let next = [heartbeat, link, dial, attempt, report].into_iter().flatten().min()?;
        Some(next.since(net::now()))
    }

    /// What time alone brings about: lateness, silence, a heartbeat that is due.
    fn keep_time(&mut self, now: Time) -> (Bells, Option<(Probe, Ping)>) {
        let acknowledged = self.acknowledged(now);
        let mut relay = self.shared.relay.lock();
        relay.handle_time(now);
        if let Some(at) = acknowledged {
            relay.handle_alive(at);
        }
        if relay.is_silent(now) {
            self.dialer.handle_outage(now);
        }
        let due = relay.next_heartbeat(now).is_some_and(|at| at <= now);
        let heartbeat = if due { relay.begin_heartbeat(now) } else { None };
        (relay.bells(now), heartbeat)
    }

    /// Transport tcp, while something is under way: when the other host acknowledged something last.
    fn acknowledged(&mut self, now: Time) -> Option<Time> {
        let streams = self.config.relay.transport == Transport::Tcp;
        let ago = self.chosen_peer().filter(|_| streams)?.framed.acknowledged()?;
        Some(now.before(ago))
    }

    fn send_heartbeat(&mut self, probe: Probe, ping: Ping) {
        log::trace!("heartbeat {}: {} held, {} unsent", ping.number, ping.held, ping.unsent);
        self.probes.push_back(probe);
        let sent = self.chosen_peer().map(|peer| peer.framed.send(&Frame::Ping(ping)));
        if let Some(Err(broken)) = sent {
            self.lose(&broken.to_string());
        }
    }

    /// Transport tcp: writes what is ready, as far as the connection takes it.
    fn write_stream(&mut self) {
        loop {
            let Some(peer) = self.chosen_peer().filter(|peer| !peer.framed.is_congested()) else {
                return;
            };
            let token = peer.token;
            let Ok(outgoing) = self.outgoing.try_recv() else {
                return;
            };
            // What was prepared before the server said where to go on comes again.
            if outgoing.epoch != self.shared.relay.lock().epoch() {
                continue;
            }
            if let Some(peer) = self.chosen_peer()
                && let Err(broken) = peer.framed.send_bytes(&outgoing.bytes)
            {
                return self.drop_peer(token, &broken.to_string());
            }
        }
    }

    fn chosen_peer(&mut self) -> Option<&mut Peer> {
        let chosen = self.chosen?;
        self.peers.iter_mut().find(|peer| peer.token == chosen)
    }

    fn give_up_attempts(&mut self, now: Time) {
        let timeout = self.config.timeout;
        let chosen = self.chosen;
        let trouble = &mut self.trouble;
        self.peers.retain(|peer| {
            let keep = Some(peer.token) == chosen || now.since(peer.since) < timeout;
            if !keep {
                *trouble = format!("no answer from {} within {timeout:?}", peer.address);
            }
            keep
        });
    }

    /// Asks what the names mean by now, while there is no link or no answer yet.
    fn ask_names(&mut self, now: Time) {
        let needed = self.addresses.is_none() || self.dialer.next_start(0).is_some();
        if needed && now.since(self.asked) >= RESOLVE_PAUSE {
            self.asked = now;
            self.resolver.ask();
        }
    }

    /// Starts an attempt if one is due.
    fn dial(&mut self, now: Time) {
        let attempts = self.peers.iter().filter(|peer| Some(peer.token) != self.chosen).count();
        debug_assert!(attempts <= ATTEMPTS_MAX, "the dialer counts them");
        if self.dialer.next_start(attempts).is_none_or(|at| at > now) {
            return;
        }
        let Some(addresses) = &self.addresses else {
            return;
        };
        self.dialer.handle_start(now);
        let address = addresses.broker[self.turn % addresses.broker.len()];
        self.turn = self.turn.wrapping_add(1);
        let token = Token(self.tokens);
        self.tokens = (self.tokens + 1) % DOORBELL.0;
        let target = self.target(address);
        let begun = net::dial(address, self.config.source).and_then(|stream| {
            let mut peer = Peer::new(stream, self.key.as_ref(), address, target, token, now);
            self.poll.registry().register(&mut peer.framed, token, Interest::READABLE | Interest::WRITABLE)?;
            Ok(peer)
        });
        match begun {
            Ok(peer) => {
                if self.turn == 1 {
                    self.trouble = format!("no answer from {address} yet");
                }
                self.peers.push(peer);
            }
            Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable && self.config.source.is_some() => {
                self.trouble = format!("cannot connect to {address}: --source is no address of this host");
            }
            Err(error) => self.trouble = format!("cannot connect to {address}: {error}"),
        }
    }

    fn take_events(&mut self, events: &Events) {
        for event in events {
            if event.token() == DOORBELL {
                self.take_answers();
            } else if let Some(at) = self.peers.iter().position(|peer| peer.token == event.token()) {
                self.attend(at);
            }
        }
    }

    fn take_answers(&mut self) {
        while let Some(answer) = self.resolver.answer() {
            match answer.and_then(|addresses| addresses.reachable_from(self.config.source)) {
                Ok(addresses) => {
                    if self.addresses.as_ref() != Some(&addresses) {
                        log::debug!("broker server at {:?}", addresses.broker);
                    }
                    self.addresses = Some(addresses);
                }
                Err(error) => self.trouble = error,
            }
        }
    }

    /// Reads and writes what a connection is ready for.
    fn attend(&mut self, at: usize) {
        let peer = &mut self.peers[at];
        let (token, address) = (peer.token, peer.address);
        let outcome = peer.attend(&self.hello);
        let (frames, ended) = match outcome {
            Ok(outcome) => outcome,
            Err(trouble) => {
                if trouble.is_refusal() {
                    self.dialer.handle_refusal(net::now());
                }
                return self.drop_peer(token, &format!("{address}: {trouble}"));
            }
        };
        for frame in frames {
            match frame {
                Frame::Welcome(welcome) if welcome.version == VERSION => {
                    if let Err(why) = self.adopt(token, welcome.features) {
                        self.dialer.handle_refusal(net::now());
                        return self.drop_peer(token, &format!("{address} {why}"));
                    }
                }
                Frame::Welcome(welcome) => {
                    return self
                        .drop_peer(token, &format!("{address} speaks version {} of the protocol", welcome.version));
                }
                Frame::Refusal(refusal) => {
                    self.dialer.handle_refusal(net::now());
                    return self.drop_peer(token, &format!("{address} refuses: {}", refusal.text));
                }
                Frame::Pong(pong) if Some(token) == self.chosen => self.take_pong(&pong),
                Frame::Notice(notice) if Some(token) == self.chosen => {
                    log::debug!("{address} says: remoted {}", notice.verdict);
                    self.take_told(|relay| relay.handle_notice(notice.verdict));
                }
                Frame::Resume(resume) if Some(token) == self.chosen => {
                    log::debug!("{address} says: go on from {:?}", resume.from);
                    self.take_told(|relay| relay.handle_resume(&resume));
                }
                Frame::Ack(ack) if Some(token) == self.chosen => self.take_told(|relay| relay.handle_ack(&ack)),
                Frame::Reply(reply) if Some(token) == self.chosen => self.take_reply(&reply),
                Frame::Pong(_) | Frame::Notice(_) | Frame::Resume(_) | Frame::Ack(_) | Frame::Reply(_) => {}
                Frame::Hello(_) | Frame::Ping(_) | Frame::Attach(_) | Frame::Session(_) | Frame::Data(_) => {
                    return self.drop_peer(token, &format!("{address} is not a broker server"));
                }
            }
        }
        if ended {
            self.drop_peer(token, &format!("{address} closed the connection"));
        }
    }

    /// An attempt was answered: it is the connection from here on.
    fn adopt(&mut self, token: Token, features: Features) -> Result<(), &'static str> {
        let now = net::now();
        let streams = self.config.relay.transport == Transport::Tcp;
        if streams && !features.has(Features::STREAM) {
            return Err("takes no datagrams over TCP: it needs a key at both ends, or both ends on one host");
        }
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.token == token) else {
            return Ok(());
        };
        let Stage::Greeted { at } = peer.stage else {
            return Ok(());
        };
        peer.stage = Stage::Ready;
        if streams && let Err(broken) = peer.framed.send(&Frame::Attach(Attach { source: self.config.source })) {
            log::debug!("connection lost: {broken}");
            return Err("closed the connection");
        }
        self.shared.takes_empty.store(features.has(Features::EMPTY_DATAGRAMS), Ordering::Relaxed);
        let (address, target) = (peer.address, peer.target);
        self.peers.retain(|peer| peer.token == token);
        self.chosen = Some(token);
        self.probes.clear();
        self.dialer.handle_link();
        log::debug!("connected to {address}; datagrams go to {target}");
        if self.key.is_none() && !address.ip().is_loopback() && !std::mem::replace(&mut self.plain_told, true) {
            log::warn!("no key (--psk-file): heartbeats are plain");
        }
        let bells = {
            let mut relay = self.shared.relay.lock();
            relay.handle_connected(now, now.since(at), target);
            relay.bells(now)
        };
        self.shared.ring(bells);
        Ok(())
    }

    /// The server has said something unasked.
    fn take_told(&mut self, tell: impl FnOnce(&mut Relay)) {
        let now = net::now();
        let bells = {
            let mut relay = self.shared.relay.lock();
            relay.handle_alive(now);
            tell(&mut relay);
            relay.bells(now)
        };
        self.shared.ring(bells);
    }

    /// Transport tcp: what remoted answered came back over the connection.
    fn take_reply(&self, reply: &Reply) {
        let session = SessionRef { id: reply.name.id, generation: reply.name.generation };
        let origin = self.shared.relay.lock().handle_carried_reply(net::now(), session);
        if let Some(origin) = origin {
            self.shared.pass_on(origin, &reply.bytes);
        }
    }

    /// Where datagrams go: to the very host that the heartbeats reach, unless the broker server is said to stand elsewhere.
    fn target(&self, reached: SocketAddr) -> SocketAddr {
        match self.addresses.as_ref().and_then(|addresses| addresses.server.as_ref()) {
            None => {
                // With its scope, where it is a link-local address.
                let mut target = reached;
                target.set_port(self.config.server.port);
                target
            }
            Some(servers) => {
                let fits = |address: &&SocketAddr| {
                    self.config.source.is_none_or(|source| source.is_ipv4() == address.is_ipv4())
                };
                *servers.iter().find(fits).unwrap_or(&servers[0])
            }
        }
    }

    fn take_pong(&mut self, pong: &crate::wire::Pong) {
        let now = net::now();
        // Pongs come in the order of their pings; one that is not known belongs to nothing.
        while let Some(probe) = self.probes.pop_front() {
            if probe.number() < pong.number {
                continue;
            }
            if probe.number() > pong.number {
                self.probes.push_front(probe);
                return;
            }
            let round_trip = now.since(probe.begun());
            let (outcome, silent, bells) = {
                let mut relay = self.shared.relay.lock();
                let outcome = relay.handle_pong(now, probe, pong);
                (outcome, relay.is_silent(now), relay.bells(now))
            };
            self.shared.ring(bells);
            if !silent {
                self.keep_chosen();
            }
            let level = if outcome.rewind.is_some() { log::Level::Debug } else { log::Level::Trace };
            log::log!(
                level,
                "heartbeat {} after {round_trip:?}: remoted {}, queue {}, window {}{}",
                pong.number,
                pong.verdict,
                pong.queue,
                pong.window,
                outcome.rewind.map_or_else(String::new, |cause| format!(", rewind: {cause:?}"))
            );
            return;
        }
    }

    /// The connection in use answers: no other is needed.
    fn keep_chosen(&mut self) {
        self.dialer.handle_link();
        let chosen = self.chosen;
        self.peers.retain(|peer| Some(peer.token) == chosen);
    }

    fn drop_peer(&mut self, token: Token, why: &str) {
        if Some(token) == self.chosen {
            self.lose(why);
        } else {
            log::debug!("attempt failed: {why}");
            self.trouble = why.into();
            self.peers.retain(|peer| peer.token != token);
        }
    }

    /// The connection in use is gone.
    fn lose(&mut self, why: &str) {
        let now = net::now();
        log::debug!("connection lost: {why}");
        self.trouble = why.into();
        let chosen = self.chosen.take();
        self.peers.retain(|peer| Some(peer.token) != chosen);
        self.probes.clear();
        self.dialer.handle_outage(now);
        self.shared.relay.lock().handle_disconnected(now);
    }

    /// Tells the log what has changed.
    fn tell(&mut self, now: Time) {
        let snapshot = self.shared.relay.lock().snapshot(now);
        if let Some(drops) = kernel_drops(&self.shared.agents) {
            self.report.handle_kernel_drops(drops.wrapping_sub(self.kernel_drops));
            self.kernel_drops = drops;
        }
        let chosen = self.chosen.and_then(|chosen| self.peers.iter().find(|peer| peer.token == chosen));
        let silent = chosen.map(|peer| format!("{} does not answer in time", peer.address));
        let trouble = silent.as_ref().unwrap_or(&self.trouble);
        for line in self.report.observe(now, std::time::SystemTime::now(), &snapshot, trouble) {
            log::log!(line.level, "{}", line.text);
        }
    }
}
