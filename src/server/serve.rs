//! Serving all connections with one thread.
//!
//! Each turn of the loop reads what has come in, then answers all that wait from one sample of remoted. A sample is always begun after the
//! ping was read, never a cached one: between the two remoted may have died.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token};

use super::Config;
use super::complaints::Complaints;
use super::conn::{Close, Conn};
use super::conversation::{Garbage, Request};
use super::inject::{Inject, Injector, Outcome};
use crate::gate::Gate;
use crate::net::framed::{Broken, Filled};
use crate::net::{self};
use crate::remoted::{Found, Inspector, Wanted};
use crate::seal::Key;
use crate::streams::{Offence, StreamId, Told};
use crate::threads::{DOORBELL, Stop};
use crate::time::Time;
use crate::verdict::Sample;
use crate::wire::{Frame, Incarnation, Notice, Refusal, Reply, Verdict};

const LISTENER: Token = Token(usize::MAX - 1);

/// Least time between two samples: more often would only measure the measuring.
const SAMPLE_GAP_MIN: Duration = Duration::from_millis(1);
/// ... and the most: a sample during which this process was not running took long and says nothing of the next.
const SAMPLE_GAP_MAX: Duration = Duration::from_millis(10);
/// Sampling may take this part of one core at most.
const SAMPLE_SHARE: u32 = 10;
/// Least time between two searches of `/proc`.
const SEARCH_GAP: Duration = Duration::from_secs(1);
/// The same while remoted is up and only a process beside it is not found: perhaps it cannot be seen from here.
const SEARCH_GAP_UP: Duration = Duration::from_secs(30);
/// How often silent connections are looked for.
const SWEEP_GAP: Duration = Duration::from_secs(5);
/// Newcomers taken in one turn of the loop.
const ACCEPTS_MAX: usize = 1_024;
/// Connections of one address that have not said what they are. More are refused, so that one host cannot take all places.
const NEW_PER_ADDRESS_MAX: usize = 1_024;
/// The system had no room for a datagram to inject.
const BUSY_PAUSE: Duration = Duration::from_millis(2);
/// No descriptor is left: how long to leave newcomers waiting.
const SHORTAGE_PAUSE: Duration = Duration::from_secs(1);

/// What the serving thread is made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) key: Option<Key>,
    /// Connections that there are descriptors for.
    pub(super) places: usize,
    /// Sockets to inject with that there are descriptors for.
    pub(super) sources: usize,
    pub(super) wanted: Wanted,
    /// Where remoted receives.
    pub(super) remoted: Vec<SocketAddr>,
    pub(super) listener: TcpListener,
    pub(super) poll: Poll,
    /// Asks for a search, and what it found.
    pub(super) ask_search: Sender<()>,
    pub(super) founds: Receiver<Found>,
}

/// The serving thread.
#[derive(Debug)]
pub(super) struct Server<'a> {
    config: &'a Config,
    key: Option<Key>,
    /// Connections that there are descriptors for.
    places: usize,
    poll: Poll,
    listener: TcpListener,
    conns: HashMap<Token, Conn>,
    /// Connections that have not said what they are, by address.
    strangers: HashMap<IpAddr, usize>,
    tokens: usize,
    /// Connections with more to read than one turn takes.
    unread: Vec<Token>,
    unread_replies: Vec<Token>,
    waiting: Vec<(Token, Request)>,
    inspector: Inspector,
    found: Found,
    gate: Gate,
    injector: Injector,
    /// The system had no room: nothing is tried before.
    inject_again: Option<Time>,
    ask_search: Sender<()>,
    founds: Receiver<Found>,
    /// When the newest search was asked for; `open` until its result is in.
    searched: Option<Time>,
    search_open: bool,
    sampled: Option<Time>,
    gap: Duration,
    told: Option<Verdict>,
    /// Which life of remoted the log was told of.
    told_life: Incarnation,
    swept: Time,
    accept_again: Option<Time>,
    complaints: Complaints,
    unreadable_told: bool,
}

impl<'a> Server<'a> {
    pub(super) fn new(config: &'a Config, parts: Parts) -> Result<Self, String> {
        let Parts { key, places, sources, wanted, remoted, mut listener, poll, ask_search, founds } = parts;
        let register = poll.registry().register(&mut listener, LISTENER, Interest::READABLE);
        register.map_err(|error| format!("cannot wait for connections: {error}"))?;
        Ok(Self {
            config,
            key,
            places,
            poll,
            listener,
            conns: HashMap::new(),
            strangers: HashMap::new(),
            tokens: 0,
            unread: Vec::new(),
            unread_replies: Vec::new(),
            waiting: Vec::new(),
            inspector: Inspector::new(wanted),
            found: Found::default(),
            gate: Gate::new(config.settle),
            injector: Injector::new(config.inject, remoted, sources),
            inject_again: None,
            ask_search,
            founds,
            searched: None,
            search_open: false,
            sampled: None,
            gap: SAMPLE_GAP_MIN,
            told: None,
            told_life: Incarnation::default(),
            swept: net::now(),
            accept_again: None,
            complaints: Complaints::default(),
            unreadable_told: false,
        })
    }

    /// Serves until the stop.
    pub(super) fn run(mut self, stop: &Stop) -> Result<(), String> {
        let mut events = Events::with_capacity(1_024);
        self.search(net::now());
        while !stop.is_set() {
            let wait = self.next_turn().map(|at| at.since(net::now()));
            match self.poll.poll(&mut events, wait) {
                Err(error) if error.kind() != std::io::ErrorKind::Interrupted => {
                    return Err(format!("cannot wait for connections: {error}"));
                }
                Ok(()) | Err(_) => {}
            }
            let now = net::now();
            self.take_events(now, &events);
            self.turn(net::now());
        }
        Ok(())
    }

    /// When there is something to do without an event.
    fn next_turn(&self) -> Option<Time> {
        if !self.unread.is_empty() || !self.unread_replies.is_empty() {
            return Some(Time::ZERO);
        }
        let answers = (!self.waiting.is_empty() && !self.search_open).then(|| self.next_sample());
        let watch = self.next_watch();
        let settle = self.gate.judge().next_deadline().filter(|_| !self.conns.is_empty());
        let sweep = (!self.conns.is_empty()).then(|| self.swept + SWEEP_GAP);
        let again = self.inject_again.filter(|_| self.gate.is_busy());
        [answers, watch, settle, sweep, self.accept_again, again].into_iter().flatten().min()
    }

    /// When to look at remoted unasked, for the sake of the clients that are connected.
    fn next_watch(&self) -> Option<Time> {
        self.sampled.filter(|_| self.gate.is_busy() || self.conns.values().any(Conn::is_client))?;
        self.gate.next_look().map(|at| at.max(self.next_sample()))
    }

    fn next_sample(&self) -> Time {
        self.sampled.map_or(Time::ZERO, |sampled| sampled + self.gap)
    }

    fn take_events(&mut self, now: Time, events: &Events) {
        let unread = std::mem::take(&mut self.unread);
        for token in unread {
            self.attend(now, token);
        }
        for token in std::mem::take(&mut self.unread_replies) {
            self.take_replies(token);
        }
        for event in events {
            match event.token() {
                LISTENER => self.accept(now),
                DOORBELL => self.take_found(),
                token if Injector::owns(token) => self.take_replies(token),
                token => self.attend(now, token),
            }
        }
    }

    /// What is due after the events.
    fn turn(&mut self, now: Time) {
        if self.accept_again.is_some_and(|at| at <= now) {
            self.accept_again = None;
            self.accept(now);
        }
        let asked = !self.waiting.is_empty() && !self.search_open && self.next_sample() <= now;
        let watch = self.next_watch().is_some_and(|at| at <= now);
        let settled = self.gate.judge().next_deadline().is_some_and(|at| at <= now);
        if asked || watch || settled {
            self.sample(now);
        }
        self.inject(net::now());
        if now.since(self.swept) >= SWEEP_GAP {
            self.swept = now;
            self.sweep(now);
        }
        self.complaints.tell(now);
    }

    fn accept(&mut self, now: Time) {
        for _ in 0..ACCEPTS_MAX {
            if self.conns.len() >= self.places {
                self.complaints.shortage += 1;
                self.accept_again = Some(now + SHORTAGE_PAUSE);
                return;
            }
            match self.listener.accept() {
                Ok((stream, address)) => self.admit(now, stream, address.ip().to_canonical()),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) if net::is_shortage(&error) => {
                    self.complaints.shortage += 1;
                    self.accept_again = Some(now + SHORTAGE_PAUSE);
                    return;
                }
                // The newcomer is gone again.
                Err(error) => log::debug!("cannot accept: {error}"),
            }
        }
        // The listener tells only once: what is left is taken in the next turn.
        self.accept_again = Some(now);
    }

    fn admit(&mut self, now: Time, stream: mio::net::TcpStream, address: IpAddr) {
        // Answers are small and waited for.
        let _ = stream.set_nodelay(true);
        let token = Token(self.tokens);
        // Wrapping takes an age; the two highest are taken.
        self.tokens = (self.tokens + 1) % LISTENER.0;
        let mut conn = Conn::new(now, stream, address, token.0 as u64, self.key.clone());
        let crowded = self.strangers.get(&address).is_some_and(|&count| count >= NEW_PER_ADDRESS_MAX);
        if crowded {
            self.complaints.strange(address, &"too many connections of this address that do not say what they are");
        } else if self.conns.len() >= self.config.connections_max {
            self.complaints.refused += 1;
        }
        if crowded || self.conns.len() >= self.config.connections_max {
            let text = "too many connections".to_string();
            let _ = conn.framed.send(&Frame::Refusal(Refusal { text }));
            return;
        }
        match self.poll.registry().register(&mut conn.framed, token, Interest::READABLE | Interest::WRITABLE) {
            Ok(()) => {
                self.conns.insert(token, conn);
                *self.strangers.entry(address).or_default() += 1;
            }
            Err(error) => log::debug!("cannot wait for {address}: {error}"),
        }
    }

    fn attend(&mut self, now: Time, token: Token) {
        let Some(conn) = self.conns.get_mut(&token) else {
            return;
        };
        let was_client = conn.is_client();
        let outcome = conn.attend(now, self.config.offers());
        if conn.is_client() && !was_client {
            log::debug!("client {} connected", conn.address);
            let address = conn.address;
            self.forget_stranger(address);
        }
        match outcome {
            Ok((requests, filled)) => {
                let mut offence = None;
                for request in requests {
                    if let Err(what) = self.take(now, token, request) {
                        offence = Some(what);
                        break;
                    }
                }
                if let Some(offence) = offence {
                    return self.close(token, &Close::Garbage(Garbage::Datagrams(offence)));
                }
                if filled == Filled::More && !self.unread.contains(&token) {
                    self.unread.push(token);
                }
            }
            Err(close) => self.close(token, &close),
        }
    }

    /// What a connection asks for waits for a look at remoted; what it brings does not.
    fn take(&mut self, now: Time, token: Token, request: Request) -> Result<(), Offence> {
        let Some(conn) = self.conns.get(&token) else {
            return Ok(());
        };
        match request {
            Request::Ping(_) | Request::Plain => self.waiting.push((token, request)),
            Request::Attach(stream, source) => self.attach(now, token, stream, source),
            Request::Session(session) => self.gate.handle_session(conn.id, session)?,
            Request::Data(data) => self.gate.handle_data(conn.id, data)?,
        }
        Ok(())
    }

    /// A client's stream goes on over this connection, in the name of the address that it comes from or of another that is allowed.
    fn attach(&mut self, now: Time, token: Token, stream: StreamId, source: Option<IpAddr>) {
        let Some(conn) = self.conns.get(&token) else {
            return;
        };
        let (id, address) = (conn.id, conn.address);
        let source = source.filter(|_| self.config.inject == Inject::Spoof).unwrap_or(address);
        if source != address && !self.config.allowed_sources.iter().any(|allowed| allowed.contains(&source)) {
            let why = format!("it comes from {address} and wants {source} as the source (--allow-source)");
            self.complaints.strange(address, &why);
            return self.refuse(now, token, why);
        }
        log::debug!("{address} sends datagrams over its connection, in the name of {source}");
        if let Some(before) = self.gate.handle_attach(now, id, stream, source) {
            self.close(Token(before as usize), &Close::Replaced);
        }
    }

    /// Tells a client why its connection is of no use; it tries again at its slowest pace.
    fn refuse(&mut self, now: Time, token: Token, why: String) {
        let Some(conn) = self.conns.get_mut(&token) else {
            return;
        };
        // Until it has closed its side, it is one of those that are nothing.
        *self.strangers.entry(conn.address).or_default() += 1;
        let (id, refused) = (conn.id, conn.refuse(now, why));
        self.gate.handle_gone(now, id);
        if let Err(close) = refused {
            self.close(token, &close);
        }
    }

    /// Injects what remoted takes, and tells the clients what there is to tell.
    fn inject(&mut self, now: Time) {
        while self.inject_again.is_none_or(|at| at <= now)
            && let Some(volley) = self.gate.poll(now)
        {
            let (sent, outcome) = self.injector.send(&self.poll, &volley);
            self.gate.handle_injected(sent);
            self.inject_again = matches!(outcome, Outcome::Busy).then(|| now + BUSY_PAUSE);
            // What is wrong with one client must not stop the others.
            if let Outcome::Failed(why) = outcome {
                if let Some(connection) = self.gate.handle_uninjectable(now) {
                    self.refuse(now, Token(connection as usize), why.clone());
                }
                self.complaints.injecting = Some(why);
            }
        }
        while let Some((connection, told)) = self.gate.poll_told() {
            let frame = match told {
                Told::Resume(resume) => Frame::Resume(resume),
                Told::Ack(ack) => Frame::Ack(ack),
            };
            self.send(Token(connection as usize), &frame);
        }
    }

    /// Carries remoted's answers back to the clients.
    fn take_replies(&mut self, token: Token) {
        let mut replies = Vec::new();
        let more = self.injector.take_replies(token, |stream, name, bytes| {
            replies.push((stream, Frame::Reply(Reply { name, bytes: bytes.to_vec() })));
        });
        if more && !self.unread_replies.contains(&token) {
            self.unread_replies.push(token);
        }
        for (stream, reply) in replies {
            if let Some(connection) = self.gate.connection(stream) {
                self.send(Token(connection as usize), &reply);
            }
        }
    }

    fn send(&mut self, token: Token, frame: &Frame) {
        let sent = self.conns.get_mut(&token).map(|conn| conn.framed.send(frame));
        if let Some(Err(broken)) = sent {
            self.close(token, &Close::Broken(broken));
        }
    }

    fn close(&mut self, token: Token, close: &Close) {
        let Some(conn) = self.conns.remove(&token) else {
            return;
        };
        match close {
            Close::Ended => log::debug!("{} closed its connection", conn.address),
            Close::Broken(Broken::Seal(why)) => self.complaints.strange(conn.address, why),
            Close::Garbage(why @ Garbage::KeyWanted) => self.complaints.strange(conn.address, why),
            Close::Garbage(what) => {
                self.complaints.garbage += 1;
                log::debug!("{} is cut off: {what}", conn.address);
            }
            Close::Silent => {
                self.complaints.garbage += 1;
                log::debug!("{} is cut off: silent for too long", conn.address);
            }
            Close::Replaced => log::debug!("{} has a newer connection", conn.address),
            Close::Broken(Broken::SlowReader) => {
                self.complaints.slow += 1;
                log::debug!("{} is cut off: it does not read", conn.address);
            }
            Close::Broken(broken) => log::debug!("connection of {} lost: {broken}", conn.address),
        }
        if !conn.is_client() {
            self.forget_stranger(conn.address);
        }
        self.gate.handle_gone(net::now(), conn.id);
        self.waiting.retain(|(waiting, _)| *waiting != token);
    }

    /// A connection has said what it is, or is gone.
    fn forget_stranger(&mut self, address: IpAddr) {
        if let Entry::Occupied(mut entry) = self.strangers.entry(address) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }

    /// Closes what has been silent for too long.
    fn sweep(&mut self, now: Time) {
        let silent: Vec<Token> =
            self.conns.iter().filter(|(_, conn)| conn.deadline() <= now).map(|(token, _)| *token).collect();
        for token in silent {
            self.close(token, &Close::Silent);
        }
    }

    fn search(&mut self, now: Time) {
        if self.ask_search.try_send(()).is_ok() {
            self.searched = Some(now);
            self.search_open = true;
        }
    }

    fn take_found(&mut self) {
        while let Ok(found) = self.founds.try_recv() {
            if found.fd_unreadable() && !self.unreadable_told {
                self.unreadable_told = true;
                log::warn!(
                    "cannot see which sockets remoted owns: going by process name and port; run as root, or with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"
                );
            }
            self.found = found;
            self.search_open = false;
            // Who asked waits for the next turn; who only waits for remoted is told at once.
            if self.next_watch().is_some() {
                self.sample(net::now());
            }
        }
    }

    /// Looks at remoted and answers everybody who waits, unless remoted has to be searched for first.
    fn sample(&mut self, now: Time) {
        let sample = self.inspector.sample(&self.found);
        let after = net::now();
        if let Some(notice) = self.inspector.notice() {
            log::warn!("{notice}");
        }
        let lost = self.found.is_lost_in(&sample);
        let gap = if lost || self.gate.judge().verdict() != Verdict::Up { SEARCH_GAP } else { SEARCH_GAP_UP };
        let stale =
            self.found.is_outdated_by(&sample) && self.searched.is_none_or(|searched| now.since(searched) >= gap);
        if stale && !self.search_open {
            self.search(now);
            // What was found last is not there any more: the answer waits for what the search finds.
            if lost && self.search_open && !self.waiting.is_empty() {
                self.sampled = Some(now);
                return;
            }
        }
        self.sampled = Some(now);
        self.gap = (after.since(now) * SAMPLE_SHARE).clamp(SAMPLE_GAP_MIN, SAMPLE_GAP_MAX);
        self.gate.handle_sample(now, &sample);
        for (token, request) in std::mem::take(&mut self.waiting) {
            self.answer(now, token, request);
        }
        self.tell_change(&sample);
    }

    fn answer(&mut self, now: Time, token: Token, request: Request) {
        let Some(conn) = self.conns.get_mut(&token) else {
            return;
        };
        let outcome = match request {
            Request::Attach(..) | Request::Session(_) | Request::Data(_) => Ok(()),
            Request::Plain => conn.answer_plain(now, self.gate.judge().verdict() == Verdict::Up),
            Request::Ping(ping) => {
                let pong = self.gate.handle_ping(now, conn.id, conn.address, &ping, self.gap);
                log::trace!(
                    "{} holds {}, {} unsent: remoted {}, window {}",
                    conn.address,
                    ping.held,
                    ping.unsent,
                    pong.verdict,
                    pong.window
                );
                conn.answer(pong)
            }
        };
        if let Err(close) = outcome {
            self.close(token, &close);
        }
    }

    /// Logs a changed verdict, and tells the clients.
    fn tell_change(&mut self, sample: &Sample) {
        let verdict = self.gate.judge().verdict();
        let life = self.gate.judge().incarnation();
        let restarted = verdict == Verdict::Up && std::mem::replace(&mut self.told_life, life) != life;
        if self.told == Some(verdict) && !restarted {
            return;
        }
        match (verdict, &sample.missing) {
            (Verdict::Up, _) => {
                let buffer = self.gate.judge().buffer().map_or_else(|| "unknown".into(), |bytes| bytes.to_string());
                // Without the right to look, its process is not known.
                let process = match self.gate.judge().pid() {
                    0 => String::new(),
                    pid => format!("process {pid}, "),
                };
                log::info!("remoted up: {process}receive buffer {buffer} bytes");
            }
            (Verdict::Starting(_), Some(name)) => log::warn!("remoted {verdict}: {name}"),
            _ => log::warn!("remoted {verdict}"),
        }
        // Clients learn of another life of remoted from their next heartbeat.
        if self.told.replace(verdict).is_none_or(|before| before == verdict) {
            return;
        }
        let clients: Vec<Token> =
            self.conns.iter().filter(|(_, conn)| conn.is_client()).map(|(token, _)| *token).collect();
        for token in clients {
            self.send(token, &Frame::Notice(Notice { verdict }));
        }
    }
}
