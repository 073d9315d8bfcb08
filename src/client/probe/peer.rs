//! One connection to a broker server, from the first packet on.

use std::net::SocketAddr;
use std::time::Duration;

use mio::Token;
use mio::net::TcpStream;

use crate::net::framed::{Filled, Framed};
use crate::net::{self};
use crate::time::Time;
use crate::wire::{Frame, Hello, VERSION};

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

/// A connection, or an attempt at one.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) framed: Framed,
    pub(super) address: SocketAddr,
    pub(super) token: Token,
    /// When the attempt began.
    pub(super) since: Time,
    pub(super) stage: Stage,
}

impl Peer {
    pub(super) fn new(stream: TcpStream, address: SocketAddr, token: Token, now: Time) -> Self {
        Self { framed: Framed::new(stream), address, token, since: now, stage: Stage::Connecting }
    }

    /// Does what the connection is ready for: the frames that came in, and whether the peer has closed it after them. The error says why the
    /// connection is of no more use.
    pub(super) fn attend(&mut self, stream: u128, interval: Duration) -> Result<(Vec<Frame>, bool), String> {
        if self.stage == Stage::Connecting && !self.greet(stream, interval)? {
            return Ok((Vec::new(), false));
        }
        self.framed.flush().map_err(|broken| broken.to_string())?;
        let filled = self.framed.fill().map_err(|broken| broken.to_string())?;
        let mut frames = Vec::new();
        while let Some(frame) = self.framed.next_frame().map_err(|error| error.to_string())? {
            frames.push(frame);
        }
        match filled {
            Filled::Dry => Ok((frames, false)),
            Filled::Ended => Ok((frames, true)),
            // A server sends one small frame for each of ours: more than that is none.
            Filled::More => Err("it sends too much".into()),
        }
    }

    /// Sends the greeting once the network has connected; whether it has.
    fn greet(&mut self, stream: u128, interval: Duration) -> Result<bool, String> {
        match self.framed.stream().take_error() {
            Ok(None) => {}
            Ok(Some(error)) | Err(error) => return Err(error.to_string()),
        }
        if self.framed.stream().peer_addr().is_err() {
            return Ok(false);
        }
        let interval_ms = u32::try_from(interval.as_millis()).unwrap_or(u32::MAX);
        let hello = Hello { version: VERSION, features: 0, stream, interval_ms };
        self.framed.send(&Frame::Hello(hello)).map_err(|broken| broken.to_string())?;
        self.stage = Stage::Greeted { at: net::now() };
        Ok(true)
    }
}
