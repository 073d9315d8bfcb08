//! Held datagrams and their accounting: the buffer, its sessions, and what the window counts.
//!
//! **Accounting.** `received = confirmed + held + dropped (by reason)`, checked at each step of a debug build.

use std::time::Duration;

use super::batch::Batch;
use super::buffer::{Buffer, Entry, Full, Gone, Tally};
use super::counters::{Counters, DropReason};
use super::link::{Flight, Resumption};
use super::sessions::{Origin, Sessions};
use crate::proto::cost::buffer_cost;
use crate::proto::terms::{Seq, SessionName};
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
        Self { rules, buffer, sessions, counters: Counters::default(), unconfirmed_cost: 0, abandoned: None }
    }

    /// Buffer cost of the released and unconfirmed datagrams, in bytes.
    pub(super) const fn unconfirmed_cost(&self) -> u64 {
        self.unconfirmed_cost
    }

    pub(super) fn flight(&self) -> Flight {
        let oldest = self.abandoned.map_or(self.buffer.oldest(), |abandoned| abandoned.oldest);
        Flight { oldest, next: self.buffer.next() }
    }

    pub(super) fn next_cost(&mut self) -> Option<u64> {
        self.buffer.peek().map(|entry| buffer_cost(entry.bytes.len()))
    }

    pub(super) fn handle_datagram(&mut self, now: Time, origin: Origin, bytes: &[u8]) {
        self.counters.received += 1;
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
        // Of the abandoned datagrams the server has only those that remoted has not read. There they do not count
        // against the window.
        self.abandoned = None;
        self.unconfirmed_cost = 0;
        self.buffer.rewind();
        while self.buffer.peek().is_some_and(|entry| entry.seq < from.min(end))
            && let Some(gone) = self.buffer.advance()
        {
            self.unconfirmed_cost += buffer_cost(gone.length);
        }
        self.counters.rewinds += u64::from(self.buffer.next() < end);
        let doubtful = |entry: &Entry<'_>| entry.seq < reached.min(end);
        if self.rules.resend {
            self.counters.copies += self.buffer.unsent_entries().take_while(doubtful).count() as u64;
        } else {
            while self.buffer.peek().is_some_and(|entry| doubtful(&entry)) {
                self.drop_next(DropReason::NotResent);
            }
        }
        self.audit();
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
        if let Some(gone) = self.buffer.strike() {
            self.sessions.handle_settled(gone.session);
            self.counters.drop(reason);
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
