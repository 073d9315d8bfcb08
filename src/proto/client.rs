//! The client's whole logic: buffer, link and sessions as one state machine.
//!
//! ```text
//!   agent ──► handle_datagram ──► [ buffer ] ──► poll_release ──► handle_sent ──► remoted
//!                                     ▲ rewind, confirm
//!                                  [ link ] ◄── begin_heartbeat, handle_pong, handle_time
//! ```
//!
//! The threads call one method each time they have something, under one lock, and do their input and output without it. Nothing here
//! waits, reads a clock or knows a socket, so the same code runs in the simulation on virtual time.
//!
//! **Accounting.** `received = confirmed + held + dropped (by reason)`, checked at each step of a debug build.
//!
//! **Order.** There is one buffer, one cursor and one batch out at a time: nothing can overtake.

mod batch;
pub mod buffer;
mod counters;
pub mod dial;
pub mod link;
mod pace;
mod recency;
mod replies;
pub mod routes;
pub mod segments;
mod sessions;
mod suspicion;
#[cfg(test)]
mod tests;

pub use batch::Batch;
pub use counters::{Counters, DropReason};
pub use link::Transport;
pub use sessions::Origin;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::proto::client::buffer::{Buffer, Entry, Full, Gone, SessionId, Tally};
use crate::proto::client::link::{Flight, Foreign, Link, Outcome, Probe, Resumption, Rewind, Standing, Work};
use crate::proto::cost::buffer_cost;
use crate::proto::terms::{Seq, SessionName, Verdict, digest};
use crate::proto::time::Time;
use crate::proto::wire::{Ack, Ping, Pong, Resume};
use pace::Pace;
use sessions::Sessions;
use suspicion::Suspicion;

/// With `--rate`: so many round trips between two pauses that gather a burst. Each takes a grace, which the rate makes good, and a round trip, which
/// it does not.
const GATHER_ROUND_TRIPS: u32 = 50;

/// What to do with an arrival when the buffer is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FullPolicy {
    /// Make room by dropping the oldest.
    #[default]
    DropOldest,
    /// Drop the arrival.
    DropNewest,
}

/// What the command line says of the core.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Memory for datagrams, in bytes.
    pub buffer_bytes: usize,
    /// What gives way when it is full.
    pub full: FullPolicy,
    /// Drop what is older.
    pub max_age: Option<Duration>,
    /// Never release more datagrams per second.
    pub rate: Option<NonZeroU32>,
    /// Send again what was not confirmed.
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

/// Which threads have something to do that they do not know of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bells {
    /// Something may be released.
    pub forward: bool,
    /// A heartbeat is due earlier than the prober waits for.
    pub probe: bool,
    /// What was held at the drain's beginning is gone, and the program waits for that.
    pub drained: bool,
}

/// A view of the state for the log.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    /// What stands between the client and remoted.
    pub standing: Standing,
    /// What is held.
    pub held: Tally,
    /// What is held and not released.
    pub unsent: Tally,
    /// The buffer is smaller than it was meant to be: the system gave no more memory.
    pub short: bool,
    /// All counters.
    pub counters: Counters,
    /// Sessions that used to get replies over UDP and get none any more, although heartbeats are good.
    pub replies_missing: usize,
}

/// The client's logic. See the head of this file.
#[derive(Debug)]
pub struct ClientCore {
    config: Config,
    buffer: Buffer,
    link: Link,
    sessions: Sessions,
    counters: Counters,
    target: Option<SocketAddr>,
    /// Buffer cost of what is released and not confirmed, `abandoned` included.
    unconfirmed_cost: u64,
    abandoned: Option<Abandoned>,
    pace: Pace,
    /// The rate outruns the window as long as the path is not known to be prompt, and its steady trickle could never prove that. So every now and
    /// then it gathers for a burst.
    gathering: bool,
    /// Not before this.
    gather_again: Time,
    /// Since when the link is up; `None` while it is not.
    up_since: Option<Time>,
    /// Replies come over the connection, and say nothing of UDP.
    replies_carried: bool,
    suspicion: Suspicion,
    /// How often the source ports were changed.
    ports: u32,
    /// Until when the thread waits, if it does.
    forward_waits: Option<Time>,
    probe_waits: Option<Time>,
    /// The program is about to stop, and waits until everything below has been confirmed.
    draining: Option<Seq>,
}

/// What had been released when a full buffer dropped it. It still takes its place in the window: it is on its way, or lies in remoted's socket.
#[derive(Clone, Copy, Debug)]
struct Abandoned {
    oldest: Seq,
    /// All of it is below this.
    end: Seq,
    cost: u64,
}

impl ClientCore {
    /// An empty core without a link.
    pub fn new(config: Config) -> Self {
        Self {
            buffer: Buffer::new(config.buffer_bytes),
            link: Link::new(config.transport, config.link),
            sessions: Sessions::new(config.sessions_max),
            counters: Counters::default(),
            target: None,
            unconfirmed_cost: 0,
            abandoned: None,
            pace: Pace::new(config.rate),
            gathering: false,
            gather_again: Time::ZERO,
            up_since: None,
            replies_carried: false,
            suspicion: Suspicion::default(),
            ports: 0,
            forward_waits: None,
            probe_waits: None,
            draining: None,
            config,
        }
    }

    /// A datagram came in from an agent.
    pub fn handle_datagram(&mut self, now: Time, origin: Origin, bytes: &[u8]) {
        self.counters.received += 1;
        let Some(session) = self.sessions.admit(origin, bytes) else {
            self.counters.drop(DropReason::NoSession);
            return;
        };
        self.expire(now);
        loop {
            match self.buffer.push(now, session, bytes) {
                Ok(_) => {
                    self.sessions.handle_held(session);
                    break;
                }
                Err(Full::ByItself) => {
                    self.counters.drop(DropReason::TooLarge);
                    break;
                }
                Err(Full::ByOthers) => {
                    let gone = match self.config.full {
                        FullPolicy::DropOldest => self.buffer.pop(),
                        FullPolicy::DropNewest => None,
                    };
                    let Some(gone) = gone else {
                        self.counters.drop(DropReason::Overflow);
                        break;
                    };
                    self.forget(gone, DropReason::Overflow);
                }
            }
        }
        self.audit();
    }

    /// A connection to the broker server was made and greeted in `round_trip`; datagrams go to `target`.
    pub fn handle_connected(&mut self, now: Time, round_trip: Duration, target: SocketAddr) {
        let rewind = self.link.handle_connected(now, round_trip, self.flight());
        self.target = Some(target);
        self.replies_carried = false;
        self.apply(rewind);
        self.note_standing(now);
    }

    /// The connection is gone.
    pub fn handle_disconnected(&mut self, now: Time) {
        let rewind = self.link.handle_disconnected(now, self.flight());
        self.apply(rewind);
        self.note_standing(now);
    }

    /// How long a heartbeat that begins now would allow release.
    pub fn lease(&self) -> Duration {
        self.link.lease()
    }

    /// When the next heartbeat should begin; `None` if none can.
    ///
    /// What may be released at this moment needs no heartbeat before it, but one after it: asking once more in between would cost an agent with
    /// a few events a second half as many heartbeats again.
    pub fn next_heartbeat(&mut self, now: Time) -> Option<Time> {
        let hurry = self.draining.is_some() && self.buffer.held().datagrams > 0;
        let unsent = if self.buffer.unsent().datagrams > 0 { self.wants_heartbeat(now) } else { None };
        self.link.next_heartbeat(Work { unsent, hurry, under_way: self.flight().is_open() })
    }

    /// Begins a heartbeat, if one may begin: what to remember until the answer, and what to send.
    pub fn begin_heartbeat(&mut self, now: Time) -> Option<(Probe, Ping)> {
        self.expire(now);
        let probe = self.link.begin(now, self.flight())?;
        let ping = Ping {
            number: probe.number(),
            oldest: self.buffer.oldest(),
            next: self.buffer.next(),
            tail: self.buffer.tail(),
            held: self.buffer.held().datagrams,
            held_bytes: self.buffer.held().bytes,
            unsent: self.buffer.unsent().datagrams,
            dropped: self.counters.dropped_total(),
            next_cost: self.buffer.peek().map_or(0, |entry| buffer_cost(entry.bytes.len())),
            unconfirmed_cost: self.unconfirmed_cost,
            // Rounded up: what the server books must not end before the lease does.
            lease_ms: u32::try_from(probe.lease().as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX),
        };
        self.counters.heartbeats += 1;
        Some((probe, ping))
    }

    /// A heartbeat was answered.
    pub fn handle_pong(&mut self, now: Time, probe: Probe, pong: &Pong) -> Outcome {
        let outcome = self.link.handle_pong(now, probe, pong, self.flight());
        self.apply(outcome.rewind);
        self.counters.others_drops = self.counters.others_drops.saturating_add(outcome.others_drops);
        if let Some(bound) = outcome.confirm.filter(|_| !self.suspicion.withholds()) {
            self.confirm(bound, outcome.doubtful || self.suspicion.doubts());
        }
        self.note_standing(now);
        self.audit();
        outcome
    }

    /// Transport tcp: the server says where to go on.
    ///
    /// # Errors
    /// It says that of somebody else: nothing has changed, and the connection is of no use.
    pub fn handle_resume(&mut self, resume: &Resume) -> Result<(), Foreign> {
        let flight = self.flight();
        let last = resume.from.and_then(|from| from.0.checked_sub(1)).and_then(|last| self.buffer.entry(Seq(last)));
        let digest = last.map(|entry| digest(entry.bytes));
        if let Some(resumption) = self.link.handle_resume(resume, flight, digest)? {
            self.go_on_from(resumption);
        }
        self.audit();
        Ok(())
    }

    /// Transport tcp: remoted has read something.
    ///
    /// # Errors
    /// Of somebody else's: nothing has changed, and the connection is of no use.
    pub fn handle_ack(&mut self, ack: &Ack) -> Result<(), Foreign> {
        let flight = self.flight();
        if let Some(bound) = self.link.handle_ack(ack, flight)? {
            self.confirm(bound, ack.doubtful);
        }
        self.audit();
        Ok(())
    }

    /// Transport tcp: something came in over the connection, or was seen to arrive at the other host.
    pub fn handle_alive(&mut self, now: Time) {
        self.link.handle_alive(now);
    }

    /// Transport tcp: what the frames of this batch must say; `None` if they would come to nothing.
    pub fn stream_epoch(&self, batch: &Batch) -> Option<u32> {
        self.link.server_epoch().filter(|_| self.link.epoch() == batch.epoch())
    }

    /// The server says that its verdict has changed.
    pub const fn handle_notice(&mut self, verdict: Verdict) {
        self.link.handle_notice(verdict);
    }

    /// Time has passed: see [`Self::next_deadline`].
    pub fn handle_time(&mut self, now: Time) {
        let rewind = self.link.handle_time(now, self.flight());
        self.apply(rewind);
        self.note_standing(now);
        self.suspect(now);
    }

    /// When [`Self::handle_time`] or [`Self::is_silent`] has something new to say.
    pub fn next_deadline(&self, now: Time) -> Option<Time> {
        self.link.next_deadline(now)
    }

    /// Datagrams are refused although heartbeats are good.
    pub fn is_refused(&self, now: Time) -> bool {
        self.link.standing(now) == Standing::Refused
    }

    /// The connection has been silent for too long to be waited for.
    pub fn is_silent(&self, now: Time) -> bool {
        self.link.is_silent(now)
    }

    /// Fills `batch` with what may be sent at this moment; whether there is anything.
    ///
    /// The cursor moves when the batch has been sent: a heartbeat that begins in between must not cover it.
    pub fn poll_release(&mut self, now: Time, batch: &mut Batch) -> bool {
        batch.clear();
        self.expire(now);
        let (Some(permit), Some(target)) = (self.link.permit(now), self.target) else {
            return false;
        };
        if self.gathers() {
            return false;
        }
        batch.begin(permit.epoch, permit.until, target, self.ports);
        let mut cost = self.unconfirmed_cost;
        let mut pace = self.pace;
        let mut stopped = false;
        for entry in self.buffer.unsent_entries() {
            let more = u64::from(buffer_cost(entry.bytes.len()));
            let alone = cost == 0;
            let fits = alone || (!permit.single && cost + more <= permit.window);
            if !fits || !pace.allows(now) {
                stopped = true;
                break;
            }
            if !batch.has_room(entry.bytes.len()) {
                break;
            }
            pace.handle_sent(now, 1);
            cost += more;
            batch.push(&entry, self.sessions.reference(entry.session));
        }
        self.gathering = stopped && now >= self.gather_again && self.due_soon(now) > permit.window;
        if self.gathering {
            self.gather_again = now + GATHER_ROUND_TRIPS * self.link.usual_round_trip();
        }
        !batch.is_empty()
    }

    /// When time alone makes a release possible; `None` if something else has to happen first.
    pub fn next_release(&mut self, now: Time) -> Option<Time> {
        self.release_due(now).filter(|&at| at > now)
    }

    /// The first `sent` datagrams of the batch have been sent.
    pub fn handle_sent(&mut self, now: Time, batch: &Batch, sent: usize) {
        if sent == 0 {
            return;
        }
        if self.link.transport() == Transport::Tcp && batch.epoch() != self.link.epoch() {
            // It goes nowhere: the connection sends nothing of an epoch that is over.
            return;
        }
        self.counters.sent += sent as u64;
        self.pace.handle_sent(now, sent as u32);
        // After a rewind they count as never sent: they come again, in their order, before anything newer; or never.
        if batch.epoch() == self.link.epoch() {
            let before = self.unconfirmed_cost;
            for at in 0..sent {
                if self.is_next(batch.seq(at))
                    && let Some(gone) = self.buffer.advance()
                {
                    self.unconfirmed_cost += gone_cost(&gone);
                    self.sessions.handle_released(now, gone.session, self.up_since.unwrap_or(now));
                } else {
                    // Dropped while it was being sent.
                    let cost = u64::from(buffer_cost(batch.payload(at).len()));
                    self.unconfirmed_cost += cost;
                    self.abandon(batch.seq(at), cost);
                }
            }
            self.link.handle_released(now, self.unconfirmed_cost - before, before == 0);
        } else if self.config.resend {
            self.counters.copies += sent as u64;
        } else {
            for at in 0..sent {
                if self.is_next(batch.seq(at)) {
                    self.drop_next(DropReason::NotResent);
                }
            }
        }
        self.audit();
    }

    /// The system will never send the `at`-th datagram of the batch (too large for it, say).
    pub fn handle_unsendable(&mut self, batch: &Batch, at: usize) {
        if self.is_next(batch.seq(at)) {
            self.drop_next(DropReason::Unsendable);
        }
        self.audit();
    }

    /// A datagram was refused, by the far end or by the own system.
    pub fn handle_refused(&mut self, now: Time) {
        self.counters.refusals += 1;
        let rewind = self.link.handle_refused(now, self.flight());
        self.apply(rewind);
        self.note_standing(now);
    }

    /// Where a reply to this session goes; `None` if the session has given way to another, or if it is not remoted that sends.
    pub fn handle_reply(&mut self, now: Time, session: SessionName, from: SocketAddr) -> Option<Origin> {
        if self.target.is_none_or(|target| (target.ip(), target.port()) != (from.ip(), from.port())) {
            return None;
        }
        self.suspicion.handle_reply();
        self.take_reply(now, session)
    }

    /// Transport tcp: where a reply to this session goes that came over the connection.
    pub fn handle_carried_reply(&mut self, now: Time, session: SessionName) -> Option<Origin> {
        self.replies_carried = true;
        self.take_reply(now, session)
    }

    fn take_reply(&mut self, now: Time, session: SessionName) -> Option<Origin> {
        let origin = self.sessions.handle_reply(now, session, self.up_since)?;
        self.counters.replies += 1;
        Some(origin)
    }

    /// The current epoch; what was prepared in another is of no use.
    pub fn epoch(&self) -> u64 {
        self.link.epoch()
    }

    /// The program is about to stop: what is held at this moment is to be confirmed as soon as possible. More may still come in.
    pub const fn handle_drain(&mut self) {
        self.draining = Some(self.buffer.tail());
    }

    /// What was held at the drain's beginning is confirmed, or was dropped.
    pub fn is_drained(&self) -> bool {
        self.draining.is_some_and(|end| self.buffer.oldest() >= end)
    }

    /// The forward thread is about to wait until the returned moment, or until it is rung for.
    pub fn handle_forward_waits(&mut self, now: Time) -> Option<Time> {
        let due = self.next_release(now);
        self.forward_waits = Some(due.unwrap_or(Time::FAR));
        due
    }

    /// The prober is about to wait until `at` (or until it is rung for).
    pub fn handle_probe_waits(&mut self, at: Option<Time>) {
        self.probe_waits = Some(at.unwrap_or(Time::FAR));
    }

    /// Who must be rung for. Each bell is rung once until its thread waits again.
    pub fn bells(&mut self, now: Time) -> Bells {
        let (release, heartbeat) = (self.release_due(now), self.next_heartbeat(now));
        let ring = |waits: &mut Option<Time>, due: Option<Time>| {
            waits.take_if(|until| due.is_some_and(|due| due < *until)).is_some()
        };
        let forward = ring(&mut self.forward_waits, release);
        let probe = ring(&mut self.probe_waits, heartbeat);
        Bells { forward, probe, drained: self.take_drained() }
    }

    /// Whether the drain is over; true once.
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
            held: self.buffer.held(),
            unsent: self.buffer.unsent(),
            short: self.buffer.is_short(),
            counters: self.counters,
            replies_missing: if self.up_since.is_some() && !self.replies_carried {
                self.sessions.silent(now)
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

    /// Transport udp: where replies have stopped, what is sent may lead nowhere.
    fn suspect(&mut self, now: Time) {
        let is_udp = self.link.transport() == Transport::Udp;
        if is_udp && self.up_since.is_some() && self.suspicion.handle_time(now, self.sessions.all_silent(now)) {
            self.ports += 1;
            let rewind = self.link.handle_silence(now, self.flight());
            self.apply(rewind);
        }
    }

    /// When what is next may be released; `None` if something else than time has to come first.
    fn release_due(&mut self, now: Time) -> Option<Time> {
        self.may_release(now).then(|| self.pace.waits_until(now).unwrap_or(now))
    }

    /// Something could be sent if the rate allowed it.
    fn may_release(&mut self, now: Time) -> bool {
        let Some(permit) = self.link.permit(now) else {
            return false;
        };
        if self.gathers() {
            return false;
        }
        let cost = self.unconfirmed_cost;
        let fits = |more: u32| cost == 0 || (!permit.single && cost + u64::from(more) <= permit.window);
        self.buffer.peek().is_some_and(|entry| fits(buffer_cost(entry.bytes.len())))
    }

    /// Nothing goes out until what is under way is confirmed: the burst that follows may prove the path to be prompt.
    const fn gathers(&self) -> bool {
        self.gathering && self.unconfirmed_cost > 0
    }

    /// What falls due under `--rate` until something that is released at this moment is confirmed, in buffer cost.
    fn due_soon(&mut self, now: Time) -> u64 {
        let soon = self.pace.due_within(2 * self.link.grace(now) + self.link.round_trip());
        let each = self.buffer.peek().map_or(0, |entry| u64::from(buffer_cost(entry.bytes.len())));
        soon * each
    }

    /// From when on what is not sent needs a heartbeat: when none allows its release by the time that the rate does.
    fn wants_heartbeat(&mut self, now: Time) -> Option<Time> {
        if self.may_release(now) {
            return None;
        }
        let due = self.pace.waits_until(now).filter(|_| !self.gathers());
        Some(due.map_or(Time::ZERO, |at| at.before(self.link.round_trip())))
    }

    fn flight(&self) -> Flight {
        let oldest = self.abandoned.map_or(self.buffer.oldest(), |abandoned| abandoned.oldest);
        Flight { oldest, next: self.buffer.next() }
    }

    fn apply(&mut self, rewind: Option<Rewind>) {
        if rewind.is_none() || !self.flight().is_open() {
            return;
        }
        self.counters.rewinds += 1;
        if self.config.resend {
            self.counters.copies += self.buffer.held().datagrams - self.buffer.unsent().datagrams;
            self.buffer.rewind();
        } else {
            let bound = self.buffer.next();
            while let Some(gone) = self.buffer.pop_released(bound) {
                self.forget(gone, DropReason::NotResent);
            }
        }
        self.unconfirmed_cost = 0;
        self.abandoned = None;
        self.audit();
    }

    /// Everything below `bound` has been read.
    fn confirm(&mut self, bound: Seq, doubtful: bool) {
        self.confirm_abandoned(bound);
        while let Some(gone) = self.buffer.pop_released(bound) {
            self.unconfirmed_cost = self.unconfirmed_cost.saturating_sub(gone_cost(&gone));
            self.sessions.handle_settled(gone.session);
            self.counters.confirmed += 1;
            self.counters.doubtful += u64::from(doubtful);
        }
    }

    /// What is below `from` stays released, the rest counts as never sent. Of that, what is below `reached` may have reached remoted.
    fn go_on_from(&mut self, Resumption { from, reached }: Resumption) {
        let end = self.buffer.next();
        // The server has none of it any more but what remoted has not read, and that is not counted against the window there.
        self.abandoned = None;
        self.unconfirmed_cost = 0;
        self.buffer.rewind();
        while self.buffer.peek().is_some_and(|entry| entry.seq < from.min(end))
            && let Some(gone) = self.buffer.advance()
        {
            self.unconfirmed_cost += gone_cost(&gone);
        }
        self.counters.rewinds += u64::from(self.buffer.next() < end);
        let doubtful = |entry: &Entry<'_>| entry.seq < reached.min(end);
        if self.config.resend {
            self.counters.copies += self.buffer.unsent_entries().take_while(doubtful).count() as u64;
        } else {
            while self.buffer.peek().is_some_and(|entry| doubtful(&entry)) {
                self.drop_next(DropReason::NotResent);
            }
        }
    }

    /// Drops what has become too old, as far as it is not under way.
    fn expire(&mut self, now: Time) {
        let Some(max_age) = self.config.max_age else {
            return;
        };
        while self.buffer.peek().is_some_and(|entry| now.since(entry.arrived) > max_age) {
            self.drop_next(DropReason::Expired);
        }
    }

    /// Whether this datagram is the next to release.
    fn is_next(&mut self, seq: Seq) -> bool {
        self.buffer.peek().is_some_and(|entry| entry.seq == seq)
    }

    /// Drops the next datagram to release.
    fn drop_next(&mut self, reason: DropReason) {
        if let Some(gone) = self.buffer.strike() {
            self.sessions.handle_settled(gone.session);
            self.counters.drop(reason);
        }
    }

    /// A datagram has left the buffer unconfirmed.
    fn forget(&mut self, gone: Gone, reason: DropReason) {
        if gone.released {
            self.abandon(gone.seq, gone_cost(&gone));
        }
        self.sessions.handle_settled(gone.session);
        self.counters.drop(reason);
    }

    /// What is under way was dropped.
    fn abandon(&mut self, seq: Seq, cost: u64) {
        let before = self.abandoned.get_or_insert(Abandoned { oldest: seq, end: seq, cost: 0 });
        (before.end, before.cost) = (before.end.max(seq.next()), before.cost + cost);
    }

    /// Everything below `bound` has been read.
    fn confirm_abandoned(&mut self, bound: Seq) {
        if let Some(abandoned) = &mut self.abandoned {
            if abandoned.end <= bound {
                self.unconfirmed_cost = self.unconfirmed_cost.saturating_sub(abandoned.cost);
                self.abandoned = None;
            } else {
                abandoned.oldest = abandoned.oldest.max(bound);
            }
        }
    }

    fn audit(&self) {
        debug_assert_eq!(
            self.counters.received,
            self.counters.confirmed + self.buffer.held().datagrams + self.counters.dropped_total(),
            "every datagram is accounted for"
        );
    }
}

fn gone_cost(gone: &Gone) -> u64 {
    u64::from(buffer_cost(gone.length))
}
