//! Terms that both roles and the modules below them have in common.

use std::time::Duration;

/// The longest UDP payload over IPv4: 65,535 less 20 bytes of IP and 8 of UDP header.
pub const DATAGRAM_BYTES_MAX: usize = 65_507;

/// The port that remoted receives at, unless it is set to another.
pub const REMOTED_PORT: u16 = 1_514;
/// The port of the broker server, unless it is set to another.
pub const BROKER_PORT: u16 = 1_517;

/// The longest lifetime of a grant, at either end: a server must not keep a grant booked for a client that is gone.
pub const LEASE_MAX: Duration = Duration::from_secs(10);

/// How far UDP may lag behind TCP at most. Causes are a router queue that treats them differently, a policer, or a
/// Wi-Fi driver.
pub const LAG_MAX: Duration = Duration::from_millis(50);

/// How long after its newest drop remoted's socket counts as overflowing by other senders.
///
/// The rule of both transports: the first drop may be of a datagram that a broker has just sent, which is sent again.
/// If drops go on, other senders are the cause, and neither fewer datagrams nor other copies help: datagrams flow, and
/// count as doubtful. Otherwise one agent without a broker would stop all agents that have one. A client calls the
/// drops others' at the next fresh heartbeat, a server that injects does so after a second.
pub const DROPS_CALM: Duration = Duration::from_secs(10);

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

/// One life of remoted's processes and sockets, as a digest. Only equality has a meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Incarnation(pub u64);

/// How far remoted has read, as a sample of one of its lives shows it.
///
/// `read` and `queue` together are the bytes that had come in, and never fall. All of them have been read when F
/// reaches their sum: that is the *mark* of every datagram that was in remoted's socket at the sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// F, in bytes: a lower bound of the bytes that remoted read.
    pub read: u64,
    /// The bytes that F lacks of all that had come in; 0 if and only if remoted's sockets were empty.
    pub queue: u64,
}

/// The F at which a datagram has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(u64);

impl Reading {
    /// The mark of the datagrams in remoted's socket.
    pub const fn mark(self) -> Mark {
        Mark(self.read.saturating_add(self.queue))
    }

    /// The datagrams with this mark have been read.
    pub const fn has_passed(self, mark: Mark) -> bool {
        mark.0 <= self.read
    }
}

impl Mark {
    /// The bytes that have come in since this mark, at least.
    pub const fn until(self, later: Self) -> u64 {
        later.0.saturating_sub(self.0)
    }
}

/// The server's verdict on remoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the texts below say it")]
pub enum Verdict {
    Up,
    NoProcess(Port),
    NoSocket(Receives),
    Stopped,
    Stalled,
    Starting(Reason),
}

/// The state of remoted's port where no process of an accepted name is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the texts below say it")]
pub enum Port {
    Free,
    Taken,
}

/// Where remoted receives instead of the address that datagrams go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the texts below say it")]
pub enum Receives {
    Nowhere,
    Elsewhere,
    Ipv4Alone,
    Ipv6Alone,
}

/// Why clients should not send to remoted although it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A peer newer than this program gave a reason that this one does not know.
    Unknown,
    /// remoted has been there for less than `--settle`.
    Settling,
    /// The analysis daemon that was once seen beside it is gone.
    AnalysisGone,
    /// A process that `--require` names is not there.
    RequiredMissing,
}

impl Verdict {
    /// Verdict and reason as on the wire. They are kept apart so that an older peer still understands the verdict of a
    /// new reason.
    pub(super) const fn to_wire(self) -> (u8, u8) {
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

    /// A newer peer's unknown verdict must neither release nor rewind anything, so it becomes `Starting`. An unknown
    /// reason leaves the verdict unchanged.
    pub(super) const fn from_wire(verdict: u8, reason: u8) -> Self {
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

/// One connection of a client, as the server numbers them.
pub type ConnectionId = u64;

/// One client's stream of datagrams. The client chooses the number at random when it starts.
pub type StreamId = u128;

/// One agent behind a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionName {
    /// Its place in the client's table.
    pub id: u16,
    /// The generation grows when the place is given to another agent.
    pub generation: u32,
}

/// The longest agent id that is looked for in front of a datagram. OSSEC's ids are numbers of three to six digits.
const AGENT_ID_BYTES_MAX: usize = 8;

/// An agent's id as in front of its datagrams, followed by zeros.
pub type AgentId = [u8; AGENT_ID_BYTES_MAX];

/// The `id` of a datagram that starts with `!id!`. Agents send such datagrams if their key is for `any` address or a
/// range.
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

/// The 64-bit FNV-1a digest of a datagram, never 0. Two different datagrams share a digest once in 2^64 times, unless
/// somebody contrives it.
pub fn digest(bytes: &[u8]) -> u64 {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    bytes.iter().fold(BASIS, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(PRIME)).max(1)
}
