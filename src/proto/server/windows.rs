//! How much each client may have under way.
//!
//! remoted's socket has room for few datagrams (256 small ones by default) and drops any that do not fit. This room
//! knows all clients, so it bounds the sum of their released and unconfirmed datagrams. A window is a bound, not a
//! credit: a pong that repeats it adds nothing.
//!
//! * The windows that are granted and not expired sum to at most half the buffer. All that clients may have under way,
//!   expired grants included, sums to at most the usable part of it.
//! * Where senders without a broker fill the buffer, no window helps. Clients then go on regardless of its contents.
//! * Windows are shared among the source addresses that have unsent datagrams. A host gets no more by connecting more
//!   often.
//! * A share may be too small to be useful: under `SHARE_DATAGRAMS_MIN` datagrams, or under one of the largest asked
//!   for. Then clients take turns: the longest waiting client is next, a turn is `TURN` long, and some client always
//!   has one.
//! * A grant takes room from all others until it expires, used or not. So a client gets little more than it shows a
//!   need for, or its share if all known clients wanted something.
//!
//! All sums use the estimate [`buffer_cost`]. Where a network driver takes more memory for a datagram, remoted's queue
//! shows it ([`Windows::handle_queue`]). The buffer then counts as that much smaller.

mod ledger;
#[cfg(test)]
mod tests;
mod waiting;

pub use ledger::Demand;

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::proto::cost::buffer_cost;
use crate::proto::terms::{ConnectionId, LAG_MAX};
use crate::proto::time::Time;
use ledger::{Client, Ledger};

use waiting::{Ticket, Waiter, Waiting};

/// A smaller share would cost more in heartbeats than it carries.
const SHARE_DATAGRAMS_MIN: u64 = 16;
/// How long a turn lasts while others wait. A client releases at its beginning, and again each time that a release is
/// confirmed. A confirmation takes somewhat more than [`LAG_MAX`], so a turn has three releases on most paths. Even
/// so, hundreds of waiting hosts wait for seconds.
const TURN: Duration = Duration::from_millis(2 * LAG_MAX.as_millis() as u64 + 20);
/// A client that has not asked for this long waits no more.
const WAIT_FORGOTTEN: Duration = Duration::from_secs(5);
/// A client due to ask within this time counts as waiting.
const ABOUT: Duration = Duration::from_millis(10);
/// How often silent clients are looked for.
const SWEEP_GAP: Duration = Duration::from_millis(20);
/// A pong without a window tells the client to ask again within these bounds.
const ASK_AGAIN_MIN: Duration = Duration::from_millis(5);
const ASK_AGAIN_MAX: Duration = Duration::from_secs(1);

/// The kernel frees read datagrams in lots of up to a quarter of the buffer, and until then they still fill it. So the
/// queue may take a third more than it shows.
const USABLE_PERCENT: u64 = 70;
/// The largest believed ratio of a datagram's cost to the estimate.
const INFLATION_MAX: f64 = 4.0;
/// With less than this under way, a queue says nothing about the cost of a datagram.
const INFLATION_BYTES_MIN: u64 = 8 * 832;

/// The answer to a demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The bound of released and unconfirmed datagrams, in bytes of buffer cost.
    pub window: u64,
    /// When to ask again, if there is no window; zero if the client asked for none.
    pub ask_again: Duration,
}

impl Grant {
    /// No window, and no advice.
    pub(super) const NONE: Self = Self { window: 0, ask_again: Duration::ZERO };
}

/// remoted's receive buffer.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// Its size in bytes.
    pub buffer: u64,
    /// The bytes in it.
    pub queue: u64,
    /// It has been overflowing lately.
    pub overflows: bool,
    /// remoted is reading it: its queue shrinks.
    pub reads: bool,
}

/// Windows of all clients.
#[derive(Debug)]
pub struct Windows {
    ledger: Ledger,
    waiting: Waiting,
    hosts: HashMap<IpAddr, Host>,
    /// The clients that want something, and the addresses with such clients.
    wanting: u64,
    hosts_wanting: u64,
    /// The largest datagram that any client wants to send, in buffer cost.
    largest_cost: u64,
    /// The factor by which a datagram takes more than [`buffer_cost`] says.
    inflation: f64,
    swept: Time,
}

/// The clients at one address.
#[derive(Clone, Copy, Debug, Default)]
struct Host {
    wanting: u64,
    turns: u64,
}

impl Default for Windows {
    fn default() -> Self {
        Self {
            ledger: Ledger::default(),
            waiting: Waiting::default(),
            hosts: HashMap::new(),
            wanting: 0,
            hosts_wanting: 0,
            largest_cost: 0,
            inflation: 1.0,
            swept: Time::ZERO,
        }
    }
}

impl Windows {
    /// Grants a window, or says when to ask again, to a client that has to send `need` bytes of buffer cost.
    pub fn handle_demand(&mut self, now: Time, demand: Demand, need: u64, capacity: Capacity) -> Grant {
        let id = demand.client;
        self.ledger.settle(now);
        self.sweep(now);
        self.note(&demand, need);
        let capacity = self.deflated(capacity);
        let window =
            if demand.wants { self.window(now, &demand, capacity) } else { self.renewal(now, &demand, capacity) };
        let ask_again = if demand.wants && window == 0 { self.patience(now, id, capacity) } else { Duration::ZERO };
        if let Some(client) = self.ledger.get_mut(id) {
            client.due = now + ask_again;
            if let Some(ticket) = client.ticket {
                self.waiting.handle_due(ticket, now + ask_again);
            }
        }
        if window > 0 {
            self.ledger.book(id, window, demand.lease);
        }
        Grant { window, ask_again }
    }

    /// Learns from the queue how much a datagram really takes. A queue that `overflows` by other senders says nothing
    /// about that.
    pub fn handle_queue(&mut self, now: Time, queue: u64, overflows: bool) {
        self.ledger.settle(now);
        if queue == 0 {
            self.ledger.handle_emptied();
        }
        let under_way = self.ledger.under_way();
        if under_way >= INFLATION_BYTES_MIN {
            let seen = if overflows { 0.0 } else { queue as f64 / under_way as f64 };
            // The factor falls slowly, so that one sample of a short queue does not forget it.
            self.inflation = seen.max(self.inflation * 0.999).clamp(1.0, INFLATION_MAX);
        }
    }

    /// A client's connection is gone. Its grant stays booked until it expires, because its datagrams may still be
    /// under way.
    pub fn handle_gone(&mut self, client: ConnectionId) {
        self.set_wants(client, false);
        if let Some(client) = self.ledger.get_mut(client) {
            client.gone = true;
        }
    }

    /// The sum of all grants that have not expired, in bytes of buffer cost.
    pub fn booked(&mut self, now: Time) -> u64 {
        self.ledger.settle(now);
        self.ledger.booked()
    }

    /// The number of clients that have something to send or under way.
    pub fn active(&mut self, now: Time) -> usize {
        self.ledger.settle(now);
        self.ledger.active()
    }

    /// Records the state that a client reports.
    fn note(&mut self, demand: &Demand, need: u64) {
        self.ledger.note(demand, need);
        self.set_wants(demand.client, demand.wants);
        if demand.wants {
            self.largest_cost = self.largest_cost.max(demand.next_cost);
        }
        if let Some(client) = self.ledger.get(demand.client)
            && let Some(ticket) = client.ticket
        {
            self.waiting.handle_shown(ticket, client.shown);
        }
    }

    /// A client that wants nothing has no turn and waits for none.
    fn set_wants(&mut self, id: ConnectionId, wants: bool) {
        let Some(client) = self.ledger.get(id) else {
            return;
        };
        if client.wants != wants {
            let host = self.hosts.entry(client.address).or_default();
            let had = host.wanting > 0;
            if wants {
                host.wanting += 1;
                self.wanting += 1;
            } else {
                host.wanting -= 1;
                self.wanting -= 1;
            }
            match (had, host.wanting > 0) {
                (false, true) => self.hosts_wanting += 1,
                (true, false) => self.hosts_wanting -= 1,
                (false, false) | (true, true) => {}
            }
            self.ledger.set_wants(id, wants);
        }
        if !wants {
            self.end_turn(id);
            self.leave(id);
        }
    }

    fn end_turn(&mut self, id: ConnectionId) {
        if let Some(client) = self.ledger.get_mut(id)
            && client.turn.take().is_some()
            && let Some(host) = self.hosts.get_mut(&client.address)
        {
            host.turns -= 1;
        }
    }

    fn begin_turn(&mut self, now: Time, id: ConnectionId) {
        self.leave(id);
        if let Some(client) = self.ledger.get_mut(id)
            && client.turn.replace(now).is_none()
        {
            self.hosts.entry(client.address).or_default().turns += 1;
        }
    }

    /// The client waits, at the end of the queue unless it has a place.
    fn join(&mut self, id: ConnectionId) -> Ticket {
        let waiting = &mut self.waiting;
        self.ledger.get_mut(id).map_or(Ticket::MAX, |client| {
            let waiter = Waiter { address: client.address, shown: client.shown, due: client.due };
            *client.ticket.get_or_insert_with(|| waiting.join(waiter))
        })
    }

    /// The client waits no more.
    fn leave(&mut self, id: ConnectionId) {
        if let Some(ticket) = self.ledger.get_mut(id).and_then(|client| client.ticket.take()) {
            self.waiting.leave(ticket);
        }
    }

    fn window(&mut self, now: Time, demand: &Demand, capacity: Capacity) -> u64 {
        let half = capacity.buffer / 2;
        let others = self.ledger.booked_by_others(demand.client);
        let useful = self.useful(capacity);
        let mut free = self.free(demand.client, capacity);
        if capacity.reads && self.is_filled_by_others(capacity) {
            // A wait for room would never end. During an overflow it would even do harm, because the kernel frees read
            // datagrams in lots. A release that follows the visible reads would always come between two lots, when
            // nothing fits.
            let anyway = if capacity.overflows { half } else { useful };
            free = free.max(anyway.min(half.saturating_sub(others)));
        }
        let window = if self.takes_turns(capacity) {
            let each = half / useful / self.hosts_wanting.max(1);
            if !self.has_turn(now, demand, free, useful, each) {
                return 0;
            }
            useful
        } else {
            self.end_turn(demand.client);
            self.share(demand, half)
        };
        let window = free.min(window).min(self.wish(demand.client, capacity));
        let window = if window >= demand.next_cost.max(1) {
            window
        } else if others == 0 && (capacity.queue == 0 || capacity.queue + demand.next_cost <= usable(capacity.buffer)) {
            // The datagram is larger than half the buffer, but no other client has anything under way.
            demand.next_cost
        } else {
            0
        };
        if window > 0 {
            self.leave(demand.client);
        } else if !self.takes_turns(capacity) {
            self.join(demand.client);
        }
        window
    }

    /// Equal shares would be too small to be useful.
    fn takes_turns(&self, capacity: Capacity) -> bool {
        let hosts = self.hosts_wanting.max(1);
        let most_at_one = (self.wanting + 1).saturating_sub(hosts).max(1);
        capacity.buffer / 2 / hosts / most_at_one < self.useful(capacity)
    }

    /// An equal share for this client.
    fn share(&self, demand: &Demand, half: u64) -> u64 {
        let ticket = self.ledger.get(demand.client).and_then(|client| client.ticket);
        let neighbours = self.hosts.get(&demand.address).map_or(1, |host| host.wanting.max(1));
        let share = half / self.hosts_wanting.max(1) / neighbours;
        // Clients that want nothing at the moment got their datagrams a moment ago. They count while that leaves
        // nothing to a waiting client.
        if self.waiting.has_others(ticket) { share.min(half / self.ledger.active().max(1) as u64) } else { share }
    }

    /// The most that is of use to this client. It is the larger of two amounts:
    ///
    /// * its demand, and unless others wait for that room, as much again as it has under way: in a steady stream the
    ///   next datagram then need not wait for a heartbeat;
    /// * its share if every client had something to send.
    fn wish(&self, id: ConnectionId, capacity: Capacity) -> u64 {
        let share = capacity.buffer / 2 / self.ledger.len().max(1) as u64;
        let Some(client) = self.ledger.get(id) else {
            return share;
        };
        let spare = if self.waiting.has_others(client.ticket) { 0 } else { client.unconfirmed };
        client.shown.saturating_add(spare).max(share)
    }

    /// The window for a client in a steady stream that has just sent all it had. It keeps this window so that its next
    /// datagram need not wait for a heartbeat. No other client waits for the sake of that.
    fn renewal(&self, now: Time, demand: &Demand, capacity: Capacity) -> u64 {
        let Some(client) = self.ledger.get(demand.client) else {
            return 0;
        };
        if demand.unconfirmed_cost == 0 || client.booked(now) == 0 || self.waiting.has_others(client.ticket) {
            return 0;
        }
        // All active clients count: of the streaming clients only some want more at any moment.
        let share = capacity.buffer / 2 / self.ledger.active().max(1) as u64;
        client.newest().min(share).min(self.free(demand.client, capacity))
    }

    /// Whether it is this client's turn. `free` bytes can be granted, `useful` of them to one client. An address may
    /// have `each` turns at a time.
    fn has_turn(&mut self, now: Time, demand: &Demand, free: u64, useful: u64, each: u64) -> bool {
        let Some(&Client { address, shown, turn, ticket, .. }) = self.ledger.get(demand.client) else {
            return false;
        };
        if let Some(began) = turn {
            if now.since(began) < TURN || !self.waiting.has_others(ticket) {
                return true;
            }
            self.end_turn(demand.client);
        }
        let ticket = self.join(demand.client);
        let each = each.max(1);
        let places = |address: &IpAddr| each.saturating_sub(self.hosts.get(address).map_or(0, |host| host.turns));
        // Earlier clients that are about to ask come first. A client that asks later must not keep a turn unused.
        let (mut taken, mut neighbours) = (shown.min(useful), 0);
        for waiter in self.waiting.ahead_and_due(ticket, now + ABOUT).filter(|waiter| places(&waiter.address) > 0) {
            if taken > free {
                break;
            }
            taken += waiter.shown.min(useful);
            neighbours += u64::from(waiter.address == address);
        }
        if taken > free || neighbours >= places(&address) {
            return false;
        }
        self.begin_turn(now, demand.client);
        true
    }

    /// When to ask again: somewhat before the clients ahead have had their turns. Addresses take turns too: of the
    /// clients ahead at another address, as many count as at this client's address, plus one.
    fn patience(&self, now: Time, id: ConnectionId, capacity: Capacity) -> Duration {
        let (half, useful) = ((capacity.buffer / 2).max(1), self.useful(capacity));
        let ticket = self.ledger.get(id).and_then(|client| client.ticket);
        let span = if let Some(ticket) = ticket.filter(|_| self.takes_turns(capacity)) {
            let most = half.saturating_mul(ASK_AGAIN_MAX.div_duration_f64(TURN) as u64 + 1);
            let rounds = self.waiting.neighbours_ahead(ticket) + 1;
            let (mut ahead, mut counted) = (0, HashMap::new());
            for waiter in self.waiting.ahead(ticket) {
                let there: &mut usize = counted.entry(waiter.address).or_default();
                if *there < rounds {
                    *there += 1;
                    ahead += waiter.shown.min(useful);
                }
                if ahead >= most {
                    break;
                }
            }
            TURN.mul_f64(ahead as f64 / half as f64)
        } else {
            self.ledger.next_change().map_or(Duration::ZERO, |at| at.since(now))
        };
        span.clamp(ASK_AGAIN_MIN, ASK_AGAIN_MAX)
    }

    /// The smallest window that is worth granting.
    fn useful(&self, capacity: Capacity) -> u64 {
        let share = SHARE_DATAGRAMS_MIN * u64::from(buffer_cost(0));
        share.max(self.largest_cost).min(capacity.buffer / 2).max(1)
    }

    /// The room that may be granted to this client: see the head of this file.
    fn free(&self, id: ConnectionId, capacity: Capacity) -> u64 {
        // Datagrams under way from an expired grant count until they have been read.
        let others = self.ledger.under_way_of_others(id);
        // The queue contains the datagrams that clients report as released. Datagrams that clients may still release
        // come on top of it. The queue also contains datagrams that clients count no more because they are about to
        // send them again.
        let strange = capacity.queue.saturating_sub(self.ledger.said());
        let room_left = usable(capacity.buffer).saturating_sub(strange + others);
        room_left.min((capacity.buffer / 2).saturating_sub(self.ledger.booked_by_others(id)))
    }

    /// The part of the queue that no client has sent.
    const fn foreign(&self, capacity: Capacity) -> u64 {
        capacity.queue.saturating_sub(self.ledger.under_way())
    }

    /// Datagrams that no client has sent take more than half the buffer.
    const fn is_filled_by_others(&self, capacity: Capacity) -> bool {
        self.foreign(capacity) > capacity.buffer / 2
    }

    fn deflated(&self, capacity: Capacity) -> Capacity {
        let shrink = |bytes: u64| (bytes as f64 / self.inflation) as u64;
        Capacity { buffer: shrink(capacity.buffer), queue: shrink(capacity.queue), ..capacity }
    }

    /// Forgets silent clients, which must not keep others waiting.
    fn sweep(&mut self, now: Time) {
        if now.since(self.swept) < SWEEP_GAP {
            return;
        }
        self.swept = now;
        let silent = |client: &Client| {
            let span = now.since(client.asked.max(client.due));
            span >= WAIT_FORGOTTEN || (client.turn.is_some() && span >= TURN && client.booked(now) == 0)
        };
        let silent: Vec<ConnectionId> =
            self.ledger.iter().filter(|(_, client)| silent(client)).map(|(id, _)| id).collect();
        for id in silent {
            self.set_wants(id, false);
        }
        let forgotten = |client: &Client| {
            let over = client.gone || now.since(client.asked) >= WAIT_FORGOTTEN;
            !client.wants && over && client.is_settled()
        };
        let forgotten: Vec<ConnectionId> =
            self.ledger.iter().filter(|(_, client)| forgotten(client)).map(|(id, _)| id).collect();
        for id in forgotten {
            self.ledger.remove(id);
        }
        self.hosts.retain(|_, host| host.wanting > 0 || host.turns > 0);
        let wanting = self.ledger.iter().filter(|(_, client)| client.wants);
        self.largest_cost = wanting.map(|(_, client)| client.next_cost).max().unwrap_or(0);
    }
}

/// The part of a buffer that can be filled, whatever the kernel has not freed yet.
pub(super) const fn usable(buffer: u64) -> u64 {
    buffer * USABLE_PERCENT / 100
}
