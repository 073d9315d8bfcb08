//! Core → connection: the way out of transport tcp. The prober owns the connection and writes to it; this thread
//! prepares the frames.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use mio::net::UdpSocket;

use super::{shared::Shared, upstreams::Upstreams};
use crate::os::net::{self, udp::send_batch};
use crate::os::threads::{Doorbell, Stop};
use crate::proto::wire::{DataWriter, Frame, Session};
use crate::proto::{client::Batch, terms::SessionName, time::Time};

/// Stateful firewalls and NAT forget a UDP port that nothing leaves from; most forget it after half a minute.
const EMPTY_GAP: Duration = Duration::from_secs(20);

/// Frames on their way to the prober.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// The core's epoch in which they are of use.
    pub(super) epoch: u64,
    pub(super) bytes: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Streamer<'a, 'b> {
    shared: &'a Shared,
    upstreams: &'b mut Upstreams<'a>,
    outgoing: Sender<Outgoing>,
    prober: Doorbell,
    /// Agents that the connection knows in this epoch.
    named: HashMap<u16, Session>,
    epoch: u64,
    /// Where replies come from.
    target: Option<SocketAddr>,
    /// When the firewalls between were opened last for replies.
    opened: Time,
}

impl<'a, 'b> Streamer<'a, 'b> {
    pub(super) fn new(
        shared: &'a Shared,
        upstreams: &'b mut Upstreams<'a>,
        outgoing: Sender<Outgoing>,
        prober: Doorbell,
    ) -> Self {
        let (named, opened) = (HashMap::new(), net::now());
        Self { shared, upstreams, outgoing, prober, named, epoch: 0, target: None, opened }
    }

    pub(super) fn run(mut self, bell: &Receiver<()>, stop: &Stop) -> Result<(), Infallible> {
        let mut batch = Batch::default();
        while !stop.is_set() {
            let now = net::now();
            if now.since(self.opened) >= EMPTY_GAP {
                self.opened = now;
                if let Some(target) = self.target {
                    self.upstreams.iter().for_each(|upstream| self.open(&upstream.socket, target));
                }
            }
            let (epoch, due) = self.shared.with_core(now, |core| {
                let epoch = if core.poll_release(now, &mut batch) { core.stream_epoch(&batch) } else { None };
                (epoch, if epoch.is_none() { core.handle_forward_waits(now) } else { None })
            });
            let Some(epoch) = epoch else {
                let open = self.target.map(|_| self.opened + EMPTY_GAP);
                stop.wait(bell, due.into_iter().chain(open).min().map(|at| at.since(now)));
                continue;
            };
            if !self.hand_over(&batch, epoch) {
                break;
            }
        }
        Ok(())
    }

    /// Hands a batch to the prober, which may take a while when the connection is congested. Fails when the prober has
    /// ended: then this thread is about to be stopped.
    fn hand_over(&mut self, batch: &Batch, epoch: u32) -> bool {
        let bytes = self.encode(batch, epoch);
        let now = net::now();
        // Before it goes out: the answer may be quicker than this thread, and acknowledges only what counts as sent.
        self.shared.with_core(now, |core| core.handle_sent(now, batch, batch.len()));
        let taken = self.outgoing.send(Outgoing { epoch: batch.epoch(), bytes }).is_ok();
        self.prober.ring();
        taken
    }

    /// The batch as frames, with the names of its agents in front.
    fn encode(&mut self, batch: &Batch, epoch: u32) -> Vec<u8> {
        if self.epoch != batch.epoch() {
            self.epoch = batch.epoch();
            self.named.clear();
        }
        self.target = Some(batch.target());
        let mut bytes = Vec::new();
        for at in 0..batch.len() {
            let session = batch.session(at);
            // The session's port may be another than before: its socket was given up, or comes only now.
            let named = Session { name: session, port: self.port(session, batch.target()) };
            if self.named.insert(session.id, named) != Some(named) {
                Frame::Session(named).encode(&mut bytes);
            }
        }
        let mut writer = DataWriter::new(&mut bytes, epoch);
        for at in 0..batch.len() {
            writer.push(batch.seq(at), batch.session(at).id, batch.payload(at));
        }
        writer.finish();
        bytes
    }

    /// The port of a session's UDP socket, where its replies arrive. Datagrams need no such port and do not wait for
    /// it.
    fn port(&mut self, session: SessionName, target: SocketAddr) -> u16 {
        match self.upstreams.get(session, target) {
            Ok(socket) => {
                let port = socket.local_addr().map_or(0, |local| local.port());
                if self.named.get(&session.id).is_none_or(|named| named.port != port) {
                    self.open(&socket, target);
                }
                port
            }
            Err(error) => {
                if error.kind() != ErrorKind::WouldBlock {
                    self.upstreams.tell_shortage(&error, "its replies are lost");
                }
                0
            }
        }
    }

    /// remoted ignores an empty datagram; a firewall between takes it for the beginning of a conversation.
    fn open(&self, socket: &UdpSocket, target: SocketAddr) {
        if self.shared.takes_empty.load(Ordering::Relaxed)
            && let (0, Err(error)) = send_batch(socket, target, &[b""])
        {
            log::debug!("cannot open the way for replies from {target}: {error}");
        }
    }
}
