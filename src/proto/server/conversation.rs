//! One connection's conversation: which requests it may make and how it is answered. Bytes in, requests and bytes out.
//!
//! ```text
//!   new ──other──► ungreeted ──Hello──► client ──Ping──► a request each, at most so many unanswered
//!    │                                    └────refused──► closing: nothing more is expected
//!    └────ping───► plain ──answered──► closing
//! ```
//!
//! Anything else is garbage, and the connection is to be closed. No bytes from a peer make this room panic. It keeps
//! nothing of them but the beginning of a frame. The sockets belong to `conn`.

#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::proto::server::streams::Offence;
use crate::proto::terms::StreamId;
use crate::proto::time::Time;
use crate::proto::wire::{
    Assembler, Attach, Data, FRAME_BYTES_MAX, Features, Frame, GREETING_BYTES_MAX, Hello, Ping, Pong, Refusal,
    Session, Target, VERSION, Welcome, WireError,
};

/// A connection that has not identified itself by then is closed.
const GREETING_MAX: Duration = Duration::from_secs(5);
/// How long a client with frequent heartbeats may be silent. A client with rare heartbeats may miss three.
const SILENCE_MIN: Duration = Duration::from_secs(30);
/// The longest silence allowed, whatever interval a client claims to have.
pub const SILENCE_MAX: Duration = Duration::from_hours(1);
/// The number of heartbeats that may wait for an answer: a client has at most eight under way.
pub const UNANSWERED_MAX: usize = 16;
/// How long the sender of a plain request may take to close.
const CLOSING_MAX: Duration = Duration::from_secs(2);

/// The request of 2015, for `nc` and monitoring.
const PLAIN_REQUEST: &[u8] = b"ping";
/// The bytes that may follow the plain request. Its answer ends with the same.
const LINE_ENDS: [&[u8]; 3] = [b"", b"\n", b"\r\n"];

/// One connection's conversation.
#[derive(Debug)]
pub struct Conversation {
    stage: Stage,
    unanswered: usize,
    deadline: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// No incoming byte has identified the connection yet.
    New,
    /// The first bytes are no plain request, and none is accepted any more.
    Ungreeted,
    /// A client, which may be silent for this long.
    Client { silence: Duration, stream: Option<u128>, target: Target },
    /// A plain request, with this line end, that is being answered.
    Plain { end: &'static [u8] },
    /// Answered or refused: the other side is to close.
    Closing,
}

/// A request that waits for a look at remoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// A heartbeat.
    Ping(Ping),
    /// The plain request.
    Plain,
}

/// A request of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// An answer to this question.
    Answer(Question),
    /// The connection is to carry this stream, in the requested way.
    Attach(StreamId, Attach),
    /// An agent behind the client.
    Session(Session),
    /// Datagrams.
    Data(Data),
}

/// The rights of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The connection may use these features at most.
    Features(Features),
    /// The connection may do nothing without a key.
    KeyWanted,
}

/// An offence of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum Garbage {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("a frame before the greeting")]
    Ungreeted,
    #[error("this server speaks version {VERSION} of the protocol, not {0}")]
    Version(u16),
    #[error("this server wants a key (--psk-file)")]
    KeyWanted,
    #[error("a frame that no client sends")]
    NotOfClients,
    #[error("more heartbeats than any client sends")]
    TooMany,
    #[error(transparent)]
    Datagrams(Offence),
}

impl Conversation {
    /// The state of a connection that was just made.
    pub fn new(now: Time) -> Self {
        Self { stage: Stage::New, unanswered: 0, deadline: now + GREETING_MAX }
    }

    /// When the connection is closed unless bytes come in.
    pub const fn deadline(&self) -> Time {
        self.deadline
    }

    /// The connection is a client that has greeted.
    pub const fn is_client(&self) -> bool {
        matches!(self.stage, Stage::Client { .. })
    }

    /// The connection has not identified itself.
    pub const fn is_stranger(&self) -> bool {
        matches!(self.stage, Stage::New | Stage::Ungreeted)
    }

    /// Where a client reports that its datagrams go, and whether they come over the connection.
    pub const fn target(&self) -> Option<(Target, bool)> {
        match self.stage {
            Stage::Client { target, stream, .. } => Some((target, stream.is_some())),
            Stage::New | Stage::Ungreeted | Stage::Plain { .. } | Stage::Closing => None,
        }
    }

    /// Bytes have come in: over a narrow link a single frame may take longer than a client may be silent.
    pub fn handle_alive(&mut self, now: Time) {
        if let Stage::Client { silence, .. } = self.stage {
            self.deadline = now + silence;
        }
    }

    /// The connection waits for an answer even if it has closed its sending side.
    pub const fn awaits_last_answer(&self) -> bool {
        matches!(self.stage, Stage::Plain { .. })
    }

    /// Takes the requests out of the input. Immediate answers go to `output`, also before an error; the connection is
    /// to be closed after them.
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
        loop {
            input.bound(if self.is_client() { FRAME_BYTES_MAX } else { GREETING_BYTES_MAX });
            let Some(frame) = input.next_frame()? else {
                return Ok(requests);
            };
            requests.extend(self.handle_frame(now, access, frame, output)?);
        }
    }

    /// Answers a heartbeat.
    pub fn answer(&mut self, pong: Pong, output: &mut Vec<u8>) {
        self.unanswered = self.unanswered.saturating_sub(1);
        Frame::Pong(pong).encode(output);
    }

    /// Answers the plain request: whether remoted is up. This side is to be closed after the answer.
    pub fn answer_plain(&mut self, now: Time, up: bool, output: &mut Vec<u8>) {
        if let Stage::Plain { end } = self.stage {
            output.extend_from_slice(if up { b"pong" } else { b"ossec_not_found" });
            output.extend_from_slice(end);
            self.stage = Stage::Closing;
            self.deadline = now + CLOSING_MAX;
        }
    }

    /// Tells a client why its connection is of no use. This side is to be closed after the text.
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
    Whole(&'static [u8]),
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
