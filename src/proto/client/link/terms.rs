//! What the link is told, and what it says.

use crate::proto::terms::{Seq, Verdict};
use crate::proto::time::Time;

/// Where the buffer's cursor stands.
#[derive(Clone, Copy, Debug)]
pub struct Flight {
    /// The oldest datagram not confirmed.
    pub oldest: Seq,
    /// The next datagram to release.
    pub next: Seq,
}

impl Flight {
    /// Something is released and not confirmed.
    pub const fn is_open(self) -> bool {
        self.oldest.0 < self.next.0
    }
}

/// What there is to do, for the rhythm of heartbeats.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work {
    /// Something waits for a heartbeat to be released; from when on it may, but for that.
    pub unsent: Option<Time>,
    /// Something is to be confirmed soon: the program is about to stop.
    pub hurry: bool,
    /// Something is released and not confirmed.
    pub under_way: bool,
}

/// Why what is released counts as never sent.
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

/// What a pong leads to. A rewind comes first; with one, nothing is confirmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Everything unconfirmed is to be released again.
    pub rewind: Option<Rewind>,
    /// Everything below is confirmed.
    pub confirm: Option<Seq>,
    /// What is confirmed may have been dropped by remoted's overflowing socket.
    pub doubtful: bool,
    /// Datagrams of others that remoted's socket dropped since the last pong.
    pub others_drops: u64,
}

/// What may be released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit {
    /// Nothing is released at or after this moment.
    pub until: Time,
    /// Bound of what is released and not confirmed, in bytes of buffer cost. One datagram is always allowed when nothing is under way.
    pub window: u64,
    /// No more than one datagram is released and not confirmed: the path is being tested.
    pub single: bool,
    /// The epoch in which it was given.
    pub epoch: u64,
}

/// What stands between the client and remoted.
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

/// Another process has sent something in this stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign;

/// From where everything is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resumption {
    /// The next to send.
    pub from: Seq,
    /// Datagrams below may have reached remoted.
    pub reached: Seq,
}
