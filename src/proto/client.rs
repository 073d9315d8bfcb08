//! The client's whole logic: buffer, link and sessions as one state machine.
//!
//! ```text
//!   agent ──► handle_datagram ──► [ buffer ] ──► poll_release ──► handle_sent ──► remoted
//!                                   ▲  ▲  └──► poll_spool ──► handle_errand
//!                   rewind, confirm │
//!                                [ link ] ◄── begin_heartbeat, handle_pong, handle_time
//! ```
//!
//! The threads call one method for each event, under one lock, and do their input and output without it. Nothing here
//! waits, reads a clock or knows a socket, so the same code runs in the simulation on virtual time.
//!
//! **Order.** There is one buffer, one cursor and one batch out at a time: nothing can overtake.

mod batch;
pub mod buffer;
mod counters;
pub mod dial;
mod held;
pub mod link;
mod pace;
mod replies;
pub mod routes;
pub mod segments;
mod sessions;
pub mod spool;
mod spooling;
mod suspicion;
#[cfg(test)]
mod tests;

pub use batch::Batch;
pub use counters::{Counters, DropReason};
pub use held::FullPolicy;
pub use link::Transport;
pub use sessions::Origin;
pub use spooling::{Hindrance, SyncPolicy};

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::proto::cost::buffer_cost;
use crate::proto::terms::{Seq, SessionName, StreamId, Verdict, digest};
use crate::proto::time::Time;
use crate::proto::wire::{Ack, Ping, Pong, Resume};
use buffer::{Buffer, Entry, SessionId, Tally};
use held::{Held, Rules};
use link::{Foreign, Link, Outcome, Probe, Rewind, Standing, Work};
use pace::Pace;
use sessions::Sessions;
use spool::keeper::{Answer, Errand, Report};
use spool::open::Found;
use spool::record::Agent;
use spool::records::Records;
use spooling::{Holding, Spooling};
use suspicion::Suspicion;

/// With `--rate`: the number of round trips between two pauses that gather a burst. Each pause takes a grace, which
/// the rate makes good, and a round trip, which it does not.
const GATHER_ROUND_TRIPS: u32 = 50;

/// The settings of the core from the command line.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Memory for datagrams, in bytes.
    pub buffer_bytes: usize,
    /// The datagrams that give way when the buffer is full.
    pub full: FullPolicy,
    /// Older datagrams are dropped.
    pub max_age: Option<Duration>,
    /// Most datagrams released per second.
    pub rate: Option<NonZeroU32>,
    /// Unconfirmed datagrams are sent again.
    pub resend: bool,
    /// Bound of the table of sessions.
    pub sessions_max: SessionId,
    /// How datagrams travel.
    pub transport: Transport,
    /// Durations of the link.
    pub link: link::Settings,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            // Hours of an agent that sends a few events a second.
            buffer_bytes: 64 << 20,
            full: FullPolicy::default(),
            max_age: None,
            rate: None,
            resend: true,
            sessions_max: 256,
            transport: Transport::default(),
            link: link::Settings::default(),
        }
    }
}

/// The threads that have something to do and do not know of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a bell")]
pub struct Bells {
    /// A datagram may be released.
    pub forward: bool,
    /// A heartbeat is due earlier than the prober waits for.
    pub probe: bool,
    /// The datagrams held when the drain began are gone, and the program waits for that.
    pub drained: bool,
    /// There is something to write to disk, or to read back.
    pub spool: bool,
}

/// A view of the state for the log.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    /// The state of the way to remoted.
    pub standing: Standing,
    /// Held datagrams.
    pub held: Tally,
    /// Held datagrams that are not released.
    pub unsent: Tally,
    /// The oldest held datagram; `tail` if none is held.
    pub oldest: Seq,
    /// The datagram that comes in next.
    pub tail: Seq,
    /// The buffer is smaller than it was meant to be: the system gave no more memory.
    pub short: bool,
    /// With a spool: why a full buffer stays full.
    pub hindrance: Option<Hindrance>,
    /// All counters.
    pub counters: Counters,
    /// Number of sessions that used to get replies over UDP and get none any more, although heartbeats are good.
    pub replies_missing: usize,
}

/// The client's logic. See the head of this file.
#[derive(Debug)]
pub struct ClientCore {
    held: Held,
    link: Link,
    target: Option<SocketAddr>,
    pace: Pace,
    /// Nothing is released, so that a burst gathers. The rate outruns the window until the path has proved a shorter
    /// lag, and its steady trickle can never prove that.
    gathering: bool,
    /// The next burst is not gathered before this moment.
    gather_again: Time,
    /// The moment at which the link came up; `None` while it is down.
    up_since: Option<Time>,
    /// Replies come over the connection, and say nothing of UDP.
    replies_carried: bool,
    suspicion: Suspicion,
    /// `None`: nothing goes to disk.
    spooling: Option<Spooling>,
    /// The name under which datagrams are sent.
    stream: StreamId,
    /// Something has gone wrong since nothing was held.
    is_doubtful: bool,
    /// Number of changes of the source ports.
    ports: u32,
    /// The moment until which the forward thread waits, if it does.
    forward_waits: Option<Time>,
    probe_waits: Option<Time>,
    spool_waits: Option<Time>,
    /// The program is about to stop, and waits until every datagram below this one is confirmed.
    draining: Option<Seq>,
}

impl ClientCore {
    /// An empty core without a link. It sends under the name `stream`.
    pub fn new(config: Config, stream: StreamId) -> Self {
        let rules =
            Rules { full: config.full, max_age: config.max_age, resend: config.resend, transport: config.transport };
        Self {
            held: Held::new(rules, Buffer::new(config.buffer_bytes), Sessions::new(config.sessions_max)),
            link: Link::new(config.transport, config.link),
            target: None,
            pace: Pace::new(config.rate),
            gathering: false,
            gather_again: Time::ZERO,
            up_since: None,
            replies_carried: false,
            suspicion: Suspicion::default(),
            spooling: None,
            stream,
            is_doubtful: false,
            ports: 0,
            forward_waits: None,
            probe_waits: None,
            spool_waits: None,
            draining: None,
        }
    }

    /// A core without a link that goes on where an earlier process has ended. The spool takes datagrams of at most
    /// `datagram_bytes_max`.
    pub fn reopen<E>(config: Config, sync: SyncPolicy, found: &Found<E>, datagram_bytes_max: u64) -> Self {
        let mut core = Self::new(config, found.stream);
        core.held.restore(found, datagram_bytes_max);
        let memory_bytes = config.buffer_bytes as u64;
        let (holds, is_synced) = (found.held.datagrams > 0, found.failure.is_none());
        core.spooling = Some(Spooling::new(sync, memory_bytes, (found.mark, found.tail), holds, is_synced));
        core
    }

    /// A datagram came in from an agent.
    pub fn handle_datagram(&mut self, now: Time, origin: Origin, bytes: &[u8]) {
        let durable = self.spooling.as_mut().map_or(Seq::default(), |spooling| {
            spooling.handle_datagram(now, bytes.len());
            spooling.durable
        });
        self.held.handle_datagram(now, origin, bytes, durable);
    }

    /// A connection to the broker server was made and greeted in `round_trip`; datagrams go to `target`.
    pub fn handle_connected(&mut self, now: Time, round_trip: Duration, target: SocketAddr) {
        let rewind = self.link.handle_connected(now, round_trip, self.held.flight());
        self.target = Some(target);
        self.replies_carried = false;
        self.apply(rewind);
        self.note_standing(now);
    }

    /// The connection is gone.
    pub fn handle_disconnected(&mut self, now: Time) {
        let rewind = self.link.handle_disconnected(now, self.held.flight());
        self.apply(rewind);
        self.note_standing(now);
    }

    /// The way to remoted.
    pub const fn link(&self) -> &Link {
        &self.link
    }

    /// The moment at which the next heartbeat should begin; `None` if none can.
    ///
    /// A datagram that may be released at this moment needs a heartbeat after it, but none before it. Another one in
    /// between would cost an agent with a few events a second half as many heartbeats again.
    pub fn next_heartbeat(&mut self, now: Time) -> Option<Time> {
        let drain = (self.draining.is_some() && self.held.tally().datagrams > 0).then_some(Time::ZERO);
        let oldest = || self.held.buffer.front().map(|entry| entry.arrived);
        let hurry = drain.or_else(|| self.spooling.as_ref()?.wants_confirmation(oldest()?));
        let unsent = if self.held.buffer.unsent().datagrams > 0 { self.wants_heartbeat(now) } else { None };
        self.link.next_heartbeat(Work { unsent, hurry, under_way: self.held.flight().is_open() })
    }

    /// Begins a heartbeat, if one may begin. Returns the probe to keep until the answer, and the ping to send.
    pub fn begin_heartbeat(&mut self, now: Time) -> Option<(Probe, Ping)> {
        self.held.expire(now);
        let probe = self.link.begin(now, self.held.flight())?;
        let ping = Ping {
            number: probe.number(),
            oldest: self.held.buffer.oldest(),
            next: self.held.buffer.next(),
            tail: self.held.buffer.tail(),
            held: self.held.tally().datagrams,
            held_bytes: self.held.tally().bytes,
            unsent: self.held.buffer.unsent().datagrams,
            dropped: self.held.counters.dropped_total(),
            next_cost: self.held.next_cost().unwrap_or(0),
            unconfirmed_cost: self.held.unconfirmed_cost(),
            // Rounded up: the server's booking must not end before the lease does.
            lease_ms: u32::try_from(probe.lease().as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX),
        };
        self.held.counters.heartbeats += 1;
        Some((probe, ping))
    }

    /// A heartbeat was answered.
    pub fn handle_pong(&mut self, now: Time, probe: Probe, pong: &Pong) -> Outcome {
        let outcome = self.link.handle_pong(now, probe, pong, self.held.flight());
        self.apply(outcome.rewind);
        self.held.counters.others_drops = self.held.counters.others_drops.saturating_add(outcome.others_drops);
        if let Some(bound) = outcome.confirm.filter(|_| !self.suspicion.withholds()) {
            self.held.confirm(bound, outcome.doubtful || self.suspicion.doubts());
        }
        self.note_standing(now);
        outcome
    }

    /// Transport tcp: the server says where to go on.
    ///
    /// # Errors
    /// The server speaks of another process's datagrams. Nothing has changed, and the connection is of no use.
    pub fn handle_resume(&mut self, resume: &Resume) -> Result<(), Foreign> {
        let flight = self.held.flight();
        let last =
            resume.from.and_then(|from| from.0.checked_sub(1)).and_then(|last| self.held.buffer.entry(Seq(last)));
        let digest = last.map(|entry| digest(entry.bytes));
        if let Some(resumption) = self.link.handle_resume(resume, flight, digest)? {
            self.held.go_on_from(resumption);
        }
        Ok(())
    }

    /// Transport tcp: remoted has read something.
    ///
    /// # Errors
    /// The server speaks of another process's datagrams. Nothing has changed, and the connection is of no use.
    pub fn handle_ack(&mut self, ack: &Ack) -> Result<(), Foreign> {
        let flight = self.held.flight();
        if let Some(bound) = self.link.handle_ack(ack, flight)? {
            self.held.confirm(bound, ack.doubtful);
        }
        Ok(())
    }

    /// Transport tcp: something came in over the connection, or the other host acknowledged something.
    pub fn handle_alive(&mut self, now: Time) {
        self.link.handle_alive(now);
    }

    /// Transport tcp: the epoch that the frames of this batch must carry; `None` if they would come to nothing.
    pub fn stream_epoch(&self, batch: &Batch) -> Option<u32> {
        self.link.server_epoch().filter(|_| self.link.epoch() == batch.epoch())
    }

    /// The server says that its verdict has changed.
    pub const fn handle_notice(&mut self, verdict: Verdict) {
        self.link.handle_notice(verdict);
    }

    /// Time has passed: see [`Link::next_deadline`].
    pub fn handle_time(&mut self, now: Time) {
        let rewind = self.link.handle_time(now, self.held.flight());
        self.apply(rewind);
        self.note_standing(now);
        self.suspect(now);
    }

    /// Fills `batch` with the datagrams that may be sent at this moment. Returns whether there are any.
    ///
    /// The cursor moves when the batch has been sent: a heartbeat that begins in between must not cover it.
    pub fn poll_release(&mut self, now: Time, batch: &mut Batch) -> bool {
        batch.clear();
        self.held.expire(now);
        let (Some(permit), Some(target)) = (self.link.permit(now), self.target) else {
            return false;
        };
        if self.gathers() {
            return false;
        }
        batch.begin(permit.epoch, permit.until, target, self.ports);
        let mut cost = self.held.unconfirmed_cost();
        let mut pace = self.pace;
        let mut stopped = false;
        let mut more_led = Tally::default();
        for entry in self.held.buffer.unsent_entries() {
            let more = buffer_cost(entry.bytes.len());
            more_led.add(entry.bytes.len());
            if !permit.fits(cost, more) || !pace.allows(now) || !self.may_lead(more_led) {
                stopped = true;
                break;
            }
            if !batch.has_room(entry.bytes.len()) {
                break;
            }
            pace.handle_sent(now, 1);
            cost += more;
            batch.push(&entry, self.held.session(&entry));
        }
        self.gathering = stopped && now >= self.gather_again && self.due_soon(now) > permit.window;
        if self.gathering {
            self.gather_again = now + GATHER_ROUND_TRIPS * self.link.usual_round_trip();
        }
        if let Some(newest) = batch.len().checked_sub(1) {
            self.held.buffer.handle_taken_out(batch.seq(newest).next());
        }
        !batch.is_empty()
    }

    /// The moment at which time alone makes a release possible; `None` if something else has to happen first.
    pub fn next_release(&mut self, now: Time) -> Option<Time> {
        self.release_due(now).filter(|&at| at > now)
    }

    /// The first `sent` datagrams of the batch have been sent.
    pub fn handle_sent(&mut self, now: Time, batch: &Batch, sent: usize) {
        let is_current = batch.epoch() == self.link.epoch();
        // Over tcp a batch of a past epoch goes nowhere.
        if sent == 0 || (self.link.transport() == Transport::Tcp && !is_current) {
            return;
        }
        self.held.counters.sent += sent as u64;
        self.pace.handle_sent(now, sent as u32);
        if is_current {
            let released = self.held.handle_released(now, batch, sent, self.up_since.unwrap_or(now));
            self.link.handle_released(now, released.cost, released.first);
        } else {
            self.held.handle_sent_before_rewind(batch, sent);
        }
    }

    /// The system will never send the `at`-th datagram of the batch (too large for it, say).
    pub fn handle_unsendable(&mut self, batch: &Batch, at: usize) {
        self.held.drop_if_next(batch.seq(at), DropReason::Unsendable);
    }

    /// A datagram was refused, by the far end or by this host's system.
    pub fn handle_refused(&mut self, now: Time) {
        self.held.counters.refusals += 1;
        let rewind = self.link.handle_refused(now, self.held.flight());
        self.apply(rewind);
        self.note_standing(now);
    }

    /// The agent that a reply to this session goes to. `None` if the session has given way to another, or if the
    /// sender is not remoted.
    pub fn handle_reply(&mut self, now: Time, session: SessionName, from: SocketAddr) -> Option<Origin> {
        if self.target.is_none_or(|target| (target.ip(), target.port()) != (from.ip(), from.port())) {
            return None;
        }
        self.suspicion.handle_reply();
        self.take_reply(now, session)
    }

    /// Transport tcp: the agent that a reply to this session goes to, which came over the connection.
    pub fn handle_carried_reply(&mut self, now: Time, session: SessionName) -> Option<Origin> {
        self.replies_carried = true;
        self.take_reply(now, session)
    }

    fn take_reply(&mut self, now: Time, session: SessionName) -> Option<Origin> {
        let origin = self.held.sessions.handle_reply(now, session, self.up_since)?;
        self.held.counters.replies += 1;
        Some(origin)
    }

    /// The name under which datagrams are sent.
    pub const fn stream(&self) -> StreamId {
        self.stream
    }

    /// Datagrams are sent under this name from here on.
    pub const fn handle_stream(&mut self, stream: StreamId) {
        self.stream = stream;
    }

    /// The agents that an earlier process has left, without a spool.
    pub fn handle_agents(&mut self, agents: &[Agent]) {
        if self.spooling.is_none() {
            let agents: Vec<(Agent, u64)> = agents.iter().map(|&agent| (agent, 0)).collect();
            self.held.sessions.restore(&agents);
        }
    }

    /// The agent of a session. `None` if the session has given way to another.
    pub fn agent(&self, session: SessionName) -> Option<Agent> {
        self.held.sessions.current(session)
    }

    /// The session sends from this UDP port.
    pub fn handle_port(&mut self, session: SessionName, port: u16) {
        self.held.sessions.handle_port(session, port);
    }

    /// The next errand for the spool. To be written are the `records`.
    pub fn poll_spool(&mut self, now: Time, records: &mut Records) -> Errand {
        let errand = self.take_errand(now);
        if let Some(spooling) = &self.spooling {
            records.stream = self.stream;
            match errand {
                Errand::Write => self.held.fill_records(spooling.written, records),
                Errand::Mark => self.held.fill_state(records),
                Errand::Sync | Errand::Read(..) | Errand::Wait => {}
            }
        }
        errand
    }

    fn take_errand(&mut self, now: Time) -> Errand {
        let mut holding = self.holding();
        if let Some(below) = self.spooling.as_ref().and_then(|spooling| spooling.giving_way(holding)) {
            self.held.drop_below(below);
            self.spooling.iter_mut().for_each(Spooling::handle_given_way);
            holding = self.holding();
        }
        self.spooling.as_mut().map_or(Errand::Wait, |spooling| spooling.poll(now, holding))
    }

    /// An errand was run, with these `records`. Whatever has failed is tried again, and meanwhile everything stays in
    /// memory.
    pub fn handle_errand<E>(&mut self, now: Time, errand: Errand, records: &Records, report: &Report<E>) {
        let Some(spooling) = &mut self.spooling else {
            return;
        };
        match (errand, &report.answer) {
            (Errand::Wait, _) => {}
            (Errand::Read(from, _), Answer::ReadBack(through)) => {
                self.held.handle_read_back(records, from, *through);
                self.held.expire(now);
            }
            (Errand::Read(..), _) => spooling.handle_read_failed(now),
            _ => {
                self.held.handle_report(errand, records, report);
                spooling.handle_report(now, errand, report, records.mark, self.held.buffer.tail());
                if self.held.tally().datagrams == 0 {
                    spooling.handle_empty(self.held.buffer.oldest());
                }
            }
        }
    }

    /// The program is about to end: everything that is held goes to disk.
    pub const fn handle_stop(&mut self) {
        if let Some(spooling) = &mut self.spooling {
            spooling.handle_stop();
        }
    }

    /// Another program is about to take over: everything that is held goes to disk, as long as `wanted`. The drain is
    /// over when it is there.
    pub fn handle_flush(&mut self, wanted: bool) {
        self.draining = None;
        if let Some(spooling) = &mut self.spooling {
            spooling.handle_flush(wanted);
            self.draining = wanted.then_some(self.held.buffer.tail());
        }
    }

    /// The thread of the spool is about to wait until the returned moment, or until its bell rings.
    pub fn handle_spool_waits(&mut self, now: Time) -> Option<Time> {
        let due = self.next_errand().filter(|&at| at > now);
        self.spool_waits = Some(due.unwrap_or(Time::FAR));
        due
    }

    /// Held datagrams that are not on disk.
    pub fn unwritten(&self) -> Tally {
        let from = self.spooling.as_ref().map_or(Seq::default(), |spooling| spooling.written);
        let mut tally = Tally::default();
        self.held_from(from).for_each(|entry| tally.add(entry.bytes.len()));
        tally
    }

    /// Held datagrams from this number on, without any that is on disk alone or older than such a one.
    pub fn held_from(&self, from: Seq) -> impl Iterator<Item = Entry<'_>> {
        self.held.buffer.entries_from(from)
    }

    /// The moment at which there is something to do for the spool; the past counts as this moment.
    pub fn next_errand(&self) -> Option<Time> {
        self.spooling.as_ref()?.next(self.holding())
    }

    fn holding(&self) -> Holding {
        let buffer = &self.held.buffer;
        let spilled = buffer.wanted();
        Holding {
            oldest: buffer.front().map(|entry| entry.arrived),
            datagrams: buffer.held().datagrams,
            mark: self.held.mark(),
            tail: buffer.tail(),
            quarter_full: buffer.is_full_to(4),
            half_full: buffer.is_full_to(2),
            is_good: self.up_since.is_some() && !self.is_doubtful,
            spilled,
            can_read: spilled.is_some_and(|(_, room)| buffer.can_fill(room)),
            gives_way: self.held.gives_way(),
        }
    }

    /// The program is about to stop: the datagrams held at this moment are to be confirmed as soon as possible. More
    /// may still come in.
    pub const fn handle_drain(&mut self) {
        self.draining = Some(self.held.buffer.tail());
    }

    /// The datagrams held when the drain began are confirmed or dropped, or on disk if that is enough.
    pub fn is_drained(&self) -> bool {
        let is_flushed = || self.spooling.as_ref().is_some_and(|spooling| spooling.is_flushed(self.holding()));
        self.draining.is_some_and(|end| self.held.buffer.oldest() >= end || is_flushed())
    }

    /// The forward thread is about to wait until the returned moment, or until its bell rings.
    pub fn handle_forward_waits(&mut self, now: Time) -> Option<Time> {
        let due = self.next_release(now);
        self.forward_waits = Some(due.unwrap_or(Time::FAR));
        due
    }

    /// The prober is about to wait until `at`, or until its bell rings.
    pub fn handle_probe_waits(&mut self, at: Option<Time>) {
        self.probe_waits = Some(at.unwrap_or(Time::FAR));
    }

    /// The bells to ring. Each bell is rung once until its thread waits again.
    pub fn bells(&mut self, now: Time) -> Bells {
        let (release, heartbeat) = (self.release_due(now), self.next_heartbeat(now));
        let ring = |waits: &mut Option<Time>, due: Option<Time>| {
            waits.take_if(|until| due.is_some_and(|due| due < *until)).is_some()
        };
        let spool = if self.spool_waits.is_some() { self.next_errand() } else { None };
        let forward = ring(&mut self.forward_waits, release);
        let probe = ring(&mut self.probe_waits, heartbeat);
        let spool = ring(&mut self.spool_waits, spool);
        if self.held.tally().datagrams == 0 {
            self.is_doubtful = false;
        }
        Bells { forward, probe, drained: self.take_drained(), spool }
    }

    /// Whether the drain is over; true only once.
    fn take_drained(&mut self) -> bool {
        let drained = self.is_drained();
        if drained {
            self.draining = None;
        }
        drained
    }

    /// A view for the log.
    pub fn snapshot(&self, now: Time) -> Snapshot {
        let standing = self.link.standing(now);
        Snapshot {
            standing,
            held: self.held.tally(),
            unsent: self.held.buffer.unsent(),
            oldest: self.held.buffer.oldest(),
            tail: self.held.buffer.tail(),
            short: self.held.buffer.is_short(),
            hindrance: self.spooling.as_ref().map(|spooling| spooling.hindrance(now)),
            counters: self.held.counters,
            replies_missing: if self.up_since.is_some() && !self.replies_carried {
                self.held.sessions.silent(now)
            } else {
                0
            },
        }
    }

    /// Silence counts only while the link is up.
    fn note_standing(&mut self, now: Time) {
        let up = self.link.standing(now) == Standing::Up;
        self.up_since = if up { self.up_since.or(Some(now)) } else { None };
    }

    /// Transport udp: where replies have stopped, sent datagrams may lead nowhere.
    fn suspect(&mut self, now: Time) {
        let is_udp = self.link.transport() == Transport::Udp;
        if is_udp && self.up_since.is_some() && self.suspicion.handle_time(now, self.held.sessions.all_silent(now)) {
            self.ports += 1;
            let rewind = self.link.handle_silence(now, self.held.flight());
            self.apply(rewind);
        }
    }

    /// The moment at which the next datagram may be released; `None` if more than time has to pass first.
    fn release_due(&mut self, now: Time) -> Option<Time> {
        self.may_release(now).then(|| self.pace.waits_until(now).unwrap_or(now))
    }

    /// A datagram could be sent if the rate allowed it.
    fn may_release(&mut self, now: Time) -> bool {
        let Some(permit) = self.link.permit(now) else {
            return false;
        };
        if self.gathers() {
            return false;
        }
        let cost = self.held.unconfirmed_cost();
        let Some(next) = self.held.buffer.peek().map(|entry| entry.bytes.len()) else {
            return false;
        };
        permit.fits(cost, buffer_cost(next)) && self.may_lead(Tally { datagrams: 1, bytes: next as u64 })
    }

    /// With a spool, enough of the memory must stay behind the cursor: only that can be given back.
    fn may_lead(&self, more: Tally) -> bool {
        self.spooling.is_none() || self.held.buffer.may_lead(more)
    }

    /// Nothing goes out until the datagrams under way are confirmed: the burst that follows may prove a
    /// shorter lag.
    const fn gathers(&self) -> bool {
        self.gathering && self.held.unconfirmed_cost() > 0
    }

    /// The datagrams that fall due under `--rate` until a datagram released at this moment is confirmed, in buffer
    /// cost.
    fn due_soon(&mut self, now: Time) -> u64 {
        let soon = self.pace.due_within(self.link.time_to_confirm(now));
        soon * self.held.next_cost().unwrap_or(0)
    }

    /// The moment from which unsent datagrams need a heartbeat: none allows their release by the time that the rate
    /// does.
    fn wants_heartbeat(&mut self, now: Time) -> Option<Time> {
        if self.may_release(now) {
            return None;
        }
        let due = self.pace.waits_until(now).filter(|_| !self.gathers());
        Some(due.map_or(Time::ZERO, |at| at.before(self.link.round_trip())))
    }

    fn apply(&mut self, rewind: Option<Rewind>) {
        if rewind.is_some() {
            self.is_doubtful = true;
            self.held.rewind();
        }
    }
}
