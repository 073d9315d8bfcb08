//! Transport tcp's last hop: streams on their way into remoted's socket, on its host, in their agents' names; and
//! remoted's answers back.
//!
//! remoted knows an agent with a fixed-IP key by the source address of its datagrams. There are two ways to it:
//!
//! * [`spoof`]: raw sockets, so that remoted sees the client's address and UDP port, and its answers go there by
//!   themselves. For `--inject spoof` with a key.
//! * [`local`]: ordinary sockets of this host, one for each agent, so that remoted's answers come here and go back
//!   over the connection. For `--inject local`; and without a key, when all clients are of this host: remoted sees the
//!   loopback address of the client then.

mod error;
mod local;
mod spoof;
mod tokens;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mio::{Poll, Token};

use crate::os::net::udp::{Inbox, SendError};
use crate::os::remoted::Found;
use crate::proto::terms::{ConnectionId, StreamId};
use crate::proto::{server::ServerCore, time::Time, wire::Reply};
use crate::server::config::{Config, Inject};
use local::{Local, Seen};
use spoof::Spoof;

pub(super) use error::Error;
pub(super) use tokens::TOKENS_FROM;

/// How long the system is left alone when it has no buffers.
const BUSY_PAUSE: Duration = Duration::from_millis(2);

#[derive(Debug)]
pub(super) struct Injection {
    inject: Inject,
    way: Way,
    /// The streams that connections carry or are to carry, in the order in which they came.
    attachments: Vec<Attachment>,
    inbox: Inbox,
    /// Sockets with more replies than one pass takes.
    pub(super) unread: Vec<Token>,
    /// Nothing is injected before: the system has no buffers.
    pub(super) paused_until: Option<Time>,
}

/// The sockets that datagrams leave from.
#[derive(Debug)]
pub(super) enum Way {
    Spoof(Box<Spoof>),
    Local(Box<Local>),
}

impl Way {
    /// Opens what stays open from the start to the end. Raw sockets take CAP_NET_RAW; from here on they take no right.
    ///
    /// `remoted`: where remoted receives, for each address family. `sockets_max`: agents that have a socket at a time.
    pub(super) fn open(
        config: &Config,
        is_keyed: bool,
        remoted: Vec<SocketAddr>,
        sockets_max: usize,
    ) -> io::Result<Self> {
        let local = |seen, remoted| Self::Local(Box::new(Local::open(seen, remoted, sockets_max)));
        Ok(match config.inject {
            Inject::Spoof if is_keyed => Self::Spoof(Box::new(Spoof::open(&remoted)?)),
            Inject::Spoof => local(Seen::Client, remoted),
            Inject::Local => local(Seen::Server { is_ossec: config.is_ossec() }, remoted),
        })
    }
}

impl Injection {
    pub(super) fn new(inject: Inject, way: Way, poll: &Poll) -> io::Result<Self> {
        if let Way::Spoof(spoof) = &way {
            spoof.watch(poll)?;
        }
        Ok(Self {
            inject,
            way,
            attachments: Vec::new(),
            inbox: Inbox::default(),
            unread: Vec::new(),
            paused_until: None,
        })
    }

    /// A connection is to carry a stream: at once, or when datagrams in its name are known to get through. Returns the
    /// connections that carried it before, which are of no more use.
    pub(super) fn enter(
        &mut self,
        now: Time,
        core: &mut ServerCore,
        attachment: Attachment,
    ) -> Result<Vec<ConnectionId>, Error> {
        self.leave(attachment.connection);
        if let Way::Spoof(spoof) = &mut self.way {
            spoof.enter(now, attachment.source)?;
        }
        self.attachments.push(attachment);
        Ok(if matches!(self.way, Way::Local(_)) { self.carry(now, core, attachment.source) } else { Vec::new() })
    }

    pub(super) fn leave(&mut self, connection: ConnectionId) {
        if let Some(at) = self.attachments.iter().position(|attachment| attachment.connection == connection) {
            let Attachment { source, .. } = self.attachments.remove(at);
            if let Way::Spoof(spoof) = &mut self.way {
                spoof.passages.leave(source);
            }
        }
    }

    /// Datagrams in this name are known to get through: the streams that waited for that begin.
    fn carry(&mut self, now: Time, core: &mut ServerCore, source: IpAddr) -> Vec<ConnectionId> {
        let mut replaced = Vec::new();
        for attachment in self.attachments.iter_mut().filter(|attachment| attachment.source == source) {
            let Attachment { connection, stream, once, .. } = *attachment;
            if std::mem::take(&mut attachment.waits) {
                match self.inject {
                    Inject::Spoof => log::debug!("a stream begins in the name of {source}"),
                    Inject::Local => log::debug!("a stream of {source} begins in the name of this host"),
                }
                replaced.extend(core.handle_attach(now, connection, stream, source, once));
            }
        }
        replaced
    }

    /// Something arrived where remoted receives: the streams that waited for it begin. Returns the connections that
    /// carried them before.
    pub(super) fn take_arrivals(&mut self, now: Time, core: &mut ServerCore, token: Token) -> Vec<ConnectionId> {
        let Way::Spoof(spoof) = &mut self.way else {
            return Vec::new();
        };
        let arrived = spoof.take_arrivals(now, token, &mut self.inbox);
        arrived.into_iter().flat_map(|source| self.carry(now, core, source)).collect()
    }

    /// Sends what is due to see that datagrams get through. Returns the connections in whose name none does, and why.
    pub(super) fn poll_blocked(&mut self, now: Time) -> Option<(Vec<ConnectionId>, Error)> {
        let Way::Spoof(spoof) = &mut self.way else {
            return None;
        };
        let (source, why) = spoof.poll_blocked(now)?;
        let blocked = self.attachments.iter().filter(|attachment| attachment.source == source);
        Some((blocked.map(|attachment| attachment.connection).collect(), why))
    }

    /// Injects what remoted takes. Returns early with a stream whose datagrams cannot be injected, and why.
    ///
    /// Datagrams that nobody receives are lost without an error: remoted's sockets must have been `found` where they
    /// go.
    pub(super) fn inject(
        &mut self,
        now: Time,
        core: &mut ServerCore,
        poll: &Poll,
        found: &Found,
    ) -> Option<(StreamId, Error)> {
        self.paused_until = self.paused_until.filter(|&at| at > now);
        while self.paused_until.is_none()
            && let Some(volley) = core.poll(now)
        {
            let stream = volley.stream;
            let outcome = match &mut self.way {
                Way::Spoof(spoof) => spoof.send(now, found, &volley),
                Way::Local(local) => local.send(now, poll, found, &volley),
            };
            let (sent, failure) = match outcome {
                Ok((_, sent, Ok(()))) => (sent, None),
                Ok((_, sent, Err(SendError::Busy))) => {
                    self.paused_until = Some(now + BUSY_PAUSE);
                    (sent, None)
                }
                Ok((_, sent, Err(SendError::Unsendable(error)))) => {
                    // To wait would keep all behind it for ever.
                    log::debug!("cannot inject {} bytes: {error}", volley.payloads[sent].len());
                    (sent + 1, None)
                }
                Ok((target, sent, Err(SendError::Refused(source)))) => (sent, Some(Error::NotSent { target, source })),
                Err(why) => (0, Some(why)),
            };
            core.handle_injected(sent);
            if let Some(why) = failure {
                return Some((stream, why));
            }
        }
        None
    }

    pub(super) fn take_trouble(&mut self) -> Option<String> {
        match &mut self.way {
            Way::Spoof(_) => None,
            Way::Local(local) => local.trouble.take(),
        }
    }

    pub(super) fn take_replies(&mut self, token: Token) -> Vec<(StreamId, Reply)> {
        let Way::Local(local) = &self.way else {
            return Vec::new();
        };
        let (replies, more) = local.take_replies(token, &mut self.inbox);
        if more && !self.unread.contains(&token) {
            self.unread.push(token);
        }
        replies
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        match &self.way {
            _ if !self.unread.is_empty() => Some(Time::ZERO),
            Way::Spoof(spoof) => spoof.passages.next_deadline(),
            Way::Local(_) => None,
        }
    }
}

/// A stream that a connection carries, or is to carry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attachment {
    pub(super) connection: ConnectionId,
    pub(super) stream: StreamId,
    /// The client's address, or the allowed address that it sends as.
    pub(super) source: IpAddr,
    /// None of the stream's datagrams is injected twice.
    pub(super) once: bool,
    /// It waits until datagrams in the name of `source` are known to get through.
    pub(super) waits: bool,
}
