//! Connections that carry whole frames.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

pub(crate) use ossec_broker::os::net::framed::{Broken, Filled};
use ossec_broker::proto::client::segments::Sent;
use ossec_broker::proto::seal::Key;
use ossec_broker::proto::wire::{Assembler, Frame, WireError};

use crate::poll::{Registry, Token};
use crate::world::World;

/// Frames that a connection takes before it counts as full.
const FRAMES_MAX: usize = 2;

/// Either end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct TcpStream(Arc<Mutex<Inside>>);

#[derive(Debug)]
struct Inside {
    address: SocketAddr,
    stage: Stage,
    to_server: VecDeque<Frame>,
    to_client: VecDeque<Frame>,
    watcher: Option<(Registry, Token)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Connecting,
    Connected,
    ClosedByServer,
    ClosedByClient,
}

impl TcpStream {
    pub(crate) fn new(address: SocketAddr) -> Self {
        let (to_server, to_client) = (VecDeque::new(), VecDeque::new());
        let inside = Inside { address, stage: Stage::Connecting, to_server, to_client, watcher: None };
        Self(Arc::new(Mutex::new(inside)))
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().expect("nobody panics with it")
    }

    pub(crate) const fn take_error(&self) -> io::Result<Option<io::Error>> {
        Ok(None)
    }

    pub(crate) fn peer_addr(&self) -> io::Result<SocketAddr> {
        let inside = self.inside();
        if inside.stage == Stage::Connecting { Err(io::ErrorKind::NotConnected.into()) } else { Ok(inside.address) }
    }

    pub(crate) fn watch(&self, registry: &Registry, token: Token) {
        let connecting = {
            let mut inside = self.inside();
            inside.watcher = Some((registry.clone(), token));
            inside.stage == Stage::Connecting
        };
        if !connecting {
            self.tell();
        }
    }

    fn tell(&self) {
        let watcher = self.inside().watcher.clone();
        if let Some((registry, token)) = watcher {
            registry.tell(token);
        }
    }

    // The server's end.

    pub(crate) fn is_gone(&self) -> bool {
        matches!(self.inside().stage, Stage::ClosedByClient | Stage::ClosedByServer)
    }

    /// The server has something to do at this connection.
    pub(crate) fn calls(&self) -> bool {
        let inside = self.inside();
        inside.stage == Stage::Connecting || (inside.stage == Stage::Connected && !inside.to_server.is_empty())
    }

    pub(crate) fn accept(&self) {
        let fresh = {
            let mut inside = self.inside();
            let fresh = inside.stage == Stage::Connecting;
            if fresh {
                inside.stage = Stage::Connected;
            }
            fresh
        };
        if fresh {
            self.tell();
        }
    }

    pub(crate) fn ask(&self) -> Option<Frame> {
        let was_full = self.is_full();
        let frame = {
            let mut inside = self.inside();
            if inside.stage == Stage::ClosedByServer { None } else { inside.to_server.pop_front() }
        };
        if was_full && !self.is_full() {
            self.tell();
        }
        frame
    }

    /// The client of this connection should not add datagrams.
    pub(crate) fn is_full(&self) -> bool {
        self.inside().to_server.len() >= FRAMES_MAX
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(crate) fn answer(&self, frame: Frame) {
        self.inside().to_client.push_back(frame);
        self.tell();
    }

    pub(crate) fn close(&self) {
        self.inside().stage = Stage::ClosedByServer;
        self.tell();
    }
}

/// The client's end.
#[derive(Debug)]
pub(crate) struct Framed(TcpStream);

impl Framed {
    pub(crate) const fn client(stream: TcpStream, _: Option<&Key>) -> Self {
        Self(stream)
    }

    /// The server stands on the client's host.
    #[expect(clippy::unused_self, reason = "the real one does")]
    pub(crate) const fn is_trusted(&self, _: IpAddr) -> bool {
        true
    }

    pub(crate) fn watch(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        World::here().step();
        self.0.watch(registry, token);
        Ok(())
    }

    pub(crate) const fn stream(&self) -> &TcpStream {
        &self.0
    }

    pub(crate) const fn flush(&mut self) -> Result<(), Broken> {
        Ok(())
    }

    pub(crate) fn fill(&mut self) -> Result<Filled, Broken> {
        World::here().step();
        Ok(if self.0.inside().stage == Stage::ClosedByServer { Filled::Ended } else { Filled::Dry })
    }

    pub(crate) fn next_frame(&mut self) -> Result<Option<Frame>, WireError> {
        Ok(self.0.inside().to_client.pop_front())
    }

    /// Only transport tcp asks for this.
    #[expect(clippy::unused_self, reason = "the real one does")]
    pub(crate) const fn acknowledged(&self) -> Option<Duration> {
        None
    }

    /// Only the system knows this.
    #[expect(clippy::unused_self, reason = "the real one does")]
    pub(crate) const fn sent(&self) -> Option<Sent> {
        None
    }

    pub(crate) fn is_congested(&self) -> bool {
        self.0.is_full()
    }

    pub(crate) fn send_bytes(&mut self, frames: &[u8]) -> Result<(), Broken> {
        let mut assembler = Assembler::default();
        assembler.push(frames);
        while let Some(frame) = assembler.next_frame()? {
            self.send(&frame)?;
        }
        Ok(())
    }

    pub(crate) fn send(&mut self, frame: &Frame) -> Result<(), Broken> {
        World::here().step();
        {
            let mut inside = self.0.inside();
            if inside.stage == Stage::ClosedByServer {
                return Err(Broken::Io(io::ErrorKind::BrokenPipe.into()));
            }
            inside.to_server.push_back(frame.clone());
        }
        World::here().notify();
        Ok(())
    }
}

impl Drop for Framed {
    fn drop(&mut self) {
        self.0.inside().stage = Stage::ClosedByClient;
        World::here().notify();
    }
}
