//! An agent: sends numbered datagrams to the client in bursts, and takes its replies.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::gauge::Gauge;
use crate::random::Random;
use crate::wait::{pause_for, wait_until};

/// Datagrams sent in a row. All agents together stay far below what an unprivileged socket's buffer holds, some 256
/// small ones.
const BURST_MAX: u64 = 10;
/// The pause between two bursts, in milliseconds.
const PAUSE_MS: (u64, u64) = (5, 60);
/// Of a thousand bursts, so many come from a new source port: agents take one at each reconnect.
const RECONNECTS_PER_MILLE: u64 = 60;

/// All agents together send at least four times as much: more than a window of half the receiver's buffer, some 128
/// small datagrams, and a batch of 64.
const SENT_MIN: u64 = 100;

#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) name: String,
    pub(crate) sent: u64,
    /// The `!id!` of a key that is bound to no address, or nothing.
    prefix: String,
    address: Ipv4Addr,
    client: SocketAddr,
    socket: UdpSocket,
    gauge: Gauge,
    random: Random,
}

impl Agent {
    pub(crate) fn new(name: String, prefix: String, address: Ipv4Addr, client: SocketAddr, seed: u64) -> Self {
        let (socket, gauge) = (connect(address, client), Gauge::new(client.port()));
        Self { name, sent: 0, prefix, address, client, socket, gauge, random: Random::new(seed) }
    }

    /// Sends a burst once the client has taken in the datagrams before it. Datagrams that the client's socket cannot
    /// hold would be lost without the client's doing.
    pub(crate) fn send(&mut self) {
        if self.random.per_mille(RECONNECTS_PER_MILLE) {
            self.socket = connect(self.address, self.client);
        }
        wait_until("the client has taken in what was sent", || match self.gauge.look() {
            Some(socket) if socket.rx_queue == 0 => Ok(()),
            state => Err(format!("its socket: {state:?}")),
        });
        for _ in 0..self.random.range(1, BURST_MAX + 1) {
            self.sent += 1;
            let filling = self.random.pick(&[20, 90, 90, 90, 300, 700]);
            let text = format!("{}{} {} {:>filling$}", self.prefix, self.name, self.sent, "");
            self.socket.send(text.as_bytes()).expect("the client listens");
        }
        self.take_replies();
    }

    /// Sends burst after burst until it is `over`.
    pub(crate) fn send_until(&mut self, over: &AtomicBool) {
        let enough = self.sent + SENT_MIN;
        while !over.load(Ordering::Relaxed) || self.sent < enough {
            self.send();
            pause_for(Duration::from_millis(self.random.range(PAUSE_MS.0, PAUSE_MS.1)));
        }
    }

    /// Takes the replies that have come back, which must be for this agent. Returns how many.
    pub(crate) fn take_replies(&self) -> usize {
        let mut bytes = [0; 64];
        let mut count = 0;
        while let Ok(length) = self.socket.recv(&mut bytes) {
            assert_eq!(std::str::from_utf8(&bytes[..length]), Ok(self.name.as_str()), "a reply to another agent");
            count += 1;
        }
        count
    }
}

fn connect(address: Ipv4Addr, client: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((address, 0)).expect("loopback has that address");
    socket.connect(client).expect("connected");
    socket.set_nonblocking(true).expect("it does not block");
    socket
}
