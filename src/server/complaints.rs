//! Repeated trouble, summed up for the log.

use std::time::Duration;

use crate::time::Time;

/// The same complaint is logged once in this time.
const COMPLAINT_GAP: Duration = Duration::from_mins(1);
/// Repeated trouble, told once a minute.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    told: Option<Time>,
    /// Connections refused because there were too many.
    pub(super) refused: u64,
    /// Connections cut off for what they said, or for saying nothing.
    pub(super) garbage: u64,
    /// Times that no descriptor was left.
    pub(super) shortage: u64,
}

impl Complaints {
    /// Logs what has come together, if the last time is long enough ago.
    pub(super) fn tell(&mut self, now: Time) {
        let due = self.told.is_none_or(|told| now.since(told) >= COMPLAINT_GAP);
        if !due || self.refused + self.garbage + self.shortage == 0 {
            return;
        }
        if self.shortage > 0 {
            log::warn!("no descriptors left: newcomers wait; raise the limit of open files");
        }
        if self.refused > 0 {
            log::warn!("{} connections refused: too many, see --max-connections", self.refused);
        }
        if self.garbage > 0 {
            log::warn!("{} connections cut off: not a client, or silent for too long", self.garbage);
        }
        *self = Self { told: Some(now), ..Self::default() };
    }
}
