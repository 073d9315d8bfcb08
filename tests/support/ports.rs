//! Ports on loopback that nobody takes by chance.

use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

/// The ports are below the range from which the system gives out ports. So a port that is closed for a while is not
/// given to somebody else meanwhile.
const FIRST: u32 = 10_000;
const COUNT: u32 = 20_000;

/// A port that is free for UDP and TCP on 127.0.0.1; the `more` ports after it are free, too. No other call in this
/// process gets any of them.
pub(crate) fn free_port(more: u16) -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Test processes that run beside each other begin elsewhere.
    let begin = std::process::id() % COUNT * 61;
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(u32::from(more) + 1, Ordering::Relaxed);
        let port = (FIRST + begin.wrapping_add(step) % COUNT) as u16;
        if (port..=port + more).all(is_free) {
            return port;
        }
    }
    panic!("no free port from {FIRST} on");
}

fn is_free(port: u16) -> bool {
    UdpSocket::bind(("127.0.0.1", port)).is_ok() && TcpListener::bind(("127.0.0.1", port)).is_ok()
}
