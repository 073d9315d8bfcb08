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
    /// Connections that cannot do what they want, and the newest of them.
    strange: u64,
    newest: Option<(IpAddr, String)>,
    /// Why datagrams could not be injected.
    pub(super) injecting: Option<String>,
    /// Whose answers from remoted are lost, and why.
    pub(super) replies: Option<String>,
    /// Connections cut off because they do not read.
    pub(super) slow: u64,
    /// Times that no descriptor was left.
    pub(super) shortage: u64,
}

impl Complaints {
    /// A connection has no key or another one, or wants what it must not have.
    pub(super) fn strange(&mut self, address: IpAddr, why: &impl std::fmt::Display) {
        log::debug!("{address} is refused: {why}");
        self.strange += 1;
        self.newest = Some((address, why.to_string()));
    }

    /// Logs what has come together, if the last time is long enough ago.
    pub(super) fn tell(&mut self, now: Time) {
        if self.told.is_some_and(|told| now.since(told) < COMPLAINT_GAP) {
            return;
        }
        if self.tell_rest() {
            *self = Self { told: Some(now), ..Self::default() };
        }
    }

    /// Logs what has come together; whether there was anything.
    pub(super) fn tell_rest(&self) -> bool {
        let lines = self.lines();
        for line in &lines {
            log::warn!("{line}");
        }
        !lines.is_empty()
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.shortage > 0 {
            lines.push("no descriptors left: newcomers wait; raise the limit of open files".into());
        }
        if let Some((address, why)) = &self.newest {
            lines.push(format!("{} refused, the last from {address}: {why}", connections(self.strange)));
        }
        if let Some(why) = &self.injecting {
            lines.push(format!("{why}; its client holds"));
        }
        lines.extend(self.replies.clone());
        let counted = [
            (self.refused, "refused: too many, see --max-connections"),
            (self.garbage, "cut off: not a client, or silent for too long"),
            (self.slow, "cut off: they did not read what they were told"),
        ];
        lines.extend(
            counted
                .iter()
                .filter(|(count, _)| *count > 0)
                .map(|(count, what)| format!("{} {what}", connections(*count))),
        );
        lines
    }
}

fn connections(count: u64) -> String {
    format!("{count} connection{}", if count == 1 { "" } else { "s" })
}
