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
    drained: Sender<()>,
    /// The socket that agents send to, and get their replies from.
    pub(super) agents: UdpSocket,
    /// remoted ignores empty datagrams, says the broker server.
    pub(super) takes_empty: AtomicBool,
}

/// The ends of the channels that ring.
#[derive(Debug)]
pub(super) struct Rung {
    pub(super) forward: Receiver<()>,
    /// The datagrams of the drain are confirmed.
    pub(super) drained: Receiver<()>,
}

impl Shared {
    pub(super) fn new(core: ClientCore, agents: UdpSocket, probe: Doorbell) -> (Self, Rung) {
        // A bell that is rung already is enough.
        let (forward, forward_rung) = bounded(1);
        let (drained, drained_rung) = bounded(1);
        let (core, takes_empty) = (Mutex::new(core), AtomicBool::default());
        let shared = Self { core, forward, probe, drained, agents, takes_empty };
        (shared, Rung { forward: forward_rung, drained: drained_rung })
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
