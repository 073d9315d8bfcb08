//! The link's inputs and answers.

use crate::proto::terms::{Seq, Verdict};
use crate::proto::time::Time;

/// The place of the buffer's cursor.
#[derive(Clone, Copy, Debug)]
pub struct Flight {
    /// The oldest unconfirmed datagram.
    pub oldest: Seq,
    /// The next datagram to release.
    pub next: Seq,
    /// Every datagram that was ever sent is below this number.
    pub furthest: Seq,
}

impl Flight {
    /// A datagram is released and not confirmed.
    pub const fn is_open(self) -> bool {
        self.oldest.0 < self.next.0
    }
}

/// The work at hand, for the rhythm of heartbeats.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work {
    /// A datagram waits for a heartbeat to be released: the moment from which nothing else holds it back.
    pub unsent: Option<Time>,
    /// The moment from which a confirmation is wanted.
    pub hurry: Option<Time>,
    /// A datagram is released and not confirmed.
    pub under_way: bool,
}

/// The reason why released datagrams count as never sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewind {
    /// A heartbeat did not come back within its lease, or could not begin within it.
    Late,
    /// The connection broke or was given up.
    Disconnected,
    /// remoted's process or socket is gone.
    Gone,
    /// remoted was started anew, or another one answers.
    Incarnation,
    /// The kernel dropped datagrams at remoted's socket while ours were under way.
    Drops,
    /// A datagram was refused (ICMP, or an error of this system).
    Refused,
    /// Replies have stopped under good heartbeats.
    Silence,
}

/// The consequences of a pong. A rewind comes first; with one, nothing is confirmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Everything unconfirmed is to be released again.
    pub rewind: Option<Rewind>,
    /// Every datagram below this one is confirmed.
    pub confirm: Option<Seq>,
    /// The overflowing socket of remoted may have dropped some of the confirmed datagrams.
    pub doubtful: bool,
    /// Datagrams of others that remoted's socket dropped since the last pong.
    pub others_drops: u64,
}

/// The permission to release datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit {
    /// Nothing is released at or after this moment.
    pub until: Time,
    /// Bound of the released and unconfirmed datagrams, in bytes of buffer cost. One datagram is always allowed when
    /// nothing is under way.
    pub window: u64,
    /// At most one datagram is released and not confirmed: the path is being tested.
    pub single: bool,
    /// The epoch in which the permit was given.
    pub epoch: u64,
}

impl Permit {
    /// Whether a datagram of this buffer cost may go beside those that are released and not confirmed, in bytes.
    pub const fn fits(&self, unconfirmed: u64, cost: u64) -> bool {
        unconfirmed == 0 || (!self.single && unconfirmed + cost <= self.window)
    }
}

/// The state of the way to remoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// There is no connection to the broker server.
    Unreachable,
    /// The connection is there and nothing has come back over it in time.
    Unanswered,
    /// The server answers, and remoted is not up.
    Remote(Verdict),
    /// Heartbeats are good and datagrams are refused.
    Refused,
    /// Datagrams flow.
    Up,
}

/// Another process has sent datagrams in this stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign;

/// The place from which everything is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resumption {
    /// The next datagram to send.
    pub from: Seq,
    /// Datagrams below this one may have reached remoted.
    pub reached: Seq,
}
