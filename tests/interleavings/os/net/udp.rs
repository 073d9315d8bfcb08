//! Datagrams, without a network between the sockets.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use ossec_broker::os::net::udp::Received;
pub(crate) use ossec_broker::os::net::udp::SendError;
use shuttle::rand::Rng;

use crate::poll::{Poll, Registry, Token};
use crate::system::System;
use crate::world::{World, percent, thread_rng};

/// Datagrams read at once: few, so that a batch is full at times.
const SLOTS: usize = 2;

#[derive(Clone, Debug)]
pub(crate) struct UdpSocket(Arc<Mutex<Inside>>);

#[derive(Debug)]
pub(crate) struct Inside {
    address: SocketAddr,
    queue: VecDeque<(SocketAddr, Vec<u8>)>,
    /// Reports of refused datagrams.
    refusals: usize,
    /// The system refused to watch the socket last time, and the thread that tried knows of that.
    unwatchable: bool,
    watcher: Option<(Registry, Token)>,
}

impl UdpSocket {
    pub(crate) fn new(address: SocketAddr) -> Self {
        let inside = Inside { address, queue: VecDeque::new(), refusals: 0, unwatchable: false, watcher: None };
        Self(Arc::new(Mutex::new(inside)))
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().expect("nobody panics with it")
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.inside().address)
    }

    pub(crate) fn downgrade(&self) -> Weak<Mutex<Inside>> {
        Arc::downgrade(&self.0)
    }

    pub(crate) fn upgrade(weak: &Weak<Mutex<Inside>>) -> Option<Self> {
        weak.upgrade().map(Self)
    }

    /// Whether both are the same socket.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Something unread lies in the socket, and a thread could be told.
    pub(crate) fn is_overlooked(&self) -> bool {
        self.is_unread() && !self.inside().unwatchable
    }

    /// Something unread lies in the socket.
    pub(crate) fn unread(&self) -> u64 {
        self.inside().queue.len() as u64
    }

    pub(crate) fn is_unread(&self) -> bool {
        let inside = self.inside();
        !inside.queue.is_empty() || inside.refusals > 0
    }

    pub(crate) fn deliver(&self, from: SocketAddr, bytes: &[u8]) {
        self.inside().queue.push_back((from, bytes.to_vec()));
        self.tell();
    }

    fn refuse(&self) {
        self.inside().refusals += 1;
        self.tell();
    }

    fn tell(&self) {
        let watcher = self.inside().watcher.clone();
        if let Some((registry, token)) = watcher {
            registry.tell(token);
        }
    }
}

pub(crate) fn discard(socket: &UdpSocket) {
    World::here().step();
    socket.inside().queue.clear();
}

pub(crate) fn watch(poll: &Poll, socket: &UdpSocket, token: Token) -> io::Result<()> {
    World::here().step();
    // The agents' socket is watched at the start, when a failure is fatal.
    if System::here().is_upstream(socket) && System::here().may_fail() {
        socket.inside().unwatchable = true;
        return Err(io::ErrorKind::StorageFull.into());
    }
    socket.inside().unwatchable = false;
    socket.inside().watcher = Some((poll.registry().clone(), token));
    if socket.is_unread() {
        socket.tell();
    }
    Ok(())
}

pub(crate) fn unwatch(_: &Poll, socket: &UdpSocket) -> io::Result<()> {
    World::here().step();
    socket.inside().watcher = None;
    Ok(())
}

/// Room for a batch.
#[derive(Debug, Default)]
pub(crate) struct Inbox(Vec<(SocketAddr, Vec<u8>)>);

impl Inbox {
    pub(crate) fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        World::here().step();
        let mut inside = socket.inside();
        let count = inside.queue.len().min(SLOTS);
        self.0 = inside.queue.drain(..count).collect();
        Ok(count)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.0.len() == SLOTS
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Received<'_>> {
        self.0.iter().map(|(from, bytes)| Received { from: *from, local: None, bytes })
    }
}

/// Sends to remoted. At times there is no room for all datagrams, or the network reports that one was refused. All
/// datagrams arrive, so the refusing host is not remoted's.
pub(crate) fn send_batch(socket: &UdpSocket, to: SocketAddr, payloads: &[&[u8]]) -> (usize, Result<(), SendError>) {
    let (world, system) = (World::here(), System::here());
    world.step();
    let room = if system.may_fail() { thread_rng().gen_range(0..payloads.len()) } else { payloads.len() };
    for payload in &payloads[..room] {
        system.arrive(payload);
        if system.may_fail() {
            socket.refuse();
        }
        if percent(30) {
            socket.deliver(to, payload);
        }
    }
    (room, if room == payloads.len() { Ok(()) } else { Err(SendError::Busy) })
}

/// No datagram here is too large.
pub(crate) fn send_run(socket: &UdpSocket, to: SocketAddr, payloads: &[&[u8]]) -> (usize, Result<(), SendError>) {
    send_batch(socket, to, payloads)
}

/// Sends to an agent.
pub(crate) fn send_from(_: &UdpSocket, _: Option<IpAddr>, _: SocketAddr, _: &[u8]) -> Result<(), SendError> {
    World::here().step();
    Ok(())
}

pub(crate) fn take_refusal(socket: &UdpSocket) -> Option<io::Error> {
    World::here().step();
    let mut inside = socket.inside();
    inside.refusals = inside.refusals.checked_sub(1)?;
    Some(io::ErrorKind::ConnectionRefused.into())
}

pub(crate) const fn kernel_drops(_: &UdpSocket) -> Option<u32> {
    None
}
