//! Transport tcp: streams on their way from connections to remoted, and what is said of them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use mio::Token;

use super::super::inject::{Inject, Outcome};
use super::{Close, Server};
use crate::proto::server::streams::Told;
use crate::proto::terms::{ConnectionId, StreamId};
use crate::proto::time::Time;
use crate::proto::wire::{Attach, Frame, Reply};

/// The system had no room for a datagram to inject.
const BUSY_PAUSE: Duration = Duration::from_millis(2);

/// A stream that is about to be carried.
#[derive(Clone, Copy, Debug)]
struct Attachment {
    connection: ConnectionId,
    stream: StreamId,
    /// Nothing of it is injected twice.
    once: bool,
}

/// Connections that carry a stream, or are about to, and in whose name.
#[derive(Debug, Default)]
pub(super) struct Attachments {
    sources: HashMap<ConnectionId, IpAddr>,
    /// Streams that wait until it is known that datagrams in their name get through.
    waiting: HashMap<IpAddr, Vec<Attachment>>,
}

impl Attachments {
    fn enter(&mut self, attachment: Attachment, source: IpAddr) {
        self.sources.insert(attachment.connection, source);
        self.waiting.entry(source).or_default().push(attachment);
    }

    /// The connection is gone, or does something else. In whose name it was to send.
    fn leave(&mut self, id: ConnectionId) -> Option<IpAddr> {
        let source = self.sources.remove(&id)?;
        if let Some(waiting) = self.waiting.get_mut(&source) {
            waiting.retain(|waiting| waiting.connection != id);
            if waiting.is_empty() {
                self.waiting.remove(&source);
            }
        }
        Some(source)
    }

    fn take_waiting(&mut self, source: IpAddr) -> Vec<Attachment> {
        self.waiting.remove(&source).unwrap_or_default()
    }

    /// All connections that send, or are to send, in this name.
    fn of(&self, source: IpAddr) -> Vec<ConnectionId> {
        self.sources.iter().filter(|(_, of)| **of == source).map(|(&id, _)| id).collect()
    }
}

impl Server<'_> {
    /// A client's stream goes on over this connection, in the name of the address that it comes from or of another that is allowed.
    pub(super) fn attach(&mut self, now: Time, token: Token, stream: StreamId, attach: Attach) {
        let Some(conn) = self.conns.get(&token).filter(|conn| conn.is_client()) else {
            return;
        };
        let (id, address) = (conn.id, conn.address);
        if let Some(why) = conn.mismatch(self.config.remoted.port, self.found.is_at_home()) {
            return self.refuse_strange(now, token, why);
        }
        let source = attach.source.filter(|_| self.config.inject == Inject::Spoof).unwrap_or(address);
        if source != address && !self.config.allowed_sources.iter().any(|allowed| allowed.contains(&source)) {
            let why =
                format!("source {source} is not allowed for a client from {address} (--allow-source at the server)");
            return self.refuse_strange(now, token, why);
        }
        self.detach(id);
        match self.injector.enter(now, source) {
            Err(why) => self.cannot_inject(now, token, why),
            Ok(at_once) => {
                self.attachments.enter(Attachment { connection: id, stream, once: attach.once }, source);
                if at_once {
                    self.carry(now, source);
                }
            }
        }
    }

    /// Refuses a client for what it wants, and has the log say so.
    pub(super) fn refuse_strange(&mut self, now: Time, token: Token, why: String) {
        if let Some(conn) = self.conns.get(&token) {
            self.complaints.strange(conn.address, &why);
        }
        self.refuse(now, token, why);
    }

    /// Datagrams in this name are known to get through: the streams that waited for that begin.
    fn carry(&mut self, now: Time, source: IpAddr) {
        for Attachment { connection, stream, once } in self.attachments.take_waiting(source) {
            match self.config.inject {
                Inject::Spoof => log::debug!("a stream begins in the name of {source}"),
                Inject::Local => log::debug!("a stream of {source} begins in the name of this host"),
            }
            let before = self.core.handle_attach(now, connection, stream, source, once);
            if let Some(before) = before.and_then(|before| self.token(before)) {
                self.close(before, &Close::Replaced);
            }
        }
    }

    /// A connection carries nothing any more, and waits for nothing.
    pub(super) fn detach(&mut self, id: ConnectionId) {
        if let Some(source) = self.attachments.leave(id) {
            self.injector.leave(source);
        }
    }

    /// Something arrived where remoted receives: what waited for it goes on.
    pub(super) fn take_arrivals(&mut self, now: Time, token: Token) {
        for source in self.injector.take_arrivals(now, token, &mut self.inbox) {
            self.carry(now, source);
        }
    }

    /// Has it seen to that datagrams in the clients' names get through, and refuses those in whose name none does.
    pub(super) fn prove(&mut self, now: Time) {
        while let Some((source, why)) = self.injector.poll_blocked(now) {
            for id in self.attachments.of(source) {
                if let Some(token) = self.token(id) {
                    self.cannot_inject(now, token, why.clone());
                }
            }
        }
    }

    /// Nothing can be injected for a client: it is told, and the log.
    fn cannot_inject(&mut self, now: Time, token: Token, why: String) {
        self.refuse(now, token, why.clone());
        self.complaints.uninjected(why);
    }

    /// Tells a client why its connection is of no use; it tries again at its slowest pace.
    pub(super) fn refuse(&mut self, now: Time, token: Token, why: String) {
        // One that was refused already may have said more in the same breath.
        let Some(conn) = self.conns.get_mut(&token).filter(|conn| conn.is_client()) else {
            return;
        };
        let (id, address, refused) = (conn.id, conn.address, conn.refuse(now, why));
        // Until it has closed its side, it is one of those that are nothing.
        self.note_stranger(address);
        self.detach(id);
        self.core.handle_gone(now, id);
        if let Err(close) = refused {
            self.close(token, &close);
        }
    }

    /// Injects what remoted takes, as the sample of this moment shows it, and tells the clients what there is to tell.
    pub(super) fn inject(&mut self, now: Time) {
        self.inject_again = self.inject_again.filter(|&at| at > now);
        while self.inject_again.is_none()
            && let Some(volley) = self.core.poll(now)
        {
            let stream = volley.stream;
            let (sent, outcome) = self.injector.send(now, &self.poll, &self.found, &volley);
            self.core.handle_injected(sent);
            if let Some(trouble) = self.injector.take_trouble() {
                self.complaints.replies = Some(trouble);
            }
            self.inject_again = matches!(outcome, Outcome::Busy).then(|| now + BUSY_PAUSE);
            // What is wrong with one client must not stop the others.
            if let Outcome::Failed(why) = outcome {
                let connection = self.core.handle_uninjectable(now, stream);
                if let Some(token) = connection.and_then(|connection| self.token(connection)) {
                    self.refuse(now, token, why.clone());
                }
                self.complaints.uninjected(why);
            }
        }
        self.core.end_step();
        self.tell_streams();
    }

    /// Tells the clients what there is to tell.
    pub(super) fn tell_streams(&mut self) {
        while let Some((connection, told)) = self.core.poll_told() {
            let frame = match told {
                Told::Resume(resume) => Frame::Resume(resume),
                Told::Ack(ack) => Frame::Ack(ack),
            };
            if let Some(token) = self.token(connection) {
                self.send(token, &frame);
            }
        }
    }

    /// Carries remoted's answers back to the clients.
    pub(super) fn take_replies(&mut self, token: Token) {
        let mut replies = Vec::new();
        let more = self.injector.take_replies(token, &mut self.inbox, |stream, name, bytes| {
            replies.push((stream, Frame::Reply(Reply { name, bytes: bytes.to_vec() })));
        });
        if more && !self.unread_replies.contains(&token) {
            self.unread_replies.push(token);
        }
        for (stream, reply) in replies {
            let Some(token) = self.core.connection(stream).and_then(|connection| self.token(connection)) else {
                continue;
            };
            // By itself it would be lost on a link that is too narrow for it; the stream must not be cut for its sake.
            if self.conns.get(&token).is_some_and(|conn| !conn.framed.is_congested()) {
                self.send(token, &reply);
            }
        }
    }
}
