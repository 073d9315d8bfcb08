//! The datagrams that remoted has read, as far as heartbeats can prove it.
//!
//! A good heartbeat proves something about the newest earlier good one that is a grace older. It marks the datagrams
//! that were released before that one began. With `queue` bytes in remoted's socket and F read, all of them have been
//! read when the server's sum reaches F + `queue`.
//!
//! A heartbeat may take much less than was usual when the earlier one began. Then it has come by another path, and the
//! earlier datagrams may still be on the old one. So the earlier heartbeat must be older by the difference, too.

use std::collections::VecDeque;
use std::time::Duration;

use crate::proto::terms::Seq;
use crate::proto::time::Time;
use crate::proto::wire::Pong;

/// Most marks that wait for remoted to have read them. Further marks are merged, which only delays their confirmation.
const MARKS_MAX: usize = 256;

/// Most good heartbeats remembered: one each millisecond of the longest grace. Beyond it the newest but one is
/// forgotten, which only delays.
const GOOD_MAX: usize = 64;

/// The good heartbeats of one epoch of one connection.
#[derive(Debug, Default)]
pub(super) struct Proof {
    /// The latest good heartbeats.
    good: VecDeque<Good>,
    marks: VecDeque<Mark>,
}

/// A good heartbeat.
#[derive(Clone, Copy, Debug)]
pub(super) struct Good {
    pub(super) begun: Time,
    /// Every datagram released when the heartbeat began is below this number.
    pub(super) released: Seq,
    /// The usual round trip when the heartbeat began.
    pub(super) usual: Duration,
    /// The time that the heartbeat took.
    pub(super) took: Duration,
}

/// Everything below `seq` has been read once the server's sum of falls reaches `read`.
#[derive(Clone, Copy, Debug)]
struct Mark {
    seq: Seq,
    read: u64,
}

impl Proof {
    /// A good heartbeat of this epoch came back. Datagrams that an earlier one covers have reached remoted's socket by
    /// `grace` later.
    pub(super) fn handle_good(&mut self, good: Good, pong: &Pong, grace: Duration) {
        let landed = |earlier: &&Good| earlier.begun + grace + earlier.usual.saturating_sub(good.took) <= good.begun;
        let old = self.good.iter().take_while(landed).count();
        let proven = old.checked_sub(1).map(|newest| self.good[newest].released);
        // The newest heartbeat that is old enough proves all that the ones before it can prove.
        self.good.drain(..old.saturating_sub(1));
        if self.good.len() == GOOD_MAX {
            self.good.pop_back();
        }
        self.good.push_back(good);
        let Some(previous) = proven else {
            return;
        };
        let mark = Mark { seq: previous, read: pong.read.saturating_add(pong.queue) };
        let full = self.marks.len() == MARKS_MAX;
        match self.marks.back_mut() {
            // Of two proofs for the same datagrams the earlier one comes true first.
            Some(last) if last.seq == mark.seq => {}
            Some(last) if full => *last = mark,
            Some(_) | None => self.marks.push_back(mark),
        }
    }

    /// Every datagram below the returned number is certainly read when the server's sum of falls is `read`.
    pub(super) fn redeem(&mut self, read: u64) -> Option<Seq> {
        let mut confirmed = None;
        while let Some(mark) = self.marks.front().filter(|mark| mark.read <= read) {
            confirmed = Some(mark.seq);
            self.marks.pop_front();
        }
        confirmed
    }
}
