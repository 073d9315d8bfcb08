//! One connection to a broker server, from the first packet on.

use std::net::SocketAddr;

use mio::Token;
use mio::net::TcpStream;

use crate::net::framed::{Broken, Filled, Framed};
use crate::net::{self};
use crate::seal::Key;
use crate::time::Time;
use crate::wire::{Frame, Hello};

/// Fills in a row, of 64 KiB each. A server answers each small frame with one, and carries what remoted answers: more at once is none.
const FILLS_MAX: usize = 64;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The network has not answered.
    Connecting,
    /// Connected and greeted at this moment; the server has not answered.
    Greeted { at: Time },
    /// The server has answered.
    Ready,
}

/// Why a connection is of no more use.
#[derive(Debug)]
pub(super) enum Trouble {
    Broken(Broken),
    /// More than any server sends.
    TooMuch,
}

impl Trouble {
    /// The server is there and will say the same next time.
    pub(super) const fn is_refusal(&self) -> bool {
        matches!(self, Self::Broken(Broken::Seal(_) | Broken::Wire(_)))
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Broken(broken) => broken.fmt(f),
            Self::TooMuch => f.write_str("it sends too much"),
        }
    }
}

impl From<Broken> for Trouble {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

/// A connection, or an attempt at one.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) framed: Framed,
    pub(super) address: SocketAddr,
    /// Where datagrams go while this is the connection in use.
    pub(super) target: SocketAddr,
    pub(super) token: Token,
    /// When the attempt began.
    pub(super) since: Time,
    pub(super) stage: Stage,
}

impl Peer {
    pub(super) fn new(
        stream: TcpStream,
        key: Option<&Key>,
        address: SocketAddr,
        target: SocketAddr,
        token: Token,
        now: Time,
    ) -> Self {
        Self { framed: Framed::client(stream, key), address, target, token, since: now, stage: Stage::Connecting }
    }

    /// Does what the connection is ready for: the frames that came in, and whether the peer has closed it after them. The error says why the
    /// connection is of no more use.
    pub(super) fn attend(&mut self, hello: &Hello) -> Result<(Vec<Frame>, bool), Trouble> {
        if self.stage == Stage::Connecting && !self.greet(hello)? {
            return Ok((Vec::new(), false));
        }
        self.framed.flush()?;
        let mut frames = Vec::new();
        for _ in 0..FILLS_MAX {
            let filled = self.framed.fill()?;
            while let Some(frame) = self.framed.next_frame().map_err(Broken::from)? {
                frames.push(frame);
            }
            match filled {
                Filled::Dry => return Ok((frames, false)),
                Filled::Ended => return Ok((frames, true)),
                Filled::More => {}
            }
        }
        Err(Trouble::TooMuch)
    }

    /// Sends the greeting once the network has connected; whether it has.
    fn greet(&mut self, hello: &Hello) -> Result<bool, Trouble> {
        match self.framed.stream().take_error() {
            Ok(None) => {}
            Ok(Some(error)) | Err(error) => return Err(Broken::from(error).into()),
        }
        if self.framed.stream().peer_addr().is_err() {
            return Ok(false);
        }
        self.framed.send(&Frame::Hello(Hello { target: self.target.into(), ..*hello }))?;
        self.stage = Stage::Greeted { at: net::now() };
        Ok(true)
    }
}
