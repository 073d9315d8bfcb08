//! Heartbeats over the connection in use. What leads to one is in `attempts`.

mod attempts;
mod peer;

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::Receiver;
use mio::{Events, Poll};

use super::config::Config;
use super::report::Report;
use super::resolve::Resolver;
use super::stream::Outgoing;
use super::{Shared, events};
use crate::os::net;
use crate::os::net::udp::kernel_drops;
use crate::os::threads::{DOORBELL, Stop};
use crate::proto::client::link::stream::Foreign;
use crate::proto::client::link::{Probe, Rewind};
use crate::proto::client::routes::Route;
use crate::proto::client::{Bells, ClientCore, Transport};
use crate::proto::seal::Key;
use crate::proto::time::Time;
use crate::proto::wire::{Attach, Features, Frame, Ping, Pong, Reply};
use attempts::{Attempts, Success};
use peer::{End, Heard, Peer, Stage};

/// A round trip that the log tells of, and how often at most: who looks for the reason of slow answers finds it there.
const SLOW: Duration = Duration::from_millis(500);
const SLOW_GAP: Duration = Duration::from_mins(1);

/// The thread that keeps the link.
pub(super) struct Prober<'a> {
    shared: Shared,
    config: &'a Config,
    poll: Poll,
    attempts: Attempts<'a>,
    /// The connection in use.
    chosen: Option<Peer>,
    /// Heartbeats under way on it, oldest first.
    probes: VecDeque<Probe>,
    /// Nothing has come back over it yet.
    fresh: bool,
    /// When the log was told last that the path is slow.
    slow_told: Option<Time>,
    /// That nothing protects the connection was said.
    plain_told: bool,
    report: &'a mut Report,
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
        report: &'a mut Report,
    ) -> Self {
        let now = net::now();
        let bound = shared.agents.local_addr().ok();
        Self {
            shared,
            config,
            poll,
            attempts: Attempts::new(config, key, resolver, bound, now),
            chosen: None,
            probes: VecDeque::new(),
            fresh: false,
            slow_told: None,
            plain_told: false,
            report,
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
        let (in_use, answering) = (self.chosen.as_ref().map(|peer| peer.token), self.is_answering(now));
        if let Some(success) = self.attempts.act(now, self.poll.registry(), in_use, answering) {
            self.adopt(success);
        }
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
            let mut core = self.shared.core.lock();
            let heartbeat = core.next_heartbeat(now);
            core.handle_probe_waits(heartbeat);
            // A pause may have ended since the bells above: what may be released needs no heartbeat any more, and nobody else would tell.
            (core.bells(now), heartbeat, core.next_deadline(now))
        };
        self.shared.ring(bells);
        let (attempts, report) = (self.attempts.next_deadline(now), self.report.next_deadline());
        let next = [heartbeat, link, attempts, report].into_iter().flatten().min()?;
        Some(next.since(net::now()))
    }

    /// The connection in use is one that answers.
    fn is_answering(&self, now: Time) -> bool {
        self.chosen.is_some() && !self.shared.core.lock().is_silent(now)
    }

    /// What time alone brings about: lateness, silence, a heartbeat that is due.
    fn keep_time(&mut self, now: Time) -> (Bells, Option<(Probe, Ping)>) {
        let acknowledged = self.acknowledged(now);
        let (bells, heartbeat, silent) = {
            let mut core = self.shared.core.lock();
            core.handle_time(now);
            if let Some(at) = acknowledged {
                core.handle_alive(at);
            }
            let silent = core.is_silent(now);
            let due = core.next_heartbeat(now).is_some_and(|at| at <= now);
            let heartbeat = if due { core.begin_heartbeat(now) } else { None };
            (core.bells(now), heartbeat, silent)
        };
        if let Some(peer) = self.chosen.as_ref().filter(|_| silent) {
            self.attempts.handle_silent(now, peer);
        }
        (bells, heartbeat)
    }

    /// Transport tcp, while something is under way: when the other host acknowledged something last.
    fn acknowledged(&self, now: Time) -> Option<Time> {
        let streams = self.config.core.transport == Transport::Tcp;
        let ago = self.chosen.as_ref().filter(|_| streams)?.framed.acknowledged()?;
        Some(now.before(ago))
    }

    fn send_heartbeat(&mut self, probe: Probe, ping: Ping) {
        log::trace!("heartbeat {}: {} held, {} unsent", ping.number, ping.held, ping.unsent);
        self.probes.push_back(probe);
        let sent = self.chosen.as_mut().map(|peer| peer.framed.send(&Frame::Ping(ping)));
        if let Some(Err(broken)) = sent {
            self.lose(broken.to_string());
        }
    }

    /// Transport tcp: writes what is ready, as far as the connection takes it.
    fn write_stream(&mut self) {
        loop {
            let Some(peer) = self.chosen.as_mut().filter(|peer| !peer.framed.is_congested()) else {
                return;
            };
            let Ok(outgoing) = self.outgoing.try_recv() else {
                return;
            };
            // What was prepared before the server said where to go on comes again.
            if outgoing.epoch != self.shared.core.lock().epoch() {
                continue;
            }
            if let Err(broken) = peer.framed.send_bytes(&outgoing.bytes) {
                return self.lose(broken.to_string());
            }
        }
    }

    fn take_events(&mut self, events: &Events) {
        for event in events {
            if event.token() == DOORBELL {
                self.attempts.take_answers();
            } else if self.chosen.as_ref().is_some_and(|peer| peer.token == event.token()) {
                self.attend();
            } else if let Some(success) = self.attempts.attend(net::now(), event.token()) {
                self.adopt(success);
            }
        }
    }

    /// Reads and writes what the connection in use is ready for.
    fn attend(&mut self) {
        let hello = self.attempts.hello();
        let heard = self.chosen.as_mut().map(|peer| peer.attend(hello));
        if let Some(heard) = heard {
            self.take_heard(heard);
        }
    }

    /// What came in over the connection in use.
    fn take_heard(&mut self, (frames, end): Heard) {
        for frame in frames {
            let Some(peer) = &self.chosen else {
                return;
            };
            let (broker, route) = (peer.route.broker, peer.route);
            match frame {
                Frame::Pong(pong) => self.take_pong(&pong),
                Frame::Notice(notice) => {
                    log::debug!("{broker} says: remoted {}", notice.verdict);
                    self.take_told(|core| core.handle_notice(notice.verdict));
                }
                Frame::Resume(resume) => {
                    match resume.from {
                        Some(from) => log::debug!("{broker} says: go on from {}", from.0),
                        None => log::debug!("{broker} says: go on from the oldest that is not acknowledged"),
                    }
                    if let Err(Foreign) = self.take_told(|core| core.handle_resume(&resume)) {
                        return self.leave_stream();
                    }
                }
                Frame::Ack(ack) => {
                    if let Err(Foreign) = self.take_told(|core| core.handle_ack(&ack)) {
                        return self.leave_stream();
                    }
                }
                Frame::Reply(reply) => self.take_reply(&reply),
                Frame::Refusal(refusal) => {
                    return self.lose_refused(route, format!("{broker} refuses: {}", refusal.text));
                }
                Frame::Welcome(_)
                | Frame::Hello(_)
                | Frame::Ping(_)
                | Frame::Attach(_)
                | Frame::Session(_)
                | Frame::Data(_) => {
                    return self.lose_refused(route, format!("{broker} is not a broker server"));
                }
            }
        }
        let (Some(peer), Some(end)) = (&self.chosen, end) else {
            return;
        };
        let (broker, route) = (peer.route.broker, peer.route);
        match end {
            End::Closed => self.lose(format!("{broker} closed the connection")),
            End::Trouble(trouble) if trouble.is_refusal() => {
                self.lose_refused(route, format!("{broker}: {trouble}"));
            }
            End::Trouble(trouble) => self.lose(format!("{broker}: {trouble}")),
        }
    }

    /// An attempt was answered: it is the connection from here on.
    fn adopt(&mut self, success: Success) {
        let (now, Success { peer, heard }) = (net::now(), success);
        let Stage::Answered { round_trip, features } = peer.stage else {
            return;
        };
        let route = peer.route;
        self.shared.takes_empty.store(features.has(Features::EMPTY_DATAGRAMS), Ordering::Relaxed);
        self.attempts.handle_taken(&peer);
        self.probes.clear();
        self.fresh = true;
        log::debug!("connected to {}; datagrams go to {}", route.broker, route.target);
        if !self.attempts.has_key()
            && !route.broker.ip().is_loopback()
            && !std::mem::replace(&mut self.plain_told, true)
        {
            log::warn!("no key (--psk-file): heartbeats are plain");
        }
        let peer = self.chosen.insert(peer);
        let attached = match self.config.core.transport {
            Transport::Udp => Ok(()),
            Transport::Tcp => {
                let once = !self.config.core.resend;
                peer.framed.send(&Frame::Attach(Attach { source: self.config.source, once }))
            }
        };
        let bells = {
            let mut core = self.shared.core.lock();
            core.handle_connected(now, round_trip, route.target);
            core.bells(now)
        };
        self.shared.ring(bells);
        self.take_heard(heard);
        if let Err(broken) = attached {
            self.lose(format!("{}: {broken}", route.broker));
        }
    }

    /// The server has said something unasked.
    fn take_told<T>(&mut self, tell: impl FnOnce(&mut ClientCore) -> T) -> T {
        let now = net::now();
        let told;
        let bells = {
            let mut core = self.shared.core.lock();
            core.handle_alive(now);
            told = tell(&mut core);
            core.bells(now)
        };
        self.shared.ring(bells);
        told
    }

    /// Transport tcp: somebody else sends in the stream of this process, and what the server says is of both.
    fn leave_stream(&mut self) {
        log::warn!(
            "another process sends as this client, with the memory that it had (a guest that was cloned?): \
             going on under another name, and sending again what is not confirmed"
        );
        self.attempts.leave_stream();
        self.lose("another process has sent in its stream".into());
    }

    /// Transport tcp: what remoted answered came back over the connection.
    fn take_reply(&self, reply: &Reply) {
        if self.config.core.transport == Transport::Udp {
            // Then replies come by UDP alone.
            return;
        }
        let origin = self.shared.core.lock().handle_carried_reply(net::now(), reply.name);
        if let Some(origin) = origin {
            self.shared.pass_on(origin, &reply.bytes);
        }
    }

    fn take_pong(&mut self, pong: &Pong) {
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
            let (outcome, silent, refused, bells) = {
                let mut core = self.shared.core.lock();
                let outcome = core.handle_pong(now, probe, pong);
                (outcome, core.is_silent(now), core.is_refused(now), core.bells(now))
            };
            self.shared.ring(bells);
            if let Some(peer) = self.chosen.as_ref().filter(|_| !silent) {
                self.attempts.handle_answering(now, peer.route, pong.verdict, refused);
            }
            if std::mem::take(&mut self.fresh) {
                self.tell_path(now, round_trip);
            }
            let level = if outcome.rewind.is_some() { log::Level::Debug } else { log::Level::Trace };
            log::log!(
                level,
                "heartbeat {} after {round_trip:?}: remoted {}, queue {}, window {}{}",
                pong.number,
                pong.verdict,
                pong.queue,
                pong.window,
                outcome.rewind.map_or("", told)
            );
            return;
        }
    }

    /// The first answer of a connection says how long the path is.
    fn tell_path(&mut self, now: Time, round_trip: Duration) {
        let told = self.slow_told.is_some_and(|told| now.since(told) < SLOW_GAP);
        if let Some(peer) = self.chosen.as_ref().filter(|_| round_trip >= SLOW && !told) {
            log::info!("connected to {}: a round trip takes {:.1} s", peer.route.broker, round_trip.as_secs_f64());
            self.slow_told = Some(now);
        }
    }

    /// The connection in use is gone.
    fn lose(&mut self, why: String) {
        let now = net::now();
        log::debug!("connection lost: {why}");
        self.chosen = None;
        self.probes.clear();
        self.attempts.handle_lost(now, why);
        self.shared.core.lock().handle_disconnected(now);
    }

    /// The connection is lost, and its route is not tried again at once.
    fn lose_refused(&mut self, route: Route, why: String) {
        self.lose(why.clone());
        self.attempts.handle_refused(net::now(), route, why);
    }

    /// Tells the log what has changed.
    fn tell(&mut self, now: Time) {
        let snapshot = self.shared.core.lock().snapshot(now);
        if let Some(drops) = kernel_drops(&self.shared.agents) {
            self.report.handle_kernel_drops(drops);
        }
        let silent = self.chosen.as_ref().map(|peer| format!("{} does not answer in time", peer.route.broker));
        let trouble = silent.as_deref().unwrap_or_else(|| self.attempts.trouble());
        for line in self.report.observe(now, std::time::SystemTime::now(), &snapshot, trouble) {
            log::log!(line.level, "{}", line.text);
        }
    }
}

/// What a rewind is called in the log.
const fn told(cause: Rewind) -> &'static str {
    match cause {
        Rewind::Late => ", sent again: it was late",
        Rewind::Disconnected => ", sent again: the connection was lost",
        Rewind::Gone => ", sent again: remoted is gone",
        Rewind::Incarnation => ", sent again: remoted was started anew",
        Rewind::Drops => ", sent again: remoted's socket dropped datagrams",
        Rewind::Refused => ", sent again: datagrams were refused",
        Rewind::Silence => ", sent again: replies have stopped",
    }
}
