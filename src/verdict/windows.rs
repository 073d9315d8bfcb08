//! How much each client may have under way.
//!
//! remoted's socket has few places (256 small datagrams by default) and drops what does not fit, so the sum of what all clients may have
//! released and not confirmed is bounded, here, where all of them are known. A window is a bound, not a credit: a pong that repeats it
//! adds nothing.
//!
//! * The windows that are granted and not expired never sum to more than half the buffer; and all that clients may have under way, expired
//!   grants included, never to more than what is usable of it.
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
/// How long it counts what a client said it had under way. One that is gone has had it read by then.
const SAID_HOLDS: Duration = Duration::from_secs(1);
/// Who is to ask again within this counts as waiting at the door.
const ABOUT: Duration = Duration::from_millis(10);
/// How often the silent are looked for.
const SWEEP_GAP: Duration = Duration::from_millis(20);
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
    /// It is being read: what lies in it grows less.
    pub reads: bool,
}

/// Windows of all clients.
#[derive(Debug)]
pub struct Windows {
    clients: HashMap<ClientId, Client>,
    /// Clients that want a turn, the longest waiting first.
    waiting: VecDeque<ClientId>,
    hosts: HashMap<IpAddr, Host>,
    /// Clients that want something.
    wanting: u64,
    /// The largest datagram that somebody wants to send, in buffer cost.
    largest_cost: u64,
    /// How many times more a datagram takes than [`buffer_cost`] says.
    inflation: f64,
    swept: Time,
}

#[derive(Debug)]
struct Client {
    address: IpAddr,
    asked: Time,
    /// When it was told to ask again.
    due: Time,
    wants: bool,
    next_cost: u64,
    unconfirmed: u64,
    /// When its turn began; `None` while it has none.
    turn: Option<Time>,
    /// Grants that may still be in use, with their expiry, the newest last.
    grants: VecDeque<(u64, Time)>,
}

/// The clients at one address.
#[derive(Clone, Copy, Debug, Default)]
struct Host {
    wanting: u64,
    turns: u64,
}

impl Client {
    /// What it may have under way: the largest grant that has not expired.
    fn booked(&self, now: Time) -> u64 {
        self.grants.iter().filter(|(_, expires)| *expires > now).map(|(window, _)| *window).max().unwrap_or(0)
    }

    /// What it may have on its way to remoted's socket, or in it.
    fn under_way(&self, now: Time) -> u64 {
        let said = if now.since(self.asked) < SAID_HOLDS { self.unconfirmed } else { 0 };
        said.max(self.booked(now))
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
        } else if let Some((last, ends)) = self.grants.back_mut() {
            (*last, *ends) = (window.max(*last), expires.max(*ends));
        }
    }
}

impl Default for Windows {
    fn default() -> Self {
        Self {
            clients: HashMap::new(),
            waiting: VecDeque::new(),
            hosts: HashMap::new(),
            wanting: 0,
            largest_cost: 0,
            inflation: 1.0,
            swept: Time::ZERO,
        }
    }
}

impl Windows {
    /// Grants a window, or says when to ask again.
    pub fn handle_request(&mut self, now: Time, request: Request, room: Room) -> Grant {
        self.sweep(now);
        self.note(now, &request);
        let room = self.deflated(room);
        let window = if request.wants { self.window(now, &request, room) } else { self.renewal(now, &request, room) };
        let ask_again =
            if request.wants && window == 0 { self.patience(now, request.client, room) } else { Duration::ZERO };
        if let Some(client) = self.clients.get_mut(&request.client) {
            client.due = now + ask_again;
            if window > 0 {
                client.book(now, window, request.lease);
            }
        }
        Grant { window, ask_again }
    }

    /// Learns from what lies in the queue how much a datagram really takes. While the socket `overflows` by others' doing that says nothing.
    pub fn handle_queue(&mut self, now: Time, queue: u64, overflows: bool) {
        let under_way = self.under_way(now);
        if under_way >= INFLATION_BYTES_MIN {
            let seen = if overflows { 0.0 } else { queue as f64 / under_way as f64 };
            // Falls slowly, so that one sample of a short queue does not forget it.
            self.inflation = seen.max(self.inflation * 0.999).clamp(1.0, INFLATION_MAX);
        }
    }

    /// A client's connection is gone. Its grant stays booked until it expires: what it sent may still be under way.
    pub fn handle_gone(&mut self, client: ClientId) {
        self.set_wants(client, false);
    }

    /// The sum of all grants that have not expired, in bytes of buffer cost.
    pub fn booked(&self, now: Time) -> u64 {
        self.clients.values().map(|client| client.booked(now)).sum()
    }

    /// Writes down what a client says of itself.
    fn note(&mut self, now: Time, request: &Request) {
        let client = self.clients.entry(request.client).or_insert_with(|| Client {
            address: request.address,
            asked: now,
            due: now,
            wants: false,
            next_cost: 0,
            unconfirmed: 0,
            turn: None,
            grants: VecDeque::new(),
        });
        client.asked = now;
        client.next_cost = request.next_cost;
        client.unconfirmed = request.unconfirmed_cost;
        self.set_wants(request.client, request.wants);
        if request.wants {
            self.largest_cost = self.largest_cost.max(request.next_cost);
        }
    }

    /// One that wants nothing has no turn and does not wait for one.
    fn set_wants(&mut self, id: ClientId, wants: bool) {
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        if client.wants != wants {
            client.wants = wants;
            let host = self.hosts.entry(client.address).or_default();
            if wants {
                host.wanting += 1;
                self.wanting += 1;
            } else {
                host.wanting -= 1;
                self.wanting -= 1;
            }
        }
        if !wants {
            self.end_turn(id);
            self.waiting.retain(|&waiting| waiting != id);
        }
    }

    fn end_turn(&mut self, id: ClientId) {
        if let Some(client) = self.clients.get_mut(&id)
            && client.turn.take().is_some()
            && let Some(host) = self.hosts.get_mut(&client.address)
        {
            host.turns -= 1;
        }
    }

    fn begin_turn(&mut self, now: Time, id: ClientId) {
        self.waiting.retain(|&waiting| waiting != id);
        if let Some(client) = self.clients.get_mut(&id)
            && client.turn.replace(now).is_none()
        {
            self.hosts.entry(client.address).or_default().turns += 1;
        }
    }

    fn window(&mut self, now: Time, request: &Request, room: Room) -> u64 {
        let half = room.buffer / 2;
        let others = self.booked_by_others(now, request.client);
        let useful = self.useful(room);
        let mut free = self.free(now, request.client, room);
        if room.reads && self.is_filled_by_others(now, room) {
            // To wait for room would be to wait for ever. While it overflows, waiting is even harmful: the kernel frees what was read in lots,
            // and a release that follows what is seen to be read would always come between two lots, when nothing fits.
            let anyway = if room.overflows { half } else { useful };
            free = free.max(anyway.min(half.saturating_sub(others)));
        }
        let hosts = self.hosts.values().filter(|host| host.wanting > 0).count().max(1) as u64;
        let neighbours = self.hosts.get(&request.address).map_or(1, |host| host.wanting.max(1));
        let smallest_share = half / hosts / (self.wanting + 1 - hosts.min(self.wanting)).max(1);
        let bound = if smallest_share >= useful {
            self.end_turn(request.client);
            self.waiting.retain(|&waiting| waiting != request.client);
            half / hosts / neighbours
        } else if self.has_turn(now, request, free / useful, half / useful / hosts) {
            useful
        } else {
            return 0;
        };
        let window = free.min(bound);
        if window >= request.next_cost.max(1) {
            window
        } else if others == 0 && (room.queue == 0 || room.queue + request.next_cost <= usable(room)) {
            // Larger than half the buffer, but no other client has anything under way.
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
        let hosts = self.hosts.values().filter(|host| host.wanting > 0).count() as u64;
        let share = room.buffer / 2 / (hosts + 1);
        client.newest().min(share).min(self.free(now, request.client, room))
    }

    /// Whether it is this client's turn. `free` turns can begin, an address may have `each` at a time.
    fn has_turn(&mut self, now: Time, request: &Request, free: u64, each: u64) -> bool {
        let id = request.client;
        let others_wait = self.waiting.iter().any(|&waiting| waiting != id);
        if let Some(began) = self.clients.get(&id).and_then(|client| client.turn) {
            if now.since(began) < TURN || !others_wait {
                return true;
            }
            self.end_turn(id);
        }
        if !self.waiting.contains(&id) {
            self.waiting.push_back(id);
        }
        let each = each.max(1);
        let places = |address: &IpAddr| each.saturating_sub(self.hosts.get(address).map_or(0, |host| host.turns));
        // Those before it that are about to ask come first; one that asks later must not keep a turn unused.
        let before = self.waiting.iter().take_while(|&&waiting| waiting != id);
        let about = before.filter_map(|waiting| self.clients.get(waiting)).filter(|client| client.due <= now + ABOUT);
        let ahead = about.filter(|client| places(&client.address) > 0);
        let (all, neighbours) = ahead.fold((0, 0), |(all, neighbours), client| {
            (all + 1, neighbours + u64::from(client.address == request.address))
        });
        if all >= free || neighbours >= places(&request.address) {
            return false;
        }
        self.begin_turn(now, id);
        true
    }

    /// When it is worth asking again: somewhat before those ahead have had their turns.
    fn patience(&self, now: Time, client: ClientId, room: Room) -> Duration {
        let turns = (room.buffer / 2 / self.useful(room)).max(1);
        let rank = self.waiting.iter().position(|&waiting| waiting == client);
        let span = if let Some(rank) = rank {
            TURN.mul_f64(rank as f64 / turns as f64)
        } else {
            let grants = self.clients.values().flat_map(|client| &client.grants);
            let expiries = grants.map(|(_, expires)| *expires).filter(|&expires| expires > now);
            expiries.min().map_or(Duration::ZERO, |expires| expires.since(now))
        };
        span.clamp(ASK_AGAIN_MIN, ASK_AGAIN_MAX)
    }

    /// The least window that is worth granting.
    fn useful(&self, room: Room) -> u64 {
        let share = SHARE_DATAGRAMS_MIN * u64::from(buffer_cost(0));
        share.max(self.largest_cost).min(room.buffer / 2).max(1)
    }

    /// What may be granted to this client: see the head of this file.
    fn free(&self, now: Time, id: ClientId, room: Room) -> u64 {
        // What an expired grant has on its way counts until its client says that it is read.
        let others: u64 =
            self.clients.iter().filter(|(other, _)| **other != id).map(|(_, client)| client.under_way(now)).sum();
        let room_left = usable(room).saturating_sub(self.foreign(now, room) + others);
        room_left.min((room.buffer / 2).saturating_sub(self.booked_by_others(now, id)))
    }

    /// What lies in the queue and no client has sent.
    fn foreign(&self, now: Time, room: Room) -> u64 {
        room.queue.saturating_sub(self.under_way(now))
    }

    /// More than half the buffer is taken by what no client has sent.
    fn is_filled_by_others(&self, now: Time, room: Room) -> bool {
        self.foreign(now, room) > room.buffer / 2
    }

    /// What clients may have under way, granted or reported.
    fn under_way(&self, now: Time) -> u64 {
        self.clients.values().map(|client| client.under_way(now)).sum()
    }

    fn booked_by_others(&self, now: Time, client: ClientId) -> u64 {
        self.booked(now) - self.clients.get(&client).map_or(0, |client| client.booked(now))
    }

    /// Clients that have something to send or under way.
    pub fn active(&self, now: Time) -> usize {
        self.clients.values().filter(|client| client.wants || client.under_way(now) > 0).count()
    }

    fn deflated(&self, room: Room) -> Room {
        let shrink = |bytes: u64| (bytes as f64 / self.inflation) as u64;
        Room { buffer: shrink(room.buffer), queue: shrink(room.queue), ..room }
    }

    /// Forgets who is silent: it must not keep others waiting.
    fn sweep(&mut self, now: Time) {
        if now.since(self.swept) < SWEEP_GAP {
            return;
        }
        self.swept = now;
        let silent = |client: &Client| {
            let span = now.since(client.asked.max(client.due));
            span >= WAIT_FORGOTTEN || (client.turn.is_some() && span >= TURN && client.booked(now) == 0)
        };
        let gone: Vec<ClientId> = self.clients.iter().filter(|(_, client)| silent(client)).map(|(id, _)| *id).collect();
        for id in gone {
            self.set_wants(id, false);
        }
        let forgotten =
            |client: &Client| !client.wants && client.booked(now) == 0 && now.since(client.asked) >= WAIT_FORGOTTEN;
        self.clients.retain(|_, client| !forgotten(client));
        self.hosts.retain(|_, host| host.wanting > 0 || host.turns > 0);
        self.largest_cost =
            self.clients.values().filter(|client| client.wants).map(|client| client.next_cost).max().unwrap_or(0);
    }
}

const fn usable(room: Room) -> u64 {
    room.buffer * USABLE_PERCENT / 100
}

#[cfg(test)]
mod tests;
