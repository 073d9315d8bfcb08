//! Whose turn it is, where equal shares would be too small to be useful.
//!
//! Turns are shared among addresses first, then among the clients at each. The longest waiting client is next. While
//! nobody waits, a client keeps its turn.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use super::ledger::Client;
use super::waiting::{Ticket, Waiter, Waiting};
use crate::proto::terms::LAG_MAX;
use crate::proto::time::Time;

/// How long a turn lasts while others wait. A client releases at its beginning, and again each time that a release is
/// confirmed. A confirmation takes somewhat more than [`LAG_MAX`], so a turn has three releases on most paths. Even
/// so, hundreds of waiting hosts wait for seconds.
pub(super) const TURN: Duration = Duration::from_millis(2 * LAG_MAX.as_millis() as u64 + 20);
/// No client is told to ask again later than this.
pub(super) const ASK_AGAIN_MAX: Duration = Duration::from_secs(1);
/// A client due to ask within this time counts as waiting.
const ABOUT: Duration = Duration::from_millis(10);

/// The clients that want a window: how many there are, and which of them wait for a turn.
#[derive(Debug, Default)]
pub(super) struct Turns {
    waiting: Waiting,
    hosts: HashMap<IpAddr, Host>,
    /// The clients that want something, and the addresses with such clients.
    wanting: u64,
    hosts_wanting: u64,
}

/// The clients at one address.
#[derive(Clone, Copy, Debug, Default)]
struct Host {
    wanting: u64,
    turns: u64,
}

/// The capacity that can be granted, in bytes of buffer cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// The half of the buffer that is shared.
    pub(super) half: u64,
    /// The free part of it.
    pub(super) free: u64,
    /// The smallest window that is worth granting.
    pub(super) useful: u64,
}

impl Turns {
    /// Equal shares of `half` would be smaller than `useful`.
    pub(super) fn are_needed(&self, half: u64, useful: u64) -> bool {
        let hosts = self.hosts_wanting.max(1);
        let most_at_one = (self.wanting + 1).saturating_sub(hosts).max(1);
        half / hosts / most_at_one < useful
    }

    /// An equal share of `half` for a client at this address.
    pub(super) fn share(&self, half: u64, address: &IpAddr) -> u64 {
        let neighbours = self.hosts.get(address).map_or(1, |host| host.wanting.max(1));
        half / self.hosts_wanting.max(1) / neighbours
    }

    /// Clients other than this one wait.
    pub(super) fn others_wait(&self, client: &Client) -> bool {
        self.waiting.has_others(client.ticket)
    }

    pub(super) fn handle_shown(&mut self, client: &Client) {
        if let Some(ticket) = client.ticket {
            self.waiting.handle_shown(ticket, client.shown);
        }
    }

    /// A client is told when to ask again.
    pub(super) fn handle_due(&mut self, client: &mut Client, due: Time) {
        client.due = due;
        if let Some(ticket) = client.ticket {
            self.waiting.handle_due(ticket, due);
        }
    }

    /// A client `wants` something, or has no turn and waits for none.
    pub(super) fn handle_wants(&mut self, client: &mut Client, wants: bool) {
        let host = self.hosts.entry(client.address).or_default();
        match (client.wants, wants) {
            (false, true) => {
                self.hosts_wanting += u64::from(host.wanting == 0);
                host.wanting += 1;
                self.wanting += 1;
            }
            (true, false) => {
                host.wanting -= 1;
                self.wanting -= 1;
                self.hosts_wanting -= u64::from(host.wanting == 0);
            }
            (false, false) | (true, true) => {}
        }
        if !wants {
            self.end(client);
            self.leave(client);
        }
    }

    /// The client's turn is over, if it had one.
    pub(super) fn end(&mut self, client: &mut Client) {
        if client.turn.take().is_some()
            && let Some(host) = self.hosts.get_mut(&client.address)
        {
            host.turns -= 1;
        }
    }

    /// The client waits, at the end of the queue unless it has a place.
    pub(super) fn join(&mut self, client: &mut Client) -> Ticket {
        let waiter = Waiter { address: client.address, shown: client.shown, due: client.due };
        *client.ticket.get_or_insert_with(|| self.waiting.join(waiter))
    }

    pub(super) fn leave(&mut self, client: &mut Client) {
        if let Some(ticket) = client.ticket.take() {
            self.waiting.leave(ticket);
        }
    }

    /// Whether it is this client's turn. If not, it waits.
    pub(super) fn take(&mut self, now: Time, client: &mut Client, room: Room) -> bool {
        if let Some(began) = client.turn {
            if now.since(began) < TURN || !self.others_wait(client) {
                return true;
            }
            self.end(client);
        }
        let ticket = self.join(client);
        let each = (room.half / room.useful / self.hosts_wanting.max(1)).max(1);
        let turns_left = |address: &IpAddr| each.saturating_sub(self.hosts.get(address).map_or(0, |host| host.turns));
        // Earlier clients that are about to ask come first. A client that asks later must not keep a turn unused.
        let (mut taken, mut neighbours) = (client.shown.min(room.useful), 0);
        let ahead = self.waiting.ahead_and_due(ticket, now + ABOUT);
        for waiter in ahead.filter(|waiter| turns_left(&waiter.address) > 0) {
            if taken > room.free {
                break;
            }
            taken += waiter.shown.min(room.useful);
            neighbours += u64::from(waiter.address == client.address);
        }
        if taken > room.free || neighbours >= turns_left(&client.address) {
            return false;
        }
        self.leave(client);
        client.turn = Some(now);
        self.hosts.entry(client.address).or_default().turns += 1;
        true
    }

    /// How long a waiting client has until somewhat before its turn; `None` if it waits for no turn. Addresses take
    /// turns too: of the clients ahead at another address, as many count as at this client's address, plus one.
    pub(super) fn patience(&self, client: &Client, half: u64, useful: u64) -> Option<Duration> {
        let ticket = client.ticket.filter(|_| self.are_needed(half, useful))?;
        let most = half.max(1).saturating_mul(ASK_AGAIN_MAX.div_duration_f64(TURN) as u64 + 1);
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
        Some(TURN.mul_f64(ahead as f64 / half.max(1) as f64))
    }

    /// Forgets addresses without a client of interest.
    pub(super) fn sweep(&mut self) {
        self.hosts.retain(|_, host| host.wanting > 0 || host.turns > 0);
    }
    /// Checks what the counts and the queue say against what all clients say.
    #[cfg(test)]
    pub(super) fn check_books(&self, clients: &[&Client]) {
        let wanting = |client: &&&Client| client.wants;
        assert_eq!(self.wanting, clients.iter().filter(wanting).count() as u64);
        assert_eq!(self.hosts_wanting, self.hosts.values().filter(|host| host.wanting > 0).count() as u64);
        for (address, host) in &self.hosts {
            let there = || clients.iter().filter(|client| client.address == *address);
            assert_eq!(host.wanting, there().filter(wanting).count() as u64, "at {address}");
            assert_eq!(host.turns, there().filter(|client| client.turn.is_some()).count() as u64, "at {address}");
        }
        let tickets = clients.iter().filter_map(|client| client.ticket).collect();
        assert_eq!(self.waiting.tickets(), tickets, "who waits");
        assert!(clients.iter().all(|client| client.ticket.is_none() || (client.wants && client.turn.is_none())));
    }
}
