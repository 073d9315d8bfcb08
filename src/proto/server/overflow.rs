//! Drops on the way to remoted and at its socket: whether the way overflows at the moment. See [`DROPS_CALM`].

use super::judge::OnTheWay;
use crate::proto::terms::DROPS_CALM;
use crate::proto::time::Time;

/// The drop counters of remoted's socket and of the system before it.
#[derive(Debug, Default)]
pub(super) struct Overflow {
    drops: u64,
    /// The packets on their way to any socket at the last look at them.
    on_the_way: Option<OnTheWay>,
    /// When remoted's socket was last seen to have dropped something.
    socket: Option<Time>,
    /// When the system was last seen to have dropped something on the way to a socket.
    way: Option<Time>,
}

impl Overflow {
    /// Takes in the counters of a sample, and returns whether something was dropped since the last sample. A smaller
    /// counter belongs to another life, whose socket has dropped nothing.
    pub(super) fn handle_sample(&mut self, now: Time, drops: u64, on_the_way: Option<OnTheWay>) -> bool {
        let in_socket = drops > self.drops;
        let before = self.on_the_way.zip(on_the_way).is_some_and(|(before, now)| now.dropped > before.dropped);
        if drops < self.drops {
            (self.socket, self.way) = (None, None);
        }
        if in_socket {
            self.socket = Some(now);
        }
        if before {
            self.way = Some(now);
        }
        (self.drops, self.on_the_way) = (drops, on_the_way);
        in_socket || before
    }

    pub(super) fn is_in_socket(&self, now: Time) -> bool {
        self.socket.is_some_and(|at| now.since(at) < DROPS_CALM)
    }

    /// Something was dropped lately, in the socket or on the way to it.
    pub(super) fn is_anywhere(&self, now: Time) -> bool {
        self.is_in_socket(now) || self.way.is_some_and(|at| now.since(at) < DROPS_CALM)
    }

    /// The number of datagrams in the longest of the queues before a socket.
    pub(super) fn queued(&self) -> usize {
        self.on_the_way.map_or(0, |on_the_way| on_the_way.longest)
    }
}
