//! One connection to the broker server, from the first packet on.

use std::time::Duration;

use mio::Token;
use mio::net::TcpStream;
use ossec_broker::os::net::framed::{Filled, Framed};
use ossec_broker::os::net::{self};
use ossec_broker::proto::seal::Key;
use ossec_broker::proto::time::Time;
use ossec_broker::proto::wire::{Features, Frame, Hello, Target, VERSION};

/// A connection, or an attempt at one.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) framed: Framed,
    pub(crate) token: Token,
    /// The moment when the attempt began.
    pub(crate) since: Time,
    /// The moment when the attempt was connected and greeted.
    pub(crate) greeted: Option<Time>,
}

impl Peer {
    pub(crate) fn new(stream: TcpStream, key: Option<&Key>, token: Token, now: Time) -> Self {
        Self { framed: Framed::client(stream, key), token, since: now, greeted: None }
    }

    /// Does what the connection is ready for. Returns the frames that came in. The error says why the connection is of
    /// no more use.
    pub(crate) fn attend(
        &mut self,
        features: Features,
        stream: u128,
        interval: Duration,
    ) -> Result<Vec<Frame>, String> {
        if self.greeted.is_none() {
            match self.framed.stream().take_error() {
                Ok(None) => {}
                Ok(Some(error)) | Err(error) => return Err(error.to_string()),
            }
            if self.framed.stream().peer_addr().is_err() {
                return Ok(Vec::new());
            }
            let interval_ms = u32::try_from(interval.as_millis()).unwrap_or(u32::MAX);
            let hello = Hello { version: VERSION, features, stream, interval_ms, target: Target::NONE };
            self.framed.send(&Frame::Hello(hello)).map_err(|broken| broken.to_string())?;
            self.greeted = Some(net::now());
        }
        self.framed.flush().map_err(|broken| broken.to_string())?;
        let filled = self.framed.fill().map_err(|broken| broken.to_string())?;
        let mut frames = Vec::new();
        while let Some(frame) = self.framed.next_frame().map_err(|error| error.to_string())? {
            frames.push(frame);
        }
        match filled {
            Filled::Dry => Ok(frames),
            Filled::Ended | Filled::More => Err("the server ends it, or says too much".into()),
        }
    }
}
