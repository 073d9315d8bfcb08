//! Repeated trouble, summed up for the log.

use std::net::IpAddr;
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
    /// Connections whose keys do not fit, and the newest of them.
    keys: u64,
    newest: Option<(IpAddr, String)>,
    /// Why datagrams could not be injected.
    pub(super) injecting: Option<String>,
    /// Times that no descriptor was left.
    pub(super) shortage: u64,
}

impl Complaints {
    /// A connection has no key, or another one.
    pub(super) fn strange(&mut self, address: IpAddr, why: &impl std::fmt::Display) {
        log::debug!("{address} is refused: {why}");
        self.keys += 1;
        self.newest = Some((address, why.to_string()));
    }

    /// Logs what has come together, if the last time is long enough ago.
    pub(super) fn tell(&mut self, now: Time) {
        let due = self.told.is_none_or(|told| now.since(told) >= COMPLAINT_GAP);
        if !due || (self.refused + self.garbage + self.shortage == 0 && self.injecting.is_none() && self.keys == 0) {
            return;
        }
        if self.shortage > 0 {
            log::warn!("no descriptors left: newcomers wait; raise the limit of open files");
        }
        if let Some((address, why)) = &self.newest {
            log::warn!("{} connections refused, the last from {address}: {why}", self.keys);
        }
        if let Some(why) = &self.injecting {
            log::warn!("{why}; clients hold");
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
