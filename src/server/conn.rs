//! One client's connection: the socket, and the conversation over it.

use std::net::{IpAddr, Shutdown};

use mio::net::TcpStream;

use super::conversation::{Access, Conversation, Garbage, Request};
use crate::net::framed::{Broken, Filled, Framed};
use crate::seal::Key;
use crate::time::Time;
use crate::verdict::ClientId;
use crate::wire::{Assembler, Features, Pong};

/// A connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) framed: Framed,
    pub(super) address: IpAddr,
    pub(super) id: ClientId,
    /// The server has a key.
    keyed: bool,
    conversation: Conversation,
}

/// Why a connection is to be closed.
#[derive(Debug)]
pub(super) enum Close {
    /// It was closed at the other end.
    Ended,
    /// It said something that it must not say.
    Garbage(Garbage),
    /// It said nothing for too long.
    Silent,
    /// Its client has made another one.
    Replaced,
    /// It broke.
    Broken(Broken),
}

impl From<Broken> for Close {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

impl Conn {
    pub(super) fn new(now: Time, stream: TcpStream, address: IpAddr, id: ClientId, key: Option<Key>) -> Self {
        let keyed = key.is_some();
        Self { framed: Framed::server(stream, key), address, id, keyed, conversation: Conversation::new(now) }
    }

    /// Reads and writes what the connection is ready for. The requests that came in, and what reading has left behind.
    pub(super) fn attend(&mut self, now: Time, offers: Features) -> Result<(Vec<Request>, Filled), Close> {
        self.framed.flush()?;
        let before = self.framed.read();
        let filled = self.framed.fill()?;
        if self.framed.read() > before {
            self.conversation.handle_alive(now);
        }
        let access = self.access(offers);
        let (input, output) = self.framed.ends();
        let heard = self.conversation.handle_input(now, access, input, output);
        self.framed.flush()?;
        Ok((heard.map_err(Close::Garbage)?, filled))
    }

    /// One that closes its sending side after a plain request still wants the answer.
    pub(super) const fn awaits_last_answer(&self) -> bool {
        self.conversation.awaits_last_answer()
    }

    /// What it may do. Without a key anybody who reaches the port could speak to remoted in an agent's name: only whoever is on this host may.
    fn access(&self, offers: Features) -> Access {
        if self.framed.is_sealed() {
            Access::Features(offers)
        } else if self.keyed {
            Access::KeyWanted
        } else {
            Access::Features(if self.address.is_loopback() { offers } else { Features::NONE })
        }
    }

    /// When it is closed unless something comes in.
    pub(super) const fn deadline(&self) -> Time {
        self.conversation.deadline()
    }

    /// It is a client of ours, greeted.
    pub(super) const fn is_client(&self) -> bool {
        self.conversation.is_client()
    }

    /// Answers a heartbeat.
    pub(super) fn answer(&mut self, pong: Pong) -> Result<(), Close> {
        self.conversation.answer(pong, self.framed.ends().1);
        Ok(self.framed.flush()?)
    }

    /// Answers a plain request and ends the own side: the answer must not be lost to a reset by what is still to be read.
    pub(super) fn answer_plain(&mut self, now: Time, up: bool) -> Result<(), Close> {
        self.conversation.answer_plain(now, up, self.framed.ends().1);
        self.say_last()
    }

    /// Tells a client why its connection is of no use, and ends the own side.
    pub(super) fn refuse(&mut self, now: Time, text: String) -> Result<(), Close> {
        self.conversation.refuse(now, text, self.framed.ends().1);
        self.say_last()
    }

    /// Passes over what comes in. Whether it was closed at the other end, or is broken.
    pub(super) fn is_over(&mut self) -> bool {
        let filled = self.framed.fill();
        *self.framed.ends().0 = Assembler::default();
        !matches!(filled, Ok(Filled::Dry | Filled::More))
    }

    /// Writes what there is, and ends the own side.
    pub(super) fn say_last(&mut self) -> Result<(), Close> {
        self.framed.flush()?;
        let _ = self.framed.stream().shutdown(Shutdown::Write);
        Ok(())
    }
}
