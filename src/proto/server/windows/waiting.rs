//! The queue of those that wait for a turn: the longest waiting first.
//!
//! With thousands of clients that come back at once it is long, and each of them asks again and again: nothing here walks through all of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use crate::proto::time::Time;

/// How long one that is to ask may be overdue and still come before others: a slow round trip. One that does not ask must not keep all waiting.
const OVERDUE_MAX: Duration = Duration::from_millis(400);
/// More make no difference to when one is to ask again.
const NEIGHBOURS_MAX: usize = 128;

/// A place in the queue; a smaller one is nearer to its head.
pub(super) type Ticket = u64;

/// One that waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiter {
    pub(super) address: IpAddr,
    /// What it asks for, in bytes of buffer cost.
    pub(super) shown: u64,
    /// When it is to ask again.
    pub(super) due: Time,
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    tickets: Ticket,
    queue: BTreeMap<Ticket, Waiter>,
    by_address: HashMap<IpAddr, BTreeSet<Ticket>>,
    by_due: BTreeSet<(Time, Ticket)>,
}

impl Waiting {
    /// Joins at the end.
    pub(super) fn join(&mut self, waiter: Waiter) -> Ticket {
        let ticket = self.tickets;
        self.tickets += 1;
        self.queue.insert(ticket, waiter);
        self.by_address.entry(waiter.address).or_default().insert(ticket);
        self.by_due.insert((waiter.due, ticket));
        ticket
    }

    /// Leaves.
    pub(super) fn leave(&mut self, ticket: Ticket) {
        if let Some(waiter) = self.queue.remove(&ticket) {
            self.by_due.remove(&(waiter.due, ticket));
            if let Some(there) = self.by_address.get_mut(&waiter.address) {
                there.remove(&ticket);
                if there.is_empty() {
                    self.by_address.remove(&waiter.address);
                }
            }
        }
    }

    /// What it asks for by now.
    pub(super) fn handle_shown(&mut self, ticket: Ticket, shown: u64) {
        if let Some(waiter) = self.queue.get_mut(&ticket) {
            waiter.shown = shown;
        }
    }

    /// It was told when to ask again.
    pub(super) fn handle_due(&mut self, ticket: Ticket, due: Time) {
        if let Some(waiter) = self.queue.get_mut(&ticket) {
            let before = std::mem::replace(&mut waiter.due, due);
            self.by_due.remove(&(before, ticket));
            self.by_due.insert((due, ticket));
        }
    }

    /// Somebody waits, this one not counted.
    pub(super) fn has_others(&self, own: Option<Ticket>) -> bool {
        let own = own.is_some_and(|ticket| self.queue.contains_key(&ticket));
        self.queue.len() > usize::from(own)
    }

    /// Those before this one, the nearest to the head first.
    pub(super) fn ahead(&self, own: Ticket) -> impl Iterator<Item = &Waiter> {
        self.queue.range(..own).map(|(_, waiter)| waiter)
    }

    /// How many of those before this one are at its address; beyond [`NEIGHBOURS_MAX`] it is not told.
    pub(super) fn neighbours_ahead(&self, own: Ticket) -> usize {
        let there = self.queue.get(&own).and_then(|waiter| self.by_address.get(&waiter.address));
        there.map_or(0, |there| there.range(..own).take(NEIGHBOURS_MAX).count())
    }

    /// Those before this one that ask again by then, and are not long overdue.
    pub(super) fn ahead_and_due(&self, own: Ticket, by: Time) -> impl Iterator<Item = &Waiter> {
        let from = by.before(OVERDUE_MAX);
        let due = self.by_due.range((from, 0)..=(by, Ticket::MAX)).filter(move |(_, ticket)| *ticket < own);
        due.filter_map(|(_, ticket)| self.queue.get(ticket))
    }

    /// All places taken.
    #[cfg(test)]
    pub(super) fn tickets(&self) -> BTreeSet<Ticket> {
        assert_eq!(self.queue.len(), self.by_due.len());
        assert_eq!(self.queue.len(), self.by_address.values().map(BTreeSet::len).sum());
        self.queue.keys().copied().collect()
    }
}
