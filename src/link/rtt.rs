//! Round trips of heartbeats: the smoothed estimate of RFC 6298, section 2.

use std::time::Duration;

/// Estimate of the round trip and of how much it varies.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RoundTrip {
    estimate: Option<(Duration, Duration)>,
}

impl RoundTrip {
    /// Takes in one measured round trip. Late ones count too: otherwise a path that became slower would stay late for ever.
    pub(super) fn handle_sample(&mut self, sample: Duration) {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_steady_path_ends_near_its_round_trip() {
        let mut rtt = RoundTrip::default();
        for _ in 0..60 {
            rtt.handle_sample(ms(40));
        }
        assert!(rtt.allowance() >= ms(40) && rtt.allowance() <= ms(41), "{:?}", rtt.allowance());
    }

    #[test]
    fn one_slow_sample_is_enough_for_the_next_one_to_be_in_time() {
        let mut rtt = RoundTrip::default();
        for _ in 0..60 {
            rtt.handle_sample(ms(1));
        }
        rtt.handle_sample(ms(300));
        assert!(rtt.allowance() > ms(300), "{:?}", rtt.allowance());
    }
}
