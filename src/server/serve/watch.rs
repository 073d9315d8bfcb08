//! Watching remoted: when to look at it, when to search for it, and what the log says of it.

#[cfg(test)]
mod tests;

use std::mem::Discriminant;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

use super::news::News;
use crate::os::remoted::{Doubt, Found, Inspector, Wanted};
use crate::os::{net, remoted::backlog::Backlog};
use crate::proto::server::judge::{Judge, Sample};
use crate::proto::{server::ServerCore, terms::Verdict, time::Time};

/// Least time between two looks: more often would only measure the measuring.
const LOOK_GAP_MIN: Duration = Duration::from_millis(1);
/// Most time between two looks that clients ask for. A look during which this process was not running took long and
/// says nothing of the next.
const LOOK_GAP_MAX: Duration = Duration::from_millis(10);
/// Most time between any two looks: the log says what became of remoted also where no client is.
const UNASKED_GAP_MAX: Duration = Duration::from_secs(5);
/// Looking may take this part of one core at most.
const LOOK_SHARE: u32 = 10;
/// Least time between two searches of `/proc`.
const SEARCH_GAP_MIN: Duration = Duration::from_secs(1);
/// Most time between two searches. It is also the least while remoted is up and only a process beside it is not found:
/// perhaps it cannot be seen from here.
const SEARCH_GAP_MAX: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(in crate::server) struct Watch {
    inspector: Inspector,
    backlog: Backlog,
    pub(super) found: Found,
    ask_search: Sender<()>,
    founds: Receiver<Found>,
    /// When the newest search was asked for.
    searched: Option<Time>,
    /// Its result is not in yet.
    is_searching: bool,
    /// When the newest look began.
    looked: Option<Time>,
    /// Least time between two looks, so that looking takes only its share of a core.
    pub(super) gap: Duration,
    news: News,
    /// The kinds of doubt that the log was told of.
    doubted: Vec<Discriminant<Doubt>>,
    warned_blind: bool,
    warned_scattered: bool,
}

impl Watch {
    /// `ask_search` has the thread `search` search, and `founds` brings what it found.
    pub(in crate::server) fn new(wanted: Wanted, ask_search: Sender<()>, founds: Receiver<Found>) -> Self {
        Self {
            inspector: Inspector::new(wanted),
            backlog: Backlog::default(),
            found: Found::default(),
            ask_search,
            founds,
            searched: None,
            is_searching: false,
            looked: None,
            gap: LOOK_GAP_MIN,
            news: News::default(),
            doubted: Vec::new(),
            warned_blind: false,
            warned_scattered: false,
        }
    }

    pub(super) fn search(&mut self, now: Time) {
        if self.ask_search.try_send(()).is_ok() {
            self.searched = Some(now);
            self.is_searching = true;
        }
    }

    /// Takes in what a search found. Whether one is done: then it is time to look.
    pub(super) fn take_found(&mut self) -> bool {
        let Ok(found) = self.founds.try_recv() else {
            return false;
        };
        for (pid, doubt) in &found.doubts {
            if !self.doubted.contains(&doubt.kind()) {
                self.doubted.push(doubt.kind());
                log::warn!("process {pid} has an accepted name and does not count: {doubt}");
            }
        }
        if found.is_blind && !std::mem::replace(&mut self.warned_blind, true) {
            log::warn!(
                "other users' processes are hidden here (the mount option hidepid of /proc): run as root, or in the \
                 group of that mount"
            );
        }
        let scattered = found.scattered();
        if !scattered.is_empty() && !std::mem::replace(&mut self.warned_scattered, true) {
            let pids: Vec<String> = scattered.iter().map(ToString::to_string).collect();
            log::warn!(
                "the processes {} cannot be of one OSSEC, and count as one remoted that is up while any of \
                 them is: name the one that is meant with --process /path/to/its/executable",
                pids.join(", ")
            );
        }
        self.found = found;
        self.is_searching = false;
        true
    }

    /// Looks at remoted, and asks for a search where that is due. `is_asked`: some connection waits for an answer.
    ///
    /// Returns nothing where remoted is not as it was found: the answer waits for what the search finds.
    pub(super) fn look(&mut self, now: Time, core: &mut ServerCore, is_asked: bool) -> Option<Sample> {
        let sample = self.inspector.sample(&self.found);
        let on_the_way = if core.is_busy() { self.backlog.look() } else { None };
        let after = net::now();
        if let Some(notice) = self.inspector.notice() {
            log::warn!("{notice}");
        }
        self.found.note_bindings(&sample);
        let lost = self.found.is_lost_in(&sample);
        let search_gap = self.search_gap(core.judge(), &sample);
        if !self.is_searching && self.searched.is_none_or(|searched| now.since(searched) >= search_gap) {
            self.search(now);
        }
        self.looked = Some(now);
        if lost && self.is_searching && is_asked {
            return None;
        }
        self.gap = (after.since(now) * LOOK_SHARE).clamp(LOOK_GAP_MIN, LOOK_GAP_MAX);
        core.handle_sample(now, &sample, on_the_way, lost);
        Some(sample)
    }

    /// How long after the last search another one is due: soon where remoted is not as it was found, or where a socket
    /// has come that may be remoted's.
    fn search_gap(&self, judge: &Judge, sample: &Sample) -> Duration {
        let down = judge.verdict() != Verdict::Up && self.found.is_outdated_by(sample);
        let soon = down || self.found.is_lost_in(sample) || self.inspector.sees_newcomer();
        if soon { SEARCH_GAP_MIN } else { SEARCH_GAP_MAX }
    }

    /// When to look next. `has_client`: some client is connected, and wants to know soon.
    pub(super) fn next_look(&self, core: &ServerCore, has_client: bool, is_asked: bool) -> Option<Time> {
        let earliest = self.looked.map_or(Time::ZERO, |looked| looked + self.gap);
        let answers = (is_asked && !self.is_searching).then_some(earliest);
        // Before the first look, what the first search finds is waited for.
        let unasked = self.looked.map(|looked| {
            let latest = looked + UNASKED_GAP_MAX;
            let soon = core.next_look().filter(|_| core.is_busy() || has_client).map(|at| at.max(earliest));
            soon.map_or(latest, |soon| soon.min(latest))
        });
        // remoted is old enough then; what a search finds is looked at first.
        let settled = core.judge().next_deadline().filter(|_| !self.is_searching);
        [answers, unasked, settled].into_iter().flatten().min()
    }

    /// Logs the news that the sample brings. Whether clients need a notice of it: not of the first verdict.
    pub(super) fn log_news(&mut self, judge: &Judge, sample: &Sample) -> bool {
        let is_first = self.news.verdict.is_none();
        let Some(line) = self.news.observe(judge, sample) else {
            return false;
        };
        log::log!(line.level, "{}", line.text);
        !is_first
    }
}
