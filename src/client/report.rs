//! What the log says, and when.
//!
//! A line for each change of the link that lasts a second; shorter ones, drops and repeats are summed once a minute. An outage of a million
//! datagrams is two lines. Pure: the moment and the state come with each call, lines go out.

#[cfg(test)]
mod tests;

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use log::Level;

use crate::proto::client::link::Standing;
use crate::proto::client::{DropReason, Snapshot};
use crate::proto::terms::Verdict;
use crate::proto::time::{Time, Utc};

/// A change of the link is told when it has lasted this long.
const LASTING: Duration = Duration::from_secs(1);
/// Lines about the link in a minute.
const LINK_LINES_MAX: u32 = 6;
/// Everything else is summed up this often.
const SUMMARY: Duration = Duration::from_mins(1);

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) level: Level,
    pub(super) text: String,
}

/// Turns changes into lines.
#[derive(Debug)]
pub(super) struct Report {
    /// What was told last; `None` before the first line.
    told: Option<State>,
    /// What is, and since when.
    state: State,
    since: Time,
    /// Why there is no connection.
    trouble: String,
    /// When the outage that was told began.
    outage: Option<Time>,
    /// Beginning of the minute in which lines about the link are counted, and how many there were.
    minute: (Time, u32),
    sums: Sums,
    /// The kernel's counter of the agent's socket.
    kernel_drops: u32,
    /// What the last summary has told.
    told_sums: Sums,
    /// When something was first added since then.
    added: Option<Time>,
    summed: Option<Time>,
    overflow: Option<Overflow>,
    overflow_seen: u64,
    /// A warning stands.
    blocked: bool,
    missing: usize,
    refused: bool,
    blocked_told: Option<Time>,
}

/// What is summed up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    flaps: u64,
    kernel_drops: u64,
    others_drops: u64,
    doubtful: u64,
    dropped: [u64; DropReason::ALL.len()],
}

/// The link, as the log tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Up,
    Down(Down),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Down {
    NoServer,
    Remote(Verdict),
    Refused,
}

/// A time during which the buffer overflowed.
#[derive(Clone, Copy, Debug)]
struct Overflow {
    began: Time,
    from: SystemTime,
    to: SystemTime,
    dropped: u64,
    /// The newest drop.
    latest: Time,
}

impl State {
    const fn of(standing: Standing) -> Self {
        match standing {
            Standing::Up => Self::Up,
            Standing::Unreachable | Standing::Unanswered => Self::Down(Down::NoServer),
            Standing::Remote(verdict) => Self::Down(Down::Remote(verdict)),
            Standing::Refused => Self::Down(Down::Refused),
        }
    }

    const fn is_up(self) -> bool {
        matches!(self, Self::Up)
    }
}

impl Report {
    pub(super) fn new(now: Time) -> Self {
        Self {
            told: None,
            state: State::Down(Down::NoServer),
            since: now,
            trouble: String::new(),
            outage: Some(now),
            minute: (now, 0),
            sums: Sums::default(),
            kernel_drops: 0,
            told_sums: Sums::default(),
            added: None,
            summed: None,
            overflow: None,
            overflow_seen: 0,
            blocked: false,
            missing: 0,
            refused: false,
            blocked_told: None,
        }
    }

    /// What the kernel dropped at the agent's socket so far. The counter wraps.
    pub(super) const fn handle_kernel_drops(&mut self, counter: u32) {
        self.sums.kernel_drops += counter.wrapping_sub(self.kernel_drops) as u64;
        self.kernel_drops = counter;
    }

    /// Takes in the state; the lines that follow from it. `trouble` says why there is no connection.
    pub(super) fn observe(&mut self, now: Time, wall: SystemTime, snapshot: &Snapshot, trouble: &str) -> Vec<Line> {
        let mut lines = Vec::new();
        if self.trouble != trouble {
            self.trouble = trouble.into();
        }
        self.observe_link(now, snapshot, &mut lines);
        self.observe_overflow(now, wall, snapshot, &mut lines);
        self.observe_blocked(now, snapshot, &mut lines);
        self.observe_sums(now, snapshot);
        if self.added.is_some() && self.summary_due().is_some_and(|due| now >= due) {
            self.tell_sums(now, &mut lines);
        }
        lines
    }

    /// The last words: all that was not told yet, what is left, and what became of the rest.
    pub(super) fn farewell(&mut self, now: Time, wall: SystemTime, snapshot: &Snapshot) -> Vec<Line> {
        let mut lines = Vec::new();
        self.observe_state(now, snapshot);
        if self.told.is_some_and(|told| told != self.state) {
            lines.push(self.link_line(snapshot));
        }
        self.observe_overflow(now, wall, snapshot, &mut lines);
        if let Some(overflow) = self.overflow.take() {
            lines.push(overflow.line(wall));
        }
        self.observe_sums(now, snapshot);
        self.tell_sums(now, &mut lines);
        lines.push(Line { level: Level::Info, text: account(snapshot) });
        if snapshot.held.datagrams > 0 {
            let held = amount(snapshot.held.datagrams, snapshot.held.bytes);
            lines.push(Line { level: Level::Warn, text: format!("lost with this stop: {held}, not confirmed") });
        }
        lines
    }

    /// When [`Self::observe`] has something to say although nothing happens.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        let lasting = (self.told != Some(self.state)).then(|| self.link_due());
        [lasting, self.overflow_due(), self.summary_due()].into_iter().flatten().min()
    }

    /// When the state of the link is to be told, if it lasts: a link that changes all the time is told of a few times a minute.
    fn link_due(&self) -> Time {
        let lasting = self.since + LASTING;
        let (began, lines) = self.minute;
        if lines < LINK_LINES_MAX { lasting } else { lasting.max(began + SUMMARY) }
    }

    /// The first of something is told after a second, what follows once a minute.
    fn summary_due(&self) -> Option<Time> {
        let added = self.added? + LASTING;
        Some(self.summed.map_or(added, |summed| added.max(summed + SUMMARY)))
    }

    fn observe_state(&mut self, now: Time, snapshot: &Snapshot) {
        let state = State::of(snapshot.standing);
        if state == self.state {
            return;
        }
        if state.is_up() != self.state.is_up() {
            if !state.is_up() && self.outage.is_none() {
                self.outage = Some(now);
            }
            if state.is_up() && self.told.is_some_and(State::is_up) {
                self.sums.flaps += 1;
                self.outage = None;
            }
            self.since = now;
        } else if now.since(self.since) >= LASTING {
            // From one reason to the next within an outage.
            self.since = now;
        }
        self.state = state;
    }

    fn observe_link(&mut self, now: Time, snapshot: &Snapshot, lines: &mut Vec<Line>) {
        self.observe_state(now, snapshot);
        if self.told == Some(self.state) || now < self.link_due() {
            return;
        }
        if now.since(self.minute.0) >= SUMMARY {
            self.minute = (now, 0);
        }
        self.minute.1 += 1;
        lines.push(self.link_line(snapshot));
        self.told = Some(self.state);
    }

    /// The state of the link, which differs from what was told.
    fn link_line(&mut self, snapshot: &Snapshot) -> Line {
        let held = amount(snapshot.held.datagrams, snapshot.held.bytes);
        match self.state {
            State::Up => {
                let outage = self.outage.take().map(|began| self.since.since(began));
                let after = match (self.told, outage) {
                    (Some(State::Down(_)), Some(span)) => format!(" after {}", duration(span)),
                    (None | Some(_), _) => String::new(),
                };
                let rest = if snapshot.held.datagrams > 0 { format!("; {held} to send") } else { String::new() };
                Line { level: Level::Info, text: format!("link up{after}{rest}") }
            }
            State::Down(down) => {
                let why = match down {
                    Down::NoServer => self.trouble.clone(),
                    Down::Remote(verdict) => format!("remoted {verdict}"),
                    Down::Refused => "datagrams to remoted are refused, heartbeats are not".into(),
                };
                let so_far = if snapshot.held.datagrams > 0 { format!("; {held} so far") } else { String::new() };
                Line { level: Level::Warn, text: format!("link down: {why}; holding{so_far}") }
            }
        }
    }

    fn observe_overflow(&mut self, now: Time, wall: SystemTime, snapshot: &Snapshot, lines: &mut Vec<Line>) {
        let total = snapshot.counters.dropped(DropReason::Overflow);
        if total > self.overflow_seen {
            let overflow = self.overflow.get_or_insert_with(|| {
                let why = if snapshot.short { ", the system gives no more memory" } else { "" };
                let held = amount(snapshot.held.datagrams, snapshot.held.bytes);
                let text = format!("buffer is full with {held}{why}: dropping");
                lines.push(Line { level: Level::Warn, text });
                Overflow { began: now, from: wall, to: wall, dropped: 0, latest: now }
            });
            overflow.dropped += total - self.overflow_seen;
            overflow.to = wall;
            overflow.latest = now;
            self.overflow_seen = total;
        }
        if self.overflow_due().is_some_and(|due| now >= due)
            && let Some(overflow) = self.overflow.take()
        {
            lines.push(overflow.line(wall));
        }
    }

    /// When the overflow counts as over, if nothing more is dropped. Full and idle is still full: an agent that says something now and then must
    /// not write two lines each time. A link that is up makes room, and also then two lines a minute are enough.
    fn overflow_due(&self) -> Option<Time> {
        let overflow = self.overflow.as_ref()?;
        let lull = if self.state.is_up() { LASTING } else { SUMMARY };
        Some((overflow.latest + lull).max(overflow.began + SUMMARY))
    }

    fn observe_blocked(&mut self, now: Time, snapshot: &Snapshot, lines: &mut Vec<Line>) {
        let (missing, refused) = (snapshot.replies_missing, snapshot.standing == Standing::Refused);
        let worse = missing > self.missing || refused && !self.refused;
        if worse && self.blocked_told.is_none_or(|told| now.since(told) >= SUMMARY) {
            (self.blocked_told, self.blocked) = (Some(now), true);
            let agents = if missing == 1 { "1 agent".into() } else { format!("{missing} agents") };
            let why =
                if missing > 0 { format!("no replies any more to {agents}") } else { "datagrams are refused".into() };
            let text = format!("UDP to remoted seems blocked: {why}, and heartbeats are good");
            lines.push(Line { level: Level::Warn, text });
        }
        if self.blocked && missing == 0 && snapshot.standing == Standing::Up {
            self.blocked = false;
            let text = "UDP to remoted seems good again: no agent misses replies, and no datagram is refused".into();
            lines.push(Line { level: Level::Info, text });
        }
        (self.missing, self.refused) = (missing, refused);
    }

    fn observe_sums(&mut self, now: Time, snapshot: &Snapshot) {
        self.sums.others_drops = snapshot.counters.others_drops;
        self.sums.doubtful = snapshot.counters.doubtful;
        self.sums.dropped = DropReason::ALL.map(|reason| snapshot.counters.dropped(reason));
        // The overflow of the buffer has lines of its own.
        self.sums.dropped[DropReason::Overflow as usize] = 0;
        if self.sums != self.told_sums {
            self.added.get_or_insert(now);
        }
    }

    /// What has added up since the last summary.
    fn tell_sums(&mut self, now: Time, lines: &mut Vec<Line>) {
        let Some(added) = self.added.take() else {
            return;
        };
        let (sums, told) = (self.sums, self.told_sums);
        let mut warn = |text: String| lines.push(Line { level: Level::Warn, text });
        let flaps = sums.flaps - told.flaps;
        if flaps > 0 {
            let times = if flaps == 1 { "once".into() } else { format!("{flaps} times") };
            warn(format!("link was down for less than a second, {times}"));
        }
        let others = sums.others_drops - told.others_drops;
        if others > 0 {
            let rate = others as f64 / now.since(added).as_secs_f64().max(1.0);
            warn(format!("remoted's socket overflows: {rate:.0}/s, by other senders"));
        }
        if sums.doubtful > told.doubtful {
            let doubtful = sums.doubtful - told.doubtful;
            warn(format!(
                "{doubtful} confirmed are doubtful: remoted's socket was overflowing by other senders, or its replies had stopped"
            ));
        }
        if sums.kernel_drops > told.kernel_drops {
            let drops = sums.kernel_drops - told.kernel_drops;
            warn(format!("the kernel dropped {drops} datagrams from agents: raise --rcvbuf"));
        }
        for reason in DropReason::ALL {
            let dropped = sums.dropped[reason as usize] - told.dropped[reason as usize];
            if dropped > 0 {
                warn(format!("{dropped} dropped: {}", reason.text()));
            }
        }
        self.told_sums = sums;
        self.summed = Some(now);
    }
}

impl Overflow {
    fn line(&self, wall: SystemTime) -> Line {
        let (from, to, said) = (utc(self.from), utc(self.to), utc(wall));
        // Times of the day on which this is said need no date.
        let today = from.is_same_day(said) && to.is_same_day(said);
        let moment = |at: Utc| if today { at.time_of_day() } else { format!("{}T{}", at.date(), at.time_of_day()) };
        let text = format!("buffer was full from {}Z to {}Z: {} dropped", moment(from), moment(to), self.dropped);
        Line { level: Level::Warn, text }
    }
}

/// `stopped: 9 received, 9 confirmed, 0 dropped, 0 left`.
fn account(snapshot: &Snapshot) -> String {
    let counters = snapshot.counters;
    format!(
        "stopped: {} received, {} confirmed, {} dropped, {} left",
        counters.received,
        counters.confirmed,
        counters.dropped_total(),
        snapshot.held.datagrams
    )
}

/// `1204 datagrams (812 KiB)`.
fn amount(datagrams: u64, bytes: u64) -> String {
    let plural = if datagrams == 1 { "" } else { "s" };
    format!("{datagrams} datagram{plural} ({})", size(bytes))
}

/// `812 KiB`, `64 MiB`.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["bytes", "KiB", "MiB", "GiB"];
    let mut value = bytes;
    let mut unit = 0;
    while value >= 10 * 1024 && unit + 1 < UNITS.len()
        || (value >= 1024 && value.is_multiple_of(1024) && unit + 1 < UNITS.len())
    {
        value /= 1024;
        unit += 1;
    }
    format!("{value} {}", UNITS[unit])
}

/// `3m12s`, `12s`, `2h5m`.
fn duration(span: Duration) -> String {
    let seconds = span.as_secs();
    let (days, hours, minutes, rest) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    let mut text = String::new();
    for (value, unit) in [(days, "d"), (hours, "h"), (minutes, "m")] {
        if value > 0 || !text.is_empty() {
            let _ = write!(text, "{value}{unit}");
        }
    }
    if days == 0 && (rest > 0 || text.is_empty()) {
        let _ = write!(text, "{rest}s");
    }
    text
}

/// UTC, like the timestamps of the log.
fn utc(at: SystemTime) -> Utc {
    Utc::from_unix(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
}
