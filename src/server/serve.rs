//! Serving all connections with one thread.
//!
//! Each turn of the loop reads what has come in, then answers all that wait from one sample of remoted. A sample is always begun after the
//! ping was read, never a cached one: between the two remoted may have died. For the same reason something is injected only right behind a sample.

mod carry;
mod door;
mod look;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token};

use super::Config;
use super::complaints::Complaints;
use super::conn::{Close, Conn};
use super::inject::{Injector, TOKENS_FROM};
use super::news::News;
use crate::os::net;
use crate::os::net::framed::{Broken, Filled};
use crate::os::net::udp::Inbox;
use crate::os::remoted::backlog::{self, Backlog};
use crate::os::remoted::{Found, Inspector, Wanted};
use crate::os::threads::{DOORBELL, Stop};
use crate::proto::seal::Key;
use crate::proto::server::ServerCore;
use crate::proto::server::conversation::{Garbage, Request};
use crate::proto::server::streams::Offence;
use crate::proto::terms::ConnectionId;
use crate::proto::time::Time;
use crate::proto::wire::Frame;
use carry::Attachments;

const LISTENER: Token = Token(usize::MAX - 1);
/// Tokens of connections lie below: behind them are the injector's.
const CONNECTION_TOKENS: usize = TOKENS_FROM;

/// Least time between two samples: more often would only measure the measuring.
const SAMPLE_GAP_MIN: Duration = Duration::from_millis(1);
/// ... and the most: a sample during which this process was not running took long and says nothing of the next.
const SAMPLE_GAP_MAX: Duration = Duration::from_millis(10);
/// ... and the most between two looks, whether anybody asks or not: the log says what became of remoted also where no client is.
const LOOK_GAP_MAX: Duration = Duration::from_secs(5);
/// How long a stop waits for remoted to read what was injected.
const FINISH_MAX: Duration = Duration::from_secs(1);
/// How often silent connections are looked for.
const SWEEP_GAP: Duration = Duration::from_secs(5);

/// What the serving thread is made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) key: Option<Key>,
    /// Connections that there are descriptors for.
    pub(super) places: usize,
    pub(super) injector: Injector,
    pub(super) wanted: Wanted,
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
    /// Connections so far: each has a number of its own.
    admitted: ConnectionId,
    by_id: HashMap<ConnectionId, Token>,
    /// Connections with more to read than one turn takes.
    unread: Vec<Token>,
    unread_replies: Vec<Token>,
    /// Connections that want an answer.
    waiting: Vec<Token>,
    inspector: Inspector,
    found: Found,
    core: ServerCore,
    backlog: Backlog,
    injector: Injector,
    attachments: Attachments,
    inbox: Inbox,
    /// The system had no room: nothing is tried before.
    inject_again: Option<Time>,
    ask_search: Sender<()>,
    founds: Receiver<Found>,
    /// When the newest search was asked for; `open` until its result is in.
    searched: Option<Time>,
    search_open: bool,
    sampled: Option<Time>,
    gap: Duration,
    news: News,
    swept: Time,
    accept_again: Option<Time>,
    complaints: Complaints,
    unreadable_told: bool,
    scattered_told: bool,
}

impl<'a> Server<'a> {
    pub(super) fn new(config: &'a Config, parts: Parts) -> Result<Self, String> {
        let Parts { key, places, injector, wanted, mut listener, poll, ask_search, founds } = parts;
        let register = poll.registry().register(&mut listener, LISTENER, Interest::READABLE);
        register.map_err(|error| format!("cannot wait for connections: {error}"))?;
        injector.watch(&poll).map_err(|error| format!("cannot wait for what arrives at remoted: {error}"))?;
        Ok(Self {
            config,
            key,
            places,
            poll,
            listener,
            conns: HashMap::new(),
            strangers: HashMap::new(),
            tokens: 0,
            admitted: 0,
            by_id: HashMap::new(),
            unread: Vec::new(),
            unread_replies: Vec::new(),
            waiting: Vec::new(),
            inspector: Inspector::new(wanted),
            found: Found::default(),
            core: ServerCore::new(config.settle, backlog::length() / 2),
            backlog: Backlog::new(),
            injector,
            attachments: Attachments::default(),
            inbox: Inbox::default(),
            inject_again: None,
            ask_search,
            founds,
            searched: None,
            search_open: false,
            sampled: None,
            gap: SAMPLE_GAP_MIN,
            news: News::default(),
            swept: net::now(),
            accept_again: None,
            complaints: Complaints::default(),
            unreadable_told: false,
            scattered_told: false,
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
        self.finish(&mut events);
        Ok(())
    }

    /// At a stop: what was injected is acknowledged if remoted reads it soon, so that it does not come again.
    fn finish(&mut self, events: &mut Events) {
        let until = net::now() + FINISH_MAX;
        // Nothing is taken in or injected any more: this only waits.
        self.inject_again = Some(Time::FAR);
        while self.core.unread_cost() > 0 && net::now() < until {
            self.sample(net::now());
            self.tell_streams();
            if self.poll.poll(events, Some(SAMPLE_GAP_MAX)).is_err() {
                break;
            }
        }
        self.part(until, events);
        self.complaints.tell_rest();
    }

    /// Ends the connections that carry streams. To close one with something unread would reset it, and what was told last would not be heard.
    fn part(&mut self, until: Time, events: &mut Events) {
        let core = &self.core;
        self.conns.retain(|_, conn| core.carries(conn.id) && conn.say_last().is_ok());
        while !self.conns.is_empty() && net::now() < until {
            self.conns.retain(|_, conn| !conn.is_over());
            if self.poll.poll(events, Some(SAMPLE_GAP_MAX)).is_err() {
                return;
            }
        }
    }

    /// When there is something to do without an event.
    fn next_turn(&self) -> Option<Time> {
        if !self.unread.is_empty() || !self.unread_replies.is_empty() {
            return Some(Time::ZERO);
        }
        let answers = (!self.waiting.is_empty() && !self.search_open).then(|| self.next_sample());
        let watch = self.next_watch();
        let settle = self.next_settling();
        let sweep = (!self.conns.is_empty()).then(|| self.swept + SWEEP_GAP);
        let proof = self.injector.next_deadline();
        [answers, watch, settle, sweep, self.accept_again, proof].into_iter().flatten().min()
    }

    /// When to look at remoted unasked: soon where clients wait for it. What the first search finds is looked at first.
    fn next_watch(&self) -> Option<Time> {
        let latest = self.sampled? + LOOK_GAP_MAX;
        let watched = self.core.is_busy() || self.conns.values().any(Conn::is_client);
        let soon = self.core.next_look().filter(|_| watched).map(|at| at.max(self.next_sample()));
        Some(soon.map_or(latest, |soon| soon.min(latest)))
    }

    /// When remoted is old enough, unless what a search finds is looked at first.
    fn next_settling(&self) -> Option<Time> {
        self.core.judge().next_deadline().filter(|_| !self.search_open)
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
                token if Injector::owns(token) => {
                    self.take_arrivals(now, token);
                    self.take_replies(token);
                }
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
        self.prove(net::now());
        let asked = !self.waiting.is_empty() && !self.search_open && self.next_sample() <= now;
        let watch = self.next_watch().is_some_and(|at| at <= now);
        let settled = self.next_settling().is_some_and(|at| at <= now);
        if asked || watch || settled {
            self.sample(net::now());
        }
        self.tell_streams();
        if now.since(self.swept) >= SWEEP_GAP {
            self.swept = now;
            self.sweep(now);
        }
        self.complaints.tell(now);
    }

    fn attend(&mut self, now: Time, token: Token) {
        let Some(conn) = self.conns.get_mut(&token) else {
            return;
        };
        let was_client = conn.is_client();
        let outcome = conn.attend(now, self.config.offers());
        if conn.is_client() && !was_client {
            log::debug!("client {} connected", conn.address);
            conn.note_destination();
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
                match filled {
                    Err(broken) => self.close(token, &Close::Broken(broken)),
                    Ok(Filled::Ended) if self.conns.get(&token).is_some_and(|conn| !conn.awaits_last_answer()) => {
                        self.close(token, &Close::Ended);
                    }
                    Ok(Filled::More) if !self.unread.contains(&token) => self.unread.push(token),
                    Ok(Filled::Dry | Filled::More | Filled::Ended) => {}
                }
            }
            Err(close) => self.close(token, &close),
        }
    }

    /// What a connection asks for waits for a look at remoted; what it brings does not.
    fn take(&mut self, now: Time, token: Token, request: Request) -> Result<(), Offence> {
        let Some(conn) = self.conns.get_mut(&token) else {
            return Ok(());
        };
        match request {
            Request::Answer(question) => {
                if conn.ask(question) {
                    self.waiting.push(token);
                }
            }
            Request::Attach(stream, attach) => self.attach(now, token, stream, attach),
            Request::Session(session) => self.core.handle_session(conn.id, session)?,
            Request::Data(data) => self.core.handle_data(conn.id, data)?,
        }
        Ok(())
    }

    /// The token of the connection with this number.
    fn token(&self, id: ConnectionId) -> Option<Token> {
        self.by_id.get(&id).copied()
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
        self.by_id.remove(&conn.id);
        match close {
            Close::Ended => log::debug!("{} closed its connection", conn.address),
            Close::Broken(Broken::Seal(why)) => self.complaints.strange(conn.address, why),
            Close::Garbage(why @ Garbage::KeyWanted) => self.complaints.strange(conn.address, why),
            Close::Garbage(what) => self.complaints.cut(conn.address, what),
            Close::Silent if conn.is_stranger() => {
                self.complaints.cut(conn.address, &"it did not say in time what it is");
            }
            // Its host or the way to it is gone, or it has made another one: that happens every day.
            Close::Silent if conn.is_client() => {
                log::debug!("client {} was silent for too long: its connection is closed", conn.address);
            }
            Close::Silent => log::debug!("{} did not close its connection", conn.address),
            Close::Replaced => log::debug!("{} has a newer connection", conn.address),
            Close::Broken(why @ Broken::SlowReader) => self.complaints.cut(conn.address, why),
            Close::Broken(broken) => log::debug!("connection of {} lost: {broken}", conn.address),
        }
        if !conn.is_client() {
            self.forget_stranger(conn.address);
        }
        self.detach(conn.id);
        self.core.handle_gone(net::now(), conn.id);
        self.waiting.retain(|waiting| *waiting != token);
    }
}
