//! Who may come in, and for how long without a word.

use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use mio::{Interest, Token};

use super::{CONNECTION_TOKENS, Close, Conn, Server};
use crate::os::net;
use crate::proto::time::Time;
use crate::proto::wire::{Frame, Refusal};

/// Newcomers taken in one turn of the loop.
const ACCEPTS_MAX: usize = 1_024;
/// Connections of one address that have not said what they are: a quarter of all places, within these bounds. More are refused, so that one host
/// cannot take all places.
const NEW_PER_ADDRESS_MAX: usize = 1_024;
const NEW_PER_ADDRESS_MIN: usize = 64;
/// No descriptor is left: how long to leave newcomers waiting.
const SHORTAGE_PAUSE: Duration = Duration::from_secs(1);

/// What counts as one address: of IPv6 a host has a whole /64.
fn neighbourhood(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
    }
}

impl Server<'_> {
    pub(super) fn accept(&mut self, now: Time) {
        for _ in 0..ACCEPTS_MAX {
            if self.conns.len() >= self.places {
                self.complaints.shortage += 1;
                self.accept_again = Some(now + SHORTAGE_PAUSE);
                return;
            }
            match self.listener.accept() {
                Ok((stream, address)) => self.admit(now, stream, address.ip().to_canonical()),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) if net::is_shortage(&error) => {
                    self.complaints.shortage += 1;
                    self.accept_again = Some(now + SHORTAGE_PAUSE);
                    return;
                }
                // The newcomer is gone again.
                Err(error) => log::debug!("cannot accept: {error}"),
            }
        }
        // The listener tells only once: what is left is taken in the next turn.
        self.accept_again = Some(now);
    }

    fn admit(&mut self, now: Time, stream: mio::net::TcpStream, address: IpAddr) {
        // Answers are small and waited for.
        let _ = stream.set_nodelay(true);
        let token = self.free_token();
        self.admitted += 1;
        let mut conn = Conn::new(now, stream, address, self.admitted, self.key.clone());
        let most = (self.places.min(self.config.connections_max) / 4).clamp(NEW_PER_ADDRESS_MIN, NEW_PER_ADDRESS_MAX);
        let crowded = self.strangers.get(&neighbourhood(address)).is_some_and(|&count| count >= most);
        if crowded {
            self.complaints.strange(address, &"too many connections of this address that do not say what they are");
        } else if self.conns.len() >= self.config.connections_max {
            self.complaints.refused += 1;
        }
        if crowded || self.conns.len() >= self.config.connections_max {
            let text = "too many connections".to_string();
            let _ = conn.framed.send(&Frame::Refusal(Refusal { text }));
            return;
        }
        match self.poll.registry().register(&mut conn.framed, token, Interest::READABLE | Interest::WRITABLE) {
            Ok(()) => {
                self.by_id.insert(conn.id, token);
                self.conns.insert(token, conn);
                self.note_stranger(address);
            }
            Err(error) => log::debug!("cannot wait for {address}: {error}"),
        }
    }

    /// A token that no connection has, below those of others: with 32 bits they are used up within weeks, and a connection may last for months.
    fn free_token(&mut self) -> Token {
        loop {
            let token = Token(self.tokens);
            self.tokens = (self.tokens + 1) % CONNECTION_TOKENS;
            if !self.conns.contains_key(&token) {
                return token;
            }
        }
    }

    /// A connection says nothing of use.
    pub(super) fn note_stranger(&mut self, address: IpAddr) {
        *self.strangers.entry(neighbourhood(address)).or_default() += 1;
    }

    /// A connection has said what it is, or is gone.
    pub(super) fn forget_stranger(&mut self, address: IpAddr) {
        if let Entry::Occupied(mut entry) = self.strangers.entry(neighbourhood(address)) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }

    /// Closes what has been silent for too long.
    pub(super) fn sweep(&mut self, now: Time) {
        let silent: Vec<Token> =
            self.conns.iter().filter(|(_, conn)| conn.deadline() <= now).map(|(token, _)| *token).collect();
        for token in silent {
            self.close(token, &Close::Silent);
        }
    }
}
