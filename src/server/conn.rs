//! One client's connection: what it may say, and when it is not worth keeping.

use std::net::IpAddr;
use std::time::Duration;

use mio::net::TcpStream;

use crate::net::framed::{Broken, Filled, Framed};
use crate::time::Time;
use crate::verdict::ClientId;
use crate::wire::{Frame, Hello, Ping, Pong, Refusal, VERSION, Welcome, WireError};

/// A connection that has not said what it is by then is closed.
const GREETING_MAX: Duration = Duration::from_secs(5);
/// How long a client with frequent heartbeats may be silent; one with rare ones may miss three.
const SILENCE_MIN: Duration = Duration::from_secs(30);
/// ... and nobody may be silent for longer, whatever interval it claims to have.
const SILENCE_MAX: Duration = Duration::from_hours(1);
/// Heartbeats that may wait for an answer: a client of ours has no more than eight under way.
const UNANSWERED_MAX: usize = 16;
/// How long a plain request's sender may take to close.
const CLOSING_MAX: Duration = Duration::from_secs(2);

/// The request of 2015, for `nc` and monitoring.
const PLAIN_REQUEST: &[u8] = b"ping";

/// A connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) framed: Framed,
    pub(super) address: IpAddr,
    pub(super) id: ClientId,
    stage: Stage,
    unanswered: usize,
    /// When it is closed unless something comes in.
    deadline: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing has come in that tells what it is.
    New,
    /// One of our clients, which may be silent for this long.
    Client { silence: Duration },
    /// A plain request that is being answered.
    Plain,
    /// Answered; the other side is to close.
    Closing,
}

/// What a connection asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// A heartbeat.
    Ping(Ping),
    /// The plain request, with the line end that its answer gets too.
    Plain(Vec<u8>),
}

/// Why a connection is to be closed.
#[derive(Debug)]
pub(super) enum Close {
    /// It was closed at the other end.
    Ended,
    /// It said something that it must not say.
    Garbage(String),
    /// It broke.
    Broken(Broken),
}

impl From<Broken> for Close {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

impl From<WireError> for Close {
    fn from(error: WireError) -> Self {
        Self::Garbage(error.to_string())
    }
}

impl Conn {
    pub(super) fn new(now: Time, stream: TcpStream, address: IpAddr, id: ClientId) -> Self {
        Self {
            framed: Framed::new(stream),
            address,
            id,
            stage: Stage::New,
            unanswered: 0,
            deadline: now + GREETING_MAX,
        }
    }

    /// Reads and writes what the connection is ready for. The requests that came in, and what reading has left behind.
    pub(super) fn attend(&mut self, now: Time) -> Result<(Vec<Request>, Filled), Close> {
        self.framed.flush()?;
        let filled = self.framed.fill()?;
        let mut requests = Vec::new();
        while let Some(request) = self.next_request(now)? {
            requests.push(request);
        }
        if matches!(self.stage, Stage::Plain | Stage::Closing) {
            // Nothing more is expected, and nothing more is kept.
            self.framed.discard();
        }
        // One that closes its sending side after a plain request still wants the answer.
        if filled == Filled::Ended && self.stage != Stage::Plain {
            return Err(Close::Ended);
        }
        Ok((requests, filled))
    }

    /// When it is closed unless something comes in.
    pub(super) const fn deadline(&self) -> Time {
        self.deadline
    }

    /// It is a client of ours, greeted.
    pub(super) const fn is_client(&self) -> bool {
        matches!(self.stage, Stage::Client { .. })
    }

    /// Answers a heartbeat.
    pub(super) fn answer(&mut self, pong: Pong) -> Result<(), Close> {
        self.unanswered = self.unanswered.saturating_sub(1);
        Ok(self.framed.send(&Frame::Pong(pong))?)
    }

    /// Answers a plain request and ends the own side: the answer must not be lost to a reset by what is still to be read.
    pub(super) fn answer_plain(&mut self, now: Time, answer: &[u8]) -> Result<(), Close> {
        self.framed.send_plain(answer)?;
        let _ = self.framed.stream().shutdown(std::net::Shutdown::Write);
        self.stage = Stage::Closing;
        self.deadline = now + CLOSING_MAX;
        Ok(())
    }

    fn next_request(&mut self, now: Time) -> Result<Option<Request>, Close> {
        loop {
            match self.stage {
                Stage::Plain | Stage::Closing => return Ok(None),
                Stage::New => match plain(self.framed.rest()) {
                    Plain::Whole(end) => {
                        self.stage = Stage::Plain;
                        self.deadline = now + GREETING_MAX;
                        return Ok(Some(Request::Plain(end)));
                    }
                    Plain::Begun => return Ok(None),
                    Plain::No => match self.framed.next_frame()? {
                        Some(Frame::Hello(hello)) => self.welcome(now, &hello)?,
                        Some(_) => return Err(Close::Garbage("a frame before the greeting".into())),
                        None => return Ok(None),
                    },
                },
                Stage::Client { silence } => match self.framed.next_frame()? {
                    Some(Frame::Ping(ping)) => {
                        self.deadline = now + silence;
                        self.unanswered += 1;
                        if self.unanswered > UNANSWERED_MAX {
                            return Err(Close::Garbage("more heartbeats than any client sends".into()));
                        }
                        return Ok(Some(Request::Ping(ping)));
                    }
                    Some(_) => return Err(Close::Garbage("a frame that no client sends".into())),
                    None => return Ok(None),
                },
            }
        }
    }

    fn welcome(&mut self, now: Time, hello: &Hello) -> Result<(), Close> {
        if hello.version != VERSION {
            let text = format!("this server speaks version {VERSION} of the protocol, not {}", hello.version);
            self.framed.send(&Frame::Refusal(Refusal { text: text.clone() }))?;
            return Err(Close::Garbage(text));
        }
        let silence = (3 * Duration::from_millis(u64::from(hello.interval_ms))).clamp(SILENCE_MIN, SILENCE_MAX);
        self.stage = Stage::Client { silence };
        self.deadline = now + silence;
        self.framed.send(&Frame::Welcome(Welcome { version: VERSION, features: 0 }))?;
        Ok(())
    }
}

/// Whether bytes are the plain request.
#[derive(Debug, PartialEq, Eq)]
enum Plain {
    /// They are, with this line end.
    Whole(Vec<u8>),
    /// They may become it.
    Begun,
    No,
}

fn plain(bytes: &[u8]) -> Plain {
    match bytes.strip_prefix(PLAIN_REQUEST) {
        Some(end) if [&b""[..], b"\n", b"\r\n"].contains(&end) => Plain::Whole(end.to_vec()),
        None if !bytes.is_empty() && PLAIN_REQUEST.starts_with(bytes) => Plain::Begun,
        Some(_) | None => Plain::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plain_request_is_known_with_and_without_a_line_end_and_in_pieces() {
        assert_eq!(plain(b"ping"), Plain::Whole(b"".to_vec()));
        assert_eq!(plain(b"ping\n"), Plain::Whole(b"\n".to_vec()));
        assert_eq!(plain(b"ping\r\n"), Plain::Whole(b"\r\n".to_vec()));
        assert_eq!([plain(b"p"), plain(b"pin")], [Plain::Begun, Plain::Begun]);
        assert_eq!(
            [plain(b""), plain(b"pang"), plain(b"pingping"), plain(&[0, 0])],
            [Plain::No, Plain::No, Plain::No, Plain::No]
        );
    }
}
