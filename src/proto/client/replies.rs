//! Whether remoted's replies to an agent keep coming.
//!
//! remoted answers an agent's control messages and nothing else, so the longest time from one reply to the next is the
//! agent's control period. *Silence* is the time for which the agent has gone on sending since its last reply, while
//! the link was up. A pause of the agent is no silence, and neither is an outage.

use std::time::Duration;

use crate::proto::time::Time;

/// Gaps between replies shorter than this, as after a push of configuration, say nothing of the agent's control
/// period.
const CONTROL_PERIOD_MIN: Duration = Duration::from_secs(10);
/// Gaps longer than this are no control period: OSSEC's default is ten minutes.
const CONTROL_PERIOD_MAX: Duration = Duration::from_hours(1);
/// Silence of this many control periods is a warning.
const CONTROL_PERIODS_MISSED: u32 = 3;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Replies {
    last: Option<Time>,
    longest_gap: Duration,
    silence: Duration,
    /// The newest release of a datagram of this session.
    released: Option<Time>,
}

impl Replies {
    pub(super) fn handle_released(&mut self, now: Time, up_since: Time) {
        let before = self.released.replace(now);
        if before.is_some_and(|before| now.since(before) > self.patience()) {
            // The agent had stopped: whatever was missing then, this is another conversation.
            self.silence = Duration::ZERO;
        }
        let counted = [self.last, before, Some(up_since)].into_iter().flatten().max().unwrap_or(now);
        self.silence += now.since(counted).min(self.period());
    }

    /// A reply came; `up_since` is `None` while the link is not up.
    pub(super) fn handle_reply(&mut self, now: Time, up_since: Option<Time>) {
        if let (Some(last), Some(up_since)) = (self.last, up_since) {
            let gap = now.since(last.max(up_since));
            // A gap far beyond all before it says nothing of the period: the agent was stopped.
            let usual = self.longest_gap < CONTROL_PERIOD_MIN || gap <= self.longest_gap * CONTROL_PERIODS_MISSED;
            if usual && gap <= CONTROL_PERIOD_MAX {
                self.longest_gap = self.longest_gap.max(gap);
            }
        }
        self.last = Some(now);
        self.silence = Duration::ZERO;
    }

    /// Replies used to come, and have stopped although the agent goes on sending.
    pub(super) fn are_missing(&self, now: Time) -> bool {
        let sends = self.released.is_some_and(|released| now.since(released) <= self.patience());
        self.longest_gap >= CONTROL_PERIOD_MIN && self.silence > self.patience() && sends
    }

    /// The agent's control period, as far as it is known.
    pub(super) fn period(&self) -> Duration {
        self.longest_gap.max(CONTROL_PERIOD_MIN)
    }

    fn patience(&self) -> Duration {
        self.period() * CONTROL_PERIODS_MISSED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(at: u64) -> Time {
        Time::from_millis(at * 1_000)
    }

    /// Replies at 0, 20 and 40 s, and the agent sends each second.
    fn usual() -> Replies {
        let mut replies = Replies::default();
        for at in 0..=40 {
            replies.handle_released(second(at), Time::ZERO);
            if at % 20 == 0 {
                replies.handle_reply(second(at), Some(Time::ZERO));
            }
        }
        replies
    }

    #[test]
    fn replies_that_stop_are_missed_after_three_control_periods_and_until_one_comes() {
        let mut replies = usual();
        for at in 41..=100 {
            replies.handle_released(second(at), Time::ZERO);
            assert!(!replies.are_missing(second(at)), "at {at}");
        }
        replies.handle_released(second(101), Time::ZERO);
        assert!(replies.are_missing(second(101)));
        replies.handle_reply(second(102), Some(Time::ZERO));
        assert!(!replies.are_missing(second(102)));
        assert_eq!(replies.period(), Duration::from_secs(20), "the silence has not become the period");
    }

    #[test]
    fn an_agent_that_stops_misses_nothing_and_one_that_begins_again_neither() {
        let mut replies = usual();
        replies.handle_released(second(41), Time::ZERO);
        assert!(!replies.are_missing(second(9_000)));
        replies.handle_released(second(9_000), Time::ZERO);
        replies.handle_released(second(9_001), Time::ZERO);
        assert!(!replies.are_missing(second(9_001)), "its first reply is still on its way");
        let mut replies = usual();
        (41..=110).for_each(|at| replies.handle_released(second(at), Time::ZERO));
        assert!(replies.are_missing(second(110)));
        assert!(!replies.are_missing(second(171)), "nobody waits for them any more");
    }

    #[test]
    fn an_outage_is_no_silence() {
        let mut replies = usual();
        replies.handle_released(second(41), Time::ZERO);
        for at in 0..50 {
            replies.handle_released(second(9_000 + at), second(9_000));
            assert!(!replies.are_missing(second(9_000 + at)), "{at} s after an outage");
        }
    }

    #[test]
    fn an_outage_becomes_no_period() {
        let mut replies = Replies::default();
        replies.handle_reply(second(1), Some(Time::ZERO));
        replies.handle_reply(second(3_000), Some(second(2_990)));
        assert_eq!(replies.longest_gap, Duration::from_secs(10));
        replies.handle_reply(second(90_000), Some(second(2_990)));
        assert_eq!(replies.longest_gap, Duration::from_secs(10));
    }
}
