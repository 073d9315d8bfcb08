//! The core behind its lock, and the bells that ring when it has work for another thread.

use std::sync::atomic::AtomicBool;

use crossbeam_channel::{Receiver, Sender, bounded};
use mio::net::UdpSocket;
use parking_lot::Mutex;

use crate::os::{net::udp::send_from, threads::Doorbell};
use crate::proto::client::{ClientCore, Origin};
use crate::proto::time::Time;

#[derive(Debug)]
pub(super) struct Shared {
    core: Mutex<ClientCore>,
    forward: Sender<()>,
    probe: Doorbell,
    spool: Sender<()>,
    drained: Sender<()>,
    /// The socket that agents send to, and get their replies from.
    pub(super) agents: UdpSocket,
    /// Nothing is read from the agents' socket for a moment. A reader has the lock until the core has the datagrams:
    /// whoever sets this knows that no datagram is on its way.
    pub(super) is_paused: Mutex<bool>,
    /// The agents' socket outlives this process: whatever lies in it is the next one's.
    pub(super) keeps_socket: AtomicBool,
    /// remoted ignores empty datagrams, says the broker server.
    pub(super) takes_empty: AtomicBool,
}

/// The ends of the channels that ring.
#[derive(Debug)]
pub(super) struct Rung {
    pub(super) forward: Receiver<()>,
    pub(super) spool: Receiver<()>,
    /// The datagrams of the drain are confirmed.
    pub(super) drained: Receiver<()>,
}

impl Shared {
    pub(super) fn new(core: ClientCore, agents: UdpSocket, keeps_socket: bool, probe: Doorbell) -> (Self, Rung) {
        // A bell that is rung already is enough.
        let (forward, forward_rung) = bounded(1);
        let (spool, spool_rung) = bounded(1);
        let (drained, drained_rung) = bounded(1);
        let shared = Self {
            core: Mutex::new(core),
            forward,
            probe,
            spool,
            drained,
            agents,
            is_paused: Mutex::new(false),
            keeps_socket: AtomicBool::new(keeps_socket),
            takes_empty: AtomicBool::default(),
        };
        (shared, Rung { forward: forward_rung, spool: spool_rung, drained: drained_rung })
    }

    /// Calls the core at the moment `now`. When the lock is free again, the bells of threads that have got work ring.
    pub(super) fn with_core<T>(&self, now: Time, call: impl FnOnce(&mut ClientCore) -> T) -> T {
        let (outcome, bells) = {
            let mut core = self.core.lock();
            let outcome = call(&mut core);
            (outcome, core.bells(now))
        };
        if bells.forward {
            let _ = self.forward.try_send(());
        }
        if bells.probe {
            self.probe.ring();
        }
        if bells.spool {
            let _ = self.spool.try_send(());
        }
        if bells.drained {
            let _ = self.drained.try_send(());
        }
        outcome
    }

    pub(super) fn read<T>(&self, read: impl FnOnce(&ClientCore) -> T) -> T {
        read(&self.core.lock())
    }

    pub(super) fn pass_on(&self, origin: Origin, reply: &[u8]) {
        log::trace!(target: "ossec_broker::datagram", "reply of {} bytes to {}", reply.len(), origin.agent);
        if let Err(error) = send_from(&self.agents, origin.local, origin.agent, reply) {
            log::debug!("cannot pass a reply on to {}: {error}", origin.agent);
        }
    }
}
