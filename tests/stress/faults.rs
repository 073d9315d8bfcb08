//! The faults of a test, drawn from a seed: one sequence for the network and the broker server, another for the
//! receiver. They run beside each other, and all is well again at the end of both.

use std::time::Duration;

use crate::proxy::{Proxy, Way};
use crate::random::Random;
use crate::remoted::Remoted;
use crate::role::Role;
use crate::wait::pause_for;

/// Bound of the client's lease (`--timeout`). A receiver that is away for longer loses nothing, by the promise; a
/// shorter absence may.
pub(crate) const LEASE_MAX: Duration = Duration::from_millis(500);
/// A thread may have to wait for the processor for so long between the look at the lease and the sending.
const SLACK: Duration = Duration::from_millis(250);

/// A trouble of the network, or of the broker server.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    /// All connections end.
    Kill { abruptly: bool },
    /// One side of each connection is closed.
    HalfClose(Way),
    /// Nothing gets through this way.
    Stall(Way),
    /// Nothing gets through at all.
    StallBoth,
    /// Newcomers are turned away, and clients that are there lose their connections.
    Refuse,
    /// The broker server is stopped and started again.
    Restart,
}

const TROUBLES: [Trouble; 8] = [
    Trouble::Kill { abruptly: true },
    Trouble::Kill { abruptly: false },
    Trouble::HalfClose(Way::ToServer),
    Trouble::HalfClose(Way::ToClient),
    Trouble::Stall(Way::ToServer),
    Trouble::Stall(Way::ToClient),
    Trouble::StallBoth,
    Trouble::Refuse,
];

/// A deck from which troubles are drawn without putting back, so that a round has some of each.
#[derive(Debug)]
pub(crate) struct Deck {
    left: Vec<Trouble>,
    random: Random,
}

impl Deck {
    pub(crate) fn new(seed: u64) -> Self {
        Self { left: Vec::new(), random: Random::new(seed) }
    }

    fn draw(&mut self) -> Trouble {
        if self.left.is_empty() {
            self.left = TROUBLES.to_vec();
            self.left.push(Trouble::Restart);
        }
        let at = self.random.range(0, self.left.len() as u64) as usize;
        self.left.swap_remove(at)
    }

    fn pause(&mut self, from_ms: u64, to_ms: u64) {
        pause_for(Duration::from_millis(self.random.range(from_ms, to_ms)));
    }

    /// Plays so many troubles. `server` is stopped and started by `restart`.
    pub(crate) fn play(&mut self, count: usize, proxy: &Proxy, mut server: Role, restart: impl Fn() -> Role) -> Role {
        for _ in 0..count {
            match self.draw() {
                Trouble::Kill { abruptly } => proxy.kill(abruptly),
                Trouble::HalfClose(way) => proxy.half_close(way),
                Trouble::Stall(way) => self.stall(proxy, &[way]),
                Trouble::StallBoth => self.stall(proxy, &[Way::ToServer, Way::ToClient]),
                Trouble::Refuse => {
                    proxy.refuse(true);
                    proxy.kill(false);
                    self.pause(100, 600);
                    proxy.refuse(false);
                }
                Trouble::Restart => {
                    server.stop();
                    self.pause(0, 400);
                    server = restart();
                }
            }
            self.pause(20, 500);
        }
        server
    }

    fn stall(&mut self, proxy: &Proxy, ways: &[Way]) {
        for &way in ways {
            proxy.stall(way, true);
        }
        // The pause is from a hiccup to far more than any lease and the patience of an attempt.
        self.pause(10, 1_300);
        for &way in ways {
            proxy.stall(way, false);
        }
    }
}

/// Has the receiver go away, or rest, so many times.
pub(crate) fn disturb(remoted: &Remoted, random: &mut Random, count: usize) {
    for _ in 0..count {
        if random.per_mille(600) {
            if random.per_mille(700) {
                // The socket is unread for a moment, so that something is lost with it.
                remoted.rest();
                pause_for(Duration::from_millis(random.range(20, 200)));
            }
            remoted.close();
            remoted.read();
            pause_for(LEASE_MAX + SLACK + Duration::from_millis(random.range(0, 500)));
            remoted.open();
        } else {
            remoted.rest();
            pause_for(Duration::from_millis(random.range(50, 900)));
            remoted.read();
        }
        pause_for(Duration::from_millis(random.range(200, 1_200)));
    }
}
