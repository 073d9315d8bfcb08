//! The link: up, or down with a reason.

use super::pauses::{LASTING, SUMMARY};
use crate::os::line::Line;
use crate::proto::amounts::{amount, duration};
use crate::proto::{client::Snapshot, client::link::Standing, terms::Seq, time::Time};

/// Lines about the link in a minute.
const LINES_MAX: u32 = 6;

#[derive(Debug)]
pub(super) struct Link {
    /// The state that was told last; `None` before the first line.
    told: Option<Standing>,
    standing: Standing,
    since: Time,
    trouble: String,
    /// When the outage began that was told.
    outage: Option<Time>,
    /// The end of the backlog that was told.
    backlog: Option<Seq>,
    /// Beginning of the minute in which lines are counted, and their number.
    minute: (Time, u32),
    /// Outages so far that were over before they were told.
    pub(super) flaps: u64,
}

impl Link {
    pub(super) const fn new(now: Time) -> Self {
        Self {
            told: None,
            standing: Standing::Unreachable,
            since: now,
            trouble: String::new(),
            outage: Some(now),
            backlog: None,
            minute: (now, 0),
            flaps: 0,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.standing == Standing::Up
    }

    /// Takes in the state. A state that has lasted is a line.
    pub(super) fn observe(&mut self, now: Time, snapshot: &Snapshot, trouble: &str) -> Option<Line> {
        if self.trouble != trouble {
            self.trouble = trouble.into();
        }
        self.handle_standing(now, snapshot.standing);
        if self.next_deadline().is_none_or(|due| now < due) {
            let sent = self.is_up() && self.backlog.take_if(|end| snapshot.oldest >= *end).is_some();
            return sent.then(|| Line::info("backlog sent"));
        }
        if now.since(self.minute.0) >= SUMMARY {
            self.minute = (now, 0);
        }
        self.minute.1 += 1;
        Some(self.tell(snapshot))
    }

    /// The state at the end, if it was not told; unless nothing ever was.
    pub(super) fn farewell(&mut self, now: Time, snapshot: &Snapshot) -> Option<Line> {
        self.handle_standing(now, snapshot.standing);
        self.told.is_some_and(|told| told != self.standing).then(|| self.tell(snapshot))
    }

    /// When the state is told, if it lasts. A link that changes all the time is told of a few times a minute, and the
    /// last line is true also then: an outage waits, its end does not.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        let lasting = self.since + LASTING;
        let (began, lines) = self.minute;
        let due = if lines < LINES_MAX || self.is_up() { lasting } else { lasting.max(began + SUMMARY) };
        (self.told != Some(self.standing)).then_some(due)
    }

    fn handle_standing(&mut self, now: Time, standing: Standing) {
        // Both mean that no server answers.
        let standing = if standing == Standing::Unanswered { Standing::Unreachable } else { standing };
        if standing == self.standing {
            return;
        }
        let is_up = standing == Standing::Up;
        if is_up != self.is_up() {
            if !is_up && self.outage.is_none() {
                self.outage = Some(now);
            }
            if is_up && self.told == Some(Standing::Up) {
                self.flaps += 1;
                self.outage = None;
            }
            self.since = now;
        } else if now.since(self.since) >= LASTING {
            // From one reason to the next within an outage.
            self.since = now;
        }
        self.standing = standing;
    }

    /// The line about the state, which was not told.
    fn tell(&mut self, snapshot: &Snapshot) -> Line {
        let was_down = self.told.replace(self.standing).is_some_and(|told| told != Standing::Up);
        let held = |suffix| match snapshot.held.datagrams {
            0 => String::new(),
            _ => format!("; {} {suffix}", amount(snapshot.held)),
        };
        let why = match self.standing {
            Standing::Up => {
                let outage = self.outage.take().filter(|_| was_down).map(|began| duration(self.since.since(began)));
                let after = outage.map_or(String::new(), |span| format!(" after {span}"));
                self.backlog = Some(snapshot.tail).filter(|&tail| snapshot.oldest < tail);
                return Line::info(format!("link up{after}{}", held("to send")));
            }
            Standing::Unreachable | Standing::Unanswered => self.trouble.clone(),
            Standing::Remote(verdict) => format!("remoted {verdict}"),
            Standing::Refused => "datagrams to remoted are refused, heartbeats are not".into(),
        };
        self.backlog = None;
        Line::warn(format!("link down: {why}; holding{}", held("so far")))
    }
}
