//! What clients may have under way, added up.
//!
//! The sums are kept up to date as they change, by requests and by time, and never added up anew: with thousands of clients each of their
//! heartbeats would otherwise cost a walk through all of them.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use super::waiting::Ticket;
use crate::proto::terms::{ConnectionId, LAG_MAX};
use crate::proto::time::Time;

/// How long it counts what a client said it had under way. One that is gone has had it read by then.
const SAID_HOLDS: Duration = Duration::from_secs(1);
/// Grants remembered for a client; beyond it they are taken together, which only books more than is due.
const GRANTS_MAX: usize = 8;

/// What a client asks for.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// The connection of the client.
    pub client: ConnectionId,
    /// The address of the client.
    pub address: IpAddr,
    /// It has something to send.
    pub wants: bool,
    /// Buffer cost of its next datagram, in bytes.
    pub next_cost: u64,
    /// Buffer cost of what it has released and not confirmed, in bytes.
    pub unconfirmed_cost: u64,
    /// How long a grant lives at the client.
    pub lease: Duration,
}

/// What is known of a client.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) address: IpAddr,
    /// When it asked last, and when it was told to ask again.
    pub(super) asked: Time,
    pub(super) due: Time,
    pub(super) wants: bool,
    pub(super) next_cost: u64,
    /// What it says that it has released and not seen confirmed.
    pub(super) unconfirmed: u64,
    /// What it asks for: all that it has under way and to send.
    pub(super) shown: u64,
    /// When its turn began; `None` while it has none.
    pub(super) turn: Option<Time>,
    /// Its place among those that wait for a turn.
    pub(super) ticket: Option<Ticket>,
    /// Its connection is gone.
    pub(super) gone: bool,
    /// Grants that may still be in use, with their expiry, the newest last.
    grants: VecDeque<(u64, Time)>,
    /// When all that was released under its grants has reached remoted's socket.
    landed: Time,
    /// The largest of those of which something may lie there unread: what it says of itself is believed up to this.
    granted: u64,
    /// Its part of the sums.
    counted: Counted,
    /// When time alone will change that.
    changes: Option<Time>,
}

/// Part of the sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counted {
    booked: u64,
    said: u64,
    under_way: u64,
    active: bool,
}

/// All clients.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    clients: HashMap<ConnectionId, Client>,
    booked: u64,
    said: u64,
    under_way: u64,
    active: usize,
    /// When remoted's queue was last seen empty: what had landed by then has been read.
    emptied: Time,
    changes: BinaryHeap<Reverse<(Time, ConnectionId)>>,
    /// Clients of which something has landed since then.
    landed: HashSet<ConnectionId>,
    /// The moment up to which the sums are right.
    now: Time,
}

impl Client {
    /// What it may have under way: the largest grant that has not expired.
    pub(super) fn booked(&self, now: Time) -> u64 {
        self.grants.iter().filter(|(_, expires)| *expires > now).map(|(window, _)| *window).max().unwrap_or(0)
    }

    /// It has nothing under way.
    pub(super) const fn is_settled(&self) -> bool {
        self.counted.under_way == 0
    }

    #[cfg(test)]
    pub(super) fn is_bounded(&self) -> bool {
        self.grants.len() <= GRANTS_MAX
    }

    /// Its newest grant.
    pub(super) fn newest(&self) -> u64 {
        self.grants.back().map_or(0, |(window, _)| *window)
    }

    /// What it says that it has on its way to remoted's socket, or in it. It learns of what was read only with a heartbeat, which may be a second away:
    /// until then this room knows better.
    fn said(&self, now: Time, emptied: Time) -> u64 {
        let most = self.granted.max(self.next_cost);
        if now.since(self.asked) < SAID_HOLDS { self.unread(emptied).min(most) } else { 0 }
    }

    /// What it says that it has released, unless that was seen read.
    fn unread(&self, emptied: Time) -> u64 {
        if self.landed > emptied { self.unconfirmed } else { 0 }
    }

    fn book(&mut self, now: Time, emptied: Time, window: u64, lease: Duration) {
        let expires = now + lease;
        let before = if self.landed > emptied { self.granted } else { 0 };
        self.granted = before.max(window);
        self.landed = self.landed.max(expires + LAG_MAX);
        self.grants.retain(|(_, expires)| *expires > now);
        // One that is not smaller and lasts longer makes an earlier one meaningless.
        while self.grants.back().is_some_and(|(earlier, ends)| *earlier <= window && *ends <= expires) {
            self.grants.pop_back();
        }
        if self.grants.len() < GRANTS_MAX {
            self.grants.push_back((window, expires));
        } else if let Some((last, ends)) = self.grants.back_mut() {
            (*last, *ends) = (window.max(*last), expires.max(*ends));
        }
    }

    /// The next moment at which time alone changes its part of the sums.
    fn next_change(&self, now: Time) -> Option<Time> {
        let expiries = self.grants.iter().map(|(_, expires)| *expires);
        let said = [self.asked + SAID_HOLDS, self.landed];
        let said = said.into_iter().filter(|_| self.unconfirmed > 0);
        expiries.chain(said).filter(|at| *at > now).min()
    }
}

impl Ledger {
    pub(super) fn get(&self, id: ConnectionId) -> Option<&Client> {
        self.clients.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Client> {
        self.clients.get_mut(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ConnectionId, &Client)> {
        self.clients.iter().map(|(id, client)| (*id, client))
    }

    pub(super) fn len(&self) -> usize {
        self.clients.len()
    }

    /// Brings the sums up to this moment.
    pub(super) fn settle(&mut self, now: Time) {
        self.now = self.now.max(now);
        while self.changes.peek().is_some_and(|Reverse((at, _))| *at <= now)
            && let Some(Reverse((at, id))) = self.changes.pop()
        {
            let Some(client) = self.clients.get_mut(&id).filter(|client| client.changes == Some(at)) else {
                continue;
            };
            client.changes = None;
            self.refresh(id);
        }
    }

    /// Writes down what a client says of itself. `need`: what it has to send.
    pub(super) fn note(&mut self, demand: &Demand, need: u64) {
        let (now, emptied) = (self.now, self.emptied);
        let client = self.clients.entry(demand.client).or_insert_with(|| Client {
            address: demand.address,
            asked: now,
            due: now,
            wants: false,
            next_cost: 0,
            unconfirmed: 0,
            shown: 0,
            turn: None,
            ticket: None,
            gone: false,
            grants: VecDeque::new(),
            landed: now,
            granted: 0,
            counted: Counted::default(),
            changes: None,
        });
        client.asked = now;
        client.next_cost = demand.next_cost;
        client.unconfirmed = demand.unconfirmed_cost;
        client.shown = client.unread(emptied).saturating_add(need.max(demand.next_cost));
        self.refresh(demand.client);
    }

    /// A window was granted.
    pub(super) fn book(&mut self, id: ConnectionId, window: u64, lease: Duration) {
        let emptied = self.emptied;
        if let Some(client) = self.clients.get_mut(&id) {
            client.book(self.now, emptied, window, lease);
            self.refresh(id);
        }
    }

    /// remoted's queue was seen empty.
    pub(super) fn handle_emptied(&mut self) {
        self.emptied = self.now;
        for id in std::mem::take(&mut self.landed) {
            self.refresh(id);
        }
    }

    pub(super) fn set_wants(&mut self, id: ConnectionId, wants: bool) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.wants = wants;
            self.refresh(id);
        }
    }

    pub(super) fn remove(&mut self, id: ConnectionId) {
        if let Some(client) = self.clients.remove(&id) {
            self.landed.remove(&id);
            self.count(client.counted, Counted::default());
        }
    }

    /// The sum of all grants that have not expired.
    pub(super) const fn booked(&self) -> u64 {
        self.booked
    }

    /// The same without this one's.
    pub(super) fn booked_by_others(&self, id: ConnectionId) -> u64 {
        self.booked - self.clients.get(&id).map_or(0, |client| client.counted.booked)
    }

    /// What clients may have under way, granted or reported.
    pub(super) const fn under_way(&self) -> u64 {
        self.under_way
    }

    /// The same without this one's.
    pub(super) fn under_way_of_others(&self, id: ConnectionId) -> u64 {
        self.under_way - self.clients.get(&id).map_or(0, |client| client.counted.under_way)
    }

    /// What clients say that they have under way.
    pub(super) const fn said(&self) -> u64 {
        self.said
    }

    /// Clients that have something to send or under way.
    pub(super) const fn active(&self) -> usize {
        self.active
    }

    /// When a sum changes next by time alone, or somewhat earlier.
    pub(super) fn next_change(&self) -> Option<Time> {
        self.changes.peek().map(|Reverse((at, _))| *at)
    }

    /// The sums, added up anew.
    #[cfg(test)]
    pub(super) fn added_up(&self, now: Time) -> (u64, u64, u64, usize) {
        let said = |client: &Client| client.said(now, self.emptied);
        let under_way = |client: &Client| said(client).max(client.booked(now));
        let active = self.clients.values().filter(|client| client.wants || under_way(client) > 0);
        let booked = self.clients.values().map(|client| client.booked(now)).sum();
        (booked, self.clients.values().map(said).sum(), self.clients.values().map(under_way).sum(), active.count())
    }

    fn refresh(&mut self, id: ConnectionId) {
        let now = self.now;
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        if client.unconfirmed > 0 && client.landed <= now && client.landed > self.emptied {
            self.landed.insert(id);
        }
        let (said, booked) = (client.said(now, self.emptied), client.booked(now));
        let under_way = said.max(booked);
        let counted = Counted { booked, said, under_way, active: client.wants || under_way > 0 };
        let before = std::mem::replace(&mut client.counted, counted);
        if let Some(at) = client.next_change(now)
            && client.changes.is_none_or(|earlier| at < earlier)
        {
            client.changes = Some(at);
            self.changes.push(Reverse((at, id)));
        }
        self.count(before, counted);
    }

    const fn count(&mut self, before: Counted, after: Counted) {
        self.booked = self.booked - before.booked + after.booked;
        self.said = self.said - before.said + after.said;
        self.under_way = self.under_way - before.under_way + after.under_way;
        self.active = self.active - before.active as usize + after.active as usize;
    }
}
