//! One connection to a broker server, from the first packet on.

use std::net::SocketAddr;
use std::time::Duration;

use mio::Token;

use crate::os::net;
use crate::os::net::framed::{Broken, Filled, Framed};
use crate::proto::wire::{Features, Frame, Hello};
use crate::proto::{client::dial::Attempt, client::routes::Route, time::Time};

/// Fills in a row, of 64 KiB each. A server answers each small frame with one frame, and carries remoted's replies; no
/// server has more to say at once.
const FILLS_MAX: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The network has not answered.
    Connecting,
    /// Connected and greeted at this moment; the server has not answered.
    Greeted { at: Time },
    /// The server has answered, so long after the greeting.
    Answered { round_trip: Duration, features: Features },
}

/// The frames that came in over a connection, and how it ended after them, if it did.
pub(super) type Heard = (Vec<Frame>, Option<End>);

/// Why a connection, or an attempt at one, has ended.
#[derive(Debug)]
pub(super) enum End {
    Closed,
    Broken(Broken),
    Unwritten(Broken),
    TooMuch,
    Refused(String),
    /// A server would not say this.
    Stranger,
    Version(u16),
    Unfit(&'static str),
    /// Transport tcp: another process sends in the stream of this process.
    Foreign,
}

impl End {
    /// The server is there and will say the same next time.
    pub(super) const fn is_refusal(&self) -> bool {
        match self {
            Self::Broken(Broken::Seal(_) | Broken::Wire(_))
            | Self::Refused(_)
            | Self::Stranger
            | Self::Version(_)
            | Self::Unfit(_) => true,
            Self::Closed
            | Self::Broken(Broken::Io(_) | Broken::SlowReader)
            | Self::Unwritten(_)
            | Self::TooMuch
            | Self::Foreign => false,
        }
    }

    /// The end of a connection to this server, for people.
    pub(super) fn of(&self, broker: SocketAddr) -> String {
        match self {
            Self::Closed => format!("{broker} closed the connection"),
            Self::Broken(broken) => format!("{broker}: {broken}"),
            Self::Unwritten(broken) => broken.to_string(),
            Self::TooMuch => format!("{broker}: it sends too much"),
            Self::Refused(why) => format!("{broker} refuses: {why}"),
            Self::Stranger => format!("{broker} is not a broker server"),
            Self::Version(version) => format!("{broker} speaks version {version} of the protocol"),
            Self::Unfit(why) => format!("{broker} {why}"),
            Self::Foreign => "another process has sent in its stream".into(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) framed: Framed,
    /// Where it goes, and where datagrams go while it is the connection in use.
    pub(super) route: Route,
    pub(super) token: Token,
    /// When the attempt began.
    pub(super) since: Time,
    pub(super) stage: Stage,
    pub(super) is_overdue: bool,
    /// The bound of its segments that it was made with.
    pub(super) segment_bytes_max: Option<u16>,
}

impl Peer {
    /// The server has answered, and the attempt waits to be taken.
    pub(super) const fn is_answered(&self) -> bool {
        matches!(self.stage, Stage::Answered { .. })
    }

    /// The attempt, as far as its patience goes.
    pub(super) fn attempt(&self) -> Attempt {
        Attempt { begun: self.since, greeted: self.stage != Stage::Connecting }
    }

    /// Does what the connection is ready for. Frames that came in before the end are heard: a refusal is often
    /// followed by a reset.
    pub(super) fn attend(&mut self, hello: &Hello) -> Heard {
        let mut frames = Vec::new();
        let written = self.write(hello);
        let read = match self.stage {
            Stage::Connecting if written.is_ok() => Ok(()),
            // The reason is the error of the connection; that nothing more can be read says less.
            Stage::Connecting => self.read(&mut frames).or(Ok(())),
            _ => self.read(&mut frames),
        };
        (frames, read.and(written.map_err(End::Broken)).err())
    }

    fn write(&mut self, hello: &Hello) -> Result<(), Broken> {
        if self.stage == Stage::Connecting && !self.greet(hello)? {
            return Ok(());
        }
        self.framed.flush()
    }

    fn read(&mut self, frames: &mut Vec<Frame>) -> Result<(), End> {
        for _ in 0..FILLS_MAX {
            let filled = self.framed.fill();
            while let Some(frame) = self.framed.next_frame().map_err(|error| End::Broken(error.into()))? {
                frames.push(frame);
            }
            match filled.map_err(End::Broken)? {
                Filled::Dry => return Ok(()),
                Filled::Ended => return Err(End::Closed),
                Filled::More => {}
            }
        }
        Err(End::TooMuch)
    }

    /// Sends the greeting once the network has connected; whether it has.
    fn greet(&mut self, hello: &Hello) -> Result<bool, Broken> {
        match self.framed.stream().take_error() {
            Ok(None) => {}
            Ok(Some(error)) | Err(error) => return Err(error.into()),
        }
        if self.framed.stream().peer_addr().is_err() {
            return Ok(false);
        }
        self.stage = Stage::Greeted { at: net::now() };
        self.framed.send(&Frame::Hello(Hello { target: self.route.target.into(), ..*hello }))?;
        Ok(true)
    }
}
