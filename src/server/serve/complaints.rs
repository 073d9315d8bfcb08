//! Repeated trouble, summed up for the log once a minute; pure.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::time::Duration;

use crate::proto::time::Time;

const COMPLAINT_GAP: Duration = Duration::from_mins(1);

/// A kind of trouble, in the order of the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Trouble {
    Shortage,
    /// A connection has no key or another one, or wants what it must not have.
    Refused,
    Uninjected,
    Replies,
    TooMany,
    /// A connection behaves as none of a client's does, and is closed.
    CutOff,
}

/// Repeated trouble: for each kind how often, and the newest case. When it is logged it may be over, so the lines say
/// what was.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    logged: Option<Time>,
    cases: BTreeMap<Trouble, (u64, String)>,
}

impl Complaints {
    pub(super) fn add(&mut self, trouble: Trouble, case: &impl Display) {
        let (count, newest) = self.cases.entry(trouble).or_default();
        *count += 1;
        *newest = case.to_string();
    }

    pub(super) fn refuse(&mut self, address: IpAddr, why: &impl Display) {
        log::debug!("{address} is refused: {why}");
        self.add(Trouble::Refused, &format_args!("{address}: {why}"));
    }

    pub(super) fn cut_off(&mut self, address: IpAddr, why: &impl Display) {
        log::debug!("{address} is cut off: {why}");
        self.add(Trouble::CutOff, &format_args!("{address}: {why}"));
    }

    /// Logs what has come together, if the last time is long enough ago.
    pub(super) fn log(&mut self, now: Time) {
        let is_due = self.logged.is_none_or(|logged| now.since(logged) >= COMPLAINT_GAP);
        if is_due && !self.cases.is_empty() {
            self.log_rest();
            *self = Self { logged: Some(now), cases: BTreeMap::new() };
        }
    }

    pub(super) fn log_rest(&self) {
        for line in self.lines() {
            log::warn!("{line}");
        }
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.cases.iter().map(|(&trouble, (count, newest))| line(trouble, *count, newest)).collect()
    }
}

fn line(trouble: Trouble, count: u64, newest: &str) -> String {
    let counted = |what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    match trouble {
        Trouble::Shortage => format!(
            "no descriptors were left, {}: newcomers had to wait; raise the limit of open files",
            counted("time")
        ),
        Trouble::Refused => format!("{} refused, the last from {newest}", counted("connection")),
        Trouble::Uninjected if count == 1 => format!("{newest}; a client had to hold"),
        Trouble::Uninjected => format!("{newest}; a client had to hold, {}", counted("time")),
        Trouble::Replies => newest.to_owned(),
        Trouble::TooMany => format!("{} refused: too many, see --max-connections", counted("connection")),
        Trouble::CutOff => format!("{} cut off, the last from {newest}", counted("connection")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_say_who_it_was_and_what_was() {
        let [first, last] = ["10.0.0.6", "10.0.0.7"].map(|text| text.parse().expect("an address"));
        let mut complaints = Complaints::default();
        for trouble in [Trouble::TooMany, Trouble::Shortage, Trouble::TooMany] {
            complaints.add(trouble, &"");
        }
        complaints.refuse(first, &"no key");
        complaints.refuse(last, &"another key");
        complaints.cut_off(last, &"it did not say in time what it is");
        for _ in 0..3 {
            complaints.add(Trouble::Uninjected, &"cannot inject into 127.0.0.1:1514: no buffer");
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
    fn complaints_are_logged_at_once_and_then_once_a_minute() {
        let mut complaints = Complaints::default();
        let mut logged = 0;
        for second in 0..200 {
            complaints.add(Trouble::TooMany, &"");
            complaints.log(Time::from_millis(second * 1_000));
            logged += u32::from(complaints.lines().is_empty());
        }
        assert_eq!(logged, 4);
    }
}
