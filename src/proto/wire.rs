//! Frames ⇄ bytes: what client and server say to each other over TCP.
//!
//! ```text
//!   length (u32)   kind (u8)   body (length - 1 bytes)
//! ```
//!
//! All numbers are big-endian. A body is a fixed sequence of fields; fields are only ever added at its end. A reader takes what it
//! knows and ignores the rest, and gives a field that an older peer did not send the value zero. So neither side needs to know the
//! other's age for the fields, and `Hello::version` changes only when the meaning of an old field does.
//!
//! The first byte of a frame is always zero, because no frame is longer than [`FRAME_BYTES_MAX`]. That tells a frame from the plain
//! request `ping`, from HTTP and from TLS by one byte.
//!
//! This room holds no state but the bytes of an unfinished frame ([`Assembler`]), and nothing here can panic on what the network sends.

mod codec;
mod data;
#[cfg(test)]
mod tests;

pub use codec::{Assembler, WireError, give_back};
pub use data::{Data, DataItem, DataWriter};

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use codec::{Fields, Writer};

/// What `Hello` starts with, so that a foreign protocol is not taken for ours.
const MAGIC: u32 = u32::from_be_bytes(*b"OSBK");

/// The meaning of the fields below; a peer with another version is refused with a clear error.
pub const VERSION: u16 = 1;

/// Longest UDP payload over IPv4: 65,535 less 20 bytes of IP and 8 of UDP header.
pub const DATAGRAM_BYTES_MAX: usize = 65_507;

/// Longest frame, its length field excluded: room for the largest datagram and the fields before it.
pub const FRAME_BYTES_MAX: usize = DATAGRAM_BYTES_MAX + 512;

/// No grant lives longer, at either end: a server must not keep one booked for a client that is gone.
pub const LEASE_MAX: Duration = Duration::from_secs(10);

/// How far UDP is believed to lag behind TCP at most: a queue of a router that treats them differently, a policer, a Wi-Fi driver.
pub const LAG_MAX: Duration = Duration::from_millis(50);

/// The kind of a frame of datagrams.
const DATA: u8 = 11;

/// Longest text in a `Refusal`; a peer's text is cut there.
pub const TEXT_BYTES_MAX: usize = 256;

/// A number in a client's stream of datagrams: the first one is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

impl Seq {
    /// The number that follows.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// One life of remoted's processes and sockets, as a digest; only equality means anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Incarnation(pub u64);

/// What the server says of remoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It owns its socket, runs and reads.
    Up,
    /// No process of an accepted name exists.
    NoProcess(Port),
    /// The process exists and owns no UDP socket on the port that receives where datagrams go.
    NoSocket(Receives),
    /// The process is stopped.
    Stopped,
    /// Datagrams wait in its socket and it reads none.
    Stalled,
    /// It is there and should not be sent to yet.
    Starting(Reason),
}

/// What became of remoted's port where no process of an accepted name is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// No socket is bound to it.
    Free,
    /// A socket is bound to it: its owner has another name, or cannot be seen from the server.
    Taken,
}

/// Where remoted receives instead of the address that datagrams go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receives {
    /// Nowhere.
    Nowhere,
    /// At other addresses alone.
    Elsewhere,
    /// At all addresses of IPv4, and datagrams go to one of IPv6.
    Ipv4Alone,
    /// At all addresses of IPv6, and datagrams go to one of IPv4.
    Ipv6Alone,
}

/// Why remoted should not be sent to although it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A peer newer than this program gave a reason that this one does not know.
    Unknown,
    /// It has been there for less than `--settle`.
    Settling,
    /// The analysis daemon that was once seen beside it is gone.
    AnalysisGone,
    /// A process that `--require` names is not there.
    RequiredMissing,
}

impl Verdict {
    /// As on the wire: verdict and reason. Kept apart so that an older peer still understands a new reason.
    const fn to_wire(self) -> (u8, u8) {
        match self {
            Self::Up => (1, 0),
            Self::NoProcess(Port::Free) => (2, 0),
            Self::NoProcess(Port::Taken) => (2, 1),
            Self::NoSocket(Receives::Nowhere) => (3, 0),
            Self::NoSocket(Receives::Elsewhere) => (3, 1),
            Self::NoSocket(Receives::Ipv4Alone) => (3, 2),
            Self::NoSocket(Receives::Ipv6Alone) => (3, 3),
            Self::Stopped => (4, 0),
            Self::Stalled => (5, 0),
            Self::Starting(Reason::Unknown) => (6, 0),
            Self::Starting(Reason::Settling) => (6, 1),
            Self::Starting(Reason::AnalysisGone) => (6, 2),
            Self::Starting(Reason::RequiredMissing) => (6, 3),
        }
    }

    /// An unknown verdict of a newer peer must not release anything, and must not rewind either: `Starting` is that. An unknown reason
    /// leaves the verdict what it is.
    const fn from_wire(verdict: u8, reason: u8) -> Self {
        match (verdict, reason) {
            (1, _) => Self::Up,
            (2, 1) => Self::NoProcess(Port::Taken),
            (2, _) => Self::NoProcess(Port::Free),
            (3, 1) => Self::NoSocket(Receives::Elsewhere),
            (3, 2) => Self::NoSocket(Receives::Ipv4Alone),
            (3, 3) => Self::NoSocket(Receives::Ipv6Alone),
            (3, _) => Self::NoSocket(Receives::Nowhere),
            (4, _) => Self::Stopped,
            (5, _) => Self::Stalled,
            (6, 1) => Self::Starting(Reason::Settling),
            (6, 2) => Self::Starting(Reason::AnalysisGone),
            (6, 3) => Self::Starting(Reason::RequiredMissing),
            _ => Self::Starting(Reason::Unknown),
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Up => "up",
            Self::NoProcess(Port::Free) => "no process",
            Self::NoProcess(Port::Taken) => "no process that can be seen, although its port is taken",
            Self::NoSocket(Receives::Nowhere) => "no socket",
            Self::NoSocket(Receives::Elsewhere) => {
                "no socket at the address that datagrams go to: it receives at others alone"
            }
            Self::NoSocket(Receives::Ipv4Alone) => {
                "no socket at the address that datagrams go to: it receives IPv4 alone"
            }
            Self::NoSocket(Receives::Ipv6Alone) => {
                "no socket at the address that datagrams go to: it receives IPv6 alone"
            }
            Self::Stopped => "stopped",
            Self::Stalled => "stalled",
            Self::Starting(Reason::Unknown) => "not ready",
            Self::Starting(Reason::Settling) => "starting",
            Self::Starting(Reason::AnalysisGone) => "starting: analysisd is gone",
            Self::Starting(Reason::RequiredMissing) => "starting: a required process is missing",
        })
    }
}

/// Optional behaviour, one bit each: the client offers, the server takes up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(pub u32);

impl Features {
    /// None of it.
    pub const NONE: Self = Self(0);
    /// Transport tcp: datagrams travel over this connection.
    pub const STREAM: Self = Self(1);
    /// remoted ignores empty datagrams: the client may send them to open firewalls for replies.
    pub const EMPTY_DATAGRAMS: Self = Self(2);

    /// All of `other` is among these.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These and those.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Where a client's datagrams go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The address; `None` where a peer sends none, or is older than this field.
    pub address: Option<IpAddr>,
    /// The UDP port; 0 likewise.
    pub port: u16,
}

impl Target {
    /// That of a peer which sends none.
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
    /// [`VERSION`] of the client.
    pub version: u16,
    /// What the client offers.
    pub features: Features,
    /// This client's stream of numbered datagrams, random at its start.
    pub stream: u128,
    /// Longest silence between two heartbeats, in milliseconds: the server takes a longer one for a dead peer.
    pub interval_ms: u32,
    /// Where the client sends its datagrams, or over transport tcp would send them: the server says of remoted what holds there.
    pub target: Target,
}

/// The server's answer to `Hello`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// [`VERSION`] of the server.
    pub version: u16,
    /// The features of the client that the server takes up.
    pub features: Features,
}

/// Why the server ends a connection, for the peer's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// One line, no more than 256 bytes.
    pub text: String,
}

/// A heartbeat's question, with the state of the client as it was when the heartbeat began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ping {
    /// Returns in the pong.
    pub number: u64,
    /// Number of the oldest datagram not confirmed.
    pub oldest: Seq,
    /// Number of the next datagram to release.
    pub next: Seq,
    /// Number that the next arrival gets.
    pub tail: Seq,
    /// Datagrams held, unconfirmed ones included.
    pub held: u64,
    /// Bytes of datagrams held.
    pub held_bytes: u64,
    /// Datagrams not released yet.
    pub unsent: u64,
    /// Datagrams dropped so far, for whatever reason.
    pub dropped: u64,
    /// Buffer cost of the next datagram to release, in bytes; 0 if there is none.
    pub next_cost: u32,
    /// Buffer cost of what is released and not confirmed, in bytes.
    pub unconfirmed_cost: u64,
    /// How long a grant lives at the client, in milliseconds.
    pub lease_ms: u32,
}

impl Ping {
    /// About what it takes of a receive buffer to send all that is not released: a client tells how many datagrams that is, and of their sizes
    /// the next and the mean.
    pub fn unsent_cost(&self) -> u64 {
        let mean = self.held_bytes.checked_div(self.held).unwrap_or(0).min(DATAGRAM_BYTES_MAX as u64);
        self.unsent.saturating_mul(u64::from(self.next_cost.max(buffer_cost(mean as usize))))
    }
}

/// A heartbeat's answer, from a sample begun after the ping was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pong {
    /// From the ping.
    pub number: u64,
    /// What the server says of remoted.
    pub verdict: Verdict,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// Process id of one owner of the socket, for people; 0 where unknown.
    pub pid: u32,
    /// F, in bytes: a lower bound of what remoted read, as far as the server saw its sockets' queues fall.
    pub read: u64,
    /// Bytes that F lacks of all that had come in at the sample: what is in remoted's socket, or with several a little more.
    pub queue: u64,
    /// Datagrams that the kernel dropped at remoted's socket.
    pub drops: u64,
    /// How much may be released and not confirmed, in bytes of buffer cost.
    pub window: u64,
    /// Least time between the beginnings of two heartbeats, in microseconds.
    pub gap_us: u32,
    /// With a window of 0: ask again after this many milliseconds.
    pub ask_again_ms: u32,
    /// Clients that have something to send or under way, this one included.
    pub active: u32,
}

/// The verdict has changed; sent unasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// What it is at present.
    pub verdict: Verdict,
}

/// Transport tcp: from here on this connection carries the client's stream, and no other does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attach {
    /// The address that remoted knows the client's agents by, if it may differ from the one that the connection comes from.
    pub source: Option<IpAddr>,
    /// Nothing is to reach remoted twice, even if it may have been dropped the first time.
    pub once: bool,
}

/// Transport tcp: where the client's stream goes on. What was on its way before counts for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resume {
    /// Datagrams are taken only in frames of this epoch.
    pub epoch: u32,
    /// The number to go on from: everything below was injected into the remoted of this moment. `None`: from the oldest that is not acknowledged.
    pub from: Option<Seq>,
    /// What is not below was never injected: to send it makes no copies.
    pub reached: Seq,
    /// How much may be sent and not acknowledged, in bytes of buffer cost.
    pub window: u64,
    /// The [`digest`] of the last datagram below `from`; 0 where nothing is known of it. A client that sent another one has a stream in common with
    /// somebody.
    pub digest: u64,
}

/// Transport tcp: everything below has been read by remoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The first that may not have been read.
    pub read: Seq,
    /// How much may be sent and not acknowledged, in bytes of buffer cost.
    pub window: u64,
    /// Some of it may have been dropped: remoted's socket was overflowing by other senders.
    pub doubtful: bool,
}

/// One agent behind a client, as the connection names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionName {
    /// Its place in the client's table.
    pub id: u16,
    /// Grows when the place is given to another agent.
    pub generation: u32,
}

/// Transport tcp: from here on this session's place belongs to this agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Which one.
    pub name: SessionName,
    /// The client's own UDP port for it, where remoted's replies can go; 0 if there is none.
    pub port: u16,
}

/// Transport tcp: what remoted answered to a session.
#[derive(Clone, PartialEq, Eq)]
pub struct Reply {
    /// Whose it is.
    pub name: SessionName,
    /// The datagram.
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never a payload in a log.
        f.debug_struct("Reply").field("name", &self.name).field("bytes", &self.bytes.len()).finish()
    }
}

/// Everything that travels in frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// See [`Hello`].
    Hello(Hello),
    /// See [`Welcome`].
    Welcome(Welcome),
    /// See [`Refusal`].
    Refusal(Refusal),
    /// See [`Ping`].
    Ping(Ping),
    /// See [`Pong`].
    Pong(Pong),
    /// See [`Notice`].
    Notice(Notice),
    /// See [`Attach`].
    Attach(Attach),
    /// See [`Resume`].
    Resume(Resume),
    /// See [`Ack`].
    Ack(Ack),
    /// See [`Session`].
    Session(Session),
    /// See [`Data`].
    Data(Data),
    /// See [`Reply`].
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
                w.u32(p.next_cost).u64(p.unconfirmed_cost).u32(p.lease_ms);
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

    /// Reads the body of a frame. `None` for a kind that this version does not know: to be skipped.
    fn decode(kind: u8, body: &[u8]) -> Result<Option<Self>, WireError> {
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
                next_cost: f.u32(),
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

/// Longest agent id that is looked for in front of a datagram; OSSEC's are numbers of three to six digits.
const AGENT_ID_BYTES_MAX: usize = 8;

/// An agent's id as it stands in front of its datagrams, zeros behind it.
pub type AgentId = [u8; AGENT_ID_BYTES_MAX];

/// The `id` of a datagram that starts with `!id!`, as those of agents do whose key is for `any` address or a range.
pub fn agent_id(bytes: &[u8]) -> Option<AgentId> {
    let rest = bytes.strip_prefix(b"!")?;
    let end = rest.iter().take(AGENT_ID_BYTES_MAX + 1).position(|&byte| byte == b'!')?;
    let digits = &rest[..end];
    let valid = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    valid.then(|| {
        let mut id = [0; AGENT_ID_BYTES_MAX];
        id[..end].copy_from_slice(digits);
        id
    })
}

/// Tells datagrams apart (64-bit FNV-1a): two that are not the same have the same digest once in 2^64 times, if nobody means them to. Never 0.
pub fn digest(bytes: &[u8]) -> u64 {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    bytes.iter().fold(BASIS, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(PRIME)).max(1)
}

/// What a datagram of `bytes` costs in a receive buffer, in bytes: windows are counted in this.
///
/// The kernel charges the memory that it allocated, not the payload. A datagram that came whole (loopback, jumbo frames) is a `sk_buff`
/// of 256 bytes and a data area rounded up to a power of two; one that exceeds the usual 1,500 bytes of a link is charged so for each
/// fragment. Which it will be the sender cannot know, so the larger counts. Measured on Linux 6.18 over loopback: 832 bytes for up to 196
/// of payload, 1,280 to 644, 2,304 to 1,472, 8,448 for 5,500; in fragments a datagram of 6,200 took 10,650.
pub const fn buffer_cost(bytes: usize) -> u32 {
    let (whole, cut) = (cost_whole(bytes), cost_in_fragments(bytes));
    if whole > cut { whole } else { cut }
}

/// The cost of an unfragmented datagram.
const fn cost_whole(bytes: usize) -> u32 {
    /// Above this the data area is made of pages and no longer rounded up to a power of two.
    const LINEAR_BYTES_MAX: usize = 15_984;
    /// `sk_buff`, headers, `skb_shared_info` and what goes with them.
    const OVERHEAD_BYTES: u32 = 832;
    match bytes {
        0..=160 => 832,
        161..=600 => 1_280,
        601..=1_472 => 2_304,
        1_473..=LINEAR_BYTES_MAX => 256 + (bytes as u32 + 400).next_power_of_two(),
        _ => bytes as u32 + OVERHEAD_BYTES,
    }
}

/// The cost of a datagram that crosses a link of 1,500 bytes.
const fn cost_in_fragments(bytes: usize) -> u32 {
    /// Payload of a full fragment, a multiple of 8.
    const FRAGMENT_BYTES: usize = 1_480;
    const UDP_HEADER_BYTES: usize = 8;
    let wire = bytes + UDP_HEADER_BYTES;
    let last = wire % FRAGMENT_BYTES;
    (wire / FRAGMENT_BYTES) as u32 * cost_whole(FRAGMENT_BYTES - UDP_HEADER_BYTES)
        + if last == 0 { 0 } else { cost_whole(last) }
}
