//! Looking at remoted: when to search for it, whom a look answers, and what is told unasked.

use std::time::Duration;

use mio::Token;

use super::{SAMPLE_GAP_MAX, SAMPLE_GAP_MIN, Server};
use crate::os::net;
use crate::proto::server::conversation::Question;
use crate::proto::server::delivery::Delivery;
use crate::proto::server::judge::Sample;
use crate::proto::terms::Verdict;
use crate::proto::time::Time;
use crate::proto::wire::{Frame, Notice};

/// Sampling may take this part of one core at most.
const SAMPLE_SHARE: u32 = 10;
/// Least time between two searches of `/proc`.
const SEARCH_GAP: Duration = Duration::from_secs(1);
/// ... and the most. It is also the least while remoted is up and only a process beside it is not found: perhaps it
/// cannot be seen from here.
const SEARCH_GAP_MAX: Duration = Duration::from_secs(30);

impl Server<'_> {
    pub(super) fn search(&mut self, now: Time) {
        if self.ask_search.try_send(()).is_ok() {
            self.searched = Some(now);
            self.search_open = true;
        }
    }

    pub(super) fn take_found(&mut self) {
        while let Ok(found) = self.founds.try_recv() {
            if found.fd_unreadable() && !std::mem::replace(&mut self.unreadable_told, true) {
                log::warn!(
                    "cannot see which sockets remoted owns: going by process name and port; run as root, or with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"
                );
            }
            let scattered = found.scattered();
            if !scattered.is_empty() && !std::mem::replace(&mut self.scattered_told, true) {
                let pids: Vec<String> = scattered.iter().map(ToString::to_string).collect();
                log::warn!(
                    "the processes {} cannot be of one OSSEC, and count as one remoted that is up while any of \
                     them is: name the one that is meant with --process /path/to/its/executable",
                    pids.join(", ")
                );
            }
            self.found = found;
            self.search_open = false;
            self.sample(net::now());
        }
    }

    /// Looks at remoted, injects what it takes, and answers everybody who waits, unless remoted has to be searched for first.
    pub(super) fn sample(&mut self, now: Time) {
        let sample = self.inspector.sample(&self.found);
        let on_the_way = if self.core.is_busy() { self.backlog.look() } else { None };
        let after = net::now();
        if let Some(notice) = self.inspector.notice() {
            log::warn!("{notice}");
        }
        self.found.note_places(&sample);
        let lost = self.found.is_lost_in(&sample);
        if !self.search_open && self.searched.is_none_or(|searched| now.since(searched) >= self.search_gap(&sample)) {
            self.search(now);
        }
        self.sampled = Some(now);
        // What was found last is not there any more: the answer waits for what the search finds.
        if lost && self.search_open && !self.waiting.is_empty() {
            return;
        }
        self.gap = (after.since(now) * SAMPLE_SHARE).clamp(SAMPLE_GAP_MIN, SAMPLE_GAP_MAX);
        self.core.handle_sample(now, &sample, on_the_way, lost);
        self.inject(net::now());
        for token in std::mem::take(&mut self.waiting) {
            self.answer(now, token);
        }
        self.tell_change(&sample);
    }

    /// How long after the last search another one is due: soon where remoted is not as it was found, or a socket has
    /// come that may be its own.
    fn search_gap(&self, sample: &Sample) -> Duration {
        let down = self.core.judge().verdict() != Verdict::Up && self.found.is_outdated_by(sample);
        let soon = down || self.found.is_lost_in(sample) || self.inspector.sees_newcomer();
        if soon { SEARCH_GAP } else { SEARCH_GAP_MAX }
    }

    /// Gives a connection one of the answers that it wants, if it is time for it.
    fn answer(&mut self, now: Time, token: Token) {
        let Some(conn) = self.conns.get_mut(&token) else {
            return;
        };
        let (question, more) = conn.next_question(now, self.gap);
        if more {
            self.waiting.push(token);
        }
        let outcome = match question {
            None => return,
            Some(Question::Plain) => conn.answer_plain(now, self.core.judge().verdict() == Verdict::Up),
            // It was refused meanwhile.
            Some(Question::Ping(_)) if !conn.is_client() => Ok(()),
            Some(Question::Ping(ping)) => {
                if let Some(why) = conn.mismatch(self.config.remoted.port, self.found.is_at_home()) {
                    return self.refuse_strange(now, token, why);
                }
                let pong = self.core.handle_ping(now, conn.id, conn.address, conn.delivery(), &ping, self.gap);
                log::trace!(
                    "{} holds {}, {} unsent: remoted {}, window {}",
                    conn.address,
                    ping.held,
                    ping.unsent,
                    pong.verdict,
                    pong.window
                );
                conn.answer(pong)
            }
        };
        if let Err(close) = outcome {
            self.close(token, &close);
        }
    }

    /// Logs a changed verdict, and tells the clients that it concerns.
    fn tell_change(&mut self, sample: &Sample) {
        let is_first = self.news.told().is_none();
        let Some(line) = self.news.observe(self.core.judge(), sample) else {
            return;
        };
        log::log!(line.level, "{}", line.text);
        if is_first {
            return;
        }
        let judge = self.core.judge();
        let told = self.conns.iter_mut().filter_map(|(&token, conn)| {
            let verdict = match conn.delivery() {
                Delivery::Direct(to) => judge.verdict_at(to),
                Delivery::Injected => judge.verdict(),
            };
            // Another life of a remoted that is up is seen by the next heartbeat.
            conn.is_told(verdict).then_some((token, verdict))
        });
        for (token, verdict) in told.collect::<Vec<_>>() {
            self.send(token, &Frame::Notice(Notice { verdict }));
        }
    }
}
