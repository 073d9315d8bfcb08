//! Heartbeats in; release, hold, rewind and confirm out.
//!
//! This room decides when the client may send towards remoted, and when it may forget. It knows numbers and moments, no datagrams.
//!
//! ```text
//!    no connection ──connected──► unanswered ──good heartbeat──► up ◄──► held (remoted not up)
//!          ▲                          │                          │
//!          └────────broken────────────┴─────────broken───────────┘
//!                                   any of them: a heartbeat comes late ⇒ rewind, hold until the next good one
//! ```
//!
//! * **Lease.** A good heartbeat (answered within `lease + srtt + 4·rttvar` of its beginning, remoted up) allows release until that span,
//!   counted from its *beginning*, is over. While something is released one begins each fifth of a lease, or within a grace after that; after a pause
//!   one must come back before anything is released. So some heartbeat begins within a fifth of a lease and a grace after an outage has
//!   swallowed its first datagram, and an outage that lasts a lease longer than that makes it late.
//! * **Confirm.** A good heartbeat confirms what was released before an earlier good one of the same connection, incarnation and epoch
//!   began, one that is a grace older: by then it had reached remoted's socket, even where UDP lags behind TCP. With `queue` bytes in the socket at the sample and
//!   F read so far, it has been read when the server's sum reaches F + `queue`. No timer confirms anything.
//! * **Rewind.** When data may be lost, an *epoch* ends: what was released in it counts as never sent, and its heartbeats prove nothing
//!   any more.
//!
//! What a heartbeat can prove is settled when it begins, in its [`Probe`], which can be redeemed once.

mod drops;
mod prompt;
mod proof;
mod rtt;
pub mod stream;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use crate::proto::terms::{Incarnation, Seq, Verdict};
use crate::proto::time::Time;
use crate::proto::wire::Pong;
use drops::{Drops, Finding};
use prompt::{GRACE, Promptness};
use proof::{Good, Proof};
use rtt::RoundTrip;

/// Heartbeats under way at once: enough for one each fifth of a lease, and a bound for a server that never answers.
pub const HEARTBEATS_MAX: usize = 8;

/// While there is something to do a heartbeat begins as often as this in each lease, answers or not.
const BEATS_PER_LEASE: u32 = 5;

/// A heartbeat that took longer than so many of its leases counts as one that took that long. Eight that came back together after an outage of
/// seconds would otherwise leave a lease of seconds behind, in which the next outage goes unnoticed; a path that is really slower doubles the
/// lease with each heartbeat.
const LATE_LEASES_MAX: u32 = 2;

/// Least time between the beginnings of two heartbeats before the server has asked for more.
const GAP_MIN: Duration = Duration::from_millis(1);

/// The pause before what was rewound twice is sent again, so that lateness caused by our own sending cannot feed itself.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Between two datagrams that test a path which refuses. Linux answers a refused datagram with at most one ICMP message per second and
/// peer after a burst: a shorter pause would take a missing answer for a good sign.
const REFUSED_PAUSE: Duration = Duration::from_millis(1_200);
/// Refusals under good heartbeats after which the path counts as refused: one or two are a restart of remoted that is about to be seen.
const REFUSALS_TOLD: u32 = 3;

/// Durations of the command line.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Between two heartbeats of an idle link.
    pub interval: Duration,
    /// Added to the round trip: how long a heartbeat allows release.
    pub lease: Duration,
    /// Bound of the lease, unless the path itself takes longer.
    pub timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { interval: Duration::from_secs(1), lease: Duration::from_millis(100), timeout: Duration::from_secs(2) }
    }
}

/// A heartbeat under way. Neither `Copy` nor `Clone`: it is redeemed once, by its pong, or dropped with its connection.
#[derive(Debug)]
pub struct Probe {
    number: u64,
    connection: u64,
    epoch: u64,
    begun: Time,
    lease: Duration,
    /// The usual round trip when it began.
    usual: Duration,
    /// Every datagram below this had been sent when the heartbeat began.
    released: Seq,
}

impl Probe {
    /// The number that its pong carries.
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// When it began.
    pub const fn begun(&self) -> Time {
        self.begun
    }

    /// How long, from its beginning, a good answer allows release.
    pub const fn lease(&self) -> Duration {
        self.lease
    }
}

/// Where the buffer's cursor stands.
#[derive(Clone, Copy, Debug)]
pub struct Flight {
    /// The oldest datagram not confirmed.
    pub oldest: Seq,
    /// The next datagram to release.
    pub next: Seq,
}

impl Flight {
    /// Something is released and not confirmed.
    pub const fn is_open(self) -> bool {
        self.oldest.0 < self.next.0
    }
}

/// What there is to do, for the rhythm of heartbeats.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work {
    /// Something waits for a heartbeat to be released; from when on it may, but for that.
    pub unsent: Option<Time>,
    /// Something is to be confirmed soon: the program is about to stop.
    pub hurry: bool,
    /// Something is released and not confirmed.
    pub under_way: bool,
}

/// Why what is released counts as never sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewind {
    /// A heartbeat did not come back within its lease, or could not begin within it.
    Late,
    /// The connection broke or was given up.
    Disconnected,
    /// remoted's process or socket is gone.
    Gone,
    /// remoted was started anew, or another one answers.
    Incarnation,
    /// The kernel dropped datagrams at remoted's socket while ours were under way.
    Drops,
    /// A datagram was refused (ICMP, or an error of the own system).
    Refused,
    /// Replies have stopped under good heartbeats.
    Silence,
}

/// What a pong leads to. A rewind comes first; with one, nothing is confirmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Everything unconfirmed is to be released again.
    pub rewind: Option<Rewind>,
    /// Everything below is confirmed.
    pub confirm: Option<Seq>,
    /// What is confirmed may have been dropped by remoted's overflowing socket.
    pub doubtful: bool,
    /// Datagrams of others that remoted's socket dropped since the last pong.
    pub others_drops: u64,
}

/// What may be released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit {
    /// Nothing is released at or after this moment.
    pub until: Time,
    /// Bound of what is released and not confirmed, in bytes of buffer cost. One datagram is always allowed when nothing is under way.
    pub window: u64,
    /// No more than one datagram is released and not confirmed: the path is being tested.
    pub single: bool,
    /// The epoch in which it was given.
    pub epoch: u64,
}

/// What stands between the client and remoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// There is no connection to the broker server.
    Unreachable,
    /// The connection is there and nothing has come back over it in time.
    Unanswered,
    /// The server answers, and remoted is not up.
    Remote(Verdict),
    /// Heartbeats are good and datagrams are refused.
    Refused,
    /// Datagrams flow.
    Up,
}

/// The state of the way to remoted. See the head of this file.
#[derive(Debug)]
pub struct Link {
    settings: Settings,
    rtt: RoundTrip,
    connection: Option<Connection>,
    connections: u64,
    heartbeats: u64,
    epoch: u64,
    incarnation: Option<Incarnation>,
    drops: Drops,
    prompt: Promptness,
    backoff: Backoff,
    refusals: Option<Refusals>,
    /// What was released and has not been covered by a heartbeat that began after it had landed: when the first of it will have landed, and the
    /// last.
    uncovered: Option<(Time, Time)>,
    /// By then what was rewound last has landed. A window that was granted before takes no account of it.
    landed: Time,
}

#[derive(Debug)]
struct Connection {
    id: u64,
    outstanding: VecDeque<Outstanding>,
    last_begun: Option<Time>,
    /// When the first heartbeat began of those that have followed each other closely. Only their answers allow release.
    series: Time,
    last_heard: Time,
    /// The newest answer in time; `None` after a late one.
    answer: Option<Answer>,
    /// What the heartbeats of this epoch prove.
    proof: Proof,
    gap: Duration,
    /// With no window: when to ask again.
    ask_again: Option<Time>,
    /// The server said that something has changed.
    nudged: bool,
}

#[derive(Clone, Copy, Debug)]
struct Outstanding {
    number: u64,
    begun: Time,
    lease: Duration,
    late: bool,
}

#[derive(Clone, Copy, Debug)]
struct Answer {
    verdict: Verdict,
    begun: Time,
    until: Time,
    window: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Backoff {
    /// Rewinds of something released since something was confirmed last.
    rewinds: u32,
    until: Time,
}

#[derive(Clone, Copy, Debug)]
struct Refusals {
    count: u32,
    test: Time,
}

impl Link {
    /// A link without a connection.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            rtt: RoundTrip::default(),
            connection: None,
            connections: 0,
            heartbeats: 0,
            epoch: 0,
            incarnation: None,
            drops: Drops::new(),
            prompt: Promptness::default(),
            backoff: Backoff::default(),
            refusals: None,
            uncovered: None,
            landed: Time::ZERO,
        }
    }

    /// The current epoch; it ends with each rewind.
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How long a heartbeat that begins now would allow release.
    pub fn lease(&self) -> Duration {
        (self.settings.lease + self.rtt.allowance()).min(self.rtt.patience(self.settings))
    }

    /// What a round trip takes as a rule; zero before the first.
    pub fn usual_round_trip(&self) -> Duration {
        self.rtt.smoothed()
    }

    /// How much older than a heartbeat a release must be to be confirmed by it.
    pub fn grace(&self, now: Time) -> Duration {
        self.prompt.grace(now)
    }

    /// What a round trip takes, with four times its usual variation; zero before the first.
    pub fn round_trip(&self) -> Duration {
        self.rtt.allowance()
    }

    /// A connection was made and greeted in `round_trip`. One that was there before is given up.
    pub fn handle_connected(&mut self, now: Time, round_trip: Duration, flight: Flight) -> Option<Rewind> {
        let rewind = self.handle_disconnected(now, flight);
        self.rtt.handle_path(round_trip);
        self.connections += 1;
        self.connection = Some(Connection {
            id: self.connections,
            outstanding: VecDeque::new(),
            last_begun: None,
            series: now,
            last_heard: now,
            answer: None,
            proof: Proof::default(),
            gap: GAP_MIN,
            ask_again: None,
            nudged: false,
        });
        rewind
    }

    /// The connection is gone, whatever the reason.
    pub fn handle_disconnected(&mut self, now: Time, flight: Flight) -> Option<Rewind> {
        self.connection.take()?;
        // Another server process counts from another beginning.
        self.drops.handle_other_counter();
        Some(self.rewind(now, flight, Rewind::Disconnected))
    }

    /// Begins a heartbeat. `next_heartbeat` says when.
    ///
    /// `None` without a connection or with [`HEARTBEATS_MAX`] under way.
    pub fn begin(&mut self, now: Time, flight: Flight) -> Option<Probe> {
        let lease = self.lease();
        let connection = self.connection.as_mut().filter(|c| c.outstanding.len() < HEARTBEATS_MAX)?;
        self.heartbeats += 1;
        let number = self.heartbeats;
        connection.outstanding.push_back(Outstanding { number, begun: now, lease, late: false });
        if connection.last_begun.is_none_or(|last| now.since(last) > connection.spacing(lease) + GRACE) {
            connection.series = now;
        }
        connection.last_begun = Some(now);
        connection.ask_again = None;
        connection.nudged = false;
        self.uncovered = match self.uncovered {
            Some((first, last)) if now < first => Some((first, last)),
            Some((_, last)) if now < last => Some((last, last)),
            Some(_) | None => None,
        };
        self.prompt.handle_begin(number);
        let (connection, epoch, usual) = (connection.id, self.epoch, self.rtt.smoothed());
        Some(Probe { number, connection, epoch, begun: now, lease, usual, released: flight.next })
    }

    /// The answer to a heartbeat came in.
    pub fn handle_pong(&mut self, now: Time, probe: Probe, pong: &Pong, flight: Flight) -> Outcome {
        let round_trip = now.since(probe.begun);
        let Some(connection) = self.connection.as_mut().filter(|c| c.id == probe.connection) else {
            return Outcome::default();
        };
        let was_late = connection.redeem(now, probe.number);
        // A late one may have waited for an outage to end: it says that the path is slower, not by how much.
        self.rtt.handle_sample(round_trip, LATE_LEASES_MAX * probe.lease);
        connection.gap = Duration::from_micros(u64::from(pong.gap_us)).min(self.settings.interval).max(GAP_MIN);
        if round_trip > probe.lease {
            connection.answer = None;
            return Outcome {
                rewind: (!was_late).then(|| self.rewind(now, flight, Rewind::Late)),
                ..Outcome::default()
            };
        }
        connection.answer = Some(Answer {
            verdict: pong.verdict,
            begun: probe.begun,
            until: probe.begun + probe.lease,
            window: pong.window,
        });
        if pong.window == 0 && pong.ask_again_ms > 0 {
            connection.ask_again = Some(now + Duration::from_millis(u64::from(pong.ask_again_ms)));
        }
        if let Some(cause) = self.other_life(pong) {
            return Outcome { rewind: Some(self.rewind(now, flight, cause)), ..Outcome::default() };
        }
        match pong.verdict {
            Verdict::Up => self.handle_good(now, &probe, pong, flight),
            Verdict::Stopped
            | Verdict::Stalled
            | Verdict::Starting(_)
            | Verdict::NoProcess(_)
            | Verdict::NoSocket(_) => Outcome::default(),
        }
    }

    /// Time has passed: a heartbeat may have become late, or it begins too late.
    pub fn handle_time(&mut self, now: Time, flight: Flight) -> Option<Rewind> {
        let lease = self.lease();
        let connection = self.connection.as_mut()?;
        // The own host stood still when something had to be covered: an outage may have come and gone in the meantime.
        let spaced = connection.last_begun.map_or(Time::ZERO, |last| last + connection.spacing(lease));
        let mut fresh = self.uncovered.is_some_and(|(first, _)| now > first.max(spaced) + lease.max(GRACE));
        for heartbeat in &mut connection.outstanding {
            if !heartbeat.late && now.since(heartbeat.begun) > heartbeat.lease {
                heartbeat.late = true;
                fresh = true;
            }
        }
        if fresh {
            connection.answer = None;
        }
        fresh.then(|| self.rewind(now, flight, Rewind::Late))
    }

    /// The server said, unasked, that its verdict has changed: a heartbeat is due.
    pub const fn handle_notice(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.nudged = true;
        }
    }

    /// Datagrams of this buffer cost were sent: a heartbeat must begin after them. `first`: nothing was under way before them.
    pub fn handle_released(&mut self, now: Time, cost: u64, first: bool) {
        // Not before it has landed: an outage that begins while it is on its way must make that heartbeat late.
        let landed = now + self.prompt.grace(now);
        self.uncovered = Some((self.uncovered.map_or(landed, |(first, _)| first), landed));
        self.prompt.handle_released(now, cost, first);
    }

    /// A datagram was refused: by the far end (ICMP), or by the own system for want of a route.
    pub fn handle_refused(&mut self, now: Time, flight: Flight) -> Rewind {
        if self.has_good_answer() {
            // Before the test is due nothing new is under way: what is reported belongs to the batch that was refused already.
            let count = match self.refusals {
                None => 1,
                Some(Refusals { count, test }) if now < test => count,
                Some(Refusals { count, .. }) => count + 1,
            };
            self.refusals = Some(Refusals { count, test: now + REFUSED_PAUSE });
        }
        let rewinds = self.backoff;
        let rewind = self.rewind(now, flight, Rewind::Refused);
        // The pause between tests is this state's own backoff.
        self.backoff = rewinds;
        if let Some(connection) = &mut self.connection {
            connection.answer = connection.answer.map(|answer| Answer { until: now, ..answer });
        }
        rewind
    }

    /// Replies have stopped: what was sent may have led nowhere.
    pub fn handle_suspicion(&mut self, now: Time, flight: Flight) -> Rewind {
        self.rewind(now, flight, Rewind::Silence)
    }

    /// What may be released at this moment.
    pub fn permit(&self, now: Time) -> Option<Permit> {
        let connection = self.connection.as_ref()?;
        let begun = connection.series.max(self.landed);
        let good = |answer: &Answer| answer.verdict == Verdict::Up && answer.begun >= begun;
        let answer = connection.answer.filter(good)?;
        // What goes out long after the newest heartbeat began could be swallowed by an outage that began in between and is over before one that
        // follows would be late. With something uncovered the next one is on its way.
        let fresh = connection.last_begun? + connection.spacing(self.lease());
        let until = if self.uncovered.is_some() { answer.until } else { answer.until.min(fresh) };
        let paused = now < self.backoff.until || self.refusals.is_some_and(|refusals| now < refusals.test);
        if now >= until || paused || answer.window == 0 {
            return None;
        }
        let window = self.drops.narrowed(answer.window);
        Some(Permit { until, window, single: self.refusals.is_some(), epoch: self.epoch })
    }

    /// When the next heartbeat should begin; `None` if none can.
    pub fn next_heartbeat(&self, work: Work) -> Option<Time> {
        let connection = self.connection.as_ref().filter(|c| c.outstanding.len() < HEARTBEATS_MAX)?;
        let Some(last) = connection.last_begun else {
            return Some(connection.last_heard);
        };
        let idle = last + self.settings.interval;
        if connection.nudged {
            return Some(idle.min(last + connection.gap));
        }
        let up = connection.answer.is_none_or(|answer| answer.verdict == Verdict::Up);
        let hurry = work.hurry.then_some(Time::ZERO);
        let asked = [work.unsent, hurry].into_iter().flatten().min().filter(|_| up);
        let pause = self.refusals.map_or(self.backoff.until, |refusals| self.backoff.until.max(refusals.test));
        let asked = asked.map(|at| at.max(pause).max(self.landed).max(connection.ask_again.unwrap_or_default()));
        // Whatever else is to be waited for, and also while remoted does not read: an outage may swallow what is on its way to its socket.
        let landed = self.uncovered.map(|(first, _)| first);
        let Some(wanted) = asked.into_iter().chain(landed).min() else {
            return Some(idle);
        };
        let spacing = if connection.outstanding.is_empty() { connection.gap } else { connection.spacing(self.lease()) };
        Some((last + spacing).max(wanted).min(idle))
    }

    /// When [`Self::handle_time`] or [`Self::is_silent`] has something new to say.
    pub fn next_deadline(&self, now: Time) -> Option<Time> {
        let connection = self.connection.as_ref()?;
        let waiting = connection.outstanding.iter().filter(|heartbeat| !heartbeat.late);
        let late = waiting.map(|heartbeat| heartbeat.begun + heartbeat.lease).min();
        // A silence that has begun says nothing new any more.
        let silent = self.silent_from().filter(|&from| from >= now);
        late.into_iter().chain(silent).min().map(|at| at + Duration::from_micros(1))
    }

    /// Nothing has come in for twice the lease while an answer was due: the connection is not to be waited for.
    pub fn is_silent(&self, now: Time) -> bool {
        self.silent_from().is_some_and(|from| now > from)
    }

    /// What stands between the client and remoted at this moment.
    pub fn standing(&self) -> Standing {
        let Some(connection) = &self.connection else {
            return Standing::Unreachable;
        };
        match connection.answer {
            None => Standing::Unanswered,
            Some(Answer { verdict: Verdict::Up, .. }) => {
                let refused = self.refusals.is_some_and(|refusals| refusals.count >= REFUSALS_TOLD);
                if refused { Standing::Refused } else { Standing::Up }
            }
            Some(Answer { verdict, .. }) => Standing::Remote(verdict),
        }
    }

    fn silent_from(&self) -> Option<Time> {
        let connection = self.connection.as_ref()?;
        let due = connection.outstanding.front()?.begun;
        Some(due.max(connection.last_heard) + 2 * self.lease())
    }

    fn has_good_answer(&self) -> bool {
        let answer = self.connection.as_ref().and_then(|connection| connection.answer);
        answer.is_some_and(|answer| answer.verdict == Verdict::Up)
    }

    /// Whether remoted's socket, and with it what lay there, is gone.
    fn other_life(&mut self, pong: &Pong) -> Option<Rewind> {
        match pong.verdict {
            Verdict::NoProcess(_) | Verdict::NoSocket(_) => {
                let fresh = self.incarnation.take().is_some();
                self.forget_path();
                fresh.then_some(Rewind::Gone)
            }
            Verdict::Up | Verdict::Stopped | Verdict::Stalled | Verdict::Starting(_) => {
                let before = self.incarnation.replace(pong.incarnation);
                if before == Some(pong.incarnation) {
                    return None;
                }
                self.forget_path();
                before.is_some().then_some(Rewind::Incarnation)
            }
        }
    }

    /// What was learnt of one incarnation says nothing of the next.
    fn forget_path(&mut self) {
        self.drops = Drops::new();
        self.refusals = None;
    }

    fn handle_good(&mut self, now: Time, probe: &Probe, pong: &Pong, flight: Flight) -> Outcome {
        let others_drops = match self.drops.handle_count(now, pong.drops, flight.is_open(), probe.epoch == self.epoch) {
            Finding::Ours => {
                self.prompt.handle_drops(now);
                let rewind = Some(self.rewind(now, flight, Rewind::Drops));
                return Outcome { rewind, ..Outcome::default() };
            }
            Finding::Others(count) => {
                self.prompt.handle_drops(now);
                count
            }
            Finding::Nothing => 0,
        };
        self.prompt.handle_good(now, pong);
        let (epoch, grace) = (self.epoch, self.prompt.grace(now));
        let Some(connection) = &mut self.connection else {
            return Outcome::default();
        };
        if probe.epoch == epoch {
            let took = now.since(probe.begun);
            let good = Good { begun: probe.begun, released: probe.released, usual: probe.usual, took };
            connection.proof.handle_good(good, pong, grace);
        }
        let confirm = connection.proof.redeem(pong.read).filter(|&seq| seq > flight.oldest);
        if confirm.is_some() {
            self.backoff = Backoff::default();
            self.refusals = None;
            self.drops.handle_confirmed();
        }
        Outcome { rewind: None, confirm, doubtful: self.drops.is_doubtful(), others_drops }
    }

    /// Ends the epoch.
    fn rewind(&mut self, now: Time, flight: Flight, cause: Rewind) -> Rewind {
        self.epoch += 1;
        self.uncovered = None;
        self.prompt.handle_break();
        if let Some(connection) = &mut self.connection {
            connection.proof = Proof::default();
        }
        if flight.is_open() {
            // What is on its way must have landed before it is sent again: only in remoted's queue can the server see it.
            let landing = self.rtt.allowance().min(BACKOFF_MAX) + GRACE;
            let series = match self.backoff.rewinds {
                0 => Duration::ZERO,
                before => BACKOFF_MIN * (1 << (before - 1).min(6)),
            };
            self.backoff.until = now + series.min(BACKOFF_MAX).max(landing);
            self.backoff.rewinds += 1;
            self.landed = now + landing;
        }
        cause
    }
}

impl Connection {
    /// Between the beginnings of two heartbeats while there is something to do, answers or not.
    fn spacing(&self, lease: Duration) -> Duration {
        self.gap.max(lease / BEATS_PER_LEASE)
    }

    /// Takes a heartbeat off the list of those under way; whether it had been found late already. Those before it will never be answered: a
    /// connection keeps order.
    fn redeem(&mut self, now: Time, number: u64) -> bool {
        self.last_heard = now;
        let Some(at) = self.outstanding.iter().position(|heartbeat| heartbeat.number == number) else {
            return false;
        };
        self.outstanding.drain(..=at).next_back().is_some_and(|heartbeat| heartbeat.late)
    }
}
