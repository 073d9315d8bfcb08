//! When to try to connect.
//!
//! The client does not wait for a broken or silent connection. TCP's own retransmission backs off, and alone it would
//! find a mended link seconds too late. Attempts overlap instead, and the first answered one wins.

use std::time::Duration;

use crate::proto::time::Time;

/// Young attempts under way at once; each costs a descriptor and, at the server, perhaps a connection.
pub const ATTEMPTS_MAX: usize = 3;

/// Time between the starts of two attempts while the outage is young: a mended link is found within a second.
const SPACING_MIN: Duration = Duration::from_millis(500);
/// Time between two starts in an old outage: thousands of clients of a dead server must not load the network.
const SPACING_MAX: Duration = Duration::from_secs(5);
/// Age up to which an outage counts as young.
const YOUNG: Duration = Duration::from_mins(1);

/// Longest time for an attempt that has come as far as any: a good path may take seconds for a packet.
pub const PATIENCE_MAX: Duration = Duration::from_secs(15);

/// An attempt under way to one address.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// When the attempt began.
    pub begun: Time,
    /// The network has connected.
    pub greeted: bool,
}

impl Attempt {
    /// The attempt is given up. Attempts take `timeout`, but to each address the oldest one that has come as far as
    /// any has more time. So a path with later answers is found, too. The other attempts start anew meanwhile: after
    /// an outage a fresh attempt is answered sooner.
    pub fn is_over(&self, now: Time, timeout: Duration, mut others: impl Iterator<Item = Self>) -> bool {
        let age = now.since(self.begun);
        age >= timeout.max(PATIENCE_MAX)
            || age >= timeout && others.any(|other| other.begun < self.begun && other.greeted >= self.greeted)
    }
}

/// Paces attempts to connect. Holds no connection.
#[derive(Debug)]
pub struct Dialer {
    /// The beginning of the outage; `None` while the link is good.
    outage: Option<Time>,
    next_start: Time,
    /// State of a xorshift generator: jitter needs no better one.
    random: u64,
}

impl Dialer {
    /// Makes a dialer whose first attempt is due at once. `seed` spreads the attempts of many clients.
    pub const fn new(now: Time, seed: u64) -> Self {
        Self { outage: Some(now), next_start: now, random: seed | 1 }
    }

    /// There is no good connection any more. Calls during an outage change nothing.
    pub fn handle_outage(&mut self, now: Time) {
        if self.outage.is_none() {
            self.outage = Some(now);
            self.next_start = self.next_start.max(now);
        }
    }

    /// The time for which to let a server alone that has refused.
    pub fn pause(&mut self) -> Duration {
        self.jittered(SPACING_MAX)
    }

    /// The network is back: an attempt may start at once.
    pub const fn handle_chance(&mut self, now: Time) {
        self.next_start = now;
    }

    /// A connection has answered.
    pub const fn handle_link(&mut self) {
        self.outage = None;
    }

    /// The moment from which an attempt may start; `None` when none is needed or enough are under way.
    pub fn next_start(&self, under_way: usize) -> Option<Time> {
        (self.outage.is_some() && under_way < ATTEMPTS_MAX).then_some(self.next_start)
    }

    /// An attempt starts.
    pub fn handle_start(&mut self, now: Time) {
        self.next_start = now + self.jittered(self.spacing(now));
    }

    /// The spacing grows in proportion to the age of the outage: half a second at one minute, five seconds at ten.
    fn spacing(&self, now: Time) -> Duration {
        let age = self.outage.map_or(Duration::ZERO, |began| now.since(began));
        SPACING_MIN.mul_f64((age.as_secs_f64() / YOUNG.as_secs_f64()).max(1.0)).min(SPACING_MAX)
    }

    /// The span, with up to half more or half less.
    fn jittered(&mut self, span: Duration) -> Duration {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        span / 2 + span.mul_f64((self.random >> 11) as f64 / (1u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_start_at_once_then_half_a_second_apart_then_ever_slower() {
        let mut dialer = Dialer::new(Time::ZERO, 42);
        let mut starts = Vec::new();
        while starts.last().is_none_or(|last: &Time| last.since(Time::ZERO) < Duration::from_mins(20)) {
            let at = dialer.next_start(0).expect("an outage lasts");
            dialer.handle_start(at);
            starts.push(at);
        }
        assert_eq!(starts[0], Time::ZERO);
        for pair in starts.windows(2) {
            let (age, gap) = (pair[0].since(Time::ZERO).as_secs(), pair[1].since(pair[0]).as_millis());
            let bounds = if age <= 60 { 250..=750 } else { 250..=7_500 };
            assert!(bounds.contains(&gap), "{gap} ms at an age of {age} s");
            if age > 600 {
                assert!(gap >= 2_500, "{gap} ms at an age of {age} s");
            }
        }
    }

    #[test]
    fn no_more_than_three_are_under_way_and_none_without_an_outage() {
        let mut dialer = Dialer::new(Time::ZERO, 1);
        assert_eq!(dialer.next_start(2), Some(Time::ZERO));
        assert_eq!(dialer.next_start(3), None);
        dialer.handle_link();
        assert_eq!(dialer.next_start(0), None);
    }

    #[test]
    fn a_flapping_link_does_not_start_attempts_faster() {
        let mut dialer = Dialer::new(Time::ZERO, 7);
        dialer.handle_start(Time::ZERO);
        dialer.handle_link();
        dialer.handle_outage(Time::from_millis(1));
        assert!(dialer.next_start(0).is_some_and(|at| at.since(Time::ZERO) >= SPACING_MIN / 2));
    }

    #[test]
    fn of_those_to_one_address_the_oldest_that_came_as_far_as_any_has_more_time() {
        let timeout = Duration::from_secs(2);
        let attempt = |millis, greeted| Attempt { begun: Time::from_millis(millis), greeted };
        let over =
            |at, one: Attempt, others: &[Attempt]| one.is_over(Time::from_millis(at), timeout, others.iter().copied());
        let (first, second, greeted) = (attempt(0, false), attempt(500, false), attempt(1_000, true));
        assert!(!over(1_999, second, &[first]), "none is given up early");
        assert!(over(2_500, second, &[first]), "an older one has the time");
        assert!(!over(2_500, first, &[second]) && !over(14_999, first, &[second]));
        assert!(over(15_000, first, &[second]), "not for ever");
        assert!(!over(3_000, greeted, &[first, second]), "it has come further");
        assert!(!over(3_000, first, &[greeted, second]), "it may be about to");
        assert!(over(4_000, attempt(1_500, true), &[first, greeted]));
        assert!(
            !first.is_over(Time::from_millis(59_999), Duration::from_mins(1), [].into_iter()),
            "--timeout may be longer"
        );
    }
}
