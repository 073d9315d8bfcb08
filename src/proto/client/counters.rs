//! What happened to every datagram.

/// Why a datagram was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// The buffer was full.
    Overflow,
    /// It was older than `--max-age`.
    Expired,
    /// The system refuses to send it (larger than the path's protocol allows).
    Unsendable,
    /// It does not fit an empty buffer.
    TooLarge,
    /// The table of sessions is full of sessions that have something held.
    NoSession,
    /// It may have arrived, and `--resend never` forbids sending it again.
    NotResent,
}

impl DropReason {
    /// All of them, in the order of [`Counters::dropped`].
    pub const ALL: [Self; 6] =
        [Self::Overflow, Self::Expired, Self::Unsendable, Self::TooLarge, Self::NoSession, Self::NotResent];

    /// For the log: completes "dropped: ".
    pub const fn text(self) -> &'static str {
        match self {
            Self::Overflow => "the buffer was full",
            Self::Expired => "older than --max-age",
            Self::Unsendable => "refused by this system, too large",
            Self::TooLarge => "larger than --buffer",
            Self::NoSession => "more agents than --max-sessions",
            Self::NotResent => "not confirmed, and --resend is never",
        }
    }
}

/// Counters since the start. `received = confirmed + held + dropped`, always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams that came in from agents.
    pub received: u64,
    /// Datagrams believed read by remoted.
    pub confirmed: u64,
    /// Of these: confirmed while remoted's socket was overflowing by others' doing.
    pub doubtful: u64,
    /// Datagrams sent towards remoted, copies included.
    pub sent: u64,
    /// Datagrams that were sent and are to be sent again, after a rewind.
    pub copies: u64,
    /// Rewinds of something released.
    pub rewinds: u64,
    /// Datagrams refused by the far end or by the own system.
    pub refusals: u64,
    /// Replies carried back to agents.
    pub replies: u64,
    /// Heartbeats begun.
    pub heartbeats: u64,
    /// Datagrams of other senders that remoted's socket dropped.
    pub others_drops: u64,
    dropped: [u64; DropReason::ALL.len()],
}

impl Counters {
    /// Datagrams dropped for this reason.
    pub const fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize]
    }

    /// Datagrams dropped for whatever reason.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().sum()
    }

    /// The same with so many more dropped.
    #[cfg(test)]
    pub(crate) const fn with_dropped(mut self, reason: DropReason, more: u64) -> Self {
        self.dropped[reason as usize] += more;
        self
    }

    pub(super) const fn drop(&mut self, reason: DropReason) {
        self.dropped[reason as usize] += 1;
    }
}
