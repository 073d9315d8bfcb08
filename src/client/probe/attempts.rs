//! Attempts to connect: which address, when, for how long, and what comes of it.
//!
//! The core decides: the [`Dialer`] when, the [`Routes`] where, the [`Segments`] how.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use mio::{Registry, Token};

use super::peer::{End, Heard, Peer, Stage};
use crate::client::{config::Config, resolve::Resolver};
use crate::os::net::{self, framed::Framed};
use crate::os::threads::DOORBELL;
use crate::proto::client::dial::{Dialer, PATIENCE_MAX};
use crate::proto::client::routes::{Route, Routes};
use crate::proto::wire::{Features, Frame, Hello, Target, VERSION};
use crate::proto::{
    client::Transport, client::segments::Segments, seal::Key, terms::StreamId, terms::Verdict, time::Time,
};

pub(super) struct Attempts<'a> {
    config: &'a Config,
    key: Option<Key>,
    resolver: Resolver,
    routes: Routes,
    dialer: Dialer,
    segments: Segments,
    /// Under way, the oldest first.
    peers: Vec<Peer>,
    tokens: usize,
    /// The greeting of a connection; each fills in where its datagrams go.
    pub(super) hello: Hello,
    /// Why there is no connection, for the log.
    pub(super) trouble: String,
    /// Where agents send to.
    bound: Option<SocketAddr>,
}

/// An attempt that was answered, and what has come behind the answer.
pub(super) struct Success {
    pub(super) peer: Peer,
    pub(super) heard: Heard,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(
        config: &'a Config,
        key: Option<Key>,
        resolver: Resolver,
        bound: Option<SocketAddr>,
        stream: StreamId,
        now: Time,
    ) -> Self {
        let interval_ms = u32::try_from(config.core.link.interval.as_millis()).unwrap_or(u32::MAX);
        let features = match config.core.transport {
            Transport::Udp => Features::NONE,
            Transport::Tcp => Features::STREAM.with(Features::EMPTY_DATAGRAMS),
        };
        Self {
            config,
            key,
            resolver,
            routes: Routes::default(),
            dialer: Dialer::new(now, stream as u64),
            segments: Segments::default(),
            peers: Vec::new(),
            tokens: 0,
            hello: Hello { version: VERSION, features, stream, interval_ms, target: Target::NONE },
            trouble: "not connected yet".into(),
            bound,
        }
    }

    /// Datagrams are sent under another name.
    pub(super) fn handle_stream(&mut self, stream: StreamId) {
        self.hello.stream = stream;
        // Attempts under way have said the old name.
        self.peers.clear();
    }

    /// Does what is due: gives attempts up, asks for names, starts an attempt. `in_use` is the token of the connection
    /// in use. If that is `answering`, another connection is of use only if it is better.
    pub(super) fn act(
        &mut self,
        now: Time,
        registry: &Registry,
        in_use: Option<Token>,
        answering: bool,
    ) -> Option<Success> {
        self.give_up(now);
        let ready = self.peers.iter().position(Peer::is_answered);
        if let Some(at) = ready.filter(|_| self.routes.is_taking(now)) {
            return Some(Success { peer: self.peers.remove(at), heard: (Vec::new(), None) });
        }
        let lost = self.dialer.next_start(0).is_some();
        if self.routes.free_from().is_none() || lost {
            self.resolver.ask(now);
        }
        if self.next_start(now).is_some_and(|at| at <= now) {
            self.dialer.handle_start(now);
            if let Some(route) = self.routes.handle_attempt(now, answering) {
                self.dial(now, registry, route, in_use);
            }
        }
        None
    }

    pub(super) fn next_deadline(&self, now: Time) -> Option<Time> {
        let dial = match self.routes.free_from() {
            Some(_) => self.next_start(now),
            None => Some(self.resolver.next_question()),
        };
        let timeout = self.timeout();
        let over = |peer: &Peer| peer.since + if peer.is_overdue { timeout.max(PATIENCE_MAX) } else { timeout };
        let over = self.peers.iter().filter(|peer| !peer.is_answered()).map(over).min();
        let waits = self.routes.waits_until().filter(|_| self.peers.iter().any(Peer::is_answered));
        [dial, over, waits].into_iter().flatten().min()
    }

    const fn timeout(&self) -> Duration {
        self.config.core.link.timeout
    }

    fn next_start(&self, now: Time) -> Option<Time> {
        let young = self.peers.iter().filter(|peer| now.since(peer.since) < self.timeout()).count();
        Some(self.dialer.next_start(young)?.max(self.routes.free_from()?))
    }

    fn give_up(&mut self, now: Time) {
        let mut at = 0;
        while at < self.peers.len() {
            if self.is_over(now, at) {
                let peer = self.peers.remove(at);
                if peer.attempt().greeted {
                    self.routes.handle_fruitless(now, peer.route, self.dialer.pause());
                }
            } else {
                at += 1;
            }
        }
    }

    /// An overdue attempt may go on for a while, but counts as failed.
    fn is_over(&mut self, now: Time, at: usize) -> bool {
        let (timeout, peer) = (self.timeout(), &self.peers[at]);
        if peer.is_answered() {
            // An answered attempt waits for home, and no longer than the routes say.
            return false;
        }
        let (attempt, broker) = (peer.attempt(), peer.route.broker);
        let others = self.peers.iter().filter(|other| other.route.broker == broker).map(Peer::attempt);
        let over = attempt.is_over(now, timeout, others);
        let peer = &mut self.peers[at];
        if now.since(attempt.begun) >= timeout && !std::mem::replace(&mut peer.is_overdue, true) {
            self.trouble = if attempt.greeted {
                format!("{broker} takes the connection and does not answer within {timeout:?}")
            } else {
                format!("no answer from {broker} within {timeout:?}")
            };
            self.routes.handle_failed(now, broker, attempt.begun);
        }
        over
    }

    fn dial(&mut self, now: Time, registry: &Registry, route: Route, in_use: Option<Token>) {
        let (token, broker, source) = (self.free_token(in_use), route.broker, self.config.source);
        let segment_bytes_max = self.segments.bytes_max(now);
        let begun = net::dial(broker, source, segment_bytes_max).and_then(|stream| {
            let framed = Framed::client(stream, self.key.as_ref());
            let stage = Stage::Connecting;
            let mut peer = Peer { framed, route, token, since: now, stage, is_overdue: false, segment_bytes_max };
            peer.framed.watch(registry, token)?;
            Ok(peer)
        });
        match begun {
            Ok(peer) => {
                if self.routes.is_first_attempt() {
                    self.trouble = format!("no answer from {broker} yet");
                }
                self.peers.push(peer);
            }
            Err(error) => {
                self.routes.handle_failed(now, broker, now);
                self.trouble = if error.kind() == ErrorKind::AddrNotAvailable && source.is_some() {
                    format!("cannot connect to {broker}: --source is no address of this host")
                } else {
                    format!("cannot connect to {broker}: {error}")
                };
            }
        }
    }

    fn free_token(&mut self, in_use: Option<Token>) -> Token {
        loop {
            let token = Token(self.tokens);
            self.tokens = (self.tokens + 1) % DOORBELL.0;
            if in_use != Some(token) && self.position(token).is_none() {
                return token;
            }
        }
    }

    fn position(&self, token: Token) -> Option<usize> {
        self.peers.iter().position(|peer| peer.token == token)
    }

    pub(super) fn take_answers(&mut self) {
        while let Ok(answer) = self.resolver.answers.try_recv() {
            let config = self.config;
            match answer.and_then(|addresses| addresses.routes(config.source, config.server.port)) {
                Ok(routes) => {
                    if self.routes.handle_routes(&routes) {
                        let mut brokers: Vec<String> = routes.iter().map(|route| route.broker.to_string()).collect();
                        brokers.dedup();
                        log::debug!("broker server at {}", brokers.join(", "));
                    }
                }
                Err(error) => self.trouble = error.to_string(),
            }
        }
    }

    /// An answered attempt that is to be taken is under way no more.
    pub(super) fn attend(&mut self, now: Time, token: Token) -> Option<Success> {
        let at = self.position(token)?;
        let (frames, end) = self.peers[at].attend(&self.hello);
        let mut frames = frames.into_iter();
        while let Some(frame) = frames.next() {
            match self.take(at, frame) {
                Ok(None) => {}
                Ok(Some(features)) => {
                    if self.is_to_be_taken(now, at, features) {
                        return Some(Success { peer: self.peers.remove(at), heard: (frames.collect(), end) });
                    }
                    break;
                }
                Err(end) => {
                    self.end(now, at, &end);
                    return None;
                }
            }
        }
        // The others may have been given up for home, whose attempt begins at once.
        self.end(now, self.position(token)?, &end?);
        None
    }

    /// Takes in a frame; the features of a server that takes the connection.
    fn take(&self, at: usize, frame: Frame) -> Result<Option<Features>, End> {
        match frame {
            Frame::Welcome(welcome) if welcome.version != VERSION => Err(End::Version(welcome.version)),
            Frame::Welcome(welcome) => self.check(&self.peers[at], welcome.features).map(Some),
            Frame::Refusal(refusal) => Err(End::Refused(refusal.text)),
            // An attempt that waits for home is told what it will ask for when it is taken.
            Frame::Notice(_) => Ok(None),
            _ => Err(End::Stranger),
        }
    }

    /// The features of a server that greets, if they are enough for this client.
    fn check(&self, peer: &Peer, features: Features) -> Result<Features, End> {
        // Whatever a server says: without a key anybody on the way could acknowledge datagrams that never arrived, and
        // speak to agents in remoted's name.
        let carries = features.has(Features::STREAM) && peer.framed.is_trusted(peer.route.broker.ip());
        if self.config.core.transport == Transport::Tcp && !carries {
            let why = "takes no datagrams over TCP: it needs a key at both ends, or both ends on one host";
            return Err(End::Unfit(why));
        }
        if self.bound.is_some_and(|bound| net::comes_back(bound, peer.route.target)) {
            let why = "is this host, and what is sent to it comes back to --listen: give that another port";
            return Err(End::Unfit(why));
        }
        Ok(features)
    }

    /// An attempt was answered. If another route has the first claim, that route is asked first.
    fn is_to_be_taken(&mut self, now: Time, at: usize, features: Features) -> bool {
        let peer = &mut self.peers[at];
        if let Stage::Greeted { at } = peer.stage {
            peer.stage = Stage::Answered { round_trip: now.since(at), features };
        }
        let taken = self.routes.handle_answered(now, peer.route, now.since(peer.since));
        if !taken {
            log::debug!("{} answers; the address that worked before is asked once more", peer.route.broker);
            self.peers.retain(Peer::is_answered);
            self.dialer.handle_chance(now);
        }
        taken
    }

    fn end(&mut self, now: Time, at: usize, end: &End) {
        let Peer { route, since, stage, .. } = self.peers.remove(at);
        self.trouble = end.of(route.broker);
        log::debug!("attempt failed: {}", self.trouble);
        if end.is_refusal() {
            return self.routes.handle_refused(now, route, self.dialer.pause());
        }
        self.routes.handle_failed(now, route.broker, since);
        if stage != Stage::Connecting {
            self.routes.handle_fruitless(now, route, self.dialer.pause());
        }
    }

    /// The link goes over this connection: no other is needed.
    pub(super) fn handle_taken(&mut self, peer: &Peer) {
        self.peers.clear();
        self.dialer.handle_link();
        self.routes.handle_taken(peer.route);
        if let (Some(_), Some(packet)) = (peer.segment_bytes_max, self.segments.take_news()) {
            log::warn!("packets of {packet} bytes do not get through to {}: sending smaller ones", peer.route.broker);
        }
    }

    /// The connection in use answers with this verdict; `refused`: remoted's host refuses datagrams. Other attempts
    /// end, unless another route may be better.
    pub(super) fn handle_answering(&mut self, now: Time, route: Route, verdict: Verdict, refused: bool) {
        self.routes.handle_answering(now, route, verdict, refused);
        if self.routes.is_worth_leaving(now) {
            self.dialer.handle_outage(now);
        } else {
            self.dialer.handle_link();
            self.peers.clear();
        }
    }

    /// The connection in use has fallen silent: it is not waited for.
    pub(super) fn handle_silent(&mut self, now: Time, peer: &Peer) {
        if let Some(sent) = peer.framed.sent() {
            self.segments.handle_silent(now, peer.segment_bytes_max, sent);
        }
        self.dialer.handle_outage(now);
    }

    pub(super) fn handle_lost(&mut self, now: Time, route: Route, end: &End) {
        self.trouble = end.of(route.broker);
        log::debug!("connection lost: {}", self.trouble);
        self.routes.handle_lost();
        self.dialer.handle_outage(now);
        if end.is_refusal() {
            log::debug!("attempt failed: {}", self.trouble);
            self.routes.handle_refused(now, route, self.dialer.pause());
        }
    }
}
