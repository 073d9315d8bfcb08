//! All connections: which may come in, which want something, and for how long they may be silent.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Poll, Token};

use super::complaints::{Complaints, Trouble};
use super::parting::{Close, Refused};
use super::{connection::Connection, strangers::Strangers};
use crate::os::net::{self, framed::Filled};
use crate::proto::wire::{Features, Frame, Refusal};
use crate::proto::{seal::Keys, server::conversation::Request, terms::ConnectionId, time::Time};
use crate::server::{config::Config, inject::TOKENS_FROM};

/// The listener's token. The tokens of connections lie below those of the sockets on the way to remoted.
pub(super) const LISTENER: Token = Token(usize::MAX - 1);
/// Newcomers taken in a row.
const ACCEPTS_MAX: usize = 1_024;
/// No descriptor is left: how long to leave newcomers waiting.
const SHORTAGE_PAUSE: Duration = Duration::from_secs(1);
/// How often silent connections are looked for.
const SWEEP_GAP: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(in crate::server) struct Connections {
    listener: TcpListener,
    keys: Keys,
    offers: Features,
    /// Connections that there are descriptors for.
    capacity: usize,
    admitted_max: usize,
    pub(super) by_id: HashMap<ConnectionId, Connection>,
    next_id: usize,
    strangers: Strangers,
    /// Connections with more to read than one pass takes.
    pub(super) unread: Vec<ConnectionId>,
    pub(super) asking: Vec<ConnectionId>,
    swept: Time,
    /// When to let newcomers in that were left waiting.
    pub(super) accept_again: Option<Time>,
}

impl Connections {
    pub(in crate::server) fn new(
        config: &Config,
        keys: Keys,
        capacity: usize,
        mut listener: TcpListener,
        poll: &Poll,
    ) -> io::Result<Self> {
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(Self {
            listener,
            keys,
            offers: config.offers(),
            capacity,
            admitted_max: config.connections_max,
            by_id: HashMap::new(),
            next_id: 0,
            strangers: Strangers::new(capacity.min(config.connections_max)),
            unread: Vec::new(),
            asking: Vec::new(),
            swept: net::now(),
            accept_again: None,
        })
    }

    pub(super) fn accept(&mut self, now: Time, poll: &Poll, complaints: &mut Complaints) {
        self.accept_again = None;
        for _ in 0..ACCEPTS_MAX {
            let accepted = if self.by_id.len() < self.capacity { Some(self.listener.accept()) } else { None };
            match accepted {
                Some(Ok((stream, address))) => {
                    self.admit(now, stream, address.ip().to_canonical(), poll, complaints);
                }
                Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The newcomer is gone again.
                Some(Err(error)) if !net::is_shortage(&error) => log::debug!("cannot accept: {error}"),
                None | Some(Err(_)) => {
                    complaints.add(Trouble::Shortage, &"");
                    self.accept_again = Some(now + SHORTAGE_PAUSE);
                    return;
                }
            }
        }
        // The listener tells only once: the rest is taken in the next pass.
        self.accept_again = Some(now);
    }

    fn admit(&mut self, now: Time, stream: TcpStream, address: IpAddr, poll: &Poll, complaints: &mut Complaints) {
        // Answers are small and waited for.
        let _ = stream.set_nodelay(true);
        let token = self.free_token();
        let mut newcomer = Connection::new(now, stream, address, Keys::clone(&self.keys));
        let (is_crowded, is_full) = (self.strangers.is_crowded(address), self.by_id.len() >= self.admitted_max);
        if is_crowded {
            complaints.refuse(address, &"too many connections of this address that do not say what they are");
        } else if is_full {
            complaints.add(Trouble::TooMany, &"");
        }
        if is_crowded || is_full {
            let text = "too many connections".to_string();
            let _ = newcomer.framed.send(&Frame::Refusal(Refusal { text }));
            return;
        }
        match newcomer.framed.watch(poll.registry(), token) {
            Ok(()) => {
                self.by_id.insert(token.0 as ConnectionId, newcomer);
                self.strangers.note(address);
            }
            Err(error) => log::debug!("cannot wait for {address}: {error}"),
        }
    }

    /// A token that no connection has: its number. With 32 bits they are used up within weeks, and a connection may
    /// last for months.
    fn free_token(&mut self) -> Token {
        loop {
            let number = self.next_id;
            self.next_id = (number + 1) % TOKENS_FROM;
            if !self.by_id.contains_key(&(number as ConnectionId)) {
                return Token(number);
            }
        }
    }

    /// Reads and writes as much as a connection is ready for. Returns its requests, and why it is to be closed behind
    /// them, if it is.
    pub(super) fn attend(&mut self, now: Time, id: ConnectionId) -> Option<(Vec<Request>, Option<Close>)> {
        let connection = self.by_id.get_mut(&id)?;
        let was_client = connection.conversation.is_client();
        let (requests, rest) = connection.attend(now, self.offers);
        if connection.conversation.is_client() && !was_client {
            log::debug!("client {} connected", connection.address);
            self.strangers.forget(connection.address);
        }
        let close = match rest {
            Err(close) => Some(close),
            Ok(Filled::Ended) if !connection.conversation.awaits_last_answer() => Some(Close::Ended),
            Ok(Filled::More) if !self.unread.contains(&id) => {
                self.unread.push(id);
                None
            }
            Ok(Filled::Dry | Filled::More | Filled::Ended) => None,
        };
        Some((requests, close))
    }

    /// The connection with this number, if it is a greeted client's.
    pub(super) fn client(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.by_id.get_mut(&id).filter(|connection| connection.conversation.is_client())
    }

    pub(super) fn has_client(&self) -> bool {
        self.by_id.values().any(|connection| connection.conversation.is_client())
    }

    /// Refuses a client: it is told why its connection is of no use, and tries again at its slowest pace. Nothing
    /// happens if it was refused before: it may have said more in the same breath.
    pub(super) fn refuse(&mut self, now: Time, id: ConnectionId, why: &Refused) -> Option<Result<(), Close>> {
        let connection = self.client(id)?;
        // Until it has closed its side, it counts as a connection that says nothing of use.
        let (address, refusal) = (connection.address, connection.refuse(now, why));
        self.strangers.note(address);
        Some(refusal)
    }

    /// Closes a connection. Whether it was there.
    pub(super) fn close(&mut self, id: ConnectionId, why: &Close, complaints: &mut Complaints) -> bool {
        let Some(connection) = self.by_id.remove(&id) else {
            return false;
        };
        why.report(connection.address, &connection.conversation, complaints);
        if !connection.conversation.is_client() {
            self.strangers.forget(connection.address);
        }
        self.asking.retain(|asking| *asking != id);
        true
    }

    /// The connections that have been silent for too long, each time that it is time to look for them.
    pub(super) fn sweep(&mut self, now: Time) -> Vec<ConnectionId> {
        if now.since(self.swept) < SWEEP_GAP {
            return Vec::new();
        }
        self.swept = now;
        let silent = self.by_id.iter().filter(|(_, connection)| connection.conversation.deadline() <= now);
        silent.map(|(&id, _)| id).collect()
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        if !self.unread.is_empty() {
            return Some(Time::ZERO);
        }
        let sweep = (!self.by_id.is_empty()).then(|| self.swept + SWEEP_GAP);
        sweep.into_iter().chain(self.accept_again).min()
    }

    /// Ends the connections that `stay`, and drops all others.
    pub(super) fn end(&mut self, stay: impl Fn(ConnectionId) -> bool) {
        self.by_id.retain(|&id, connection| stay(id) && connection.end().is_ok());
    }

    /// Passes over what comes in. Whether some connection is still open at the other end.
    pub(super) fn discard_input(&mut self) -> bool {
        self.by_id.retain(|_, connection| !connection.discard_input());
        !self.by_id.is_empty()
    }
}
