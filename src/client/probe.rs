//! The thread that keeps the link: it dials, chooses a connection, and keeps time for its heartbeats.
//!
//! ```text
//!   attempts ──answered──► connection in use ──ended──► attempts
//! ```
//!
//! While the connection in use answers, attempts go on only if another address may be better.

mod attempts;
mod connection;
mod peer;

use std::time::{Duration, SystemTime};

use crossbeam_channel::Receiver;
use mio::{Registry, Token};

use super::{config::Config, report::Report, resolve::Resolver, shared::Shared, stream::Outgoing};
use crate::os::net::{self, udp::kernel_drops};
use crate::os::threads::{DOORBELL, Stop, Wait, WaitError};
use crate::proto::{client::ClientCore, seal::Key, time::Time};
use attempts::{Attempts, Success};
use connection::{Answer, Connection};
use peer::{End, Heard};

/// The log tells of a round trip this long, and so often at most: there a person finds the reason of slow answers.
const SLOW_MIN: Duration = Duration::from_millis(500);
const SLOW_GAP: Duration = Duration::from_mins(1);

pub(super) struct Prober<'a> {
    shared: &'a Shared,
    config: &'a Config,
    attempts: Attempts<'a>,
    chosen: Option<Connection<'a>>,
    slow_told: Option<Time>,
    /// A key protects connections, or the log was told that none does.
    plain_told: bool,
    report: &'a mut Report,
    outgoing: Receiver<Outgoing>,
}

impl<'a> Prober<'a> {
    pub(super) fn new(
        shared: &'a Shared,
        config: &'a Config,
        key: Option<Key>,
        resolver: Resolver,
        outgoing: Receiver<Outgoing>,
        report: &'a mut Report,
    ) -> Self {
        let (bound, plain_told) = (shared.agents.local_addr().ok(), key.is_some());
        let stream = shared.read(ClientCore::stream);
        let attempts = Attempts::new(config, key, resolver, bound, stream, net::now());
        Self { shared, config, attempts, chosen: None, slow_told: None, plain_told, report, outgoing }
    }

    pub(super) fn run(mut self, mut wait: Wait, stop: &Stop) -> Result<(), WaitError> {
        while !stop.is_set() {
            let limit = self.act(wait.poll().registry());
            wait.wait(limit)?;
            wait.ready().for_each(|token| self.attend(token));
        }
        Ok(())
    }

    /// Does everything that is due, and says how long to wait for events after that.
    fn act(&mut self, registry: &Registry) -> Option<Duration> {
        let now = net::now();
        self.dial(now, registry);
        self.keep_time(now);
        // Behind the heartbeats: they must not wait for data.
        if let Some(Err(end)) = self.chosen.as_mut().map(|connection| connection.write_stream(&self.outgoing)) {
            self.lose(end);
        }
        self.tell(now);
        self.next_deadline()
    }

    /// Starts an attempt if one is due, and takes an answered attempt into use.
    fn dial(&mut self, now: Time, registry: &Registry) {
        let in_use = self.chosen.as_ref().map(|connection| connection.peer.token);
        let answering = in_use.is_some() && !self.shared.read(|core| core.link().is_silent(now));
        if let Some(success) = self.attempts.act(now, registry, in_use, answering) {
            self.adopt(success);
        }
    }

    /// Takes in the passing of time: lateness, silence, a heartbeat that is due.
    fn keep_time(&mut self, now: Time) {
        let acknowledged = self.chosen.as_ref().and_then(|connection| connection.acknowledged(now));
        let (heartbeat, silent) = self.shared.with_core(now, |core| {
            core.handle_time(now);
            if let Some(at) = acknowledged {
                core.handle_alive(at);
            }
            let silent = core.link().is_silent(now);
            let due = core.next_heartbeat(now).is_some_and(|at| at <= now);
            (if due { core.begin_heartbeat(now) } else { None }, silent)
        });
        let Some(connection) = &mut self.chosen else {
            return;
        };
        if silent {
            self.attempts.handle_silent(now, &connection.peer);
        }
        if let Some((probe, ping)) = heartbeat
            && let Err(end) = connection.send_heartbeat(probe, ping)
        {
            self.lose(end);
        }
    }

    /// Says how long nothing is due if no event comes.
    fn next_deadline(&self) -> Option<Duration> {
        let now = net::now();
        // A pause may have ended since time was kept: datagrams that may be released need no heartbeat any more, and
        // no other thread would tell `forward`.
        let (heartbeat, link) = self.shared.with_core(now, |core| {
            let heartbeat = core.next_heartbeat(now);
            core.handle_probe_waits(heartbeat);
            (heartbeat, core.link().next_deadline(now))
        });
        let (attempts, report) = (self.attempts.next_deadline(now), self.report.next_deadline());
        [heartbeat, link, attempts, report].into_iter().flatten().min().map(|at| at.since(now))
    }

    fn attend(&mut self, token: Token) {
        if token == DOORBELL {
            self.attempts.take_answers();
        } else if let Some(connection) = self.chosen.as_mut().filter(|connection| connection.peer.token == token) {
            let heard = connection.peer.attend(&self.attempts.hello);
            self.take_heard(heard);
        } else if let Some(success) = self.attempts.attend(net::now(), token) {
            self.adopt(success);
        }
    }

    fn take_heard(&mut self, (frames, end): Heard) {
        for frame in frames {
            let now = net::now();
            match self.chosen.as_mut().map(|connection| connection.take(now, frame)) {
                Some(Ok(Some(answer))) => self.take_answer(now, &answer),
                Some(Ok(None)) => {}
                Some(Err(end)) => return self.lose(end),
                None => return,
            }
        }
        if let Some(end) = end {
            self.lose(end);
        }
    }

    fn take_answer(&mut self, now: Time, answer: &Answer) {
        if !answer.is_silent {
            self.attempts.handle_answering(now, answer.route, answer.verdict, answer.is_refused);
        }
        let told = self.slow_told.is_some_and(|told| now.since(told) < SLOW_GAP);
        if answer.is_first && answer.round_trip >= SLOW_MIN && !told {
            let (broker, seconds) = (answer.route.broker, answer.round_trip.as_secs_f64());
            log::info!("connected to {broker}: a round trip takes {seconds:.1} s");
            self.slow_told = Some(now);
        }
    }

    fn adopt(&mut self, Success { peer, heard }: Success) {
        let (now, route) = (net::now(), peer.route);
        self.attempts.handle_taken(&peer);
        log::debug!("connected to {}; datagrams go to {}", route.broker, route.target);
        if !route.broker.ip().is_loopback() && !std::mem::replace(&mut self.plain_told, true) {
            log::warn!("no key (--psk-file): heartbeats are plain");
        }
        let (connection, attached) = Connection::new(now, peer, self.shared, self.config);
        self.chosen = Some(connection);
        self.take_heard(heard);
        if let Err(end) = attached {
            self.lose(end);
        }
    }

    fn lose(&mut self, end: End) {
        let Some(Connection { peer, .. }) = self.chosen.take() else {
            return;
        };
        let now = net::now();
        if let End::Foreign = end {
            log::warn!(
                "another process sends as this client, with the memory that it had (a guest that was cloned?): \
                 going on under another name, and sending again what is not confirmed"
            );
            let stream = net::random();
            self.attempts.handle_stream(stream);
            self.shared.with_core(now, |core| core.handle_stream(stream));
        }
        self.attempts.handle_lost(now, peer.route, &end);
        self.shared.with_core(now, |core| core.handle_disconnected(now));
    }

    /// Tells the log what has changed.
    fn tell(&mut self, now: Time) {
        let snapshot = self.shared.read(|core| core.snapshot(now));
        if let Some(drops) = kernel_drops(&self.shared.agents) {
            self.report.handle_kernel_drops(drops);
        }
        let broker = self.chosen.as_ref().map(|connection| connection.peer.route.broker);
        let silent = broker.map(|broker| format!("{broker} does not answer in time"));
        let trouble = silent.as_deref().unwrap_or(&self.attempts.trouble);
        for line in self.report.observe(now, SystemTime::now(), &snapshot, trouble) {
            log::log!(line.level, "{}", line.text);
        }
    }
}
