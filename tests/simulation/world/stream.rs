//! Transport tcp: the frames between a client and the broker server, and the injection.

use std::collections::VecDeque;

use ossec_broker::proto::terms::SessionName;
use ossec_broker::proto::wire::{Assembler, Data, DataWriter, Frame, Session};

use super::{Event, World, time};
use crate::plan::{MS, Options, SECOND};
use crate::promise::Loss;
use crate::remoted::Datagram;

/// The time by which a client writes ahead of a narrow link: the kernel takes that much before it says that it is
/// full.
const AHEAD: u64 = 100 * MS;
/// Headers of TCP and IP, and the frame's own.
const OVERHEAD_BYTES: u64 = 60;

/// The client's end of a connection that carries a stream.
#[derive(Debug, Default)]
pub(super) struct Uplink {
    /// The moment until which the link is busy with written frames.
    busy: u64,
    /// Sessions named in this epoch.
    named: Vec<SessionName>,
    epoch: u64,
}

/// A frame towards the server.
#[derive(Clone, Debug)]
pub(super) enum Upward {
    Attach(u128),
    Session(Session),
    Data(Data),
}

impl World<'_> {
    /// Attaches the stream to a connection that was just made. The connection carries the stream from here on.
    pub(super) fn attach(&mut self, client: usize) {
        let name = self.clients[client].stream;
        self.clients[client].uplink.busy = self.now;
        self.write(client, Upward::Attach(name), 0);
    }

    /// Writes the datagrams that may be sent, as far as the link takes them.
    pub(super) fn pump(&mut self, client: usize) {
        while self.clients[client].uplink.busy <= self.now + AHEAD {
            let one = &mut self.clients[client];
            if !one.core.poll_release(time(self.now), &mut one.batch) {
                return;
            }
            let Some(epoch) = one.core.stream_epoch(&one.batch) else {
                return;
            };
            if one.uplink.epoch != one.batch.epoch() {
                one.uplink.epoch = one.batch.epoch();
                one.uplink.named.clear();
            }
            let mut bytes = Vec::new();
            let mut fresh = VecDeque::new();
            let mut writer = DataWriter::new(&mut bytes, epoch);
            for at in 0..one.batch.len() {
                let session = one.batch.session(at);
                let name = SessionName { id: session.id, generation: session.generation };
                if !one.uplink.named.contains(&name) {
                    one.uplink.named.push(name);
                    fresh.push_back(name);
                }
                writer.push(one.batch.seq(at), session.id, one.batch.payload(at));
            }
            writer.finish();
            let (first, last) = (one.batched(0), one.batched(one.batch.len() - 1));
            let sent = one.batch.len();
            one.core.handle_sent(time(self.now), &one.batch, sent);
            one.contented = self.now;
            self.note_release(client);
            self.say(|| format!("client {client}: writes {} to {} in epoch {epoch}", first.counter, last.counter));
            for name in fresh {
                self.write(client, Upward::Session(Session { name, port: 1_517 }), 0);
            }
            let mut assembler = Assembler::default();
            assembler.push(&bytes);
            while let Ok(Some(Frame::Data(data))) = assembler.next_frame() {
                let length = data.items().map(|item| item.span() as u64).sum();
                self.write(client, Upward::Data(data), length);
            }
        }
        let at = self.clients[client].uplink.busy - AHEAD / 2;
        self.wake_at(client, at);
    }

    fn write(&mut self, client: usize, frame: Upward, bytes: u64) {
        let Some(connection) = self.clients[client].connection else {
            return;
        };
        let span = self.plan.bandwidth.map_or(0, |bits| (bytes + OVERHEAD_BYTES) * 8 * SECOND / bits);
        let one = &mut self.clients[client];
        one.uplink.busy = one.uplink.busy.max(self.now) + span;
        // Heartbeats share the connection: nothing of it comes out of order.
        let last = one.last_ping.max(one.uplink.busy);
        let arrives = self.tcp(last, true);
        self.clients[client].last_ping = arrives;
        self.at(arrives, Event::UpwardArrives { client, connection, frame });
    }

    pub(super) fn upward_arrives(&mut self, client: usize, connection: u64, frame: Upward) {
        if let Some(until) = self.server_stopped() {
            // The kernel takes the frame; the process reads it later.
            return self.at(until, Event::UpwardArrives { client, connection, frame });
        }
        if !self.server.alive || !self.server.knows(client, connection) {
            return self.reset(client, connection);
        }
        let core = &mut self.server.core;
        let outcome = match frame {
            Upward::Attach(stream) => {
                let address = [10, 0, 0, client as u8 + 1].into();
                let once = !self.plan.config().resend;
                if let Some(old) = core.handle_attach(time(self.now), connection, stream, address, once) {
                    self.server.forget(client, old);
                }
                Ok(())
            }
            Upward::Session(session) => core.handle_session(connection, session),
            Upward::Data(data) => core.handle_data(connection, data),
        };
        if let Err(offence) = outcome {
            self.ledger.complain(format!("client {client}: {offence}"));
        }
        // The kernel acknowledges the frame.
        let round_trip = self.plan.round_trip_at(self.now);
        if self.plan.cut(false, false, self.now, self.now + round_trip / 2).is_none() {
            self.at(self.now + round_trip / 2, Event::Acknowledged { client, connection });
        }
        self.tell_streams();
        self.look_if_due();
    }

    pub(super) fn acknowledged(&mut self, client: usize, connection: u64) {
        if self.clients[client].connection == Some(connection) {
            self.clients[client].core.handle_alive(time(self.now));
        }
    }

    /// Injects the datagrams that remoted can take behind the newest look, and tells the clients all that there is to
    /// tell.
    pub(super) fn inject(&mut self) {
        while let Some(volley) = self.server.core.poll(time(self.now)) {
            let datagrams: Vec<Datagram> = volley.payloads.iter().map(|payload| Datagram::of(payload)).collect();
            if !self.remoted.alive {
                // The datagrams are refused at once: the next look will see that.
                break;
            }
            let before = self.server.core.streams().repeated();
            self.server.core.handle_injected(datagrams.len());
            self.ledger.repeated += self.server.core.streams().repeated() - before;
            let drops = self.plan.drops_over_loopback(self.now);
            for datagram in datagrams {
                let sent = self.ledger.transmitted(datagram.agent);
                if drops {
                    self.dropped_before += 1;
                    // With --resend never, datagrams that may be there are not injected again.
                    let once = self.plan.options == Options::ResendNever;
                    self.ledger.lost(datagram, if once { Loss::Excused } else { Loss::Covered });
                } else {
                    self.arrives(datagram, sent);
                }
            }
        }
        self.server.core.end_step();
        self.tell_streams();
    }

    fn tell_streams(&mut self) {
        while let Some((connection, told)) = self.server.core.poll_frame() {
            let Some(client) = self.server.client_of(connection) else { continue };
            let arrives = self.tcp(self.clients[client].last_pong(), false);
            self.clients[client].set_last_pong(connection, arrives);
            self.at(arrives, Event::ToldArrives { client, connection, told });
        }
    }

    pub(super) fn told_arrives(&mut self, client: usize, connection: u64, told: Frame) {
        if self.clients[client].connection != Some(connection) {
            return;
        }
        self.say(|| format!("client {client}: {told:?}"));
        let core = &mut self.clients[client].core;
        core.handle_alive(time(self.now));
        let outcome = match told {
            Frame::Resume(resume) => core.handle_resume(&resume),
            Frame::Ack(ack) => core.handle_ack(&ack),
            other => panic!("streams never say {other:?}"),
        };
        if outcome.is_err() {
            self.ledger.complain(format!("client {client} takes its own stream for somebody else's"));
        }
        self.act(client);
    }
}
