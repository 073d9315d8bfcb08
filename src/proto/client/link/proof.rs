//! The datagrams that remoted has read, as far as heartbeats can prove it.
//!
//! A good heartbeat proves something about the newest earlier good one that is a grace older: the datagrams that were
//! released before that one began have come in. They have been read when remoted passes the [`Mark`] of this one.
//!
//! A heartbeat may take much less than was usual when the earlier one began. Then it has come by another path, and the
//! earlier datagrams may still be on the old one. So the earlier heartbeat must be older by the difference, too.

use std::collections::VecDeque;
use std::time::Duration;

use crate::proto::terms::{Mark, Reading, Seq};
use crate::proto::time::Time;

/// Most proofs that wait for remoted to pass their marks. Further ones are merged, which only delays the confirmation.
const PROVEN_MAX: usize = 256;

/// Most good heartbeats remembered: one each millisecond of the longest grace. Beyond it the newest but one is
/// forgotten, which only delays.
const GOOD_MAX: usize = 64;

/// The good heartbeats of one epoch of one connection.
#[derive(Debug, Default)]
pub(super) struct Proof {
    good: VecDeque<Good>,
    proven: VecDeque<Proven>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Good {
    pub(super) begun: Time,
    /// Every datagram released when the heartbeat began is below this number.
    pub(super) released: Seq,
    /// The usual round trip when the heartbeat began.
    pub(super) usual: Duration,
    pub(super) took: Duration,
}

/// Everything below `seq` has been read when remoted passes the mark.
#[derive(Clone, Copy, Debug)]
struct Proven {
    seq: Seq,
    mark: Mark,
}

impl Proof {
    /// A good heartbeat of this epoch came back. Datagrams that an earlier one covers have reached remoted's socket by
    /// `grace` later.
    pub(super) fn handle_good(&mut self, good: Good, reading: Reading, grace: Duration) {
        let landed = |earlier: &&Good| earlier.begun + grace + earlier.usual.saturating_sub(good.took) <= good.begun;
        let old = self.good.iter().take_while(landed).count();
        let covered = old.checked_sub(1).map(|newest| self.good[newest].released);
        // The newest heartbeat that is old enough proves all that the ones before it can prove.
        self.good.drain(..old.saturating_sub(1));
        if self.good.len() == GOOD_MAX {
            self.good.pop_back();
        }
        self.good.push_back(good);
        let Some(seq) = covered else {
            return;
        };
        let proven = Proven { seq, mark: reading.mark() };
        let full = self.proven.len() == PROVEN_MAX;
        match self.proven.back_mut() {
            // Of two proofs for the same datagrams the earlier one comes true first.
            Some(last) if last.seq == proven.seq => {}
            Some(last) if full => *last = proven,
            Some(_) | None => self.proven.push_back(proven),
        }
    }

    /// Every datagram below the returned number has been read.
    pub(super) fn redeem(&mut self, reading: Reading) -> Option<Seq> {
        let mut confirmed = None;
        while let Some(proven) = self.proven.pop_front_if(|proven| reading.has_passed(proven.mark)) {
            confirmed = Some(proven.seq);
        }
        confirmed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_millis(50);
    const EMPTY: Reading = Reading { read: 0, queue: 0 };

    /// A heartbeat that began at this millisecond and took so many, where 100 ms were usual before.
    fn heartbeat(begun: u64, took: u64) -> Good {
        let millis = Duration::from_millis;
        Good { begun: Time::from_millis(begun), released: Seq(begun), usual: millis(100), took: millis(took) }
    }

    #[test]
    fn a_heartbeat_proves_only_what_was_released_before_an_earlier_one_that_is_a_grace_older() {
        let mut proof = Proof::default();
        for begun in [10, 30, 59] {
            proof.handle_good(heartbeat(begun, 100), EMPTY, GRACE);
            assert_eq!(proof.redeem(EMPTY), None, "at {begun}");
        }
        proof.handle_good(heartbeat(85, 100), EMPTY, GRACE);
        assert_eq!(proof.redeem(EMPTY), Some(Seq(30)), "59 is too young");
    }

    #[test]
    fn what_is_proven_counts_as_read_when_remoted_passes_the_mark() {
        let mut proof = Proof::default();
        proof.handle_good(heartbeat(10, 100), EMPTY, GRACE);
        proof.handle_good(heartbeat(60, 100), Reading { read: 100, queue: 832 }, GRACE);
        assert_eq!(proof.redeem(Reading { read: 931, queue: 1 }), None);
        assert_eq!(proof.redeem(Reading { read: 932, queue: 5_000 }), Some(Seq(10)));
    }

    #[test]
    fn on_a_longer_path_datagrams_need_longer_to_land() {
        let mut proof = Proof::default();
        proof.handle_good(heartbeat(10, 100), EMPTY, GRACE);
        proof.handle_good(heartbeat(70, 1), EMPTY, GRACE);
        assert_eq!(proof.redeem(EMPTY), None, "it came by a shorter path");
        proof.handle_good(heartbeat(10 + 50 + 99, 1), EMPTY, GRACE);
        assert_eq!(proof.redeem(EMPTY), Some(Seq(10)));
    }
}
