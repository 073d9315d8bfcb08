//! Transport udp: a path on which heartbeats are good and replies have stopped.
//!
//! Behind a translation of addresses whose entry went stale (remoted's container was made anew) everything that comes
//! from one source port leads nowhere, for as long as it keeps coming. Heartbeats go by another way and see nothing
//! of it. What helps is another source port.
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
//! While a path is tested nothing is confirmed. That cannot last: an agent that remoted does not know any more gets
//! no replies on any port. So the path counts as doubted after a while: data flow, and what is confirmed is doubtful.

use std::time::Duration;

use crate::proto::time::Time;

/// How long to wait for a reply behind other ports: agents that miss their replies ask again within seconds.
const TEST: Duration = Duration::from_secs(15);
/// Until the next test; doubled with each.
const PAUSE_MIN: Duration = Duration::from_mins(1);
/// Ports are changed as often as this; what has not helped by then has another cause.
const CHANGES_MAX: u32 = 3;

/// Whether what is sent is believed to arrive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Suspicion {
    /// Replies come, or none is expected.
    #[default]
    Trusted,
    /// The source ports were changed for the `changes`th time.
    Testing { changes: u32, until: Time },
    /// That did not help.
    Doubted { changes: u32, next: Option<Time> },
}

impl Suspicion {
    /// Whether other ports are to be taken, and everything unconfirmed is to be sent again. `silent`: replies have
    /// stopped.
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

    /// A reply came.
    pub(super) const fn handle_reply(&mut self) {
        *self = Self::Trusted;
    }

    /// Nothing is confirmed.
    pub(super) const fn withholds(self) -> bool {
        matches!(self, Self::Testing { .. })
    }

    /// What is confirmed may be lost.
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
