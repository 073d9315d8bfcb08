//! Transport tcp's last hop: datagrams into remoted's socket, on its host, in their agents' names; and remoted's answers back.
//!
//! remoted knows an agent with a fixed-IP key by the source address of its datagrams. There are two ways to it:
//!
//! * [`spoof`]: raw sockets, so that remoted sees the client's address and UDP port, and its answers go there by themselves. For `--inject spoof`
//!   with a key.
//! * [`own`]: ordinary sockets of this host, one for each agent, so that remoted's answers come here and go back over the connection. For
//!   `--inject local`; and without a key, when all clients are of this host: remoted sees the loopback address of the client then.

mod own;
mod spoof;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{IpAddr, SocketAddr};

use mio::{Poll, Token};

use crate::os::net::udp::{Inbox, SendError};
use crate::os::remoted::Found;
use crate::proto::server::streams::Volley;
use crate::proto::terms::SessionName;
use crate::proto::terms::StreamId;
use crate::proto::time::Time;
use own::{Own, Seen};
use spoof::Spoof;

/// Whose address remoted sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Inject {
    /// The client's.
    #[default]
    Spoof,
    /// The server's own.
    Local,
}

/// Tokens of these sockets start here: below are those of connections.
pub(super) const TOKENS_FROM: usize = usize::MAX / 2;
/// The first of them are those of taps, one for each address family.
const TAPS_MAX: usize = 2;

/// The way to remoted.
#[derive(Debug)]
pub(super) enum Injector {
    /// In the clients' names.
    Spoof(Box<Spoof>),
    /// In this host's.
    Own(Box<Own>),
}

/// What became of a volley.
#[derive(Debug)]
pub(super) enum Outcome {
    /// All of it is in remoted's socket, as far as the system tells.
    Done,
    /// The system has no room at the moment.
    Busy,
    /// It cannot be done; the reason is for the log.
    Failed(String),
}

/// How an injector is made.
#[derive(Debug)]
pub(super) struct Means {
    pub(super) inject: Inject,
    /// The server has a key: clients of other hosts may inject.
    pub(super) keyed: bool,
    /// remoted is OSSEC's, whose datagrams are known.
    pub(super) ossec: bool,
    /// Where remoted receives, for each address family.
    pub(super) remoted: Vec<SocketAddr>,
    /// Sockets for agents at a time, where replies come back over the connection.
    pub(super) sockets_max: usize,
}

impl Means {
    /// Whether it takes raw sockets.
    pub(super) const fn spoofs(&self) -> bool {
        matches!(self.inject, Inject::Spoof) && self.keyed
    }
}

impl Injector {
    /// Opens what is open from the start to the end. Raw sockets take CAP_NET_RAW, from here on no more.
    pub(super) fn open(means: Means) -> io::Result<Self> {
        if means.spoofs() {
            return Ok(Self::Spoof(Box::new(Spoof::open(&means.remoted)?)));
        }
        let seen = match means.inject {
            Inject::Spoof => Seen::Client,
            Inject::Local => Seen::Server { ossec: means.ossec },
        };
        Ok(Self::Own(Box::new(Own::open(seen, means.remoted, means.sockets_max))))
    }

    /// Has `poll` tell of what arrives.
    pub(super) fn watch(&self, poll: &Poll) -> io::Result<()> {
        match self {
            Self::Spoof(spoof) => spoof.watch(poll),
            Self::Own(_) => Ok(()),
        }
    }

    /// Whether a token is one of these sockets'.
    pub(super) const fn owns(token: Token) -> bool {
        token.0 >= TOKENS_FROM && token.0 < usize::MAX - 8
    }

    /// A client is about to have datagrams injected in the name of this address. Whether it may at once; otherwise [`Self::take_arrivals`] or
    /// [`Self::poll_blocked`] will name the address. The error says why that cannot be.
    pub(super) fn enter(&mut self, now: Time, address: IpAddr) -> Result<bool, String> {
        match self {
            Self::Spoof(spoof) => spoof.enter(now, address).map(|()| false),
            Self::Own(_) => Ok(true),
        }
    }

    /// A client that entered is gone.
    pub(super) fn leave(&mut self, address: IpAddr) {
        match self {
            Self::Spoof(spoof) => spoof.leave(address),
            Self::Own(_) => {}
        }
    }

    /// Sends a volley; how many of it were sent.
    ///
    /// What nobody receives is lost without an error: so remoted's sockets must have been `found` where it goes to.
    pub(super) fn send(&mut self, now: Time, poll: &Poll, found: &Found, volley: &Volley<'_>) -> (usize, Outcome) {
        match self {
            Self::Spoof(spoof) => spoof.send(now, found, volley),
            Self::Own(own) => own.send(now, poll, found, volley),
        }
    }

    /// Whose answers are lost, and why; each time that it is found out.
    pub(super) fn take_trouble(&mut self) -> Option<String> {
        match self {
            Self::Spoof(_) => None,
            Self::Own(own) => own.take_trouble(),
        }
    }

    /// What remoted has answered to one of these sockets: for which stream, and to whom; whether there may be more.
    pub(super) fn take_replies(
        &self,
        token: Token,
        inbox: &mut Inbox,
        reply: impl FnMut(StreamId, SessionName, &[u8]),
    ) -> bool {
        match self {
            Self::Spoof(_) => false,
            Self::Own(own) => own.take_replies(token, inbox, reply),
        }
    }

    /// In whose names datagrams have just been seen to get through.
    pub(super) fn take_arrivals(&mut self, now: Time, token: Token, inbox: &mut Inbox) -> Vec<IpAddr> {
        match self {
            Self::Spoof(spoof) => spoof.take_arrivals(now, token, inbox),
            Self::Own(_) => Vec::new(),
        }
    }

    /// Does what is due to see that. An address in whose name nothing gets through, and why that seems to be so.
    pub(super) fn poll_blocked(&mut self, now: Time) -> Option<(IpAddr, String)> {
        match self {
            Self::Spoof(spoof) => spoof.poll_blocked(now),
            Self::Own(_) => None,
        }
    }

    /// When something is due.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        match self {
            Self::Spoof(spoof) => spoof.next_deadline(),
            Self::Own(_) => None,
        }
    }
}

/// What a volley's sending came to.
fn conclude(
    target: SocketAddr,
    volley: &Volley<'_>,
    (sent, outcome): (usize, Result<(), SendError>),
) -> (usize, Outcome) {
    match outcome {
        Ok(()) => (sent, Outcome::Done),
        Err(SendError::Busy) => (sent, Outcome::Busy),
        Err(SendError::Unsendable(error)) => {
            // To wait would keep all behind it for ever.
            log::debug!("cannot inject {} bytes: {error}", volley.payloads[sent].len());
            (sent + 1, Outcome::Done)
        }
        Err(SendError::Refused(error)) => (sent, Outcome::Failed(format!("cannot inject into {target}: {error}"))),
    }
}
