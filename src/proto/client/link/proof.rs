//! What has been read, as far as heartbeats can prove it.
//!
//! A good heartbeat marks what was released before an earlier good one began, the newest that is a grace older: with `queue` bytes in remoted's
//! socket and F read, all of it has been read when the server's sum reaches F + `queue`.
//!
//! A heartbeat that took much less than was usual when the earlier one began has come by another path, and what was released before may still be
//! on the old one: then it must be older by the difference, too.

use std::collections::VecDeque;
use std::time::Duration;

use crate::proto::terms::Seq;
use crate::proto::time::Time;
use crate::proto::wire::Pong;

/// Marks that wait for remoted to have read them; beyond it they are merged, which only delays their confirmation.
const MARKS_MAX: usize = 256;

/// Good heartbeats remembered: one each millisecond of the longest grace. Beyond it the newest but one is forgotten, which only delays.
const GOOD_MAX: usize = 64;

/// The good heartbeats of one epoch of one connection.
#[derive(Debug, Default)]
pub(super) struct Proof {
    /// The good heartbeats of late.
    good: VecDeque<Good>,
    marks: VecDeque<Mark>,
}

/// A good heartbeat.
#[derive(Clone, Copy, Debug)]
pub(super) struct Good {
    pub(super) begun: Time,
    /// What had been released by then.
    pub(super) released: Seq,
    /// The usual round trip by then.
    pub(super) usual: Duration,
    /// What it took.
    pub(super) took: Duration,
}

/// Everything below `seq` has been read once the server's sum of falls reaches `read`.
#[derive(Clone, Copy, Debug)]
struct Mark {
    seq: Seq,
    read: u64,
}

impl Proof {
    /// A good heartbeat of this epoch. What an earlier one covers has reached remoted's socket by `grace` later.
    pub(super) fn handle_good(&mut self, good: Good, pong: &Pong, grace: Duration) {
        let landed = |earlier: &&Good| earlier.begun + grace + earlier.usual.saturating_sub(good.took) <= good.begun;
        let old = self.good.iter().take_while(landed).count();
        let proven = old.checked_sub(1).map(|newest| self.good[newest].released);
        // Those before it can prove nothing that it does not.
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
            // The earlier proof for the same datagrams is the one that comes true first.
            Some(last) if last.seq == mark.seq => {}
            Some(last) if full => *last = mark,
            Some(_) | None => self.marks.push_back(mark),
        }
    }

    /// What is read for certain when the server's sum of falls is `read`.
    pub(super) fn redeem(&mut self, read: u64) -> Option<Seq> {
        let mut confirmed = None;
        while let Some(mark) = self.marks.front().filter(|mark| mark.read <= read) {
            confirmed = Some(mark.seq);
            self.marks.pop_front();
        }
        confirmed
    }
}
