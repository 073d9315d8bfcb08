//! Held datagrams and their accounting: the buffer, its sessions, and what the window counts.
//!
//! **Accounting.** `received = confirmed + held + dropped (by reason)`, checked at each step of a debug build.

use std::collections::HashSet;
use std::time::Duration;

use super::batch::Batch;
use super::buffer::{Buffer, Entry, Full, Gone, SessionId, Tally};
use super::counters::{Counters, DropReason};
use super::link::{Flight, Resumption, Transport};
use super::sessions::{Origin, Sessions};
use super::spool::keeper::{Answer, Errand, Report};
use super::spool::open::Found;
use super::spool::record::Totals;
use super::spool::records::{Mark, Records};
use super::spool::struck::Run;
use super::spooling::BATCH_BYTES_MAX;
use crate::proto::cost::buffer_cost;
use crate::proto::terms::{DATAGRAM_BYTES_MAX, Seq, SessionName};
use crate::proto::time::Time;

/// The datagram that gives way when the buffer is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FullPolicy {
    /// The oldest.
    #[default]
    DropOldest,
    /// The arrival.
    DropNewest,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) full: FullPolicy,
    pub(super) max_age: Option<Duration>,
    pub(super) resend: bool,
    pub(super) transport: Transport,
}

impl Rules {
    /// Whatever may have been sent is dropped, and nobody else knows what was.
    const fn sends_once(self) -> bool {
        !self.resend && matches!(self.transport, Transport::Udp)
    }
}

#[derive(Debug)]
pub(super) struct Held {
    rules: Rules,
    pub(super) buffer: Buffer,
    pub(super) sessions: Sessions,
    pub(super) counters: Counters,
    /// Buffer cost of the released and unconfirmed datagrams, `abandoned` included.
    unconfirmed_cost: u64,
    abandoned: Option<Abandoned>,
    /// Every datagram that was ever sent, by this process or an earlier one, is below this number.
    furthest: Seq,
    /// An earlier process has sent the datagrams below this number, as far as it could say.
    inherited: Seq,
    /// No datagram from this number on was ever given to the disk.
    offered: Seq,
    /// Struck datagrams behind the oldest that may be on disk.
    struck: Vec<Strike>,
    /// How many there were, and how many of them the disk knows of.
    strikes: u64,
    told: u64,
    /// Datagrams on disk alone that the server spoke of: they are dealt with when they are read back.
    ahead: Ahead,
    /// Longest datagram that is taken, in bytes.
    datagram_bytes_max: usize,
}

/// Struck datagrams with nothing held between them, and the newest strike among them.
#[derive(Clone, Copy, Debug)]
struct Strike {
    run: Run,
    newest: u64,
}

/// What the server has said of datagrams that lie on disk alone.
#[derive(Clone, Copy, Debug, Default)]
struct Ahead {
    /// Below this number they count as released.
    released: Seq,
    /// Below this number they may have reached remoted.
    reached: Seq,
    /// Below this number they are confirmed.
    confirmed: Seq,
    /// Some of that is doubtful.
    doubtful: bool,
}

/// Datagrams that had been released when a full buffer dropped them. They still take their place in the window: they
/// are on their way, or lie in remoted's socket.
#[derive(Clone, Copy, Debug)]
struct Abandoned {
    oldest: Seq,
    /// Every abandoned datagram is below this number.
    end: Seq,
    cost: u64,
}

/// The effect on the window when a batch is released.
#[derive(Clone, Copy, Debug)]
pub(super) struct Released {
    /// The cost that was added, in bytes of buffer cost.
    pub(super) cost: u64,
    /// Nothing was under way before.
    pub(super) first: bool,
}

impl Held {
    pub(super) fn new(rules: Rules, buffer: Buffer, sessions: Sessions) -> Self {
        Self {
            rules,
            buffer,
            sessions,
            counters: Counters::default(),
            unconfirmed_cost: 0,
            abandoned: None,
            furthest: Seq::default(),
            inherited: Seq::default(),
            offered: Seq::default(),
            struck: Vec::new(),
            strikes: 0,
            told: 0,
            ahead: Ahead::default(),
            datagram_bytes_max: DATAGRAM_BYTES_MAX,
        }
    }

    /// Takes over what an earlier process has left on disk. Longer datagrams than `datagram_bytes_max` have no place
    /// there.
    pub(super) fn restore<E>(&mut self, found: &Found<E>, datagram_bytes_max: u64) {
        self.buffer.reopen(found.first, found.tail, found.held);
        self.sessions.restore(&found.agents);
        self.counters.restore(found.mark.totals, found.held.datagrams);
        (self.furthest, self.offered) = (found.tail, found.tail);
        self.inherited = found.mark.totals.sent.min(found.tail);
        if self.rules.sends_once() {
            // Over tcp the server will say what it has got.
            self.ahead.reached = self.inherited;
        }
        self.datagram_bytes_max =
            self.datagram_bytes_max.min(usize::try_from(datagram_bytes_max).unwrap_or(usize::MAX));
        self.audit();
    }

    /// Buffer cost of the released and unconfirmed datagrams, in bytes.
    pub(super) const fn unconfirmed_cost(&self) -> u64 {
        self.unconfirmed_cost
    }

    pub(super) fn flight(&self) -> Flight {
        let oldest = self.abandoned.map_or(self.buffer.oldest(), |abandoned| abandoned.oldest);
        Flight { oldest, next: self.buffer.next(), furthest: self.furthest.max(self.buffer.next()) }
    }

    pub(super) fn next_cost(&mut self) -> Option<u64> {
        self.buffer.peek().map(|entry| buffer_cost(entry.bytes.len()))
    }

    /// A datagram came in. Every datagram below `durable` is on disk.
    pub(super) fn handle_datagram(&mut self, now: Time, origin: Origin, bytes: &[u8], durable: Seq) {
        self.counters.received += 1;
        if bytes.len() > self.datagram_bytes_max {
            self.counters.drop(DropReason::TooLarge);
            return;
        }
        let Some(session) = self.sessions.admit(origin, bytes) else {
            self.counters.drop(DropReason::NoSession);
            return;
        };
        self.expire(now);
        loop {
            match self.buffer.push(now, session, bytes) {
                Ok(_) => {
                    self.sessions.handle_held(session);
                    break;
                }
                Err(Full::ByItself) => {
                    self.counters.drop(DropReason::TooLarge);
                    break;
                }
                Err(Full::ByOthers) if self.buffer.spill(durable) => {}
                Err(Full::ByOthers) => {
                    let gone = match self.rules.full {
                        FullPolicy::DropOldest => self.buffer.pop(),
                        FullPolicy::DropNewest => None,
                    };
                    let Some(gone) = gone else {
                        self.counters.drop(DropReason::Overflow);
                        break;
                    };
                    self.forget(gone, DropReason::Overflow);
                }
            }
        }
        self.audit();
    }

    /// The first `sent` datagrams of a batch of this epoch have been sent. `up_since` counts for the silence of their
    /// sessions.
    pub(super) fn handle_released(&mut self, now: Time, batch: &Batch, sent: usize, up_since: Time) -> Released {
        let before = self.unconfirmed_cost;
        for at in 0..sent {
            if self.is_next(batch.seq(at))
                && let Some(gone) = self.buffer.advance()
            {
                self.unconfirmed_cost += buffer_cost(gone.length);
                self.sessions.handle_released(now, gone.session, up_since);
            } else {
                // The datagram was dropped while it was being sent.
                let cost = buffer_cost(batch.payload(at).len());
                self.unconfirmed_cost += cost;
                self.abandon(batch.seq(at), cost);
            }
        }
        self.furthest = self.furthest.max(self.buffer.next());
        Released { cost: self.unconfirmed_cost - before, first: before == 0 }
    }

    /// The first `sent` datagrams of a batch of another epoch have been sent. After a rewind they count as never sent.
    /// They are sent again in their order, before anything newer; or never.
    pub(super) fn handle_sent_before_rewind(&mut self, batch: &Batch, sent: usize) {
        if self.rules.resend {
            self.counters.copies += sent as u64;
            return;
        }
        for at in 0..sent {
            self.drop_if_next(batch.seq(at), DropReason::NotResent);
        }
    }

    /// Everything unconfirmed is to be released again; without resending it is lost.
    pub(super) fn rewind(&mut self) {
        if !self.flight().is_open() {
            return;
        }
        self.counters.rewinds += 1;
        if self.rules.resend {
            self.counters.copies += self.buffer.held().datagrams - self.buffer.unsent().datagrams;
            self.buffer.rewind();
        } else {
            let bound = self.buffer.next();
            while let Some(gone) = self.buffer.pop_released(bound) {
                self.forget(gone, DropReason::NotResent);
            }
        }
        self.unconfirmed_cost = 0;
        self.abandoned = None;
        self.audit();
    }

    pub(super) fn confirm(&mut self, bound: Seq, doubtful: bool) {
        if bound > self.ahead.confirmed {
            self.ahead.confirmed = bound;
            self.ahead.doubtful |= doubtful;
        }
        self.confirm_abandoned(bound);
        while let Some(gone) = self.buffer.pop_released(bound) {
            self.unconfirmed_cost = self.unconfirmed_cost.saturating_sub(buffer_cost(gone.length));
            self.sessions.handle_settled(gone.session);
            self.counters.confirmed += 1;
            self.counters.doubtful += u64::from(doubtful);
        }
        self.audit();
    }

    /// Datagrams below `from` stay released, the others count as never sent. Of the others, datagrams below `reached`
    /// may have reached remoted.
    pub(super) fn go_on_from(&mut self, Resumption { from, reached }: Resumption) {
        let end = self.buffer.next();
        self.ahead = Ahead {
            released: from.min(end.max(self.furthest)),
            reached: reached.min(end.max(self.inherited)),
            ..Ahead::default()
        };
        // Of the abandoned datagrams the server has only those that remoted has not read. There they do not count
        // against the window.
        self.abandoned = None;
        self.unconfirmed_cost = 0;
        self.buffer.rewind();
        self.catch_up(self.buffer.oldest());
        self.counters.rewinds += u64::from(self.buffer.next() < end);
        self.audit();
    }

    /// Deals with datagrams from this number on as the server has said.
    fn catch_up(&mut self, from: Seq) {
        let Ahead { released, reached, .. } = self.ahead;
        while self.buffer.peek().is_some_and(|entry| entry.seq < released)
            && let Some(gone) = self.buffer.advance()
        {
            self.unconfirmed_cost += buffer_cost(gone.length);
        }
        let doubtful = |entry: &Entry<'_>| entry.seq < reached;
        if self.rules.resend {
            let entries = self.buffer.unsent_entries().skip_while(|entry| entry.seq < from);
            self.counters.copies += entries.take_while(doubtful).count() as u64;
        } else {
            while self.buffer.peek().is_some_and(|entry| doubtful(&entry)) {
                self.drop_next(DropReason::NotResent);
            }
        }
    }

    /// Datagrams were read back from disk: everything from `asked` on and below `through` that can be.
    pub(super) fn handle_read_back(&mut self, records: &Records, asked: Seq, through: Seq) {
        // Meanwhile others before them may have been given back to the disk.
        let Some((from, _)) = self.buffer.wanted().filter(|&(from, _)| from >= asked) else {
            return;
        };
        let taken = self.buffer.fill(records.entries()).is_ok();
        if taken && self.buffer.wanted().is_some() && through >= self.buffer.spilled_end() {
            let lost = self.buffer.forget_spilled();
            self.counters.drop_many(DropReason::Damaged, lost.datagrams);
            self.sessions.recount(self.buffer.sessions());
        }
        // The cursor waits at the end of the head for what the server has said of; it may stand before it, too.
        self.catch_up(from);
        self.confirm(self.ahead.confirmed, self.ahead.doubtful);
        self.audit();
    }

    /// The oldest datagrams give way to newer ones.
    pub(super) fn gives_way(&self) -> bool {
        self.rules.full == FullPolicy::DropOldest
    }

    /// Drops everything below this number, as far as it is in memory.
    pub(super) fn drop_below(&mut self, below: Seq) {
        while self.buffer.front().is_some_and(|front| front.seq < below)
            && let Some(gone) = self.buffer.pop()
        {
            self.forget(gone, DropReason::Overflow);
        }
        self.audit();
    }

    /// What is to be written from this number on, as much as one batch takes.
    pub(super) fn fill_records(&mut self, from: Seq, records: &mut Records) {
        records.clear();
        self.fill_accounts(records);
        records.end = self.buffer.tail();
        for entry in self.buffer.entries_from(from) {
            if records.bytes() > 0 && records.bytes() + entry.bytes.len() > BATCH_BYTES_MAX {
                records.end = entry.seq;
                break;
            }
            records.push(entry);
        }
        self.offered = self.offered.max(records.end);
        let mut known = HashSet::new();
        let sessions: Vec<SessionId> = records.entries().map(|entry| entry.session).collect();
        records.agents.extend(sessions.into_iter().filter(|id| known.insert(*id)).map(|id| self.sessions.agent(id)));
    }

    /// The state of the accounting, and all agents that have a port.
    pub(super) fn fill_state(&mut self, records: &mut Records) {
        records.clear();
        self.fill_accounts(records);
        records.agents.extend(self.sessions.agents());
    }

    fn fill_accounts(&mut self, records: &mut Records) {
        let below = self.buffer.oldest();
        self.struck.retain(|strike| strike.run.end > below);
        let news = self.struck.iter().filter(|strike| strike.newest > self.told);
        records.struck.extend(news.map(|strike| strike.run));
        (records.mark, records.strikes) = (self.mark(), self.strikes);
    }

    /// The records were written, or not.
    pub(super) fn handle_report<E>(&mut self, errand: Errand, records: &Records, report: &Report<E>) {
        match (errand, &report.answer) {
            // What was not synced may be lost.
            (_, Answer::Failed(_)) => self.told = 0,
            (Errand::Write | Errand::Mark, Answer::Done) => self.told = records.strikes,
            _ => {}
        }
    }

    /// The state of the accounting.
    pub(super) fn mark(&self) -> Mark {
        let sent = self.inherited.max(self.buffer.reached());
        Mark { below: self.buffer.oldest(), totals: Totals { sent, ..self.counters.totals() } }
    }

    /// Drops datagrams that have become too old, unless they are under way.
    pub(super) fn expire(&mut self, now: Time) {
        let Some(max_age) = self.rules.max_age else {
            return;
        };
        while self.buffer.peek().is_some_and(|entry| now.since(entry.arrived) > max_age) {
            self.drop_next(DropReason::Expired);
        }
    }

    /// Drops this datagram if it is the next to release.
    pub(super) fn drop_if_next(&mut self, seq: Seq, reason: DropReason) {
        if self.is_next(seq) {
            self.drop_next(reason);
        }
        self.audit();
    }

    pub(super) fn session(&self, entry: &Entry<'_>) -> SessionName {
        self.sessions.reference(entry.session)
    }

    pub(super) const fn tally(&self) -> Tally {
        self.buffer.held()
    }

    fn is_next(&mut self, seq: Seq) -> bool {
        self.buffer.peek().is_some_and(|entry| entry.seq == seq)
    }

    fn drop_next(&mut self, reason: DropReason) {
        let before = self.buffer.next();
        if let Some(gone) = self.buffer.strike() {
            self.sessions.handle_settled(gone.session);
            self.counters.drop(reason);
            self.note_struck(before, gone.seq);
        }
    }

    /// The cursor stood at `before`, and the datagram behind it was struck.
    fn note_struck(&mut self, before: Seq, seq: Seq) {
        if seq < self.buffer.oldest() || seq >= self.offered {
            return;
        }
        self.strikes += 1;
        let newest = self.strikes;
        match self.struck.last_mut() {
            Some(last) if last.run.end == before => (last.run.end, last.newest) = (seq.next(), newest),
            _ => self.struck.push(Strike { run: Run { first: seq, end: seq.next() }, newest }),
        }
    }

    /// A datagram has left the buffer unconfirmed.
    fn forget(&mut self, gone: Gone, reason: DropReason) {
        if gone.released {
            self.abandon(gone.seq, buffer_cost(gone.length));
        }
        self.sessions.handle_settled(gone.session);
        self.counters.drop(reason);
    }

    fn abandon(&mut self, seq: Seq, cost: u64) {
        let before = self.abandoned.get_or_insert(Abandoned { oldest: seq, end: seq, cost: 0 });
        (before.end, before.cost) = (before.end.max(seq.next()), before.cost + cost);
    }

    /// Every abandoned datagram below `bound` has been read.
    fn confirm_abandoned(&mut self, bound: Seq) {
        if let Some(abandoned) = &mut self.abandoned {
            if abandoned.end <= bound {
                self.unconfirmed_cost = self.unconfirmed_cost.saturating_sub(abandoned.cost);
                self.abandoned = None;
            } else {
                abandoned.oldest = abandoned.oldest.max(bound);
            }
        }
    }

    fn audit(&self) {
        debug_assert_eq!(
            self.counters.received,
            self.counters.confirmed + self.buffer.held().datagrams + self.counters.dropped_total(),
            "every datagram is accounted for"
        );
    }
}
