//! The policy of transport udp: a good heartbeat allows release for a while, and two of them confirm.
//!
//! ```text
//!    unanswered ──good heartbeat──► up ◄──► held (remoted not up)
//!        ▲                          │        │
//!        └──── a late heartbeat, or another connection ⇒ rewind, hold until the next good one
//! ```
//!
//! * **Lease.** A heartbeat is good if its answer comes within `lease + srtt + 4·rttvar` of its beginning and remoted
//!   is up. It allows release until that span, counted from its *beginning*, is over. While datagrams are released a
//!   heartbeat begins each fifth of a lease, or within a grace after that. After a pause one must come back before
//!   anything is released. So some heartbeat begins within a fifth of a lease and a grace after an outage has
//!   swallowed its first datagram. An outage that lasts a lease longer than that makes the heartbeat late.
//! * **Confirm.** A good heartbeat confirms datagrams that were released before an earlier good one of the same
//!   connection, incarnation and epoch began. The earlier one must be a grace older: by then the datagrams had reached
//!   remoted's socket, even where UDP lags behind TCP. They have been read when remoted passes the later one's
//!   [`Mark`](crate::proto::terms::Mark). No timer confirms anything.
//! * **Rewind.** When data may be lost, an *epoch* ends: datagrams released in it count as never sent, and its
//!   heartbeats prove nothing any more.
//!
//! The proof that a heartbeat can give is settled when it begins, in its [`Probe`].

use std::time::Duration;

use super::drops::{Drops, Finding};
use super::heartbeats::{Heartbeats, Probe};
use super::lag::{GRACE, Lag};
use super::proof::{Good, Proof};
use super::terms::{Flight, Outcome, Permit, Rewind, Standing, Work};
use crate::proto::terms::{Incarnation, Verdict};
use crate::proto::time::Time;
use crate::proto::wire::Pong;

/// Number of heartbeats that begin in each lease while there is something to do, answers or not.
const BEATS_PER_LEASE: u32 = 5;

/// A heartbeat that took longer than this many of its leases counts as one that took that long. Eight of them may come
/// back together after an outage of seconds. They would otherwise leave a lease of seconds behind, in which the next
/// outage goes unnoticed. A path that is really slower doubles the lease with each heartbeat.
pub(super) const LATE_LEASES_MAX: u32 = 2;

/// The pause before a second copy is sent again, so that lateness caused by our own sending cannot feed itself.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Time between two datagrams that test a path which refuses. Linux answers a refused datagram with at most one ICMP
/// message per second and peer after a burst: a shorter pause would take a missing answer for a good sign.
const REFUSED_PAUSE: Duration = Duration::from_millis(1_200);
/// Refusals under good heartbeats after which the path counts as refused: one or two are a restart of remoted that is
/// about to be seen.
const REFUSALS_TOLD: u32 = 3;

/// The knowledge of the way to remoted. See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Lease {
    answer: Answer,
    /// The beginning of the present series of heartbeats that followed each other closely. Only their answers allow
    /// release.
    series: Time,
    /// The moment to ask again when there is no window.
    ask_again: Option<Time>,
    proof: Proof,
    incarnation: Option<Incarnation>,
    pub(super) drops: Drops,
    lag: Lag,
    pub(super) backoff: Backoff,
    refusals: Option<Refusals>,
    /// The moments at which the first and the last of the uncovered datagrams will have landed. A datagram is covered
    /// by a heartbeat that begins after it has landed.
    uncovered: Option<(Time, Time)>,
    /// The moment by which the datagrams of the last rewind have landed. A window that was granted before takes no
    /// account of them.
    landed: Time,
}

/// The newest answer over this connection.
#[derive(Clone, Copy, Debug, Default)]
enum Answer {
    /// There is no answer, or a heartbeat has become late since.
    #[default]
    Unanswered,
    /// remoted is up: release is allowed until that moment.
    Up {
        begun: Time,
        until: Time,
        window: u64,
    },
    Held {
        verdict: Verdict,
    },
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backoff {
    /// Rewinds of released datagrams since the last confirmation.
    pub(super) rewinds: u32,
    pub(super) until: Time,
}

#[derive(Clone, Copy, Debug)]
struct Refusals {
    count: u32,
    test: Time,
}

impl Lease {
    pub(super) fn grace(&self, now: Time) -> Duration {
        self.lag.grace(now)
    }

    pub(super) fn handle_connected(&mut self, now: Time) {
        self.series = now;
    }

    pub(super) fn handle_disconnected(&mut self, now: Time, flight: Flight, beats: &Heartbeats) -> Rewind {
        (self.answer, self.ask_again) = (Answer::Unanswered, None);
        // Another server process counts from another beginning.
        self.drops.handle_other_counter();
        self.rewind(now, flight, beats, Rewind::Disconnected)
    }

    pub(super) fn handle_begin(
        &mut self,
        now: Time,
        lease: Duration,
        last: Option<Time>,
        probe: &Probe,
        gap: Duration,
    ) {
        if last.is_none_or(|last| now.since(last) > spacing(gap, lease) + GRACE) {
            self.series = now;
        }
        self.ask_again = None;
        self.uncovered = match self.uncovered {
            Some((first, last)) if now < first => Some((first, last)),
            Some((_, last)) if now < last => Some((last, last)),
            Some(_) | None => None,
        };
        self.lag.handle_begin(probe.number());
    }

    /// A heartbeat of this connection was answered. `was_late`: its lateness was told already.
    pub(super) fn handle_pong(
        &mut self,
        now: Time,
        (probe, was_late): (&Probe, bool),
        pong: &Pong,
        flight: Flight,
        epoch: u64,
        beats: &Heartbeats,
    ) -> Outcome {
        if now.since(probe.begun()) > probe.lease() {
            self.answer = Answer::Unanswered;
            let rewind = (!was_late).then(|| self.rewind(now, flight, beats, Rewind::Late));
            return Outcome { rewind, ..Outcome::default() };
        }
        self.answer = match pong.verdict {
            Verdict::Up => {
                Answer::Up { begun: probe.begun(), until: probe.begun() + probe.lease(), window: pong.window }
            }
            verdict => Answer::Held { verdict },
        };
        if pong.window == 0 && pong.ask_again_ms > 0 {
            self.ask_again = Some(now + Duration::from_millis(u64::from(pong.ask_again_ms)));
        }
        if let Some(cause) = self.other_life(pong) {
            return Outcome { rewind: Some(self.rewind(now, flight, beats, cause)), ..Outcome::default() };
        }
        match self.answer {
            Answer::Up { .. } => self.handle_good(now, probe, pong, flight, epoch, beats),
            Answer::Unanswered | Answer::Held { .. } => Outcome::default(),
        }
    }

    pub(super) fn handle_time(
        &mut self,
        now: Time,
        late: bool,
        flight: Flight,
        lease: Duration,
        beats: &Heartbeats,
    ) -> Option<Rewind> {
        // This host stood still when datagrams had to be covered: an outage may have come and gone in the meantime.
        let spaced = beats.last_begun().map_or(Time::ZERO, |last| last + spacing(beats.gap(), lease));
        let stood_still = self.uncovered.is_some_and(|(first, _)| now > first.max(spaced) + lease.max(GRACE));
        if !late && !stood_still {
            return None;
        }
        self.answer = Answer::Unanswered;
        Some(self.rewind(now, flight, beats, Rewind::Late))
    }

    pub(super) fn handle_released(&mut self, now: Time, cost: u64, first: bool) {
        // The heartbeat waits until they have landed: an outage that begins while they are on their way must make it
        // late.
        let landed = now + self.lag.grace(now);
        self.uncovered = Some((self.uncovered.map_or(landed, |(first, _)| first), landed));
        self.lag.handle_released(now, cost, first);
    }

    pub(super) fn handle_refused(&mut self, now: Time, flight: Flight, beats: &Heartbeats) -> Rewind {
        if matches!(self.answer, Answer::Up { .. }) {
            // Before the test is due nothing new is under way: the report belongs to the batch that was refused
            // already.
            let count = match self.refusals {
                None => 1,
                Some(Refusals { count, test }) if now < test => count,
                Some(Refusals { count, .. }) => count + 1,
            };
            self.refusals = Some(Refusals { count, test: now + REFUSED_PAUSE });
        }
        let backoff = self.backoff;
        let rewind = self.rewind(now, flight, beats, Rewind::Refused);
        // This state has a backoff of its own: the pause between tests.
        self.backoff = backoff;
        if let Answer::Up { until, .. } = &mut self.answer {
            *until = now;
        }
        rewind
    }

    pub(super) fn handle_silence(&mut self, now: Time, flight: Flight, beats: &Heartbeats) -> Rewind {
        self.rewind(now, flight, beats, Rewind::Silence)
    }

    pub(super) fn permit(&self, now: Time, lease: Duration, epoch: u64, beats: &Heartbeats) -> Option<Permit> {
        let Answer::Up { begun, until, window } = self.answer else {
            return None;
        };
        // An outage could begin after the newest heartbeat, swallow a datagram sent much later, and end before the
        // next heartbeat would be late. With something uncovered the next one is on its way.
        let fresh = beats.last_begun()? + spacing(beats.gap(), lease);
        let until = if self.uncovered.is_some() { until } else { until.min(fresh) };
        let paused = now < self.backoff.until || self.refusals.is_some_and(|refusals| now < refusals.test);
        if begun < self.series.max(self.landed) || now >= until || paused || window == 0 {
            return None;
        }
        Some(Permit { until, window: self.drops.narrowed(window), single: self.refusals.is_some(), epoch })
    }

    pub(super) fn next_heartbeat(&self, last: Time, work: Work, lease: Duration, beats: &Heartbeats) -> Time {
        let idle = last + beats.settings.interval;
        let held = matches!(self.answer, Answer::Held { .. });
        let asked = [work.unsent, work.hurry].into_iter().flatten().min().filter(|_| !held);
        let pause = self.refusals.map_or(self.backoff.until, |refusals| self.backoff.until.max(refusals.test));
        let asked = asked.map(|at| at.max(pause).max(self.landed).max(self.ask_again.unwrap_or_default()));
        // The cover comes first, also while remoted does not read: an outage may swallow datagrams on their way to its
        // socket.
        let landed = self.uncovered.map(|(first, _)| first);
        let Some(wanted) = asked.into_iter().chain(landed).min() else {
            return idle;
        };
        let spacing = if beats.are_answered() { beats.gap() } else { spacing(beats.gap(), lease) };
        (last + spacing).max(wanted).min(idle)
    }

    pub(super) fn standing(&self) -> Standing {
        match self.answer {
            Answer::Unanswered => Standing::Unanswered,
            Answer::Up { .. } => {
                let refused = self.refusals.is_some_and(|refusals| refusals.count >= REFUSALS_TOLD);
                if refused { Standing::Refused } else { Standing::Up }
            }
            Answer::Held { verdict } => Standing::Remote(verdict),
        }
    }

    /// Whether remoted's socket is gone, and with it the datagrams that lay there.
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

    /// Forgets the path: knowledge of one incarnation says nothing of the next.
    fn forget_path(&mut self) {
        self.drops = Drops::default();
        self.refusals = None;
    }

    fn handle_good(
        &mut self,
        now: Time,
        probe: &Probe,
        pong: &Pong,
        flight: Flight,
        epoch: u64,
        beats: &Heartbeats,
    ) -> Outcome {
        let others_drops = match self.drops.handle_count(now, pong.drops, flight.is_open(), probe.epoch == epoch) {
            Finding::Ours => {
                self.lag.handle_drops(now);
                let rewind = Some(self.rewind(now, flight, beats, Rewind::Drops));
                return Outcome { rewind, ..Outcome::default() };
            }
            Finding::Others(count) => {
                self.lag.handle_drops(now);
                count
            }
            Finding::Nothing => 0,
        };
        self.lag.handle_good(now, pong);
        if probe.epoch == epoch {
            let took = now.since(probe.begun());
            let good = Good { begun: probe.begun(), released: probe.released, usual: probe.usual, took };
            self.proof.handle_good(good, pong.reading(), self.lag.grace(now));
        }
        let confirm = self.proof.redeem(pong.reading()).filter(|&seq| seq > flight.oldest);
        if confirm.is_some() {
            self.backoff = Backoff::default();
            self.refusals = None;
            self.drops.handle_confirmed();
        }
        Outcome { rewind: None, confirm, doubtful: self.drops.is_doubtful(), others_drops }
    }

    /// Datagrams released so far count as never sent, and their heartbeats prove nothing any more.
    fn rewind(&mut self, now: Time, flight: Flight, beats: &Heartbeats, cause: Rewind) -> Rewind {
        self.uncovered = None;
        self.lag.handle_break();
        self.proof = Proof::default();
        if flight.is_open() {
            // Datagrams on their way must land before they are sent again: only in remoted's queue can the server see
            // them.
            let landing = beats.rtt.allowance().min(BACKOFF_MAX) + GRACE;
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

/// Time between the beginnings of two heartbeats while there is something to do, answers or not.
fn spacing(gap: Duration, lease: Duration) -> Duration {
    gap.max(lease / BEATS_PER_LEASE)
}
