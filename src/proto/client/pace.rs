//! `--rate`: how many datagrams a second may go out.
//!
//! A bucket that fills by N a second and holds what falls due in [`SAVED`]. A thread that wakes late, or a window that
//! opens in bursts, costs nothing of the rate. No second sees more than a twentieth above N.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::proto::time::Time;

/// Datagrams that fall due within this time go out together, so that a high rate does not cost a timer for each.
const AHEAD: Duration = Duration::from_millis(5);
/// Time for which an unused share of the rate is kept. With [`AHEAD`] it is a twentieth of a second.
const SAVED: Duration = Duration::from_millis(45);

/// Counts sent datagrams against the rate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    rate: Option<NonZeroU32>,
    /// The moment at which all sent datagrams are worked off.
    free: Time,
}

impl Pace {
    pub(super) const fn new(rate: Option<NonZeroU32>) -> Self {
        Self { rate, free: Time::ZERO }
    }

    pub(super) fn allows(self, now: Time) -> bool {
        self.free <= now + AHEAD
    }

    /// This number of datagrams was sent.
    pub(super) fn handle_sent(&mut self, now: Time, count: u32) {
        if let Some(rate) = self.rate {
            self.free = self.free.max(now.before(SAVED)) + Duration::from_secs(1) / rate.get() * count;
        }
    }

    /// Number of datagrams that fall due in this time; 0 without a rate.
    pub(super) fn due_within(self, span: Duration) -> u64 {
        self.rate.map_or(0, |rate| (u128::from(rate.get()) * span.as_nanos() / 1_000_000_000) as u64)
    }

    /// The moment for the next datagram, if it has not come yet.
    pub(super) fn waits_until(self, now: Time) -> Option<Time> {
        (self.free > now).then_some(self.free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The datagrams that go out in each second if the thread asks at these moments.
    fn sent(rate: u32, seconds: u64, mut wakes: impl Iterator<Item = Time>) -> Vec<u32> {
        let mut pace = Pace::new(NonZeroU32::new(rate));
        let mut sent = vec![0; seconds as usize];
        while let Some(now) = wakes.next().filter(|&now| now < Time::from_millis(1_000 * seconds)) {
            while pace.allows(now) {
                pace.handle_sent(now, 1);
                sent[(now.since(Time::ZERO).as_millis() / 1_000) as usize] += 1;
            }
        }
        sent
    }

    #[test]
    fn each_second_sees_the_rate_however_late_the_thread_wakes() {
        for rate in [50, 100, 8_000, 20_000] {
            for pause in [1, 7, 31, 45] {
                let wakes = (0..).map(|wake| Time::from_millis(wake * pause));
                for (second, sent) in sent(rate, 5, wakes).into_iter().enumerate() {
                    let bounds = rate * 95 / 100..=rate * 105 / 100 + 1;
                    assert!(bounds.contains(&sent), "{sent} of {rate} in second {second}, a wake each {pause} ms");
                }
            }
        }
    }

    #[test]
    fn after_an_outage_no_second_sees_more_than_a_twentieth_above_the_rate() {
        let wakes = (3_600_000..).map(Time::from_millis);
        let sent = sent(1_000, 3_602, wakes);
        assert!(sent[3_600] <= 1_050 && sent[3_601] >= 950, "{:?}", &sent[3_600..]);
    }
}
