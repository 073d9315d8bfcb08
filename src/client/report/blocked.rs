//! UDP to remoted that seems blocked although heartbeats are good.

use super::pauses::SUMMARY;
use crate::os::line::Line;
use crate::proto::{client::Snapshot, client::link::Standing, time::Time};

#[derive(Debug, Default)]
pub(super) struct Blocked {
    /// A warning stands.
    warned: bool,
    told: Option<Time>,
    /// Agents without replies.
    missing: usize,
    refused: bool,
}

impl Blocked {
    /// Takes in the state; the line about what has become worse, or good again.
    pub(super) fn observe(&mut self, now: Time, snapshot: &Snapshot) -> Option<Line> {
        let (missing, refused) = (snapshot.replies_missing, snapshot.standing == Standing::Refused);
        let worse = missing > self.missing || refused && !self.refused;
        (self.missing, self.refused) = (missing, refused);
        if worse && self.told.is_none_or(|told| now.since(told) >= SUMMARY) {
            (self.told, self.warned) = (Some(now), true);
            let why = match missing {
                0 => "datagrams are refused".into(),
                1 => "no replies any more to 1 agent".into(),
                _ => format!("no replies any more to {missing} agents"),
            };
            return Some(Line::warn(format!("UDP to remoted seems blocked: {why}, and heartbeats are good")));
        }
        let good = self.warned && missing == 0 && snapshot.standing == Standing::Up;
        self.warned &= !good;
        good.then(|| {
            Line::info("UDP to remoted seems good again: no agent misses replies, and no datagram is refused")
        })
    }
}
