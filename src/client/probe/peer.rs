//! One connection to a broker server, from the first packet on.

use std::time::Duration;

use mio::Token;
use mio::net::TcpStream;

use crate::os::net;
use crate::os::net::framed::{Broken, Filled, Framed};
use crate::proto::client::dial::Attempt;
use crate::proto::client::routes::Route;
use crate::proto::seal::Key;
use crate::proto::time::Time;
use crate::proto::wire::{Features, Frame, Hello};

/// Fills in a row, of 64 KiB each. A server answers each small frame with one, and carries what remoted answers: more
/// at once is none.
const FILLS_MAX: usize = 64;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The network has not answered.
    Connecting,
    /// Connected and greeted at this moment; the server has not answered.
    Greeted { at: Time },
    /// The server has answered, so long after the greeting.
    Answered { round_trip: Duration, features: Features },
}

/// What came in over a connection, and how it ended after that, if it did.
pub(super) type Heard = (Vec<Frame>, Option<End>);

/// The end of a connection.
#[derive(Debug)]
pub(super) enum End {
    /// The peer has closed it.
    Closed,
    /// It is of no more use.
    Trouble(Trouble),
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
    /// Where it goes, and where datagrams go while it is the connection in use.
    pub(super) route: Route,
    pub(super) token: Token,
    /// When the attempt began.
    pub(super) since: Time,
    pub(super) stage: Stage,
    /// It has taken longer than attempts usually may.
    pub(super) is_overdue: bool,
    /// The bound of its segments that it was made with.
    pub(super) segment_bytes_max: Option<u16>,
}

impl Peer {
    pub(super) fn new(stream: TcpStream, key: Option<&Key>, route: Route, token: Token, now: Time) -> Self {
        Self {
            framed: Framed::client(stream, key),
            route,
            token,
            since: now,
            stage: Stage::Connecting,
            is_overdue: false,
            segment_bytes_max: None,
        }
    }

    /// The server has answered, and it waits to be taken.
    pub(super) const fn is_answered(&self) -> bool {
        matches!(self.stage, Stage::Answered { .. })
    }

    /// As its patience goes.
    pub(super) fn attempt(&self) -> Attempt {
        Attempt { begun: self.since, greeted: self.stage != Stage::Connecting }
    }

    /// Does what the connection is ready for. What came in before it ended is heard: a refusal is often followed by a
    /// reset.
    pub(super) fn attend(&mut self, hello: &Hello) -> Heard {
        let mut frames = Vec::new();
        let written = self.write(hello);
        let read = match self.stage {
            Stage::Connecting if written.is_ok() => Ok(None),
            _ => self.read(&mut frames),
        };
        let end = match (read, written) {
            (Ok(None), Err(trouble)) | (Err(trouble), _) => Some(End::Trouble(trouble)),
            (Ok(end), _) => end,
        };
        (frames, end)
    }

    /// Sends the greeting once the network has connected, and what waits to be written.
    fn write(&mut self, hello: &Hello) -> Result<(), Trouble> {
        if self.stage == Stage::Connecting && !self.greet(hello)? {
            return Ok(());
        }
        Ok(self.framed.flush()?)
    }

    fn read(&mut self, frames: &mut Vec<Frame>) -> Result<Option<End>, Trouble> {
        for _ in 0..FILLS_MAX {
            let filled = self.framed.fill();
            while let Some(frame) = self.framed.next_frame().map_err(Broken::from)? {
                frames.push(frame);
            }
            match filled? {
                Filled::Dry => return Ok(None),
                Filled::Ended => return Ok(Some(End::Closed)),
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
        self.stage = Stage::Greeted { at: net::now() };
        self.framed.send(&Frame::Hello(Hello { target: self.route.target.into(), ..*hello }))?;
        Ok(true)
    }
}
