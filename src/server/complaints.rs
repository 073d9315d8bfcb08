//! Repeated trouble, summed up for the log.

use std::fmt::Display;
use std::net::IpAddr;
use std::time::Duration;

use crate::proto::time::Time;

/// The same complaint is logged once in this time.
const COMPLAINT_GAP: Duration = Duration::from_mins(1);

/// Repeated trouble, told once a minute: then it may be over, so the lines say what was.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    told: Option<Time>,
    /// Connections refused because there were too many.
    pub(super) refused: u64,
    /// Connections cut off for what they said, or did not say.
    cut: Cases,
    /// Connections that cannot do what they want.
    strange: Cases,
    /// How often datagrams could not be injected, and why the last time.
    uninjected: Option<(u64, String)>,
    /// Whose answers from remoted are lost, and why.
    pub(super) replies: Option<String>,
    /// Times that no descriptor was left.
    pub(super) shortage: u64,
}

/// Connections with the same fate, and the newest of them.
#[derive(Debug, Default)]
struct Cases {
    count: u64,
    newest: Option<(IpAddr, String)>,
}

impl Cases {
    fn add(&mut self, address: IpAddr, why: &impl Display) {
        self.count += 1;
        self.newest = Some((address, why.to_string()));
    }

    /// `3 connections refused, the last from 10.0.0.7: why`.
    fn line(&self, fate: &str) -> Option<String> {
        let (address, why) = self.newest.as_ref()?;
        Some(format!("{} {fate}, the last from {address}: {why}", counted(self.count, "connection")))
    }
}

impl Complaints {
    /// A connection has no key or another one, or wants what it must not have.
    pub(super) fn strange(&mut self, address: IpAddr, why: &impl Display) {
        log::debug!("{address} is refused: {why}");
        self.strange.add(address, why);
    }

    /// A connection behaves as none of a client's does, and is closed.
    pub(super) fn cut(&mut self, address: IpAddr, why: &impl Display) {
        log::debug!("{address} is cut off: {why}");
        self.cut.add(address, why);
    }

    /// Datagrams of a client cannot be injected.
    pub(super) fn uninjected(&mut self, why: String) {
        let before = self.uninjected.take().map_or(0, |(count, _)| count);
        self.uninjected = Some((before + 1, why));
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

    /// What has come together, as the log tells it.
    pub(super) fn lines(&self) -> Vec<String> {
        let shortage = (self.shortage > 0).then(|| {
            format!(
                "no descriptors were left, {}: newcomers had to wait; raise the limit of open files",
                counted(self.shortage, "time")
            )
        });
        let uninjected = self.uninjected.as_ref().map(|(count, why)| {
            let often = if *count == 1 { String::new() } else { format!(", {}", counted(*count, "time")) };
            format!("{why}; a client had to hold{often}")
        });
        let refused = (self.refused > 0)
            .then(|| format!("{} refused: too many, see --max-connections", counted(self.refused, "connection")));
        let lines = [
            shortage,
            self.strange.line("refused"),
            uninjected,
            self.replies.clone(),
            refused,
            self.cut.line("cut off"),
        ];
        lines.into_iter().flatten().collect()
    }
}

/// `1 connection`, `3 connections`.
fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_say_who_it_was_and_what_was() {
        let [first, last] = ["10.0.0.6", "10.0.0.7"].map(|text| text.parse().expect("an address"));
        let mut complaints = Complaints { shortage: 1, refused: 2, ..Complaints::default() };
        complaints.strange(first, &"no key");
        complaints.strange(last, &"another key");
        complaints.cut(last, &"it did not say in time what it is");
        for _ in 0..3 {
            complaints.uninjected("cannot inject into 127.0.0.1:1514: no buffer".into());
        }
        let expected = [
            "no descriptors were left, 1 time: newcomers had to wait; raise the limit of open files",
            "2 connections refused, the last from 10.0.0.7: another key",
            "cannot inject into 127.0.0.1:1514: no buffer; a client had to hold, 3 times",
            "2 connections refused: too many, see --max-connections",
            "1 connection cut off, the last from 10.0.0.7: it did not say in time what it is",
        ];
        assert_eq!(complaints.lines(), expected);
    }

    #[test]
    fn complaints_are_told_at_once_and_then_once_a_minute() {
        let mut complaints = Complaints::default();
        let mut told = 0;
        for second in 0..200 {
            complaints.refused += 1;
            complaints.tell(Time::from_millis(second * 1_000));
            told += u32::from(complaints.lines().is_empty());
        }
        assert_eq!(told, 4);
    }
}
