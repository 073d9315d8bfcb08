//! In this host's name: an ordinary socket for each agent, so that each answer of remoted shows which agent it is for.
//!
//! The sockets are bound to a loopback address, or to remoted's, and connected to remoted where its answers are sure
//! to come from there: the system then takes nothing in from anybody else. An agent that gets no socket shares one
//! (see [`allotment`](crate::proto::server::allotment)); so datagrams never wait for a descriptor.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mio::net::UdpSocket;
use mio::{Poll, Token};

use super::error::{Error, Sent};
use super::tokens::{TAPS_MAX, TOKENS_FROM};
use crate::os::net::udp::{Inbox, SendError, send_batch, unwatch, watch};
use crate::os::{net, remoted::Found};
use crate::proto::server::allotment::{Agent, Allotment, Seat};
use crate::proto::terms::{StreamId, agent_id};
use crate::proto::{server::streams::Volley, time::Time, wire::Reply};

/// Batches read from one socket before the next socket is read.
const BATCHES_MAX: usize = 4;
/// The system tells with a call that an earlier datagram was refused. The datagrams of the call are tried so often.
const REFUSALS_MAX: usize = 3;
/// Clients that the log has warned of because of their agents' keys.
const WARNED_MAX: usize = 256;

/// The address that remoted sees.
#[derive(Clone, Copy, Debug)]
pub(super) enum Seen {
    /// The loopback address of a client on this host.
    Client,
    /// An address of the server. remoted is OSSEC's or not.
    Server { is_ossec: bool },
}

#[derive(Debug)]
pub(in crate::server) struct Local {
    seen: Seen,
    targets: Vec<Target>,
    sockets: HashMap<Token, AgentSocket>,
    allotment: Allotment,
    /// Clients that the log has warned of: remoted will refuse their agents' datagrams.
    warned: HashSet<IpAddr>,
    /// The agents whose answers are lost, and why; each time that it is found out.
    pub(super) trouble: Option<String>,
}

/// An address that remoted may receive at, and the socket to it that all agents without another one share.
#[derive(Debug)]
struct Target {
    address: SocketAddr,
    shared: io::Result<UdpSocket>,
}

#[derive(Debug)]
struct AgentSocket {
    agent: Agent,
    target: SocketAddr,
    socket: UdpSocket,
}

impl Local {
    pub(super) fn open(seen: Seen, remoted: Vec<SocketAddr>, sockets_max: usize) -> Self {
        // From the start, while there are descriptors.
        let targets = remoted.into_iter().map(|address| Target { address, shared: bind(source(address), address) });
        Self {
            seen,
            targets: targets.collect(),
            sockets: HashMap::new(),
            allotment: Allotment::new(sockets_max, TOKENS_FROM + TAPS_MAX),
            warned: HashSet::new(),
            trouble: None,
        }
    }

    pub(super) fn send(&mut self, now: Time, poll: &Poll, found: &Found, volley: &Volley<'_>) -> Result<Sent, Error> {
        let (target, socket) = self.socket_for(now, poll, found, volley)?;
        let (sent, outcome) = send(socket, target, &volley.payloads);
        Ok((target, sent, outcome))
    }

    /// remoted's answers at one of these sockets, each with the stream that it is for; and whether there may be more.
    pub(super) fn take_replies(&self, token: Token, inbox: &mut Inbox) -> (Vec<(StreamId, Reply)>, bool) {
        let mut replies = Vec::new();
        let Some(AgentSocket { agent, target, socket }) = self.sockets.get(&token) else {
            return (replies, false);
        };
        // To an address of this host remoted answers from that address.
        let answers = |from: &SocketAddr| from == target || *from == SocketAddr::new(agent.address, target.port());
        for _ in 0..BATCHES_MAX {
            match inbox.receive(socket) {
                Ok(0) => return (replies, false),
                Ok(_) => {}
                // An earlier datagram was refused; this has taken the error off the socket.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(error) => {
                    log::debug!("cannot receive what remoted answers: {error}");
                    return (replies, false);
                }
            }
            let answered = inbox.iter().filter(|received| answers(&received.from));
            let reply = |bytes: &[u8]| (agent.stream, Reply { name: agent.name, bytes: bytes.to_vec() });
            replies.extend(answered.map(|received| reply(received.bytes)));
            if !inbox.is_full() {
                return (replies, false);
            }
        }
        (replies, true)
    }

    /// Where the datagrams of a volley go, and the socket that they leave from.
    fn socket_for(
        &mut self,
        now: Time,
        poll: &Poll,
        found: &Found,
        volley: &Volley<'_>,
    ) -> Result<(SocketAddr, &UdpSocket), Error> {
        let target = self.target(found, volley.address)?;
        let from = match self.seen {
            Seen::Client => volley.address,
            Seen::Server { is_ossec } => {
                if is_ossec {
                    self.warn_of_key(source(target), volley);
                }
                source(target)
            }
        };
        let agent = Agent { stream: volley.stream, name: volley.session.name, address: from };
        match self.socket(now, poll, agent, target) {
            Ok(socket) => Ok((target, socket)),
            Err(source) => Err(Error::NoSocket { from, target, source }),
        }
    }

    /// Where remoted receives the datagrams of a client at this address.
    fn target(&self, found: &Found, address: IpAddr) -> Result<SocketAddr, Error> {
        let fits = |target: &SocketAddr| match self.seen {
            Seen::Client => target.is_ipv4() == address.is_ipv4(),
            Seen::Server { .. } => true,
        };
        let mut targets = self.targets.iter().map(|target| target.address).filter(fits);
        let first = targets.next().ok_or(Error::Family { address })?;
        match found.receives_at(first.ip()) {
            Ok(()) => Ok(first),
            Err(why) => targets
                .find(|target| found.receives_at(target.ip()).is_ok())
                .ok_or(Error::NotReceived { target: first, why }),
        }
    }

    fn socket(&mut self, now: Time, poll: &Poll, agent: Agent, target: SocketAddr) -> io::Result<&UdpSocket> {
        let token = match self.allotment.seat(now, agent) {
            Seat::Taken(token) => Token(token),
            Seat::New(token, instead_of) => {
                if let Some(other) = instead_of {
                    self.close(poll, Token(other));
                }
                let token = Token(token);
                match bind(agent.address, target).and_then(|socket| watch(poll, &socket, token).map(|()| socket)) {
                    Ok(socket) => self.sockets.insert(token, AgentSocket { agent, target, socket }),
                    Err(error) => {
                        self.allotment.give_up(agent);
                        return self.share(agent, target, error);
                    }
                };
                token
            }
            Seat::Shared => {
                let why = format!("{} agents have a socket, more are not allowed", self.sockets.len());
                return self.share(agent, target, io::Error::other(why));
            }
        };
        self.sockets.get(&token).map(|held| &held.socket).ok_or(io::ErrorKind::NotFound.into())
    }

    /// The shared socket, whose replies are lost. `why`: the reason why this agent has no other socket.
    fn share(&mut self, agent: Agent, target: SocketAddr, why: io::Error) -> io::Result<&UdpSocket> {
        let shares = |shared: &&mut Target| shared.address == target && source(target) == agent.address;
        let Some(Target { shared, .. }) = self.targets.iter_mut().find(shares) else {
            return Err(why);
        };
        if shared.is_err() {
            *shared = bind(agent.address, target);
        }
        match shared {
            Ok(socket) => {
                self.trouble = Some(format!("remoted's replies to some agents are lost: {why}"));
                Ok(socket)
            }
            Err(_) => Err(why),
        }
    }

    /// Warns of a client whose agents remoted will not know. The datagrams of an agent whose key is `any` or a range
    /// begin with its id; of all other agents remoted looks at the address.
    fn warn_of_key(&mut self, seen: IpAddr, volley: &Volley<'_>) {
        let known = |payload: &&[u8]| payload.is_empty() || agent_id(payload).is_some();
        if volley.address == seen || self.warned.len() >= WARNED_MAX || volley.payloads.iter().all(known) {
            return;
        }
        if self.warned.insert(volley.address) {
            log::warn!(
                "an agent at {} has a key with a fixed address, and with --inject local remoted sees {seen}: it will \
                 refuse what the agent sends (1213); give the agent a key for `any`, or start the server with \
                 --inject spoof",
                volley.address
            );
        }
    }

    fn close(&mut self, poll: &Poll, token: Token) {
        if let Some(AgentSocket { socket, .. }) = self.sockets.remove(&token)
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
        address => address,
    }
}

/// A socket from there to remoted. Connected, it takes nothing in from anybody else; but where one address is of
/// loopback and the other is not, remoted's answers may come from an address that nothing was sent to.
fn bind(from: IpAddr, target: SocketAddr) -> io::Result<UdpSocket> {
    let socket = net::bind_source(SocketAddr::new(from, 0))?;
    if from.is_loopback() == target.ip().is_loopback() {
        socket.connect(target)?;
    }
    Ok(socket)
}

/// Sends datagrams in order. A connected socket tells with the next call that an earlier datagram was refused: remoted
/// may be back since.
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
