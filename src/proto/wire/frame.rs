//! The frames. `docs/protocol.md` says what each field means, and in what unit.

#![expect(missing_docs, reason = "nothing is said twice")]

use std::net::{IpAddr, SocketAddr};

use super::codec::{Fields, WireError, Writer};
use super::data::{DATA, Data};
use crate::proto::cost::buffer_cost;
use crate::proto::terms::{DATAGRAM_BYTES_MAX, Incarnation, Reading, Seq, SessionName, StreamId, Verdict};

/// The first bytes of `Hello`, so that a foreign protocol is not taken for ours.
const MAGIC: u32 = u32::from_be_bytes(*b"OSBK");

/// The version of the meaning of the fields below. A peer with another version is refused with a clear error.
pub const VERSION: u16 = 1;

/// The longest text in a `Refusal`; a longer text from a peer is cut.
pub const TEXT_BYTES_MAX: usize = 256;

/// Optional behaviour, one bit each: the client offers, the server takes up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(pub u32);

impl Features {
    /// No feature.
    pub const NONE: Self = Self(0);
    /// Transport tcp: datagrams travel over this connection.
    pub const STREAM: Self = Self(1);
    /// remoted ignores empty datagrams: the client may send them to open firewalls for replies.
    pub const EMPTY_DATAGRAMS: Self = Self(2);

    /// Whether these features include all of `other`.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The union of both sets.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Where a client's datagrams go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub address: Option<IpAddr>,
    pub port: u16,
}

impl Target {
    /// The target of a peer that sends none.
    pub const NONE: Self = Self { address: None, port: 0 };
}

impl From<SocketAddr> for Target {
    fn from(target: SocketAddr) -> Self {
        Self { address: Some(target.ip().to_canonical()), port: target.port() }
    }
}

/// The client's first frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    pub version: u16,
    pub features: Features,
    pub stream: StreamId,
    pub interval_ms: u32,
    pub target: Target,
}

/// The server's answer to `Hello`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    pub version: u16,
    pub features: Features,
}

/// Why the server ends a connection, for the peer's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub text: String,
}

/// A heartbeat's question, with the state of the client as it was when the heartbeat began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ping {
    pub number: u64,
    pub oldest: Seq,
    pub next: Seq,
    pub tail: Seq,
    pub held: u64,
    pub held_bytes: u64,
    pub unsent: u64,
    pub dropped: u64,
    pub next_cost: u64,
    pub unconfirmed_cost: u64,
    pub lease_ms: u32,
}

impl Ping {
    /// The approximate buffer cost of all unreleased datagrams. A client reports their number, the size of the next
    /// one and the mean size.
    pub fn unsent_cost(&self) -> u64 {
        let mean = self.held_bytes.checked_div(self.held).unwrap_or(0).min(DATAGRAM_BYTES_MAX as u64);
        self.unsent.saturating_mul(self.next_cost.max(buffer_cost(mean as usize)))
    }
}

/// A heartbeat's answer, from a sample begun after the ping was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pong {
    pub number: u64,
    pub verdict: Verdict,
    pub incarnation: Incarnation,
    pub pid: u32,
    pub read: u64,
    pub queue: u64,
    pub drops: u64,
    pub window: u64,
    pub gap_us: u32,
    pub ask_again_ms: u32,
    pub active: u32,
}

impl Pong {
    /// How far remoted has read.
    pub const fn reading(&self) -> Reading {
        Reading { read: self.read, queue: self.queue }
    }
}

/// The verdict has changed; sent unasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    pub verdict: Verdict,
}

/// Transport tcp: from here on only this connection carries the client's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attach {
    pub source: Option<IpAddr>,
    pub once: bool,
}

/// Transport tcp: where the client's stream resumes. Datagrams that were under way before count for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resume {
    pub epoch: u32,
    pub from: Option<Seq>,
    pub reached: Seq,
    pub window: u64,
    pub digest: u64,
}

/// Transport tcp: remoted has read all datagrams below this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    pub read: Seq,
    pub window: u64,
    pub doubtful: bool,
}

/// Transport tcp: from here on this place belongs to this agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    pub name: SessionName,
    pub port: u16,
}

/// Transport tcp: a reply of remoted to a session.
#[derive(Clone, PartialEq, Eq)]
pub struct Reply {
    pub name: SessionName,
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A log never shows a payload.
        f.debug_struct("Reply").field("name", &self.name).field("bytes", &self.bytes.len()).finish()
    }
}

/// Everything that travels in frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    Hello(Hello),
    Welcome(Welcome),
    Refusal(Refusal),
    Ping(Ping),
    Pong(Pong),
    Notice(Notice),
    Attach(Attach),
    Resume(Resume),
    Ack(Ack),
    Session(Session),
    Data(Data),
    Reply(Reply),
}

impl Frame {
    /// Appends the frame, its length included, to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut w = Writer::begin(out, self.kind());
        match self {
            Self::Hello(h) => {
                w.u32(MAGIC).u16(h.version).u32(h.features.0).u128(h.stream).u32(h.interval_ms);
                w.address(h.target.address).u16(h.target.port);
            }
            Self::Welcome(h) => {
                w.u16(h.version).u32(h.features.0);
            }
            Self::Refusal(r) => {
                w.text(&r.text, TEXT_BYTES_MAX);
            }
            Self::Ping(p) => {
                w.u64(p.number).u64(p.oldest.0).u64(p.next.0).u64(p.tail.0);
                w.u64(p.held).u64(p.held_bytes).u64(p.unsent).u64(p.dropped);
                w.u32(p.next_cost as u32).u64(p.unconfirmed_cost).u32(p.lease_ms);
            }
            Self::Pong(p) => {
                let (verdict, reason) = p.verdict.to_wire();
                w.u64(p.number).u8(verdict).u8(reason).u64(p.incarnation.0).u32(p.pid);
                w.u64(p.read).u64(p.queue).u64(p.drops).u64(p.window).u32(p.gap_us).u32(p.ask_again_ms).u32(p.active);
            }
            Self::Notice(n) => {
                let (verdict, reason) = n.verdict.to_wire();
                w.u8(verdict).u8(reason);
            }
            Self::Attach(a) => {
                w.address(a.source).u8(a.once.into());
            }
            Self::Resume(r) => {
                w.u32(r.epoch).u8(r.from.is_some().into()).u64(r.from.unwrap_or_default().0);
                w.u64(r.reached.0).u64(r.window).u64(r.digest);
            }
            Self::Ack(a) => {
                w.u64(a.read.0).u64(a.window).u8(a.doubtful.into());
            }
            Self::Session(s) => {
                w.u16(s.name.id).u32(s.name.generation).u16(s.port);
            }
            Self::Data(d) => {
                w.u32(d.epoch).bytes(d.items_bytes());
            }
            Self::Reply(r) => {
                w.u16(r.name.id).u32(r.name.generation).bytes(&r.bytes);
            }
        }
        w.finish();
    }

    const fn kind(&self) -> u8 {
        match self {
            Self::Hello(_) => 1,
            Self::Welcome(_) => 2,
            Self::Refusal(_) => 3,
            Self::Ping(_) => 4,
            Self::Pong(_) => 5,
            Self::Notice(_) => 6,
            Self::Attach(_) => 7,
            Self::Resume(_) => 8,
            Self::Ack(_) => 9,
            Self::Session(_) => 10,
            Self::Data(_) => DATA,
            Self::Reply(_) => 12,
        }
    }

    /// Reads the body of a frame. Returns `None` for an unknown kind, which is to be skipped.
    pub(super) fn decode(kind: u8, body: &[u8]) -> Result<Option<Self>, WireError> {
        let mut f = Fields::new(body);
        let frame = match kind {
            1 => {
                if f.u32() != MAGIC {
                    return Err(WireError::Foreign);
                }
                let (version, features, stream, interval_ms) = (f.u16(), Features(f.u32()), f.u128(), f.u32());
                let target = Target { address: f.address(), port: f.u16() };
                Self::Hello(Hello { version, features, stream, interval_ms, target })
            }
            2 => Self::Welcome(Welcome { version: f.u16(), features: Features(f.u32()) }),
            3 => Self::Refusal(Refusal { text: f.text(TEXT_BYTES_MAX) }),
            4 => Self::Ping(Ping {
                number: f.u64(),
                oldest: Seq(f.u64()),
                next: Seq(f.u64()),
                tail: Seq(f.u64()),
                held: f.u64(),
                held_bytes: f.u64(),
                unsent: f.u64(),
                dropped: f.u64(),
                next_cost: f.u32().into(),
                unconfirmed_cost: f.u64(),
                lease_ms: f.u32(),
            }),
            5 => Self::Pong(Pong {
                number: f.u64(),
                verdict: Verdict::from_wire(f.u8(), f.u8()),
                incarnation: Incarnation(f.u64()),
                pid: f.u32(),
                read: f.u64(),
                queue: f.u64(),
                drops: f.u64(),
                window: f.u64(),
                gap_us: f.u32(),
                ask_again_ms: f.u32(),
                active: f.u32(),
            }),
            6 => Self::Notice(Notice { verdict: Verdict::from_wire(f.u8(), f.u8()) }),
            7 => Self::Attach(Attach { source: f.address(), once: f.u8() != 0 }),
            8 => {
                let (epoch, known, from) = (f.u32(), f.u8(), Seq(f.u64()));
                let from = (known != 0).then_some(from);
                Self::Resume(Resume { epoch, from, reached: Seq(f.u64()), window: f.u64(), digest: f.u64() })
            }
            9 => Self::Ack(Ack { read: Seq(f.u64()), window: f.u64(), doubtful: f.u8() != 0 }),
            10 => Self::Session(Session { name: SessionName { id: f.u16(), generation: f.u32() }, port: f.u16() }),
            DATA => Self::Data(Data::from_wire(f.u32(), f.rest())?),
            12 => {
                let name = SessionName { id: f.u16(), generation: f.u32() };
                Self::Reply(Reply { name, bytes: f.rest().to_vec() })
            }
            _ => return Ok(None),
        };
        Ok(Some(frame))
    }
}
