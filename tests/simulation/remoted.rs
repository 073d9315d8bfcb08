//! remoted and its socket, as `docs` and measurements describe them.

use std::collections::VecDeque;
use std::time::Duration;

use ossec_broker::proto::cost::buffer_cost;
use ossec_broker::proto::server::judge::{self, Bindings, Presence, Process, Sample};

use crate::plan::MS;

/// The kernel's default receive buffer.
pub(crate) const BUFFER: u64 = 212_992;
/// The most sockets of one remoted here. The numbers of their inodes depend on it.
const SOCKETS_MAX: u64 = 16;

/// A datagram of an agent: the agent, the counter, the length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Datagram {
    pub(crate) agent: usize,
    pub(crate) counter: u64,
    pub(crate) length: usize,
}

impl Datagram {
    /// The payload, with these values written into it as far as there is room.
    pub(crate) fn payload(&self) -> Vec<u8> {
        let mut payload = vec![0; self.length];
        payload[..8].copy_from_slice(&self.counter.to_be_bytes());
        payload[8..16].copy_from_slice(&(self.agent as u64).to_be_bytes());
        payload
    }

    /// The datagram whose values this payload has.
    pub(crate) fn of(payload: &[u8]) -> Self {
        let number = |from: usize| u64::from_be_bytes(payload[from..from + 8].try_into().expect("eight bytes"));
        Self { agent: number(8) as usize, counter: number(0), length: payload.len() }
    }

    pub(crate) fn cost(&self) -> u64 {
        buffer_cost(self.length)
    }
}

/// The fate of a datagram that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    Accepted,
    /// Its counter is not above the last one.
    Refused,
}

/// One of remoted's sockets.
#[derive(Debug, Default)]
struct Socket {
    /// The waiting datagrams, each with the number of its transmission.
    queue: VecDeque<(Datagram, u64)>,
    queued: u64,
    /// The part of read datagrams that the kernel still counts: it frees in lots.
    deferred: u64,
    drops: u32,
    /// Nobody reads this socket.
    stalled: bool,
}

/// remoted, its sockets included: one, or one for each address family.
#[derive(Debug)]
pub(crate) struct Remoted {
    pub(crate) alive: bool,
    pub(crate) stopped: bool,
    pub(crate) stalled: bool,
    sockets: Vec<Socket>,
    life: u64,
    born: u64,
    counters: Vec<u64>,
    /// The addresses at which remoted receives.
    bindings: Bindings,
}

impl Remoted {
    pub(crate) fn new(agents: usize, sockets: usize, bindings: Bindings) -> Self {
        Self {
            alive: true,
            stopped: false,
            stalled: false,
            sockets: (0..sockets).map(|_| Socket::default()).collect(),
            life: 1,
            born: 0,
            counters: vec![0; agents],
            bindings,
        }
    }

    pub(crate) const fn sockets(&self) -> usize {
        self.sockets.len()
    }

    /// Stops or goes on reading one of the sockets.
    pub(crate) fn stall(&mut self, socket: usize, stalled: bool) {
        self.sockets[socket].stalled = stalled;
    }

    /// Whether something waits in this socket and is about to be read.
    pub(crate) fn reads(&self, socket: usize) -> bool {
        let socket = &self.sockets[socket];
        self.alive && !self.stopped && !self.stalled && !socket.stalled && !socket.queue.is_empty()
    }

    /// All datagrams that wait in remoted's sockets.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = Datagram> {
        self.sockets.iter().flat_map(|socket| &socket.queue).map(|(datagram, _)| *datagram)
    }

    /// Puts a datagram into the socket. Returns whether the socket takes it.
    pub(crate) fn arrive(&mut self, socket: usize, datagram: Datagram, sent: u64) -> bool {
        let socket = &mut self.sockets[socket];
        // The kernel compares what is there before the newcomer.
        if socket.queued + socket.deferred > BUFFER {
            socket.drops += 1;
            return false;
        }
        socket.queued += datagram.cost();
        socket.queue.push_back((datagram, sent));
        true
    }

    /// Reads the next datagram of a socket. Returns the datagram, the number of its transmission, and its fate.
    pub(crate) fn read(&mut self, socket: usize) -> Option<(Datagram, u64, Reading)> {
        let socket = &mut self.sockets[socket];
        let (datagram, sent) = socket.queue.pop_front()?;
        socket.queued -= datagram.cost();
        socket.deferred += datagram.cost();
        if socket.deferred >= BUFFER / 4 || socket.queue.is_empty() {
            socket.deferred = 0;
        }
        let last = &mut self.counters[datagram.agent];
        if datagram.counter > *last {
            *last = datagram.counter;
            Some((datagram, sent, Reading::Accepted))
        } else {
            Some((datagram, sent, Reading::Refused))
        }
    }

    /// Kills remoted: the datagrams in the sockets are gone, and the counters are forgotten.
    pub(crate) fn kill(&mut self) {
        self.alive = false;
        self.stopped = false;
        for socket in &mut self.sockets {
            *socket = Socket { stalled: socket.stalled, ..Socket::default() };
        }
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
                bindings: Some(self.bindings.clone()),
            };
        }
        let sockets = self.sockets.iter().enumerate();
        let sockets = sockets.map(|(at, socket)| judge::Socket {
            inode: self.life * SOCKETS_MAX + at as u64,
            rx_queue: socket.queued,
            drops: socket.drops,
            buffer: Some(BUFFER),
        });
        let age = if self.life == 1 { Duration::from_hours(1) } else { Duration::from_nanos(now - self.born) };
        let owners = vec![Process { pid: 100 + self.life as u32, start_ticks: self.born / (10 * MS) }];
        Sample {
            presence,
            sockets: sockets.collect(),
            owners,
            age: Some(age),
            companion: None,
            missing: None,
            bindings: Some(self.bindings.clone()),
        }
    }
}
