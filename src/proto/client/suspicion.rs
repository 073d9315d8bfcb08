//! Transport udp: a path on which heartbeats are good and replies have stopped.
//!
//! A translation of addresses may have an entry that went stale, because remoted's container was made anew. Then every
//! packet from one source port leads nowhere, for as long as such packets keep coming. Heartbeats go by another way
//! and see nothing of it. Another source port helps.
//!
//! ```text
//!              replies stopped: other ports, rewind           TEST is over
//!    trusted ──────────────────────────────────────► testing ──────────────► doubted
//!       ▲                                             │  ▲                      │
//!       └────────── a reply, or nobody waits ─────────┴──┼──────────────────────┤
//!                                                        └──────────────────────┘
//!                                                a pause is over: other ports, rewind (CHANGES_MAX times)
//! ```
//!
//! While a path is tested nothing is confirmed. That cannot last: an agent that remoted has forgotten gets no replies
//! on any port. So the path counts as doubted after a while: data flow, and confirmations are doubtful.

use std::time::Duration;

use crate::proto::time::Time;

/// Time to wait for a reply behind other ports: agents that miss their replies ask again within seconds.
const TEST: Duration = Duration::from_secs(15);
/// Time until the next test; it doubles with each test.
const PAUSE_MIN: Duration = Duration::from_mins(1);
/// Most changes of ports: if they have not helped, the silence has another cause.
const CHANGES_MAX: u32 = 3;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Suspicion {
    /// Replies come, or none is expected.
    #[default]
    Trusted,
    /// The source ports were changed for the `changes`th time.
    Testing { changes: u32, until: Time },
    /// The other ports did not help.
    Doubted { changes: u32, next: Option<Time> },
}

impl Suspicion {
    /// Whether to take other ports and send everything unconfirmed again. `silent`: replies have stopped.
    pub(super) fn handle_time(&mut self, now: Time, silent: bool) -> bool {
        let changes = match *self {
            _ if !silent => {
                *self = Self::Trusted;
                return false;
            }
            Self::Trusted => 0,
            Self::Doubted { changes, next: Some(next) } if now >= next => changes,
            Self::Testing { changes, until } if now >= until => {
                let pause = PAUSE_MIN * (1 << (changes - 1));
                *self = Self::Doubted { changes, next: (changes < CHANGES_MAX).then(|| now + pause) };
                return false;
            }
            Self::Doubted { .. } | Self::Testing { .. } => return false,
        };
        *self = Self::Testing { changes: changes + 1, until: now + TEST };
        true
    }

    pub(super) const fn handle_reply(&mut self) {
        *self = Self::Trusted;
    }

    /// Nothing is confirmed.
    pub(super) const fn withholds(self) -> bool {
        matches!(self, Self::Testing { .. })
    }

    /// Confirmed datagrams may be lost.
    pub(super) const fn doubts(self) -> bool {
        matches!(self, Self::Doubted { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_changed_a_few_times_with_growing_pauses_and_nothing_is_held_for_ever() {
        let mut suspicion = Suspicion::default();
        let mut changes = Vec::new();
        let mut withheld = 0;
        for at in 0..3_600 {
            let now = Time::from_millis(at * 1_000);
            if suspicion.handle_time(now, true) {
                changes.push(at);
            }
            withheld += u64::from(suspicion.withholds());
            assert!(suspicion.withholds() != suspicion.doubts());
        }
        assert_eq!(changes, [0, 75, 210]);
        assert_eq!(withheld, 45);
        suspicion.handle_reply();
        assert_eq!(suspicion, Suspicion::Trusted);
        assert!(suspicion.handle_time(Time::from_millis(4_000_000), true), "it begins anew");
        assert!(!suspicion.handle_time(Time::from_millis(4_001_000), false));
        assert_eq!(suspicion, Suspicion::Trusted, "nobody waits for a reply any more");
    }
}
