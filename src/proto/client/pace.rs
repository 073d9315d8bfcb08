//! `--rate`: how many datagrams a second may go out.
//!
//! A bucket that fills by N a second and holds what falls due in [`SAVED`]: a thread that wakes late, or a window that opens in bursts, then
//! costs nothing of the rate, and no second sees more than a twentieth above N.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::proto::time::Time;

/// What falls due within this goes out together, so that a high rate does not cost a timer for each datagram.
const AHEAD: Duration = Duration::from_millis(5);
/// How long what was due and not used is kept. With [`AHEAD`] it is a twentieth of a second.
const SAVED: Duration = Duration::from_millis(45);

/// Counts what was sent against the rate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    rate: Option<NonZeroU32>,
    /// When all that was sent is worked off.
    free: Time,
}

impl Pace {
    pub(super) const fn new(rate: Option<NonZeroU32>) -> Self {
        Self { rate, free: Time::ZERO }
    }

    /// Another datagram may go at this moment.
    pub(super) fn allows(self, now: Time) -> bool {
        self.free <= now + AHEAD
    }

    /// So many datagrams were sent.
    pub(super) fn handle_sent(&mut self, now: Time, count: u32) {
        if let Some(rate) = self.rate {
            self.free = self.free.max(now.before(SAVED)) + Duration::from_secs(1) / rate.get() * count;
        }
    }

    /// How many datagrams fall due in so long a time; 0 without a rate.
    pub(super) fn due_within(self, span: Duration) -> u64 {
        self.rate.map_or(0, |rate| (u128::from(rate.get()) * span.as_nanos() / 1_000_000_000) as u64)
    }

    /// When the next should go, if that is not yet.
    pub(super) fn waits_until(self, now: Time) -> Option<Time> {
        (self.free > now).then_some(self.free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What goes out in each of so many seconds if somebody asks at these moments.
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
