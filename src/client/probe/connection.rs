//! The connection in use: heartbeats over it, and everything else that the server says and is told.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::Receiver;

use super::peer::{End, Peer, Stage};
use crate::client::{config::Config, shared::Shared, stream::Outgoing};
use crate::proto::client::link::{Foreign, Probe, Rewind, Standing};
use crate::proto::client::{ClientCore, Transport};
use crate::proto::wire::{Attach, Features, Frame, Ping, Pong, Reply};
use crate::proto::{client::routes::Route, terms::Verdict, time::Time};

pub(super) struct Connection<'a> {
    pub(super) peer: Peer,
    shared: &'a Shared,
    transport: Transport,
    /// Heartbeats under way, oldest first.
    probes: VecDeque<Probe>,
    /// No heartbeat has come back yet.
    is_fresh: bool,
}

/// A heartbeat has come back.
pub(super) struct Answer {
    pub(super) route: Route,
    pub(super) verdict: Verdict,
    pub(super) round_trip: Duration,
    pub(super) is_first: bool,
    /// The connection has been silent for too long all the same.
    pub(super) is_silent: bool,
    /// Datagrams are refused although heartbeats are good.
    pub(super) is_refused: bool,
}

impl<'a> Connection<'a> {
    /// Takes an answered attempt into use. Over transport tcp it asks the server to take this client's stream.
    pub(super) fn new(now: Time, mut peer: Peer, shared: &'a Shared, config: &Config) -> (Self, Result<(), End>) {
        let transport = config.core.transport;
        let attach = Frame::Attach(Attach { source: config.source, once: !config.core.resend });
        let attached = match transport {
            Transport::Udp => Ok(()),
            Transport::Tcp => peer.framed.send(&attach).map_err(End::Broken),
        };
        if let Stage::Answered { round_trip, features } = peer.stage {
            shared.takes_empty.store(features.has(Features::EMPTY_DATAGRAMS), Ordering::Relaxed);
            shared.with_core(now, |core| core.handle_connected(now, round_trip, peer.route.target));
        }
        (Self { peer, shared, transport, probes: VecDeque::new(), is_fresh: true }, attached)
    }

    /// Transport tcp, while datagrams are under way: when the other host acknowledged something last.
    pub(super) fn acknowledged(&self, now: Time) -> Option<Time> {
        let ago = if self.transport == Transport::Tcp { self.peer.framed.acknowledged()? } else { return None };
        Some(now.before(ago))
    }

    pub(super) fn send_heartbeat(&mut self, probe: Probe, ping: Ping) -> Result<(), End> {
        log::trace!("heartbeat {}: {} held, {} unsent", ping.number, ping.held, ping.unsent);
        self.probes.push_back(probe);
        self.peer.framed.send(&Frame::Ping(ping)).map_err(End::Unwritten)
    }

    /// Transport tcp: writes the frames that are ready, as far as the connection takes them.
    pub(super) fn write_stream(&mut self, outgoing: &Receiver<Outgoing>) -> Result<(), End> {
        while !self.peer.framed.is_congested()
            && let Ok(frames) = outgoing.try_recv()
        {
            // Frames that were prepared before the server said where to go on are prepared again.
            if frames.epoch == self.shared.read(|core| core.link().epoch()) {
                self.peer.framed.send_bytes(&frames.bytes).map_err(End::Unwritten)?;
            }
        }
        Ok(())
    }

    pub(super) fn take(&mut self, now: Time, frame: Frame) -> Result<Option<Answer>, End> {
        let broker = self.peer.route.broker;
        match frame {
            Frame::Pong(pong) => return Ok(self.take_pong(now, &pong)),
            Frame::Notice(notice) => {
                log::debug!("{broker} says: remoted {}", notice.verdict);
                self.take_told(now, |core| core.handle_notice(notice.verdict));
            }
            Frame::Resume(resume) => {
                match resume.from {
                    Some(from) => log::debug!("{broker} says: go on from {}", from.0),
                    None => log::debug!("{broker} says: go on from the oldest that is not acknowledged"),
                }
                self.take_told(now, |core| core.handle_resume(&resume)).map_err(|Foreign| End::Foreign)?;
            }
            Frame::Ack(ack) => {
                self.take_told(now, |core| core.handle_ack(&ack)).map_err(|Foreign| End::Foreign)?;
            }
            Frame::Reply(reply) => self.take_reply(now, &reply),
            Frame::Refusal(refusal) => return Err(End::Refused(refusal.text)),
            Frame::Welcome(_)
            | Frame::Hello(_)
            | Frame::Ping(_)
            | Frame::Attach(_)
            | Frame::Session(_)
            | Frame::Data(_) => return Err(End::Stranger),
        }
        Ok(None)
    }

    /// The server has said something unasked.
    fn take_told<T>(&self, now: Time, tell: impl FnOnce(&mut ClientCore) -> T) -> T {
        self.shared.with_core(now, |core| {
            core.handle_alive(now);
            tell(core)
        })
    }

    /// Transport tcp: a reply of remoted's came back over the connection.
    fn take_reply(&self, now: Time, reply: &Reply) {
        // Over transport udp replies come by UDP alone.
        if self.transport == Transport::Tcp
            && let Some(origin) = self.shared.with_core(now, |core| core.handle_carried_reply(now, reply.name))
        {
            self.shared.pass_on(origin, &reply.bytes);
        }
    }

    /// Redeems the probe of a heartbeat. Pongs come in the order of their pings; a pong without a probe means nothing.
    fn take_pong(&mut self, now: Time, pong: &Pong) -> Option<Answer> {
        while self.probes.front()?.number() < pong.number {
            self.probes.pop_front();
        }
        let probe = self.probes.pop_front_if(|probe| probe.number() == pong.number)?;
        let round_trip = now.since(probe.begun());
        let (rewind, is_silent, is_refused) = self.shared.with_core(now, |core| {
            let rewind = core.handle_pong(now, probe, pong).rewind;
            (rewind, core.link().is_silent(now), core.link().standing(now) == Standing::Refused)
        });
        log::log!(
            if rewind.is_some() { log::Level::Debug } else { log::Level::Trace },
            "heartbeat {} after {round_trip:?}: remoted {}, queue {}, window {}{}",
            pong.number,
            pong.verdict,
            pong.queue,
            pong.window,
            rewind.map_or("", told)
        );
        let is_first = std::mem::take(&mut self.is_fresh);
        Some(Answer { route: self.peer.route, verdict: pong.verdict, round_trip, is_first, is_silent, is_refused })
    }
}

const fn told(cause: Rewind) -> &'static str {
    match cause {
        Rewind::Late => ", sent again: it was late",
        Rewind::Disconnected => ", sent again: the connection was lost",
        Rewind::Gone => ", sent again: remoted is gone",
        Rewind::Incarnation => ", sent again: remoted was started anew",
        Rewind::Drops => ", sent again: remoted's socket dropped datagrams",
        Rewind::Refused => ", sent again: datagrams were refused",
        Rewind::Silence => ", sent again: replies have stopped",
    }
}
