//! The sums of what clients may have under way.
//!
//! Requests and the passing of time change the sums step by step. They are never added up anew, because with thousands
//! of clients each heartbeat would then walk through all of them.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use super::waiting::Ticket;
use crate::proto::terms::{ConnectionId, LAG_MAX};
use crate::proto::time::Time;

/// How long a client's report of datagrams under way counts. By then remoted has read the datagrams of a client that
/// is gone.
const SAID_HOLDS: Duration = Duration::from_secs(1);
/// The number of grants remembered for a client. More grants are merged, which at worst books too much.
const GRANTS_MAX: usize = 8;

/// A client's demand.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// The connection of the client.
    pub client: ConnectionId,
    /// The address of the client.
    pub address: IpAddr,
    /// The client has something to send.
    pub wants: bool,
    /// The buffer cost of its next datagram, in bytes.
    pub next_cost: u64,
    /// The buffer cost of its released and unconfirmed datagrams, in bytes.
    pub unconfirmed_cost: u64,
    /// How long a grant lives at the client.
    pub lease: Duration,
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) address: IpAddr,
    /// When it last asked, and when it was told to ask again.
    pub(super) asked: Time,
    pub(super) due: Time,
    pub(super) wants: bool,
    pub(super) next_cost: u64,
    /// The cost of its released and unconfirmed datagrams, as it reports it.
    pub(super) unconfirmed: u64,
    /// Its demand: all that it has under way and to send.
    pub(super) shown: u64,
    /// When its turn began; `None` while it has none.
    pub(super) turn: Option<Time>,
    /// Its place among the clients that wait for a turn.
    pub(super) ticket: Option<Ticket>,
    pub(super) gone: bool,
    /// Grants that may still be in use, with their expiry, the newest last.
    grants: VecDeque<(u64, Time)>,
    /// When all datagrams released under its grants have reached remoted's socket.
    landed: Time,
    /// Its largest grant whose datagrams may be unread in the socket. Its reports are believed up to this.
    granted: u64,
    counted: Counted,
    /// When time alone will change its part.
    changes: Option<Time>,
}

/// One client's part of the sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counted {
    booked: u64,
    said: u64,
    under_way: u64,
    active: bool,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    clients: HashMap<ConnectionId, Client>,
    booked: u64,
    said: u64,
    under_way: u64,
    active: usize,
    /// When remoted's queue was last seen empty: all datagrams that had landed by then have been read.
    emptied: Time,
    changes: BinaryHeap<Reverse<(Time, ConnectionId)>>,
    /// The clients whose datagrams have landed since then.
    landed: HashSet<ConnectionId>,
    /// The moment up to which the sums are right.
    now: Time,
}

impl Client {
    /// The bound of its datagrams under way: its largest grant that has not expired.
    pub(super) fn booked(&self, now: Time) -> u64 {
        self.grants.iter().filter(|(_, expires)| *expires > now).map(|(window, _)| *window).max().unwrap_or(0)
    }

    pub(super) const fn is_settled(&self) -> bool {
        self.counted.under_way == 0
    }

    #[cfg(test)]
    pub(super) fn is_bounded(&self) -> bool {
        self.grants.len() <= GRANTS_MAX
    }

    pub(super) fn newest(&self) -> u64 {
        self.grants.back().map_or(0, |(window, _)| *window)
    }

    /// The cost of its datagrams on their way to remoted's socket, or in it, as it reports it. A client learns of
    /// reads only with a heartbeat, which may be a second away. Until then this room knows better.
    fn said(&self, now: Time, emptied: Time) -> u64 {
        let most = self.granted.max(self.next_cost);
        if now.since(self.asked) < SAID_HOLDS { self.unread(emptied).min(most) } else { 0 }
    }

    /// The cost of its released datagrams, as it reports it, unless they were seen read.
    fn unread(&self, emptied: Time) -> u64 {
        if self.landed > emptied { self.unconfirmed } else { 0 }
    }

    fn book(&mut self, now: Time, emptied: Time, window: u64, lease: Duration) {
        let expires = now + lease;
        let before = if self.landed > emptied { self.granted } else { 0 };
        self.granted = before.max(window);
        self.landed = self.landed.max(expires + LAG_MAX);
        self.grants.retain(|(_, expires)| *expires > now);
        // A grant that is no smaller and lasts longer makes an earlier one meaningless.
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

    /// Records the state that a client reports. `need`: the cost of the datagrams that it has to send.
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

    pub(super) fn book(&mut self, id: ConnectionId, window: u64, lease: Duration) {
        let emptied = self.emptied;
        if let Some(client) = self.clients.get_mut(&id) {
            client.book(self.now, emptied, window, lease);
            self.refresh(id);
        }
    }

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

    pub(super) fn booked_by_others(&self, id: ConnectionId) -> u64 {
        self.booked - self.clients.get(&id).map_or(0, |client| client.counted.booked)
    }

    /// The cost that clients may have under way, granted or reported.
    pub(super) const fn under_way(&self) -> u64 {
        self.under_way
    }

    pub(super) fn under_way_of_others(&self, id: ConnectionId) -> u64 {
        self.under_way - self.clients.get(&id).map_or(0, |client| client.counted.under_way)
    }

    /// The cost that clients report as under way.
    pub(super) const fn said(&self) -> u64 {
        self.said
    }

    pub(super) const fn active(&self) -> usize {
        self.active
    }

    /// When time alone next changes a sum, or somewhat earlier.
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
