//! remoted and its socket, as `docs` and measurements describe them.

use std::collections::VecDeque;
use std::time::Duration;

use ossec_broker::verdict::{Owner, Presence, Sample, Socket};
use ossec_broker::wire::buffer_cost;

use crate::plan::MS;

/// The kernel's default receive buffer.
pub(crate) const BUFFER: u64 = 212_992;

/// A datagram of an agent: whose, its counter, its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Datagram {
    pub(crate) agent: usize,
    pub(crate) counter: u64,
    pub(crate) length: usize,
}

impl Datagram {
    /// Written into its payload, as far as there is room.
    pub(crate) fn payload(&self) -> Vec<u8> {
        let mut payload = vec![0; self.length];
        payload[..8].copy_from_slice(&self.counter.to_be_bytes());
        payload[8..16].copy_from_slice(&(self.agent as u64).to_be_bytes());
        payload
    }

    /// Read from its payload.
    pub(crate) fn of(payload: &[u8]) -> Self {
        let number = |from: usize| u64::from_be_bytes(payload[from..from + 8].try_into().expect("eight bytes"));
        Self { agent: number(8) as usize, counter: number(0), length: payload.len() }
    }

    pub(crate) fn cost(&self) -> u64 {
        u64::from(buffer_cost(self.length))
    }
}

/// What became of a datagram that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    Accepted,
    /// Its counter is not above the last one.
    Refused,
}

/// remoted, its socket included.
#[derive(Debug)]
pub(crate) struct Remoted {
    pub(crate) alive: bool,
    pub(crate) stopped: bool,
    pub(crate) stalled: bool,
    pub(crate) queue: VecDeque<Datagram>,
    queued: u64,
    /// What the kernel still counts of what was read: it frees in lots.
    deferred: u64,
    pub(crate) drops: u32,
    life: u64,
    born: u64,
    counters: Vec<u64>,
}

impl Remoted {
    pub(crate) fn new(agents: usize) -> Self {
        Self {
            alive: true,
            stopped: false,
            stalled: false,
            queue: VecDeque::new(),
            queued: 0,
            deferred: 0,
            drops: 0,
            life: 1,
            born: 0,
            counters: vec![0; agents],
        }
    }

    pub(crate) const fn reads(&self) -> bool {
        self.alive && !self.stopped && !self.stalled
    }

    /// Whether the socket takes it.
    pub(crate) fn arrive(&mut self, datagram: Datagram) -> bool {
        // The kernel compares what is there before the newcomer.
        if self.queued + self.deferred > BUFFER {
            self.drops += 1;
            return false;
        }
        self.queued += datagram.cost();
        self.queue.push_back(datagram);
        true
    }

    pub(crate) fn read(&mut self) -> Option<(Datagram, Reading)> {
        let datagram = self.queue.pop_front()?;
        self.queued -= datagram.cost();
        self.deferred += datagram.cost();
        if self.deferred >= BUFFER / 4 || self.queue.is_empty() {
            self.deferred = 0;
        }
        let last = &mut self.counters[datagram.agent];
        if datagram.counter > *last {
            *last = datagram.counter;
            Some((datagram, Reading::Accepted))
        } else {
            Some((datagram, Reading::Refused))
        }
    }

    /// Killed: what lay in the socket is gone, and the counters are forgotten.
    pub(crate) fn kill(&mut self) {
        self.alive = false;
        self.stopped = false;
        self.queue.clear();
        (self.queued, self.deferred, self.drops) = (0, 0, 0);
        self.counters.fill(0);
    }

    pub(crate) const fn start(&mut self, now: u64) {
        self.alive = true;
        self.life += 1;
        self.born = now;
    }

    pub(crate) fn sample(&self, now: u64) -> Sample {
        let presence = match (self.alive, self.stopped) {
            (false, _) => Presence::NoProcess,
            (true, true) => Presence::Stopped,
            (true, false) => Presence::Running,
        };
        if !self.alive {
            return Sample {
                presence,
                sockets: vec![],
                owners: vec![],
                age: None,
                companion: None,
                missing: None,
                places: None,
            };
        }
        let socket = Socket { inode: self.life, rx_queue: self.queued, drops: self.drops, buffer: Some(BUFFER) };
        let age = if self.life == 1 { Duration::from_hours(1) } else { Duration::from_nanos(now - self.born) };
        let owners = vec![Owner { pid: 100 + self.life as u32, start_ticks: self.born / (10 * MS) }];
        Sample { presence, sockets: vec![socket], owners, age: Some(age), companion: None, missing: None, places: None }
    }
}
