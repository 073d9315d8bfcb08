//! Round trips of heartbeats: the smoothed estimate of RFC 6298, section 2, and the least time of the path.

use std::time::Duration;

use super::heartbeats::{HEARTBEATS_MAX, Settings};
use crate::proto::terms::LEASE_MAX;

/// Number of the newest round trips that are kept. After an outage all heartbeats under way come back together, late:
/// this is twice as many as that can be.
const RECENT: usize = 2 * HEARTBEATS_MAX;

/// Estimate of the round trip and of how much it varies.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RoundTrip {
    estimate: Option<(Duration, Duration)>,
    /// The newest round trips of this connection, in a ring, and how many there were.
    recent: [Duration; RECENT],
    count: usize,
}

impl RoundTrip {
    /// A connection was made, perhaps over another path, and greeted in `sample`.
    pub(super) fn handle_path(&mut self, sample: Duration) {
        self.count = 0;
        self.handle_sample(sample, Duration::MAX);
    }

    /// Takes in one measured round trip. Late ones count too, but for no more than `bound`: otherwise a path that
    /// became slower would stay late for ever.
    pub(super) fn handle_sample(&mut self, sample: Duration, bound: Duration) {
        self.recent[self.count % RECENT] = sample;
        self.count += 1;
        let sample = sample.min(bound);
        self.estimate = Some(match self.estimate {
            None => (sample, sample / 2),
            Some((smoothed, variation)) => {
                let variation = variation * 3 / 4 + smoothed.abs_diff(sample) / 4;
                (smoothed * 7 / 8 + sample / 8, variation)
            }
        });
    }

    /// `srtt`; zero before the first sample.
    pub(super) fn smoothed(&self) -> Duration {
        self.estimate.map_or(Duration::ZERO, |(smoothed, _)| smoothed)
    }

    /// `srtt + 4·rttvar`; zero before the first sample.
    pub(super) fn allowance(&self) -> Duration {
        self.estimate.map_or(Duration::ZERO, |(smoothed, variation)| smoothed + 4 * variation)
    }

    /// The longest time for an answer: `--timeout`, or twice the least time of the path where that is longer. The
    /// least time is the shortest of the newest round trips, so that neither an outage nor a slow greeting makes a
    /// lease long.
    pub(super) fn patience(&self, settings: Settings) -> Duration {
        let shortest = match self.count {
            // A single round trip may be that of a greeting that was lost and sent again.
            0 | 1 => Duration::ZERO,
            count => self.recent[..count.min(RECENT)].iter().copied().min().unwrap_or_default(),
        };
        settings.timeout.max(settings.lease + 2 * shortest).min(LEASE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings { interval: ms(1_000), lease: ms(100), timeout: ms(2_000) };

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_steady_path_ends_near_its_round_trip() {
        let mut rtt = RoundTrip::default();
        for _ in 0..60 {
            rtt.handle_sample(ms(40), Duration::MAX);
        }
        assert!(rtt.allowance() >= ms(40) && rtt.allowance() <= ms(41), "{:?}", rtt.allowance());
    }

    #[test]
    fn one_slow_sample_is_enough_for_the_next_one_to_be_in_time() {
        let mut rtt = RoundTrip::default();
        for _ in 0..60 {
            rtt.handle_sample(ms(1), Duration::MAX);
        }
        rtt.handle_sample(ms(300), Duration::MAX);
        assert!(rtt.allowance() > ms(300), "{:?}", rtt.allowance());
    }

    #[test]
    fn patience_follows_the_path_and_neither_a_greeting_nor_an_outage() {
        let mut rtt = RoundTrip::default();
        assert_eq!(rtt.patience(SETTINGS), ms(2_000));
        rtt.handle_path(ms(3_000));
        assert_eq!(rtt.patience(SETTINGS), ms(2_000), "a greeting may have been lost and sent again");
        rtt.handle_sample(ms(2_500), ms(4_000));
        assert_eq!(rtt.patience(SETTINGS), ms(5_100));
        rtt.handle_sample(ms(400), ms(4_000));
        assert_eq!(rtt.patience(SETTINGS), ms(2_000));
        for _ in 0..HEARTBEATS_MAX {
            rtt.handle_sample(ms(9_000), ms(4_000));
        }
        assert_eq!(rtt.patience(SETTINGS), ms(2_000), "an outage");
        for _ in 0..RECENT {
            rtt.handle_sample(ms(3_000), ms(4_000));
        }
        assert_eq!(rtt.patience(SETTINGS), ms(6_100), "another path");
        rtt.handle_sample(ms(7_000), ms(4_000));
        rtt.handle_path(ms(7_000));
        rtt.handle_sample(ms(7_000), Duration::MAX);
        assert_eq!(rtt.patience(SETTINGS), LEASE_MAX);
    }
}
