//! The client's connection to the broker server, and the attempts to get a better one.

use mio::Token;
use ossec_broker::os::net::{self};
use ossec_broker::proto::client::Transport;
use ossec_broker::proto::client::link::Settings;
use ossec_broker::proto::time::Time;
use ossec_broker::proto::wire::{Attach, Frame, Pong};

use super::{Client, Ground, SLOTS};
use crate::peer::Peer;

impl Client {
    fn attempts(&self) -> usize {
        self.peers.iter().filter(|peer| Some(peer.token) != self.chosen).count()
    }

    /// The moment when an attempt is to be started or given up.
    pub(super) fn next_dial(&self) -> Option<Time> {
        let attempts = self.peers.iter().filter(|peer| Some(peer.token) != self.chosen);
        let given_up = attempts.map(|peer| peer.since + Settings::default().timeout).min();
        given_up.into_iter().chain(self.dialer.next_start(self.attempts())).min()
    }

    /// Gives up attempts that have not been answered, and starts one if that is due.
    pub(super) fn dial(&mut self, now: Time, ground: &Ground) {
        let chosen = self.chosen;
        self.peers.retain(|peer| Some(peer.token) == chosen || now.since(peer.since) < Settings::default().timeout);
        if self.dialer.next_start(self.attempts()).is_none_or(|at| at > now) {
            return;
        }
        self.dialer.handle_start(now);
        let mut tokens = (self.token + 1..self.token + SLOTS).map(Token);
        let Some(token) = tokens.find(|token| self.peers.iter().all(|peer| peer.token != *token)) else {
            return;
        };
        let begun = net::dial(ground.broker, self.source, None).and_then(|stream| {
            let mut peer = Peer::new(stream, ground.key.as_ref(), token, now);
            peer.framed.watch(ground.poll.registry(), token)?;
            Ok(peer)
        });
        // An attempt that fails at once is tried again like an attempt that fails later.
        self.peers.extend(begun);
    }

    pub(super) fn take_frame(&mut self, token: Token, frame: &Frame, ground: &mut Ground) {
        match frame {
            Frame::Welcome(_) => self.adopt(token, ground),
            Frame::Pong(pong) if Some(token) == self.chosen => self.take_pong(pong),
            Frame::Notice(notice) if Some(token) == self.chosen => self.core.handle_notice(notice.verdict),
            Frame::Resume(resume) if Some(token) == self.chosen => {
                self.core.handle_alive(net::now());
                self.core.handle_resume(resume).expect("no other swarm has these names");
            }
            Frame::Ack(ack) if Some(token) == self.chosen => {
                self.core.handle_alive(net::now());
                self.core.handle_ack(ack).expect("no other swarm has these names");
            }
            Frame::Pong(_) | Frame::Notice(_) | Frame::Resume(_) | Frame::Ack(_) | Frame::Reply(_) => {}
            Frame::Refusal(_)
            | Frame::Hello(_)
            | Frame::Ping(_)
            | Frame::Attach(_)
            | Frame::Session(_)
            | Frame::Data(_) => self.drop_peer(token),
        }
    }

    /// An attempt was answered: it is the connection from here on.
    fn adopt(&mut self, token: Token, ground: &mut Ground) {
        let now = net::now();
        let peer = self.peers.iter_mut().find(|peer| peer.token == token);
        let Some((peer, greeted)) = peer.and_then(|peer| peer.greeted.map(|at| (peer, at))) else {
            return;
        };
        if ground.transport == Transport::Tcp
            && peer.framed.send(&Frame::Attach(Attach { source: None, once: false })).is_err()
        {
            return self.drop_peer(token);
        }
        self.peers.retain(|peer| peer.token == token);
        self.chosen = Some(token);
        self.probes.clear();
        self.dialer.handle_link();
        self.core.handle_connected(now, now.since(greeted), ground.remoted);
        ground.tally.connections += 1;
    }

    fn take_pong(&mut self, pong: &Pong) {
        let now = net::now();
        while let Some(probe) = self.probes.pop_front() {
            if probe.number() != pong.number {
                continue;
            }
            self.core.handle_pong(now, probe, pong);
            if !self.core.link().is_silent(now) {
                self.dialer.handle_link();
                let chosen = self.chosen;
                self.peers.retain(|peer| Some(peer.token) == chosen);
            }
            return;
        }
    }

    pub(super) fn drop_peer(&mut self, token: Token) {
        self.peers.retain(|peer| peer.token != token);
        if self.chosen == Some(token) {
            let now = net::now();
            self.chosen = None;
            self.probes.clear();
            self.dialer.handle_outage(now);
            self.core.handle_disconnected(now);
        }
    }
}
