//! What goes back and forth between connections, the core and remoted.
//!
//! ```text
//!                   ask, bring                           look
//!   connections ──────────────────► core ◄────────────────────────── watch ◄── remoted
//!        ▲                           │                                           ▲
//!        └── answers, replies, acks ─┴────────────── injection ──────────────────┘
//! ```
//!
//! The core decides; the other three do one kind of input and output each. A connection that ends, ends for all of
//! them.

#[cfg(test)]
mod tests;

use mio::{Poll, Token};

use super::complaints::{Complaints, Trouble};
use super::connections::{Connections, LISTENER};
use super::parting::{Close, Refused};
use super::watch::Watch;
use crate::os::{net, remoted::backlog, threads::DOORBELL};
use crate::proto::server::conversation::{Question, Request};
use crate::proto::terms::{ConnectionId, StreamId, Verdict};
use crate::proto::wire::{Attach, Frame, Notice};
use crate::proto::{server::ServerCore, time::Time};
use crate::server::config::{Config, Inject};
use crate::server::inject::{Attachment, Injection, TOKENS_FROM};

#[derive(Debug)]
pub(super) struct Exchange<'a> {
    config: &'a Config,
    pub(super) core: ServerCore,
    pub(super) connections: Connections,
    pub(super) watch: Watch,
    pub(super) injection: Injection,
    pub(super) complaints: Complaints,
}

impl<'a> Exchange<'a> {
    pub(super) fn new(config: &'a Config, connections: Connections, watch: Watch, injection: Injection) -> Self {
        let core = ServerCore::new(config.settle, backlog::length() / 2);
        Self { config, core, connections, watch, injection, complaints: Complaints::default() }
    }

    /// A socket is ready, or the thread `search` has rung.
    pub(super) fn handle_ready(&mut self, now: Time, token: Token, poll: &Poll) {
        match token {
            LISTENER => self.connections.accept(now, poll, &mut self.complaints),
            DOORBELL => {
                while self.watch.take_found() {
                    self.look(net::now(), poll);
                }
            }
            Token(number) if number < TOKENS_FROM => self.attend(now, number as ConnectionId),
            _ => {
                let replaced = self.injection.take_arrivals(now, &mut self.core, token);
                self.close_replaced(now, replaced);
                self.take_replies(now, token);
            }
        }
    }

    /// Goes on with the sockets that had more than the last pass took.
    pub(super) fn handle_unread(&mut self, now: Time) {
        for id in std::mem::take(&mut self.connections.unread) {
            self.attend(now, id);
        }
        for token in std::mem::take(&mut self.injection.unread) {
            self.take_replies(now, token);
        }
    }

    /// Does what is due without an event.
    pub(super) fn handle_time(&mut self, now: Time, poll: &Poll) {
        if self.connections.accept_again.is_some_and(|at| at <= now) {
            self.connections.accept(now, poll, &mut self.complaints);
        }
        self.refuse_blocked(net::now());
        if self.next_look().is_some_and(|at| at <= now) {
            self.look(net::now(), poll);
        }
        self.tell_streams(now);
        for id in self.connections.sweep(now) {
            self.close(now, id, &Close::Silent);
        }
        self.complaints.log(now);
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        let deadlines = [self.connections.next_deadline(), self.next_look(), self.injection.next_deadline()];
        deadlines.into_iter().flatten().min()
    }

    fn next_look(&self) -> Option<Time> {
        self.watch.next_look(&self.core, self.connections.has_client(), !self.connections.asking.is_empty())
    }

    fn attend(&mut self, now: Time, id: ConnectionId) {
        let Some((requests, close)) = self.connections.attend(now, id) else {
            return;
        };
        let taken = requests.into_iter().try_for_each(|request| self.take(now, id, request));
        if let Some(close) = taken.err().or(close) {
            self.close(now, id, &close);
        }
    }

    /// A question waits for a look at remoted; everything else does not.
    fn take(&mut self, now: Time, id: ConnectionId, request: Request) -> Result<(), Close> {
        // An earlier request may have closed it.
        let Some(connection) = self.connections.by_id.get_mut(&id) else {
            return Ok(());
        };
        match request {
            Request::Answer(question) => {
                if connection.ask(question) {
                    self.connections.asking.push(id);
                }
            }
            Request::Attach(stream, attach) => {
                if let Err(why) = self.attach(now, id, stream, attach) {
                    self.refuse(now, id, &why);
                }
            }
            Request::Session(session) => self.core.handle_session(id, session)?,
            Request::Data(data) => self.core.handle_data(id, data)?,
        }
        Ok(())
    }

    /// A client's stream goes on over this connection: in the name of the client's address, or of another address that
    /// is allowed.
    fn attach(&mut self, now: Time, id: ConnectionId, stream: StreamId, attach: Attach) -> Result<(), Refused> {
        let Some(client) = self.connections.client(id) else {
            return Ok(());
        };
        client.check_port(self.config.remoted.port, self.watch.found.is_at_home())?;
        let address = client.address;
        let source = attach.source.filter(|_| self.config.inject == Inject::Spoof).unwrap_or(address);
        if !self.config.allows(source, address) {
            return Err(Refused::Source { name: source, address });
        }
        let attachment = Attachment { connection: id, stream, source, once: attach.once, waits: true };
        let replaced = self.injection.enter(now, &mut self.core, attachment)?;
        self.close_replaced(now, replaced);
        Ok(())
    }

    /// Looks at remoted, injects what it takes, and answers all connections that ask, unless remoted has to be
    /// searched for first.
    pub(super) fn look(&mut self, now: Time, poll: &Poll) {
        let Some(sample) = self.watch.look(now, &mut self.core, !self.connections.asking.is_empty()) else {
            return;
        };
        self.inject(net::now(), poll);
        for id in std::mem::take(&mut self.connections.asking) {
            self.answer(now, id);
        }
        if self.watch.log_news(self.core.judge(), &sample) {
            self.notify(now);
        }
    }

    /// Injects what remoted takes, as the newest look shows it, and tells the clients what there is to tell.
    fn inject(&mut self, now: Time, poll: &Poll) {
        while let Some((stream, why)) = self.injection.inject(now, &mut self.core, poll, &self.watch.found) {
            // One client's trouble must not stop the others.
            match self.core.handle_uninjectable(now, stream) {
                Some(connection) => self.refuse(now, connection, &why.into()),
                None => self.complaints.add(Trouble::Uninjected, &why),
            }
        }
        if let Some(trouble) = self.injection.take_trouble() {
            self.complaints.add(Trouble::Replies, &trouble);
        }
        self.core.end_step();
        self.tell_streams(now);
    }

    /// Gives a connection one of the answers that it wants, if it is time for it. Further ones wait for the next look.
    fn answer(&mut self, now: Time, id: ConnectionId) {
        let gap = self.watch.gap;
        let Some(connection) = self.connections.by_id.get_mut(&id) else {
            return;
        };
        let (question, more) = connection.next_question(now, gap);
        if more {
            self.connections.asking.push(id);
        }
        let Some(question) = question else {
            return;
        };
        let answered = match question {
            Question::Plain => connection.answer_plain(now, self.core.judge().verdict() == Verdict::Up),
            // It was refused meanwhile.
            Question::Ping(_) if !connection.conversation.is_client() => Ok(()),
            Question::Ping(ping) => {
                if let Err(why) = connection.check_port(self.config.remoted.port, self.watch.found.is_at_home()) {
                    return self.refuse(now, id, &why);
                }
                let (address, delivery) = (connection.address, connection.delivery());
                let pong = self.core.handle_ping(now, id, address, delivery, &ping, gap);
                log::trace!(
                    "{address} holds {}, {} unsent: remoted {}, window {}",
                    ping.held,
                    ping.unsent,
                    pong.verdict,
                    pong.window
                );
                connection.answer(pong)
            }
        };
        if let Err(close) = answered {
            self.close(now, id, &close);
        }
    }

    /// Tells the clients of a changed verdict, as far as it concerns them.
    fn notify(&mut self, now: Time) {
        let core = &self.core;
        let concerned = self.connections.by_id.iter_mut().filter_map(|(&id, connection)| {
            let verdict = core.verdict_for(connection.delivery());
            // Another life of a remoted that is up is seen by the next heartbeat.
            connection.learns(verdict).then_some((id, verdict))
        });
        for (id, verdict) in concerned.collect::<Vec<_>>() {
            self.send(now, id, &Frame::Notice(Notice { verdict }));
        }
    }

    /// Tells the clients what was read of their streams, and where to go on.
    pub(super) fn tell_streams(&mut self, now: Time) {
        while let Some((id, frame)) = self.core.poll_frame() {
            self.send(now, id, &frame);
        }
    }

    fn take_replies(&mut self, now: Time, token: Token) {
        for (stream, reply) in self.injection.take_replies(token) {
            // A link that is too narrow for a reply would lose it as a datagram, too: the stream is not cut for it.
            let Some(id) = self.core.streams().connection(stream) else { continue };
            if self.connections.by_id.get(&id).is_some_and(|connection| !connection.framed.is_congested()) {
                self.send(now, id, &Frame::Reply(reply));
            }
        }
    }

    fn refuse_blocked(&mut self, now: Time) {
        while let Some((blocked, why)) = self.injection.poll_blocked(now) {
            let why = why.into();
            for id in blocked {
                self.refuse(now, id, &why);
            }
        }
    }

    fn refuse(&mut self, now: Time, id: ConnectionId, why: &Refused) {
        match (why, self.connections.client(id)) {
            (Refused::Uninjectable(why), _) => self.complaints.add(Trouble::Uninjected, why),
            (_, Some(client)) => self.complaints.refuse(client.address, why),
            (_, None) => {}
        }
        let Some(refusal) = self.connections.refuse(now, id, why) else {
            return;
        };
        self.forget(now, id);
        if let Err(close) = refusal {
            self.close(now, id, &close);
        }
    }

    fn send(&mut self, now: Time, id: ConnectionId, frame: &Frame) {
        let connection = self.connections.by_id.get_mut(&id);
        if let Some(Err(broken)) = connection.map(|connection| connection.framed.send(frame)) {
            self.close(now, id, &Close::Broken(broken));
        }
    }

    fn close_replaced(&mut self, now: Time, replaced: Vec<ConnectionId>) {
        for id in replaced {
            self.close(now, id, &Close::Replaced);
        }
    }

    fn close(&mut self, now: Time, id: ConnectionId, why: &Close) {
        if self.connections.close(id, why, &mut self.complaints) {
            self.forget(now, id);
        }
    }

    /// A connection carries nothing any more, and is granted nothing.
    fn forget(&mut self, now: Time, id: ConnectionId) {
        self.injection.leave(id);
        self.core.handle_gone(now, id);
    }
}
