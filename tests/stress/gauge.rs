//! The datagrams that wait in a UDP socket of this host, and the datagrams dropped there, seen with the broker's eyes.

use ossec_broker::os::remoted::{Found, Inspector, Names, Searcher, Wanted};
use ossec_broker::proto::server::judge::Socket;

/// Looks at the socket that is bound to one port.
#[derive(Debug)]
pub(crate) struct Gauge {
    wanted: Wanted,
    inspector: Inspector,
    found: Found,
}

impl Gauge {
    pub(crate) fn new(port: u16) -> Self {
        let wanted = Wanted { port, addresses: Vec::new(), names: Names::Any, required: Vec::new() };
        Self { inspector: Inspector::new(wanted.clone()), wanted, found: Found::default() }
    }

    /// The present state of the socket; `None` while nobody is bound.
    pub(crate) fn look(&mut self) -> Option<Socket> {
        if !self.found.qualifies() || self.inspector.sample(&self.found).sockets.is_empty() {
            self.found = Searcher::new(self.wanted.clone()).search();
        }
        self.inspector.sample(&self.found).sockets.first().copied()
    }

    /// Datagrams that were dropped because the socket's buffer was full.
    pub(crate) fn drops(&mut self) -> u32 {
        self.look().map_or(0, |socket| socket.drops)
    }
}
