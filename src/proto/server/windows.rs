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
//!   for. Then clients take `turns`, and some client always has one.
//! * A grant takes room from all others until it expires, used or not. So a client gets little more than it shows a
//!   need for, or its share if all known clients wanted something.
//!
//! All sums use the estimate [`buffer_cost`]. Where a network driver takes more memory for a datagram, remoted's queue
//! shows it ([`Windows::handle_queue`]). The buffer then counts as that much smaller.

mod ledger;
#[cfg(test)]
mod tests;
mod turns;
mod waiting;

pub use ledger::Demand;

use std::time::Duration;

use crate::proto::cost::buffer_cost;
use crate::proto::terms::ConnectionId;
use crate::proto::time::Time;
use ledger::{Client, Ledger};
use turns::{ASK_AGAIN_MAX, Room, TURN, Turns};

/// A smaller share would cost more in heartbeats than it carries.
const SHARE_DATAGRAMS_MIN: u64 = 16;
/// A client that has not asked for this long waits no more.
const WAIT_FORGOTTEN: Duration = Duration::from_secs(5);
/// How often silent clients are looked for.
const SWEEP_GAP: Duration = Duration::from_millis(20);
/// A pong without a window tells the client to ask again no sooner than this.
const ASK_AGAIN_MIN: Duration = Duration::from_millis(5);

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
    turns: Turns,
    /// The largest datagram that any client wants to send, in buffer cost.
    largest_cost: u64,
    /// The factor by which a datagram takes more than [`buffer_cost`] says.
    inflation: f64,
    swept: Time,
}

impl Default for Windows {
    fn default() -> Self {
        let (ledger, turns) = (Ledger::default(), Turns::default());
        Self { ledger, turns, largest_cost: 0, inflation: 1.0, swept: Time::ZERO }
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
            self.turns.handle_due(client, now + ask_again);
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

    fn note(&mut self, demand: &Demand, need: u64) {
        self.ledger.note(demand, need);
        self.set_wants(demand.client, demand.wants);
        if demand.wants {
            self.largest_cost = self.largest_cost.max(demand.next_cost);
        }
        if let Some(client) = self.ledger.get(demand.client) {
            self.turns.handle_shown(client);
        }
    }

    fn set_wants(&mut self, id: ConnectionId, wants: bool) {
        if let Some(client) = self.ledger.get_mut(id) {
            self.turns.handle_wants(client, wants);
        }
        self.ledger.set_wants(id, wants);
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
        let takes_turns = self.turns.are_needed(half, useful);
        let Some(client) = self.ledger.get_mut(demand.client) else {
            return 0;
        };
        let window = if !takes_turns {
            self.turns.end(client);
            self.share(demand, half)
        } else if self.turns.take(now, client, Room { half, free, useful }) {
            useful
        } else {
            return 0;
        };
        let window = free.min(window).min(self.wish(demand.client, capacity));
        let window = if window >= demand.next_cost.max(1) {
            window
        } else if others == 0 && (capacity.queue == 0 || capacity.queue + demand.next_cost <= usable(capacity.buffer))
        {
            // The datagram is larger than half the buffer, but no other client has anything under way.
            demand.next_cost
        } else {
            0
        };
        if let Some(client) = self.ledger.get_mut(demand.client) {
            if window > 0 {
                self.turns.leave(client);
            } else if !takes_turns {
                self.turns.join(client);
            }
        }
        window
    }

    fn share(&self, demand: &Demand, half: u64) -> u64 {
        let share = self.turns.share(half, &demand.address);
        // Clients that want nothing at the moment got their datagrams a moment ago. They count while that leaves
        // nothing to a waiting client.
        let others_wait = self.ledger.get(demand.client).is_some_and(|client| self.turns.others_wait(client));
        if others_wait { share.min(half / self.ledger.active().max(1) as u64) } else { share }
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
        let spare = if self.turns.others_wait(client) { 0 } else { client.unconfirmed };
        client.shown.saturating_add(spare).max(share)
    }

    /// The window for a client in a steady stream that has just sent all it had. It keeps this window so that its next
    /// datagram need not wait for a heartbeat. No other client waits for the sake of that.
    fn renewal(&self, now: Time, demand: &Demand, capacity: Capacity) -> u64 {
        let Some(client) = self.ledger.get(demand.client) else {
            return 0;
        };
        if demand.unconfirmed_cost == 0 || client.booked(now) == 0 || self.turns.others_wait(client) {
            return 0;
        }
        // All active clients count: of the streaming clients only some want more at any moment.
        let share = capacity.buffer / 2 / self.ledger.active().max(1) as u64;
        client.newest().min(share).min(self.free(demand.client, capacity))
    }

    /// When to ask again: when the clients ahead have had their turns, or when room comes free.
    fn patience(&self, now: Time, id: ConnectionId, capacity: Capacity) -> Duration {
        let (half, useful) = (capacity.buffer / 2, self.useful(capacity));
        let turn = self.ledger.get(id).and_then(|client| self.turns.patience(client, half, useful));
        let room = || self.ledger.next_change().map_or(Duration::ZERO, |at| at.since(now));
        turn.unwrap_or_else(room).clamp(ASK_AGAIN_MIN, ASK_AGAIN_MAX)
    }

    /// The smallest window that is worth granting.
    fn useful(&self, capacity: Capacity) -> u64 {
        let share = SHARE_DATAGRAMS_MIN * buffer_cost(0);
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
        self.turns.sweep();
        let wanting = self.ledger.iter().filter(|(_, client)| client.wants);
        self.largest_cost = wanting.map(|(_, client)| client.next_cost).max().unwrap_or(0);
    }
}

/// The part of a buffer that can be filled, whatever the kernel has not freed yet.
pub(super) const fn usable(buffer: u64) -> u64 {
    buffer * USABLE_PERCENT / 100
}
