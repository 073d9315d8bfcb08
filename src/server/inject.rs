//! Transport tcp's last hop: datagrams into remoted's socket, over loopback, in their agents' names; and remoted's answers back.
//!
//! remoted knows an agent with a fixed-IP key by the source address of its datagrams. So each agent has a socket here that is bound to the
//! address of its client (`--inject spoof`, with `IP_TRANSPARENT`), and to the client's own UDP port, to which remoted's answers then go by
//! themselves. Such a socket is whoever's that comes from there: a client that was started anew has the address and the port of the last one.
//! A client of this host has that port itself, so any other will do: remoted looks at the address alone, and the answers come here and go back
//! over the connection. With `--inject local` (keys `any`) they always do.
//!
//! The port of a client elsewhere may be taken here, or is one that this host needs for itself: remoted's own, or one below 1024. Then its
//! datagrams are injected from any other, remoted's answers are lost, and the log says so.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use mio::net::UdpSocket;
use mio::{Poll, Token};

use crate::net;
use crate::net::udp::{Inbox, SendError, send_batch, unwatch, watch};
use crate::remoted::Found;
use crate::streams::{StreamId, Volley};
use crate::time::Time;
use crate::wire::{Session, SessionName};

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
/// Batches read from one socket before others have their turn.
const BATCHES_MAX: usize = 4;
/// Ports below are for this host's own services: whoever has the key must not take one from a service that starts later.
const PORTS_FROM: u16 = 1_024;
/// A port that was taken is tried again after this.
const RETRY_GAP: Duration = Duration::from_mins(1);

/// Whose a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Owner {
    /// Whoever has this address and this port.
    Port(IpAddr, u16),
    /// The agent that has this place behind a client.
    Agent(StreamId, u16),
}

/// One agent's socket.
#[derive(Debug)]
struct Source {
    owner: Owner,
    /// Who used it last: remoted's answers are for them.
    stream: StreamId,
    session: Session,
    address: IpAddr,
    socket: UdpSocket,
    /// When it was used last, as a count of volleys.
    used: u64,
    /// It has another port than it should; when that may be tried again.
    retry: Option<Time>,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Injector {
    mode: Inject,
    /// Where remoted receives, for each address family.
    remoted: Vec<SocketAddr>,
    sources: HashMap<Token, Source>,
    tokens: HashMap<Owner, Token>,
    next_token: usize,
    sources_max: usize,
    volleys: u64,
    inbox: Inbox,
    /// Whose answers are lost, and why.
    trouble: Option<String>,
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

impl Injector {
    /// For a remoted at these addresses. No more than `sources_max` sockets are open at a time.
    pub(super) fn new(mode: Inject, remoted: Vec<SocketAddr>, sources_max: usize) -> Self {
        Self {
            mode,
            remoted,
            sources: HashMap::new(),
            tokens: HashMap::new(),
            next_token: 0,
            sources_max,
            volleys: 0,
            inbox: Inbox::default(),
            trouble: None,
        }
    }

    /// Whether a token is one of these sockets'.
    pub(super) const fn owns(token: Token) -> bool {
        token.0 >= TOKENS_FROM && token.0 < usize::MAX - 8
    }

    /// Sends a volley; how many of it were sent.
    ///
    /// What nobody receives is lost without an error: so remoted's sockets must have been `found` where it goes to.
    pub(super) fn send(&mut self, poll: &Poll, found: &Found, volley: &Volley<'_>) -> (usize, Outcome) {
        let Some(target) = self.target(volley.address) else {
            let family = net::family(volley.address);
            return (
                0,
                Outcome::Failed(format!("cannot inject for {}: --remoted has no {family} address", volley.address)),
            );
        };
        if let Err(why) = found.receives_at(target.ip()) {
            return (0, Outcome::Failed(format!("cannot inject into {target}: remoted {why}")));
        }
        let token = match self.source(poll, volley) {
            Ok(token) => token,
            Err(error) if net::is_shortage(&error) => return (0, Outcome::Busy),
            Err(error) => {
                return (0, Outcome::Failed(format!("cannot inject with the address {}: {error}", volley.address)));
            }
        };
        let Some(source) = self.sources.get(&token) else {
            return (0, Outcome::Busy);
        };
        let (mut sent, outcome) = send_batch(&source.socket, target, &volley.payloads);
        match outcome {
            Ok(()) => (sent, Outcome::Done),
            Err(SendError::Busy) => (sent, Outcome::Busy),
            Err(SendError::Unsendable(error)) if net::is_too_large(&error) => {
                // To wait would keep all behind it for ever.
                log::debug!("cannot inject {} bytes: {error}", volley.payloads[sent].len());
                sent += 1;
                (sent, Outcome::Done)
            }
            Err(SendError::Refused(error) | SendError::Unsendable(error)) => {
                (sent, Outcome::Failed(format!("cannot inject into {target}: {error}")))
            }
        }
    }

    /// Whose answers are lost, and why; each time that it is found out.
    pub(super) const fn take_trouble(&mut self) -> Option<String> {
        self.trouble.take()
    }

    /// What remoted has answered to one of these sockets: for which stream, and to whom; whether there may be more.
    pub(super) fn take_replies(&mut self, token: Token, mut reply: impl FnMut(StreamId, SessionName, &[u8])) -> bool {
        let Some(source) = self.sources.get(&token) else {
            return false;
        };
        for _ in 0..BATCHES_MAX {
            match self.inbox.receive(&source.socket) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) => {
                    log::debug!("cannot receive what remoted answers: {error}");
                    return false;
                }
            }
            // To an address of this host remoted answers from that address.
            let ports = &self.remoted;
            let answers = |from: &SocketAddr| {
                ports.contains(from)
                    || from.ip() == source.address && ports.iter().any(|remoted| remoted.port() == from.port())
            };
            for received in self.inbox.iter().filter(|received| answers(&received.from)) {
                reply(source.stream, source.session.name, received.bytes);
            }
            if !self.inbox.is_full() {
                return false;
            }
        }
        true
    }

    fn target(&self, address: IpAddr) -> Option<SocketAddr> {
        let fits = |target: &&SocketAddr| self.mode == Inject::Local || target.is_ipv4() == address.is_ipv4();
        self.remoted.iter().find(fits).copied()
    }

    /// The socket of the volley's agent, made if need be.
    fn source(&mut self, poll: &Poll, volley: &Volley<'_>) -> io::Result<Token> {
        self.volleys += 1;
        let port = Owner::Port(volley.address, volley.session.port);
        let agent = Owner::Agent(volley.stream, volley.session.name.id);
        for owner in [port, agent] {
            if let Some(&token) = self.tokens.get(&owner)
                && let Some(source) = self.sources.get_mut(&token)
            {
                let same = source.session == volley.session && source.address == volley.address;
                let due = source.retry.is_some_and(|at| at <= net::now());
                if owner == port || same && !due {
                    (source.stream, source.session, source.used) = (volley.stream, volley.session, self.volleys);
                    return Ok(token);
                }
                self.close(poll, token);
            }
        }
        if self.sources.len() >= self.sources_max
            && let Some(oldest) = self.oldest_of_most()
        {
            self.close(poll, oldest);
        }
        let (socket, owner, retry) = match self.bind_port(volley) {
            Some(socket) => (socket?, port, None),
            None => (self.bind_any(volley)?, agent, self.note_lost_answers(volley)),
        };
        let token = Token(TOKENS_FROM + self.next_token);
        self.next_token = (self.next_token + 1) % (TOKENS_FROM / 2);
        watch(poll, &socket, token)?;
        let (stream, session, address) = (volley.stream, volley.session, volley.address);
        self.sources.insert(token, Source { owner, stream, session, address, socket, used: self.volleys, retry });
        self.tokens.insert(owner, token);
        Ok(token)
    }

    /// The one that was used longest ago, of the stream that has most: a client with many agents costs no other its sockets.
    fn oldest_of_most(&self) -> Option<Token> {
        let mut counts: HashMap<StreamId, usize> = HashMap::new();
        for source in self.sources.values() {
            *counts.entry(source.stream).or_default() += 1;
        }
        let (&most, _) = counts.iter().max_by_key(|(_, count)| **count)?;
        let of_most = self.sources.iter().filter(|(_, source)| source.stream == most);
        of_most.min_by_key(|(_, source)| source.used).map(|(&token, _)| token)
    }

    /// A socket with the client's address and port; `None` where there can be none.
    fn bind_port(&self, volley: &Volley<'_>) -> Option<io::Result<UdpSocket>> {
        // A client on this host has that port itself.
        if self.mode == Inject::Local || volley.address.is_loopback() || !self.may_take(volley.session.port) {
            return None;
        }
        match net::bind_foreign(SocketAddr::new(volley.address, volley.session.port)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => None,
            outcome => Some(outcome),
        }
    }

    /// Whether this host can spare that port.
    fn may_take(&self, port: u16) -> bool {
        port >= PORTS_FROM && self.remoted.iter().all(|remoted| remoted.port() != port)
    }

    /// A client gets a socket with another port than its own. If that is where its answers would have to go, says so; when to try again.
    fn note_lost_answers(&mut self, volley: &Volley<'_>) -> Option<Time> {
        let (address, port) = (volley.address, volley.session.port);
        // A client behind a translation of addresses has no port that is known, and this host's own addresses come back here.
        let here = self.mode == Inject::Local || net::bind_source(SocketAddr::new(address, 0)).is_ok();
        if here || port == 0 {
            return None;
        }
        let why = if self.may_take(port) { "is in use on this host" } else { "is one that this host keeps to itself" };
        self.trouble = Some(format!(
            "remoted's replies to {address} are lost: UDP port {port} {why} (--source-port at the client)"
        ));
        Some(net::now() + RETRY_GAP)
    }

    /// A socket with any port, of the address that remoted is to see.
    fn bind_any(&self, volley: &Volley<'_>) -> io::Result<UdpSocket> {
        if self.mode == Inject::Local {
            let v4 = self.remoted.first().is_some_and(SocketAddr::is_ipv4);
            let any = if v4 { Ipv4Addr::UNSPECIFIED.into() } else { IpAddr::from(Ipv6Addr::UNSPECIFIED) };
            return net::bind_source(SocketAddr::new(any, 0));
        }
        let bind = if volley.address.is_loopback() { net::bind_source } else { net::bind_foreign };
        bind(SocketAddr::new(volley.address, 0))
    }

    fn close(&mut self, poll: &Poll, token: Token) {
        if let Some(source) = self.sources.remove(&token) {
            self.tokens.remove(&source.owner);
            if let Err(error) = unwatch(poll, &source.socket) {
                log::debug!("cannot let go of a socket: {error}");
            }
        }
    }
}
