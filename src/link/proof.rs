//! What has been read, as far as heartbeats can prove it.
//!
//! A good heartbeat marks what was released before the previous good one began: with `queue` bytes in remoted's socket and F read, all of it has
//! been read when the server's sum reaches F + `queue`.

use std::collections::VecDeque;

use crate::wire::{Pong, Seq};

/// Marks that wait for remoted to have read them; beyond it they are merged, which only delays their confirmation.
const MARKS_MAX: usize = 256;

/// The good heartbeats of one epoch of one connection.
#[derive(Debug, Default)]
pub(super) struct Proof {
    /// What had been released when the newest good heartbeat began.
    good: Option<Seq>,
    marks: VecDeque<Mark>,
}

/// Everything below `seq` has been read once the server's sum of falls reaches `read`.
#[derive(Clone, Copy, Debug)]
struct Mark {
    seq: Seq,
    read: u64,
}

impl Proof {
    /// A good heartbeat of this epoch, which began when everything below `released` had been sent.
    pub(super) fn handle_good(&mut self, released: Seq, pong: &Pong) {
        let Some(previous) = self.good.replace(released) else {
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
