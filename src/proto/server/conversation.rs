//! What one connection may say, and what it is told: bytes in, requests and bytes out.
//!
//! ```text
//!   new ──other──► ungreeted ──Hello──► client ──Ping──► a request each, at most so many unanswered
//!    │                                    └────refused──► closing: nothing more is expected
//!    └────ping───► plain ──answered──► closing
//! ```
//!
//! Anything else is garbage, and the connection is to be closed. Nothing that a peer sends makes this room panic, and nothing is kept of it but
//! the beginning of a frame. Sockets are `conn`'s.

#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::proto::server::streams::Offence;
use crate::proto::terms::StreamId;
use crate::proto::time::Time;
use crate::proto::wire::{
    Assembler, Attach, Data, Features, Frame, Hello, Ping, Pong, Refusal, Session, Target, VERSION, Welcome, WireError,
};

/// A connection that has not said what it is by then is closed.
const GREETING_MAX: Duration = Duration::from_secs(5);
/// How long a client with frequent heartbeats may be silent; one with rare ones may miss three.
const SILENCE_MIN: Duration = Duration::from_secs(30);
/// ... and nobody may be silent for longer, whatever interval it claims to have.
pub const SILENCE_MAX: Duration = Duration::from_hours(1);
/// Heartbeats that may wait for an answer: a client of ours has no more than eight under way.
pub const UNANSWERED_MAX: usize = 16;
/// How long a plain request's sender may take to close.
const CLOSING_MAX: Duration = Duration::from_secs(2);

/// The request of 2015, for `nc` and monitoring.
const PLAIN_REQUEST: &[u8] = b"ping";
/// What may follow it. Its answer gets the same.
const LINE_ENDS: [&[u8]; 3] = [b"", b"\n", b"\r\n"];

/// One connection's conversation.
#[derive(Debug)]
pub struct Conversation {
    stage: Stage,
    unanswered: usize,
    /// When the connection is closed unless something comes in.
    deadline: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing has come in that tells what it is.
    New,
    /// What has come in is no plain request, and none comes any more.
    Ungreeted,
    /// One of our clients, which may be silent for this long.
    Client { silence: Duration, stream: Option<u128>, target: Target },
    /// A plain request, with this line end, that is being answered.
    Plain { end: &'static [u8] },
    /// Answered or refused; the other side is to close.
    Closing,
}

/// What waits for a look at remoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// A heartbeat.
    Ping(Ping),
    /// The plain request.
    Plain,
}

/// What a connection asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// An answer.
    Answer(Question),
    /// It is to carry this stream, in the way that is asked for.
    Attach(StreamId, Attach),
    /// An agent behind the client.
    Session(Session),
    /// Datagrams.
    Data(Data),
}

/// What a connection may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// These features at most.
    Features(Features),
    /// Nothing without a key.
    KeyWanted,
}

/// What a connection must not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Garbage {
    /// Bytes that make no sense.
    Wire(WireError),
    /// A frame before the greeting.
    Ungreeted,
    /// The greeting of another version of the protocol.
    Version(u16),
    /// A greeting without the key that this server has.
    KeyWanted,
    /// A frame that no client sends.
    NotOfClients,
    /// More heartbeats without an answer than any client sends.
    TooMany,
    /// Datagrams that make no sense.
    Datagrams(Offence),
}

impl std::fmt::Display for Garbage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Wire(error) => error.fmt(f),
            Self::Ungreeted => f.write_str("a frame before the greeting"),
            Self::Version(version) => {
                write!(f, "this server speaks version {VERSION} of the protocol, not {version}")
            }
            Self::KeyWanted => f.write_str("this server wants a key (--psk-file)"),
            Self::NotOfClients => f.write_str("a frame that no client sends"),
            Self::TooMany => f.write_str("more heartbeats than any client sends"),
            Self::Datagrams(offence) => offence.fmt(f),
        }
    }
}

impl From<WireError> for Garbage {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

impl Conversation {
    /// That of a connection that was made at this moment.
    pub fn new(now: Time) -> Self {
        Self { stage: Stage::New, unanswered: 0, deadline: now + GREETING_MAX }
    }

    /// When the connection is closed unless something comes in.
    pub const fn deadline(&self) -> Time {
        self.deadline
    }

    /// It is a client of ours, greeted.
    pub const fn is_client(&self) -> bool {
        matches!(self.stage, Stage::Client { .. })
    }

    /// It has not said what it is.
    pub const fn is_stranger(&self) -> bool {
        matches!(self.stage, Stage::New | Stage::Ungreeted)
    }

    /// Where a client says that its datagrams go, and whether they come over the connection.
    pub const fn target(&self) -> Option<(Target, bool)> {
        match self.stage {
            Stage::Client { target, stream, .. } => Some((target, stream.is_some())),
            Stage::New | Stage::Ungreeted | Stage::Plain { .. } | Stage::Closing => None,
        }
    }

    /// Something has come in: over a narrow link a single frame may take longer than a client may be silent.
    pub fn handle_alive(&mut self, now: Time) {
        if let Stage::Client { silence, .. } = self.stage {
            self.deadline = now + silence;
        }
    }

    /// It waits for an answer even if it has closed its sending side.
    pub const fn awaits_last_answer(&self) -> bool {
        matches!(self.stage, Stage::Plain { .. })
    }

    /// Takes the requests out of what has come in. What is to be said at once goes to `output`, also where an error follows: the connection is to
    /// be closed after it.
    pub fn handle_input(
        &mut self,
        now: Time,
        access: Access,
        input: &mut Assembler,
        output: &mut Vec<u8>,
    ) -> Result<Vec<Request>, Garbage> {
        let mut requests = Vec::new();
        if self.stage == Stage::New {
            match plain(input.rest()) {
                Plain::Whole(end) => {
                    self.stage = Stage::Plain { end };
                    self.deadline = now + GREETING_MAX;
                    requests.push(Request::Answer(Question::Plain));
                }
                Plain::Begun => return Ok(requests),
                Plain::No => self.stage = Stage::Ungreeted,
            }
        }
        if matches!(self.stage, Stage::Plain { .. } | Stage::Closing) {
            // Nothing more is expected, and nothing more is kept.
            *input = Assembler::default();
        }
        while let Some(frame) = input.next_frame()? {
            requests.extend(self.handle_frame(now, access, frame, output)?);
        }
        Ok(requests)
    }

    /// Answers a heartbeat.
    pub fn answer(&mut self, pong: Pong, output: &mut Vec<u8>) {
        self.unanswered = self.unanswered.saturating_sub(1);
        Frame::Pong(pong).encode(output);
    }

    /// Answers the plain request: whether remoted is up. The own side is to be closed after it.
    pub fn answer_plain(&mut self, now: Time, up: bool, output: &mut Vec<u8>) {
        if let Stage::Plain { end } = self.stage {
            output.extend_from_slice(if up { b"pong" } else { b"ossec_not_found" });
            output.extend_from_slice(end);
            self.stage = Stage::Closing;
            self.deadline = now + CLOSING_MAX;
        }
    }

    /// Says why a client's connection is of no use. The own side is to be closed after it.
    pub fn refuse(&mut self, now: Time, text: String, output: &mut Vec<u8>) {
        Frame::Refusal(Refusal { text }).encode(output);
        self.stage = Stage::Closing;
        self.deadline = now + CLOSING_MAX;
    }

    fn handle_frame(
        &mut self,
        now: Time,
        access: Access,
        frame: Frame,
        output: &mut Vec<u8>,
    ) -> Result<Option<Request>, Garbage> {
        match (self.stage, frame) {
            (Stage::New | Stage::Ungreeted, Frame::Hello(hello)) => {
                self.welcome(now, access, &hello, output).map(|()| None)
            }
            (Stage::New | Stage::Ungreeted, _) => Err(Garbage::Ungreeted),
            (Stage::Client { silence, stream: Some(stream), .. }, Frame::Attach(attach)) => {
                self.deadline = now + silence;
                Ok(Some(Request::Attach(stream, attach)))
            }
            (Stage::Client { stream: Some(_), .. }, Frame::Session(session)) => Ok(Some(Request::Session(session))),
            (Stage::Client { stream: Some(_), .. }, Frame::Data(data)) => Ok(Some(Request::Data(data))),
            (Stage::Client { silence, .. }, Frame::Ping(ping)) => {
                self.deadline = now + silence;
                self.unanswered += 1;
                if self.unanswered > UNANSWERED_MAX {
                    Err(Garbage::TooMany)
                } else {
                    Ok(Some(Request::Answer(Question::Ping(ping))))
                }
            }
            (Stage::Client { .. } | Stage::Plain { .. } | Stage::Closing, _) => Err(Garbage::NotOfClients),
        }
    }

    fn welcome(&mut self, now: Time, access: Access, hello: &Hello, output: &mut Vec<u8>) -> Result<(), Garbage> {
        let allowed = match access {
            Access::Features(offers) if hello.version == VERSION => Ok(offers),
            Access::Features(_) => Err(Garbage::Version(hello.version)),
            Access::KeyWanted => Err(Garbage::KeyWanted),
        };
        let offers = match allowed {
            Ok(offers) => offers,
            Err(garbage) => {
                Frame::Refusal(Refusal { text: garbage.to_string() }).encode(output);
                return Err(garbage);
            }
        };
        let silence = (3 * Duration::from_millis(u64::from(hello.interval_ms))).clamp(SILENCE_MIN, SILENCE_MAX);
        let features = Features(hello.features.0 & offers.0);
        let stream = features.has(Features::STREAM).then_some(hello.stream);
        self.stage = Stage::Client { silence, stream, target: hello.target };
        self.deadline = now + silence;
        Frame::Welcome(Welcome { version: VERSION, features }).encode(output);
        Ok(())
    }
}

/// Whether bytes are the plain request.
#[derive(Debug, PartialEq, Eq)]
enum Plain {
    /// They are, with this line end.
    Whole(&'static [u8]),
    /// They may become it.
    Begun,
    No,
}

fn plain(bytes: &[u8]) -> Plain {
    let Some(end) = bytes.strip_prefix(PLAIN_REQUEST) else {
        return if PLAIN_REQUEST.starts_with(bytes) { Plain::Begun } else { Plain::No };
    };
    match LINE_ENDS.into_iter().find(|known| *known == end) {
        Some(end) => Plain::Whole(end),
        None if LINE_ENDS.iter().any(|known| known.starts_with(end)) => Plain::Begun,
        None => Plain::No,
    }
}
