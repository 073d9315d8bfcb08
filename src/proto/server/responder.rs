//! What a heartbeat is answered: the judge's verdict and a window, from the newest sample.

#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::judge::{Judge, Sample};
use super::windows::usable;
use super::windows::{Grant, Request, Room, Windows};
use crate::proto::cost::buffer_cost;
use crate::proto::terms::{ConnectionId, DATAGRAM_BYTES_MAX, LEASE_MAX, Verdict};
use crate::proto::time::Time;
use crate::proto::wire::{Ping, Pong};

/// remoted's buffer where the system does not tell: the kernel's default.
const BUFFER_BYTES_DEFAULT: u64 = 212_992;
/// No client can have more under way: no receive buffer is larger.
const CLAIM_BYTES_MAX: u64 = 1 << 32;
/// How long remoted's socket counts as overflowing after a drop.
const OVERFLOW_CALM: Duration = Duration::from_secs(10);
/// While clients wait for remoted: how often to look without being asked, so that they are told soon.
const WATCH_GAP: Duration = Duration::from_millis(500);
/// The one that injects what came over transport tcp: one client among the others, which are numbered from 0.
const INJECTOR: ConnectionId = ConnectionId::MAX;
/// Nothing is under way between it and remoted's socket: a grant is used at once, or asked for anew.
const INJECTION_LEASE: Duration = Duration::from_millis(5);
/// While datagrams wait in remoted's socket: often enough that a socket which fills as fast as it is read is not taken for one that stands still.
const QUEUE_WATCH_GAP: Duration = Duration::from_millis(50);

/// [`Judge`] and [`Windows`] together.
#[derive(Debug)]
pub struct Responder {
    judge: Judge,
    windows: Windows,
    drops: u64,
    overflowed: Option<Time>,
}

impl Responder {
    /// One that has seen nothing. `settle`: how long remoted counts as starting.
    pub fn new(settle: Duration) -> Self {
        Self { judge: Judge::new(settle), windows: Windows::default(), drops: 0, overflowed: None }
    }

    /// What the newest sample led to.
    pub const fn judge(&self) -> &Judge {
        &self.judge
    }

    /// Takes in a sample.
    pub fn handle_sample(&mut self, now: Time, sample: &Sample) {
        self.judge.handle_sample(now, sample);
        match self.judge.drops().cmp(&self.drops) {
            Ordering::Greater => self.overflowed = Some(now),
            // Another life, whose socket has dropped nothing.
            Ordering::Less => self.overflowed = None,
            Ordering::Equal => {}
        }
        self.drops = self.judge.drops();
        if self.judge.verdict() == Verdict::Up {
            self.windows.handle_queue(now, self.judge.backlog(), self.overflows(now));
        }
    }

    /// A client's connection is gone.
    pub fn handle_gone(&mut self, client: ConnectionId) {
        self.windows.handle_gone(client);
    }

    /// Answers a client at this address from the newest sample. `destination`: where its datagrams arrive at the server's host, if that is known
    /// and matters. `gap`: least time between the beginnings of two heartbeats.
    pub fn handle_ping(
        &mut self,
        now: Time,
        client: ConnectionId,
        address: IpAddr,
        destination: Option<IpAddr>,
        ping: &Ping,
        gap: Duration,
    ) -> Pong {
        let verdict = self.judge.verdict_at(destination);
        let grant = if verdict == Verdict::Up {
            self.grant(now, request(client, address, ping), ping.unsent_cost())
        } else {
            Grant { window: 0, ask_again: Duration::ZERO }
        };
        let active = self.windows.active(now);
        let judge = &self.judge;
        Pong {
            number: ping.number,
            verdict,
            incarnation: judge.incarnation(),
            pid: judge.pid(),
            read: judge.read(),
            queue: judge.queue(),
            drops: judge.drops(),
            window: grant.window,
            gap_us: u32::try_from(gap.as_micros()).unwrap_or(u32::MAX),
            ask_again_ms: u32::try_from(grant.ask_again.as_millis()).unwrap_or(u32::MAX),
            active: u32::try_from(active).unwrap_or(u32::MAX),
        }
    }

    /// How much transport tcp may inject at this moment, in bytes of buffer cost: it shares remoted's buffer with the clients that send by
    /// themselves. `next` is the cost of the datagram whose turn it is, `need` of all that is to be injected now, `unread` of what was injected and not read.
    pub fn handle_injection(&mut self, now: Time, next: u64, need: u64, unread: u64) -> u64 {
        let request = Request {
            client: INJECTOR,
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            wants: true,
            next_cost: next,
            unconfirmed_cost: unread,
            lease: INJECTION_LEASE,
        };
        self.grant(now, request, need).window.saturating_sub(unread)
    }

    /// Transport tcp has nothing to inject: others need not share with it.
    pub fn handle_injected_all(&mut self) {
        self.windows.handle_gone(INJECTOR);
    }

    /// How long after the newest sample to look at remoted unasked, for the sake of the clients that are connected.
    pub fn watch_gap(&self) -> Option<Duration> {
        match self.judge.verdict() {
            Verdict::Up if self.judge.queue() == 0 => None,
            Verdict::Up | Verdict::Stalled => Some(QUEUE_WATCH_GAP),
            Verdict::NoProcess(_) | Verdict::NoSocket(_) | Verdict::Stopped | Verdict::Starting(_) => Some(WATCH_GAP),
        }
    }

    /// What surely fits into remoted's socket as the newest sample shows it, in bytes.
    pub fn room(&self) -> u64 {
        usable(self.buffer()).saturating_sub(self.judge.backlog())
    }

    fn buffer(&self) -> u64 {
        self.judge.buffer().unwrap_or(BUFFER_BYTES_DEFAULT)
    }

    fn grant(&mut self, now: Time, request: Request, need: u64) -> Grant {
        if self.judge.verdict() != Verdict::Up {
            return Grant { window: 0, ask_again: Duration::ZERO };
        }
        let room = Room {
            buffer: self.buffer(),
            queue: self.judge.backlog(),
            overflows: self.overflows(now),
            reads: self.judge.is_reading(now),
        };
        self.windows.handle_request_for(now, request, need.min(CLAIM_BYTES_MAX), room)
    }

    /// remoted's socket has dropped something not long ago.
    pub fn overflows(&self, now: Time) -> bool {
        self.overflowed.is_some_and(|at| now.since(at) < OVERFLOW_CALM)
    }
}

/// What a heartbeat asks for. What a client says of itself is believed within reason.
fn request(client: ConnectionId, address: IpAddr, ping: &Ping) -> Request {
    Request {
        client,
        address,
        wants: ping.unsent > 0,
        next_cost: u64::from(ping.next_cost.min(buffer_cost(DATAGRAM_BYTES_MAX))),
        unconfirmed_cost: ping.unconfirmed_cost.min(CLAIM_BYTES_MAX),
        lease: Duration::from_millis(u64::from(ping.lease_ms)).min(LEASE_MAX),
    }
}
