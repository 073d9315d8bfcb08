//! In this host's name: an ordinary socket for each agent, so that what remoted answers tells whose it is.
//!
//! The sockets are bound to a loopback address, or to that of remoted, and connected to remoted where its answers are sure to come from there:
//! the system then takes nothing in from anybody else. An agent that gets no socket shares one (see [`allotment`](crate::proto::server::allotment)); so
//! datagrams never wait for a descriptor.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mio::net::UdpSocket;
use mio::{Poll, Token};

use super::{Outcome, TAPS_MAX, TOKENS_FROM, conclude};
use crate::os::net;
use crate::os::net::udp::{Inbox, SendError, send_batch, unwatch, watch};
use crate::os::remoted::Found;
use crate::proto::server::allotment::{Agent, Allotment, Seat};
use crate::proto::server::streams::Volley;
use crate::proto::terms::StreamId;
use crate::proto::terms::{SessionName, agent_id};
use crate::proto::time::Time;

/// Batches read from one socket before others have their turn.
const BATCHES_MAX: usize = 4;
/// An earlier datagram was refused, which the next call tells: this often one is tried again.
const REFUSALS_MAX: usize = 3;
/// Clients whose agents' keys the log has told of.
const TOLD_MAX: usize = 256;

/// Whose address remoted sees.
#[derive(Clone, Copy, Debug)]
pub(super) enum Seen {
    /// That of a client on this host: a loopback address.
    Client,
    /// One of the server. remoted is OSSEC's or not.
    Server { ossec: bool },
}

/// All of them.
#[derive(Debug)]
pub(in crate::server) struct Own {
    seen: Seen,
    ways: Vec<Way>,
    sockets: HashMap<Token, Held>,
    allotment: Allotment,
    /// Clients of which the log has told that remoted will not take what they send.
    told: HashSet<IpAddr>,
    trouble: Option<String>,
}

/// An address that remoted may receive at, and the socket to it that agents share which have none.
#[derive(Debug)]
struct Way {
    target: SocketAddr,
    shared: io::Result<UdpSocket>,
}

/// The socket of an agent.
#[derive(Debug)]
struct Held {
    agent: Agent,
    target: SocketAddr,
    socket: UdpSocket,
}

impl Own {
    /// At most `sockets_max` agents have a socket at a time.
    pub(super) fn open(seen: Seen, remoted: Vec<SocketAddr>, sockets_max: usize) -> Self {
        // From the start, while there are descriptors.
        let ways = remoted.into_iter().map(|target| Way { target, shared: bind(source(target), target) });
        Self {
            seen,
            ways: ways.collect(),
            sockets: HashMap::new(),
            allotment: Allotment::new(sockets_max, TOKENS_FROM + TAPS_MAX),
            told: HashSet::new(),
            trouble: None,
        }
    }

    pub(super) fn send(&mut self, now: Time, poll: &Poll, found: &Found, volley: &Volley<'_>) -> (usize, Outcome) {
        let target = match self.target(found, volley.address) {
            Ok(target) => target,
            Err(why) => return (0, Outcome::Failed(why)),
        };
        let from = match self.seen {
            Seen::Client => volley.address,
            Seen::Server { ossec } => {
                if ossec {
                    self.tell_key(source(target), volley);
                }
                source(target)
            }
        };
        let agent = Agent { stream: volley.stream, name: volley.session.name, address: from };
        match self.socket(now, poll, agent, target) {
            Ok(socket) => conclude(target, volley, send(socket, target, &volley.payloads)),
            Err(error) => (0, Outcome::Failed(format!("cannot inject into {target} from {from}: {error}"))),
        }
    }

    pub(super) const fn take_trouble(&mut self) -> Option<String> {
        self.trouble.take()
    }

    pub(super) fn take_replies(
        &self,
        token: Token,
        inbox: &mut Inbox,
        mut reply: impl FnMut(StreamId, SessionName, &[u8]),
    ) -> bool {
        let Some(Held { agent, target, socket }) = self.sockets.get(&token) else {
            return false;
        };
        // To an address of this host remoted answers from that address.
        let answers = |from: &SocketAddr| from == target || *from == SocketAddr::new(agent.address, target.port());
        for _ in 0..BATCHES_MAX {
            match inbox.receive(socket) {
                Ok(0) => return false,
                Ok(_) => {}
                // Something that was sent was refused; this has taken the error off the socket.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(error) => {
                    log::debug!("cannot receive what remoted answers: {error}");
                    return false;
                }
            }
            for received in inbox.iter().filter(|received| answers(&received.from)) {
                reply(agent.stream, agent.name, received.bytes);
            }
            if !inbox.is_full() {
                return false;
            }
        }
        true
    }

    /// Where remoted receives what is sent for a client at this address.
    fn target(&self, found: &Found, address: IpAddr) -> Result<SocketAddr, String> {
        let fits = |target: &SocketAddr| match self.seen {
            Seen::Client => target.is_ipv4() == address.is_ipv4(),
            Seen::Server { .. } => true,
        };
        let mut targets = self.ways.iter().map(|way| way.target).filter(fits);
        let Some(first) = targets.next() else {
            return Err(format!("cannot inject for {address}: --remoted has no {} address", net::family(address)));
        };
        match found.receives_at(first.ip()) {
            Ok(()) => Ok(first),
            Err(why) => targets
                .find(|target| found.receives_at(target.ip()).is_ok())
                .ok_or_else(|| format!("cannot inject into {first}: {why}")),
        }
    }

    /// What an agent's datagrams go out from.
    fn socket(&mut self, now: Time, poll: &Poll, agent: Agent, target: SocketAddr) -> io::Result<&UdpSocket> {
        let token = match self.allotment.seat(now, agent) {
            Seat::Taken(token) => Token(token),
            Seat::New(token, instead_of) => {
                if let Some(other) = instead_of {
                    self.close(poll, Token(other));
                }
                let token = Token(token);
                match bind(agent.address, target).and_then(|socket| watch(poll, &socket, token).map(|()| socket)) {
                    Ok(socket) => {
                        self.sockets.insert(token, Held { agent, target, socket });
                    }
                    Err(error) => {
                        self.allotment.give_up(agent);
                        return self.share(agent, target, error);
                    }
                }
                token
            }
            Seat::Shared => {
                let why = format!("{} agents have a socket, more are not allowed", self.sockets.len());
                return self.share(agent, target, io::Error::other(why));
            }
        };
        match self.sockets.get(&token) {
            Some(Held { socket, .. }) => Ok(socket),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// The socket of those that have none, whose replies are lost. `why` it has to do.
    fn share(&mut self, agent: Agent, target: SocketAddr, why: io::Error) -> io::Result<&UdpSocket> {
        let way = self.ways.iter_mut().find(|way| way.target == target && source(target) == agent.address);
        let Some(way) = way else {
            return Err(why);
        };
        if way.shared.is_err() {
            way.shared = bind(agent.address, target);
        }
        match &way.shared {
            Ok(socket) => {
                self.trouble = Some(format!("remoted's replies to some agents are lost: {why}"));
                Ok(socket)
            }
            Err(_) => Err(why),
        }
    }

    /// Tells of a client whose agents remoted will not know: what an agent sends whose key is `any` or a range begins with its id, and of all
    /// others remoted looks at the address.
    fn tell_key(&mut self, seen: IpAddr, volley: &Volley<'_>) {
        let known = |payload: &&[u8]| payload.is_empty() || agent_id(payload).is_some();
        if volley.address == seen || self.told.len() >= TOLD_MAX || volley.payloads.iter().all(known) {
            return;
        }
        if self.told.insert(volley.address) {
            log::warn!(
                "an agent at {} has a key with a fixed address, and with --inject local remoted sees {seen}: it will refuse what the agent sends \
                 (1213); give the agent a key for `any`, or start the server with --inject spoof",
                volley.address
            );
        }
    }

    fn close(&mut self, poll: &Poll, token: Token) {
        if let Some(Held { socket, .. }) = self.sockets.remove(&token)
            && let Err(error) = unwatch(poll, &socket)
        {
            log::debug!("cannot let go of a socket: {error}");
        }
    }
}

/// This host's address that remoted sees where it is not the client's.
fn source(target: SocketAddr) -> IpAddr {
    match target.ip() {
        IpAddr::V4(v4) if v4.is_loopback() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(v6) if v6.is_loopback() => Ipv6Addr::LOCALHOST.into(),
        own => own,
    }
}

/// A socket from there to remoted. Connected, it takes nothing in from anybody else; but where one address is of loopback and the other is not,
/// remoted's answers may come from an address that nothing was sent to.
fn bind(from: IpAddr, target: SocketAddr) -> io::Result<UdpSocket> {
    let socket = net::bind_source(SocketAddr::new(from, 0))?;
    if from.is_loopback() == target.ip().is_loopback() {
        socket.connect(target)?;
    }
    Ok(socket)
}

/// Sends datagrams in order. A connected socket tells with the next call that an earlier datagram was refused: remoted may be back since.
fn send(socket: &UdpSocket, target: SocketAddr, payloads: &[&[u8]]) -> (usize, Result<(), SendError>) {
    let (mut sent, mut refusals) = (0, 0);
    loop {
        let (more, outcome) = send_batch(socket, target, &payloads[sent..]);
        sent += more;
        match outcome {
            Err(SendError::Refused(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                refusals += 1;
                if refusals >= REFUSALS_MAX {
                    return (sent, Err(SendError::Busy));
                }
            }
            outcome => return (sent, outcome),
        }
    }
}
