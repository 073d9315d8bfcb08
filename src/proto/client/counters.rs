//! Counts what happened to every datagram.

use super::spool::record::Totals;

/// Why a datagram was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "`text` says it")]
pub enum DropReason {
    Overflow,
    Expired,
    Unsendable,
    TooLarge,
    NoSession,
    NotResent,
    Damaged,
}

impl DropReason {
    /// All reasons, in the order of [`Counters::dropped`].
    pub const ALL: [Self; 7] = [
        Self::Overflow,
        Self::Expired,
        Self::Unsendable,
        Self::TooLarge,
        Self::NoSession,
        Self::NotResent,
        Self::Damaged,
    ];

    /// For the log: completes "dropped: ".
    pub const fn text(self) -> &'static str {
        match self {
            Self::Overflow => "the buffer was full",
            Self::Expired => "older than --max-age",
            Self::Unsendable => "refused by this system, too large",
            Self::TooLarge => "larger than --buffer, or than half of --spool-size",
            Self::NoSession => "more agents than --max-sessions",
            Self::NotResent => "not confirmed, and --resend is never",
            Self::Damaged => "cannot be read back from the spool",
        }
    }
}

/// Counters since the start, or since the spool was made. `received = confirmed + held + dropped`, always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams that came in from agents.
    pub received: u64,
    /// Datagrams believed read by remoted.
    pub confirmed: u64,
    /// Datagrams confirmed while other senders made remoted's socket overflow.
    pub doubtful: u64,
    /// Datagrams sent towards remoted, copies included.
    pub sent: u64,
    /// Datagrams that were sent and that a rewind marked to be sent again.
    pub copies: u64,
    /// Rewinds of released datagrams.
    pub rewinds: u64,
    /// Datagrams refused by the far end or by this host's system.
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

    /// Datagrams dropped for any reason.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().sum()
    }

    /// The same counters with `more` dropped for this reason.
    #[cfg(test)]
    pub(crate) const fn with_dropped(mut self, reason: DropReason, more: u64) -> Self {
        self.dropped[reason as usize] += more;
        self
    }

    pub(super) const fn drop(&mut self, reason: DropReason) {
        self.drop_many(reason, 1);
    }

    pub(super) const fn drop_many(&mut self, reason: DropReason, more: u64) {
        self.dropped[reason as usize] += more;
    }

    /// The counters of datagrams that are held no more, for the spool.
    pub(super) fn totals(&self) -> Totals {
        let mut totals = Totals { confirmed: self.confirmed, ..Totals::default() };
        totals.dropped.iter_mut().zip(self.dropped).for_each(|(total, dropped)| *total = dropped);
        totals
    }

    /// Goes on from the counters of an earlier process that has left so many datagrams.
    pub(super) fn restore(&mut self, totals: Totals, held: u64) {
        self.confirmed = totals.confirmed;
        self.dropped.iter_mut().zip(totals.dropped).for_each(|(dropped, total)| *dropped = total);
        self.received = self.confirmed + held + self.dropped_total();
    }
}
