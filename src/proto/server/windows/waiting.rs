//! The queue of clients that wait for a turn: the longest waiting client first.
//!
//! When thousands of clients come back at once the queue is long, and each client asks again and again. So nothing
//! here walks through the whole queue.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use crate::proto::time::Time;

/// How long a client that is due may be overdue and still come first: a slow round trip. A client that does not ask
/// must not keep all others waiting.
const OVERDUE_MAX: Duration = Duration::from_millis(400);
/// More neighbours make no difference to when a client is to ask again.
const NEIGHBOURS_MAX: usize = 128;

/// A place in the queue; a smaller one is nearer to its head.
pub(super) type Ticket = u64;

#[derive(Clone, Copy, Debug)]
pub(super) struct Waiter {
    pub(super) address: IpAddr,
    /// Its demand, in bytes of buffer cost.
    pub(super) shown: u64,
    /// When it is to ask again.
    pub(super) due: Time,
}

/// The queue of waiting clients.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    tickets: Ticket,
    queue: BTreeMap<Ticket, Waiter>,
    by_address: HashMap<IpAddr, BTreeSet<Ticket>>,
    by_due: BTreeSet<(Time, Ticket)>,
}

impl Waiting {
    pub(super) fn join(&mut self, waiter: Waiter) -> Ticket {
        let ticket = self.tickets;
        self.tickets += 1;
        self.queue.insert(ticket, waiter);
        self.by_address.entry(waiter.address).or_default().insert(ticket);
        self.by_due.insert((waiter.due, ticket));
        ticket
    }

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

    pub(super) fn handle_shown(&mut self, ticket: Ticket, shown: u64) {
        if let Some(waiter) = self.queue.get_mut(&ticket) {
            waiter.shown = shown;
        }
    }

    pub(super) fn handle_due(&mut self, ticket: Ticket, due: Time) {
        if let Some(waiter) = self.queue.get_mut(&ticket) {
            let before = std::mem::replace(&mut waiter.due, due);
            self.by_due.remove(&(before, ticket));
            self.by_due.insert((due, ticket));
        }
    }

    /// Some client other than this one waits.
    pub(super) fn has_others(&self, own: Option<Ticket>) -> bool {
        let own = own.is_some_and(|ticket| self.queue.contains_key(&ticket));
        self.queue.len() > usize::from(own)
    }

    /// The clients before this one, the nearest to the head first.
    pub(super) fn ahead(&self, own: Ticket) -> impl Iterator<Item = &Waiter> {
        self.queue.range(..own).map(|(_, waiter)| waiter)
    }

    /// The number of clients before this one at its address, counted up to [`NEIGHBOURS_MAX`].
    pub(super) fn neighbours_ahead(&self, own: Ticket) -> usize {
        let there = self.queue.get(&own).and_then(|waiter| self.by_address.get(&waiter.address));
        there.map_or(0, |there| there.range(..own).take(NEIGHBOURS_MAX).count())
    }

    /// The clients before this one that ask again by `by`, and are not long overdue.
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
