//! Whether drops at remoted's socket hit this client's datagrams or others'.
//!
//! ```text
//!   unknown ──first count──► calm ──grows, ours under way──► suspect ──grows again──► others
//!                             ▲ ▲                              │                       │
//!                             │ └──────────confirmed───────────┘                       │
//!                             └──────────────────stands still for a while──────────────┘
//!                          calm ──grows, nothing of ours under way──► others
//! ```
//!
//! The first growth may be ours ([`DROPS_CALM`]): the window is halved, and the datagrams under way are sent again.

use std::time::Duration;

use crate::proto::terms::DROPS_CALM;
use crate::proto::time::Time;

/// A window halved this often is a sixteenth: small enough for any buffer, large enough to go on.
const HALVINGS_MAX: u32 = 4;
/// Time without a drop of ours after which a halving is taken back.
const HALVING_HEALS: Duration = Duration::from_secs(10);

/// Watches the drop counter of one incarnation of remoted.
#[derive(Debug, Default)]
pub(super) struct Drops {
    state: State,
    halvings: u32,
    halved: Time,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// The counter's value is not known yet: this is the first pong of a connection or incarnation.
    #[default]
    Unknown,
    /// The counter stands still.
    Calm { count: u64 },
    /// The counter grew while datagrams of ours were under way.
    Suspect { count: u64 },
    /// The counter grows without us.
    Others { count: u64, grew: Time },
}

/// The meaning of a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    Nothing,
    /// Datagrams of ours may be among the dropped.
    Ours,
    /// This number of datagrams of others was dropped.
    Others(u64),
}

impl Drops {
    /// Another server or another path: the counter starts elsewhere.
    pub(super) const fn handle_other_counter(&mut self) {
        self.state = State::Unknown;
    }

    /// The counter as a good pong shows it. `open`: datagrams of ours are released and not confirmed. `fresh`: the
    /// heartbeat began after the last rewind.
    pub(super) fn handle_count(&mut self, now: Time, count: u64, open: bool, fresh: bool) -> Finding {
        if self.halvings > 0 && now.since(self.halved) > HALVING_HEALS {
            self.halvings -= 1;
            self.halved = now;
        }
        let before = match self.state {
            State::Unknown => count,
            State::Calm { count } | State::Suspect { count } | State::Others { count, .. } => count,
        };
        let grown = count.saturating_sub(before);
        match self.state {
            State::Calm { .. } if grown > 0 && open => {
                self.state = State::Suspect { count };
                self.halvings = (self.halvings + 1).min(HALVINGS_MAX);
                self.halved = now;
                Finding::Ours
            }
            // The heartbeat was under way when the first growth was seen: this is the rest of the same burst.
            State::Suspect { .. } if !fresh => {
                self.state = State::Suspect { count: count.max(before) };
                Finding::Nothing
            }
            State::Calm { .. } | State::Suspect { .. } | State::Others { .. } if grown > 0 => {
                self.halvings = 0;
                self.state = State::Others { count, grew: now };
                Finding::Others(grown)
            }
            State::Unknown | State::Calm { .. } => {
                self.state = State::Calm { count };
                Finding::Nothing
            }
            State::Others { grew, .. } if now.since(grew) > DROPS_CALM => {
                self.state = State::Calm { count };
                Finding::Nothing
            }
            State::Suspect { .. } | State::Others { .. } => Finding::Nothing,
        }
    }

    /// Datagrams were confirmed: the drops have been made good.
    pub(super) const fn handle_confirmed(&mut self) {
        if let State::Suspect { count } = self.state {
            self.state = State::Calm { count };
        }
    }

    /// Datagrams that are confirmed at this moment may have been dropped.
    pub(super) const fn is_doubtful(&self) -> bool {
        matches!(self.state, State::Others { .. })
    }

    /// The part of a granted window that is used.
    pub(super) const fn narrowed(&self, window: u64) -> u64 {
        window >> self.halvings
    }
}
