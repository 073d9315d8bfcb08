//! How much each client may have under way.
//!
//! remoted's socket has few places (256 small datagrams by default) and drops what does not fit, so the sum of what all clients may have
//! released and not confirmed is bounded, here, where all of them are known. A window is a bound, not a credit: a pong that repeats it
//! adds nothing.
//!
//! * The windows that are granted and not expired never sum to more than half the buffer, nor to more than what is free: the other half
//!   is for what expired grants still have on the way.
//! * Where senders without a broker fill the buffer no window helps, and clients go on regardless of what lies in it.
//! * They are shared among the source addresses that have something unsent; a host does not get more by connecting more often.
//! * Where a share would be too small to be useful (under [`SHARE_DATAGRAMS_MIN`] datagrams, or under one of the largest asked for), clients
//!   take turns: who has waited longest is next, a turn is [`TURN`] long, and somebody always has one.
//!
//! All sums are in the estimate [`buffer_cost`]. Where a network driver takes more memory for a datagram, what lies in remoted's queue shows
//! it ([`Windows::handle_queue`]), and the buffer counts as so much smaller.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use crate::time::Time;
use crate::wire::buffer_cost;

/// A smaller share would cost more in heartbeats than it carries.
const SHARE_DATAGRAMS_MIN: u64 = 16;
/// How long a turn lasts while others wait: some round trips on most paths, and seconds for hundreds of waiting hosts.
const TURN: Duration = Duration::from_millis(100);
/// Who has not asked for this long does not wait any more.
const WAIT_FORGOTTEN: Duration = Duration::from_secs(5);
/// A pong without a window asks for patience within these bounds.
const ASK_AGAIN_MIN: Duration = Duration::from_millis(5);
const ASK_AGAIN_MAX: Duration = Duration::from_secs(1);

/// The kernel frees what was read in lots of up to a quarter of the buffer, and until then it still fills it. What lies in the queue may
/// therefore take a third more than it says.
const USABLE_PERCENT: u64 = 70;
/// How many times the estimate a datagram may be found to take.
const INFLATION_MAX: f64 = 4.0;
/// Less than this under way says nothing of the cost of a datagram.
const INFLATION_BYTES_MIN: u64 = 8 * 832;

/// Grants remembered for a client; beyond it they are taken together, which only books more than is due.
const GRANTS_MAX: usize = 8;

/// Names a client for as long as its connection lasts.
pub type ClientId = u64;

/// What a client asks for.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Who asks.
    pub client: ClientId,
    /// Where it asks from.
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

/// What it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Bound of what is released and not confirmed, in bytes of buffer cost.
    pub window: u64,
    /// With no window: when to ask again; zero if it asked for none.
    pub ask_again: Duration,
}

/// remoted's receive buffer.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Its size in bytes.
    pub buffer: u64,
    /// What lies in it, in bytes.
    pub queue: u64,
    /// It has been overflowing lately.
    pub overflows: bool,
}

/// Windows of all clients.
#[derive(Debug)]
pub struct Windows {
    clients: HashMap<ClientId, Client>,
    /// Clients that want a turn, the longest waiting first.
    waiting: VecDeque<ClientId>,
    /// How many times more a datagram takes than [`buffer_cost`] says.
    inflation: f64,
}

#[derive(Debug)]
struct Client {
    address: IpAddr,
    asked: Time,
    wants: bool,
    next_cost: u64,
    unconfirmed: u64,
    /// When its turn began; `None` while it has none.
    turn: Option<Time>,
    /// Grants that may still be in use, with their expiry, the newest last.
    grants: VecDeque<(u64, Time)>,
}

impl Client {
    /// What it may have under way: the largest grant that has not expired.
    fn booked(&self, now: Time) -> u64 {
        self.grants.iter().filter(|(_, expires)| *expires > now).map(|(window, _)| *window).max().unwrap_or(0)
    }

    fn newest(&self) -> u64 {
        self.grants.back().map_or(0, |(window, _)| *window)
    }

    fn book(&mut self, now: Time, window: u64, lease: Duration) {
        let expires = now + lease;
        self.grants.retain(|(_, expires)| *expires > now);
        // One that is not smaller and lasts longer makes an earlier one meaningless.
        while self.grants.back().is_some_and(|(earlier, ends)| *earlier <= window && *ends <= expires) {
            self.grants.pop_back();
        }
        if self.grants.len() < GRANTS_MAX {
            self.grants.push_back((window, expires));
        } else if let Some((_, ends)) = self.grants.back_mut() {
            *ends = expires.max(*ends);
        }
    }
}

/// Who wants something at this moment.
struct Demand {
    clients: u64,
    addresses: u64,
    /// Clients at the address of the one that asks.
    neighbours: u64,
    largest_cost: u64,
}

impl Default for Windows {
    fn default() -> Self {
        Self { clients: HashMap::new(), waiting: VecDeque::new(), inflation: 1.0 }
    }
}

impl Windows {
    /// Grants a window, or says when to ask again.
    pub fn handle_request(&mut self, now: Time, request: Request, room: Room) -> Grant {
        let client = self.clients.entry(request.client).or_insert(Client {
            address: request.address,
            asked: now,
            wants: false,
            next_cost: 0,
            unconfirmed: 0,
            turn: None,
            grants: VecDeque::new(),
        });
        client.asked = now;
        client.wants = request.wants;
        client.next_cost = request.next_cost;
        client.unconfirmed = request.unconfirmed_cost;
        self.forget_silent(now);
        let room = self.deflated(room);
        let window = if request.wants {
            self.window(now, &request, room)
        } else {
            self.end_turn(request.client);
            self.renewal(now, &request, room)
        };
        if window == 0 {
            let ask_again = if request.wants { self.patience(now, request.client) } else { Duration::ZERO };
            return Grant { window, ask_again };
        }
        if let Some(client) = self.clients.get_mut(&request.client) {
            client.book(now, window, request.lease);
        }
        Grant { window, ask_again: Duration::ZERO }
    }

    /// Learns from what lies in the queue how much a datagram really takes. Not to be told while the socket overflows by others' doing.
    pub fn handle_queue(&mut self, now: Time, queue: u64) {
        let under_way: u64 = self.clients.values().map(|client| client.unconfirmed.max(client.booked(now))).sum();
        if under_way >= INFLATION_BYTES_MIN {
            let seen = queue as f64 / under_way as f64;
            // Falls slowly, so that one sample of a short queue does not forget it.
            self.inflation = seen.max(self.inflation * 0.999).clamp(1.0, INFLATION_MAX);
        }
    }

    /// A client's connection is gone. Its grant stays booked until it expires: what it sent may still be under way.
    pub fn handle_gone(&mut self, client: ClientId) {
        self.end_turn(client);
        if let Some(client) = self.clients.get_mut(&client) {
            client.wants = false;
        }
    }

    /// The sum of all grants that have not expired, in bytes of buffer cost.
    pub fn booked(&self, now: Time) -> u64 {
        self.clients.values().map(|client| client.booked(now)).sum()
    }

    /// More than half the buffer is taken by what no client has sent.
    fn is_filled_by_others(&self, now: Time, room: Room) -> bool {
        let ours: u64 = self.clients.values().map(|client| client.unconfirmed.max(client.booked(now))).sum();
        room.queue.saturating_sub(ours) > room.buffer / 2
    }

    fn booked_by_others(&self, now: Time, client: ClientId) -> u64 {
        self.booked(now) - self.clients.get(&client).map_or(0, |client| client.booked(now))
    }

    fn deflated(&self, room: Room) -> Room {
        let shrink = |bytes: u64| (bytes as f64 / self.inflation) as u64;
        Room { buffer: shrink(room.buffer), queue: shrink(room.queue), ..room }
    }

    fn window(&mut self, now: Time, request: &Request, room: Room) -> u64 {
        let half = room.buffer / 2;
        let others = self.booked_by_others(now, request.client);
        let mut free = free(room, others);
        let demand = self.demand(request.address);
        let useful = (SHARE_DATAGRAMS_MIN * u64::from(buffer_cost(0))).max(demand.largest_cost).min(half.max(1));
        if self.is_filled_by_others(now, room) {
            // To wait for room would be to wait for ever. While it overflows, waiting is even harmful: the kernel frees what was read in lots,
            // and a release that follows what is seen to be read would always come between two lots, when nothing fits.
            let anyway = if room.overflows { half } else { useful };
            free = free.max(anyway.min(half.saturating_sub(others)));
        }
        let share = half / demand.addresses / demand.neighbours;
        let smallest_share = half / demand.addresses / (demand.clients - demand.addresses + 1);
        let bound = if share >= useful && smallest_share >= useful {
            self.end_turn(request.client);
            share
        } else if self.take_turn(now, request, half / useful, demand.addresses) {
            useful
        } else {
            return 0;
        };
        if free.min(bound) >= request.next_cost.max(1) {
            free.min(bound)
        } else if others == 0 && room.queue == 0 {
            // Larger than half the buffer, but it has the socket to itself.
            request.next_cost
        } else {
            0
        }
    }

    /// For one in the middle of a steady stream, which has just sent all it had: it keeps a window, so that its next datagram need not wait for
    /// a heartbeat. Nobody waits for the sake of that.
    fn renewal(&self, now: Time, request: &Request, room: Room) -> u64 {
        let Some(client) = self.clients.get(&request.client) else {
            return 0;
        };
        if request.unconfirmed_cost == 0 || client.booked(now) == 0 || !self.waiting.is_empty() {
            return 0;
        }
        let share = room.buffer / 2 / (self.demand(request.address).addresses + 1);
        client.newest().min(share).min(free(room, self.booked_by_others(now, request.client)))
    }

    fn demand(&self, address: IpAddr) -> Demand {
        let wanting = || self.clients.values().filter(|client| client.wants);
        let mut addresses: Vec<IpAddr> = wanting().map(|client| client.address).collect();
        let clients = addresses.len().max(1) as u64;
        let neighbours = addresses.iter().filter(|&&other| other == address).count().max(1) as u64;
        addresses.sort_unstable();
        addresses.dedup();
        let largest_cost = wanting().map(|client| client.next_cost).max().unwrap_or(0);
        Demand { clients, addresses: addresses.len() as u64, neighbours, largest_cost }
    }

    /// Whether it is this client's turn, with `places` turns at a time for all addresses together.
    fn take_turn(&mut self, now: Time, request: &Request, places: u64, addresses: u64) -> bool {
        let others_wait = self.waiting.iter().any(|&waiting| waiting != request.client);
        let Some(client) = self.clients.get_mut(&request.client) else {
            return false;
        };
        if client.turn.is_some_and(|began| now.since(began) < TURN || !others_wait) {
            return true;
        }
        if client.turn.take().is_some() || !self.waiting.contains(&request.client) {
            self.waiting.push_back(request.client);
        }
        if !self.is_next(request.client, places.max(1), addresses) {
            return false;
        }
        self.waiting.retain(|&waiting| waiting != request.client);
        if let Some(client) = self.clients.get_mut(&request.client) {
            client.turn = Some(now);
        }
        true
    }

    /// Whether a free turn falls to `client` when all that wait are served in their order, each address with its part of the turns.
    fn is_next(&self, client: ClientId, places: u64, addresses: u64) -> bool {
        let places_each = (places / addresses).max(1);
        let mut taken: HashMap<IpAddr, u64> = HashMap::new();
        for holder in self.clients.values().filter(|holder| holder.turn.is_some()) {
            *taken.entry(holder.address).or_default() += 1;
        }
        let mut free = places.saturating_sub(taken.values().sum());
        for waiting in &self.waiting {
            let Some(address) = self.clients.get(waiting).map(|waiting| waiting.address) else {
                continue;
            };
            let of_address = taken.entry(address).or_default();
            if free > 0 && *of_address < places_each {
                if *waiting == client {
                    return true;
                }
                free -= 1;
                *of_address += 1;
            }
        }
        false
    }

    fn end_turn(&mut self, client: ClientId) {
        self.waiting.retain(|&waiting| waiting != client);
        if let Some(client) = self.clients.get_mut(&client) {
            client.turn = None;
        }
    }

    /// When it is worth asking again: about when those before it have had their turns.
    fn patience(&self, now: Time, client: ClientId) -> Duration {
        let span = match self.waiting.iter().position(|&waiting| waiting == client) {
            Some(rank) => {
                let turns = self.clients.values().filter(|client| client.turn.is_some()).count().max(1);
                TURN * u32::try_from(rank / turns).unwrap_or(u32::MAX)
            }
            None => Duration::ZERO,
        };
        let expiries = self
            .clients
            .values()
            .flat_map(|client| &client.grants)
            .map(|(_, expires)| *expires)
            .filter(|&expires| expires > now);
        let expiry = expiries.min().map_or(Duration::ZERO, |expires| expires.since(now));
        span.max(expiry.min(TURN)).clamp(ASK_AGAIN_MIN, ASK_AGAIN_MAX)
    }

    fn forget_silent(&mut self, now: Time) {
        for client in self.clients.values_mut() {
            let silent = now.since(client.asked);
            // A turn whose holder is silent is over; it must not keep others waiting.
            if client.turn.is_some() && silent >= TURN && client.booked(now) == 0 {
                client.turn = None;
            }
            client.wants &= silent < WAIT_FORGOTTEN;
        }
        self.clients
            .retain(|_, client| client.wants || client.booked(now) > 0 || now.since(client.asked) < WAIT_FORGOTTEN);
        let clients = &self.clients;
        self.waiting.retain(|waiting| clients.get(waiting).is_some_and(|client| client.wants));
    }
}

/// What may still be granted: see the head of this file.
fn free(room: Room, others: u64) -> u64 {
    let usable = room.buffer * USABLE_PERCENT / 100;
    usable.saturating_sub(room.queue + others).min((room.buffer / 2).saturating_sub(others))
}

#[cfg(test)]
mod tests;
