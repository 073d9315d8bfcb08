//! When datagrams go to disk, and when they come back.
//!
//! ```text
//!    memory alone ──one is a second old, or a quarter of the buffer is full, or at a stop──► written
//!         ▲           (--spool-sync always: the first one that is held without a good link)     │
//!         └───────────────────────────── nothing is held any more: a mark ◄─────────────────────┘
//! ```
//!
//! In normal running nothing is old, and the disk is left alone. While datagrams are *written* every arrival is,
//! a moment later. Their memory is given back only where the buffer needs it; what was given back is read again when
//! the head of the FIFO has room for it.

use std::time::Duration;

use super::spool::keeper::{Answer, Errand, Report};
use super::spool::records::Mark;
use super::spool::segment::generation;
use crate::proto::terms::Seq;
use crate::proto::time::Time;

/// Age at which a datagram is written.
const AGE: Duration = Duration::from_secs(1);
/// Age at which a confirmation is asked for, so that an idle link has one before the datagram is written.
const CONFIRM_AGE: Duration = Duration::from_millis(800);
/// Longest time that an arrival waits for others to be written with it.
const GATHER: Duration = Duration::from_millis(250);
/// Bytes that are written without waiting for more, and the part of the memory that is.
const GATHER_BYTES_MAX: u64 = 128 * 1024;
const GATHER_PART: u64 = 16;
/// Bytes of payload in one batch: the copy under the lock stays short.
pub(super) const BATCH_BYTES_MAX: usize = 256 * 1024;
/// Longest time between two marks while datagrams are confirmed.
const MARK_GAP: Duration = Duration::from_secs(1);
/// Time after which a disk that failed, or a spool that is full, is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// A disk that is busy for so long without a pause is slow.
const SLOW: Duration = Duration::from_secs(1);
/// Longest time that written datagrams wait for a sync under [`SyncPolicy::Interval`].
const SYNC_GAP: Duration = Duration::from_secs(1);

/// When written datagrams are made to survive a power cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncPolicy {
    /// When the system sees fit.
    Never,
    /// Once a second.
    #[default]
    Interval,
    /// At once.
    Always,
}

/// Why a full buffer with a spool stays full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hindrance {
    /// The spool has reached its bound.
    Full,
    /// The disk fails.
    Failing,
    /// The disk takes long.
    Slow,
    /// None of that: more came in at once than the memory takes.
    Burst,
}

/// What is held, as far as writing depends on it.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each says another thing of the buffer")]
pub(super) struct Holding {
    /// The arrival of the oldest held datagram, if it lies in memory.
    pub(super) oldest: Option<Time>,
    /// Number of held datagrams.
    pub(super) datagrams: u64,
    pub(super) mark: Mark,
    pub(super) tail: Seq,
    /// The memory of the buffer is a quarter full.
    pub(super) quarter_full: bool,
    /// The memory of the buffer is half full: it can only be given back for what is synced.
    pub(super) half_full: bool,
    /// The link is up, and nothing has gone wrong since the oldest held datagram came.
    pub(super) is_good: bool,
    /// What can be read back: from which number on, and how many bytes of payload there is room for.
    pub(super) spilled: Option<(Seq, usize)>,
    /// There is a good part of the memory for datagrams that are read back.
    pub(super) can_read: bool,
    /// The oldest datagrams give way to newer ones.
    pub(super) gives_way: bool,
}

#[derive(Debug)]
pub(super) struct Spooling {
    sync: SyncPolicy,
    /// Bytes that are written without waiting for more.
    gather_bytes: u64,
    is_writing: bool,
    /// Every held datagram below this number is on disk.
    pub(super) written: Seq,
    /// Every held datagram below this number would survive what `sync` promises.
    pub(super) durable: Seq,
    /// When the oldest arrival came that is not written.
    unwritten_since: Option<Time>,
    unwritten_bytes: u64,
    /// Since when something is written and not synced.
    unsynced_since: Option<Time>,
    /// The newest mark on disk, and when it was written.
    marked: (Mark, Time),
    /// The spool is full until no datagram below this number is held.
    full: Option<Seq>,
    /// After a failure nothing is written, or read, before these moments.
    write_again: Time,
    read_again: Time,
    haste: Haste,
    /// The disk has been busy without a pause since then.
    busy_since: Option<Time>,
    /// The oldest datagrams gave way at the stop.
    gave_way: bool,
}

/// Why everything is to be written at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Haste {
    None,
    /// Another process is about to go on.
    Flush,
    /// This process ends, whatever becomes of it.
    Stop,
}

impl Spooling {
    /// Every number below `tail` is an earlier process's, and everything held is on disk, with this mark. It may still
    /// have to be synced.
    pub(super) fn new(
        sync: SyncPolicy,
        memory_bytes: u64,
        (mark, tail): (Mark, Seq),
        holds: bool,
        is_synced: bool,
    ) -> Self {
        Self {
            sync,
            gather_bytes: GATHER_BYTES_MAX.min(memory_bytes / GATHER_PART),
            // When nothing is left of it, a mark has to say so.
            is_writing: holds,
            written: tail,
            durable: tail,
            unwritten_since: None,
            unwritten_bytes: 0,
            unsynced_since: (!is_synced).then_some(Time::ZERO),
            marked: (mark, Time::ZERO),
            full: None,
            write_again: Time::ZERO,
            read_again: Time::ZERO,
            haste: Haste::None,
            busy_since: None,
            gave_way: false,
        }
    }

    pub(super) fn handle_datagram(&mut self, now: Time, length: usize) {
        self.unwritten_since.get_or_insert(now);
        self.unwritten_bytes += length as u64;
    }

    /// The program stops: everything that is held goes to disk.
    pub(super) const fn handle_stop(&mut self) {
        self.haste = Haste::Stop;
        // What has failed gets one more chance.
        (self.write_again, self.read_again) = (Time::ZERO, Time::ZERO);
    }

    /// Another process is about to go on, if `wanted`.
    pub(super) const fn handle_flush(&mut self, wanted: bool) {
        self.haste = if wanted { Haste::Flush } else { Haste::None };
    }

    /// Everything that is held is on disk, as safe as promised.
    pub(super) fn is_flushed(&self, holding: Holding) -> bool {
        let is_written = holding.datagrams == 0 || self.written >= holding.tail;
        self.haste == Haste::Flush && is_written && self.unsynced_since.is_none()
    }

    /// The moment from which a confirmation of the oldest held datagram is wanted.
    pub(super) fn wants_confirmation(&self, arrived: Time) -> Option<Time> {
        (!self.is_writing).then_some(arrived + CONFIRM_AGE)
    }

    /// When there is something to write; the past counts as now.
    fn next_write(&self, holding: Holding) -> Option<Time> {
        if holding.datagrams == 0 || self.written >= holding.tail {
            return None;
        }
        if self.haste != Haste::None || holding.quarter_full && !self.is_writing {
            return Some(Time::ZERO);
        }
        let doubtful = self.sync == SyncPolicy::Always && !holding.is_good;
        if !self.is_writing {
            // An oldest datagram that lies on disk alone is old enough.
            return Some(holding.oldest.filter(|_| !doubtful).map_or(Time::ZERO, |arrived| arrived + AGE));
        }
        let waits = self.sync == SyncPolicy::Always || self.unwritten_bytes >= self.gather_bytes;
        let since = self.unwritten_since.unwrap_or(Time::ZERO);
        Some(if waits { since } else { since + GATHER })
    }

    fn next_sync(&self, holding: Holding) -> Option<Time> {
        let at_once = self.sync != SyncPolicy::Interval || self.haste != Haste::None || holding.half_full;
        self.unsynced_since.map(|since| if at_once { since } else { since + SYNC_GAP })
    }

    /// When a mark is to be written.
    fn next_mark(&self, holding: Holding) -> Option<Time> {
        let (mark, at) = self.marked;
        if self.haste == Haste::Stop {
            return (mark != holding.mark).then_some(Time::ZERO);
        }
        let is_news = mark.below != holding.mark.below || mark.totals.dropped != holding.mark.totals.dropped;
        if !is_news || !self.is_writing {
            return None;
        }
        Some(if holding.datagrams == 0 { Time::ZERO } else { at + MARK_GAP })
    }

    /// When something is to be written or synced. A full spool waits for nothing but room.
    fn next_change(&self, holding: Holding) -> Option<Time> {
        let write = match self.full {
            Some(end) if holding.mark.below < end => None,
            Some(_) => Some(Time::ZERO),
            None => [self.next_write(holding), self.next_mark(holding)].into_iter().flatten().min(),
        };
        write.into_iter().chain(self.next_sync(holding)).min().map(|due| due.max(self.write_again))
    }

    /// The datagrams below this number give way to newer ones: without that the newest would be lost with a stop. A
    /// segment goes as a whole, so only where that costs no more datagrams than it saves.
    pub(super) fn giving_way(&self, holding: Holding) -> Option<Seq> {
        let (below, unwritten) = (holding.mark.below, holding.tail.0.saturating_sub(self.written.0));
        let costs = |end: Seq| if generation(end) == generation(below) { end.0 - below.0 } else { 0 };
        let end = self.full.filter(|&end| below < end && costs(end) <= unwritten)?;
        (self.haste == Haste::Stop && holding.gives_way).then_some(end)
    }

    /// They have given way.
    pub(super) const fn handle_given_way(&mut self) {
        self.gave_way = true;
    }

    /// What is to be read back: ahead of need, or because it gives way.
    fn wanted(&self, holding: Holding) -> Option<(Seq, usize)> {
        let wants = if self.haste == Haste::Stop { self.giving_way(holding).is_some() } else { holding.can_read };
        holding.spilled.filter(|_| wants)
    }

    /// Why a buffer that is full stays full.
    pub(super) fn hindrance(&self, now: Time) -> Hindrance {
        if self.write_again > now {
            Hindrance::Failing
        } else if self.full.is_some() || self.gave_way {
            Hindrance::Full
        } else if self.busy_since.is_some_and(|since| now.since(since) >= SLOW) {
            Hindrance::Slow
        } else {
            Hindrance::Burst
        }
    }

    /// When the thread of the spool has something to do.
    pub(super) fn next(&self, holding: Holding) -> Option<Time> {
        let read = self.wanted(holding).map(|_| self.read_again);
        self.next_change(holding).into_iter().chain(read).min()
    }

    /// What is to be done at this moment.
    pub(super) fn poll(&mut self, now: Time, holding: Holding) -> Errand {
        let errand = self.choose(now, holding);
        self.busy_since = self.busy_since.or(Some(now)).filter(|_| errand != Errand::Wait);
        errand
    }

    fn choose(&mut self, now: Time, holding: Holding) -> Errand {
        let is_due = |due: Option<Time>| due.is_some_and(|due| due <= now);
        let read = self.wanted(holding).filter(|_| self.read_again <= now);
        let change = is_due(self.next_change(holding));
        match read {
            Some((from, bytes)) if !change || holding.oldest.is_none() => Errand::Read(from, bytes),
            _ if !change => Errand::Wait,
            _ if is_due(self.next_sync(holding)) => Errand::Sync,
            _ if self.full.is_none() && is_due(self.next_write(holding)) => {
                self.is_writing = true;
                Errand::Write
            }
            _ => Errand::Mark,
        }
    }

    /// An errand other than [`Errand::Read`] was run, with this mark. Behind everything written more is held if `tail`
    /// is larger.
    pub(super) fn handle_report<E>(&mut self, now: Time, errand: Errand, report: &Report<E>, mark: Mark, tail: Seq) {
        let has_written = report.written > self.written || errand == Errand::Mark && self.haste == Haste::Stop;
        (self.written, self.durable) = (report.written, report.durable);
        self.unwritten_since = (self.written < tail).then_some(now);
        match (errand, &report.answer) {
            (Errand::Sync, Answer::Done) => self.unsynced_since = None,
            (_, Answer::Done) => {
                (self.marked, self.full) = ((mark, now), None);
                if errand == Errand::Write {
                    // More than that was left, if the batch was full.
                    self.unwritten_bytes = self.unwritten_bytes.saturating_sub(BATCH_BYTES_MAX as u64);
                }
            }
            // With nothing to go that could make room, the files in the way may be somebody else's.
            (_, Answer::Full(end)) if *end > mark.below => self.full = Some(*end),
            (_, Answer::Full(_) | Answer::ReadBack(_) | Answer::GivenUp(_)) => self.write_again = now + RETRY,
            (_, Answer::Failed(_)) => {
                self.write_again = now + RETRY;
                // With what was not synced the newest mark may be lost.
                self.marked.0 = Mark::default();
            }
        }
        if has_written {
            self.unsynced_since.get_or_insert(now);
        }
    }

    /// Nothing is held any more: the disk is left alone again when a mark says so.
    pub(super) fn handle_empty(&mut self, below: Seq) {
        self.is_writing &= self.marked.0.below < below;
    }

    pub(super) fn handle_read_failed(&mut self, now: Time) {
        self.read_again = now + RETRY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::client::spool::record::Totals;

    const HELD: Holding = Holding {
        oldest: Some(Time::ZERO),
        datagrams: 3,
        mark: Mark { below: Seq(10), totals: Totals { confirmed: 0, dropped: [0; 8], sent: Seq(0) } },
        tail: Seq(13),
        quarter_full: false,
        half_full: false,
        is_good: true,
        spilled: None,
        can_read: false,
        gives_way: true,
    };

    fn ms(at: u64) -> Time {
        Time::from_millis(at)
    }

    fn spooling(sync: SyncPolicy) -> Spooling {
        let mut spooling = Spooling::new(sync, 64 << 20, (HELD.mark, Seq(10)), false, true);
        spooling.handle_datagram(Time::ZERO, 100);
        spooling
    }

    fn report(answer: Answer<()>, written: u64, durable: u64) -> Report<()> {
        Report { answer, written: Seq(written), durable: Seq(durable) }
    }

    fn write(spooling: &mut Spooling, at: Time, holding: Holding) {
        assert_eq!(spooling.poll(at, holding), Errand::Write);
        spooling.handle_report(at, Errand::Write, &report(Answer::Done, 13, 10), holding.mark, Seq(13));
    }

    #[test]
    fn the_disk_is_left_alone_until_a_datagram_is_old_or_memory_runs_short_or_a_stop_comes() {
        let mut quiet = spooling(SyncPolicy::Interval);
        assert_eq!((quiet.next(HELD), quiet.poll(ms(999), HELD)), (Some(ms(1_000)), Errand::Wait));
        assert_eq!(quiet.poll(ms(1_000), HELD), Errand::Write);
        let short = Holding { quarter_full: true, ..HELD };
        assert_eq!(spooling(SyncPolicy::Interval).poll(ms(1), short), Errand::Write);
        let on_disk_alone = Holding { oldest: None, ..HELD };
        assert_eq!(spooling(SyncPolicy::Interval).poll(ms(1), on_disk_alone), Errand::Write);
        let mut stopping = spooling(SyncPolicy::Interval);
        stopping.handle_stop();
        assert_eq!(stopping.poll(ms(1), HELD), Errand::Write);
    }

    #[test]
    fn a_mark_that_a_failed_sync_may_have_lost_is_written_again() {
        let mut spooling = spooling(SyncPolicy::Interval);
        write(&mut spooling, ms(1_000), HELD);
        let empty = Holding { oldest: None, datagrams: 0, mark: Mark { below: Seq(13), ..HELD.mark }, ..HELD };
        assert_eq!(spooling.poll(ms(1_001), empty), Errand::Mark);
        spooling.handle_report(ms(1_001), Errand::Mark, &report(Answer::Done, 13, 10), empty.mark, Seq(13));
        assert_eq!(spooling.poll(ms(2_001), empty), Errand::Sync);
        spooling.handle_report(ms(2_001), Errand::Sync, &report(Answer::Failed(()), 10, 10), empty.mark, Seq(13));
        assert_eq!(spooling.poll(ms(3_001), empty), Errand::Sync);
        spooling.handle_report(ms(3_001), Errand::Sync, &report(Answer::Done, 10, 10), empty.mark, Seq(13));
        assert_eq!(spooling.poll(ms(3_001), empty), Errand::Mark);
    }

    #[test]
    fn only_with_always_a_bad_link_is_reason_enough() {
        let bad = Holding { is_good: false, ..HELD };
        for (sync, errand) in [
            (SyncPolicy::Never, Errand::Wait),
            (SyncPolicy::Interval, Errand::Wait),
            (SyncPolicy::Always, Errand::Write),
        ] {
            assert_eq!(spooling(sync).poll(ms(1), bad), errand, "{sync:?}");
        }
    }

    #[test]
    fn a_sync_follows_at_once_or_after_a_second_or_before_memory_is_given_back() {
        let at = ms(1_000);
        for (sync, due) in [(SyncPolicy::Never, 0), (SyncPolicy::Interval, 1_000), (SyncPolicy::Always, 0)] {
            let mut spooling = spooling(sync);
            write(&mut spooling, at, HELD);
            assert_eq!(spooling.next(HELD), Some(at + Duration::from_millis(due)), "{sync:?}");
            assert_eq!(spooling.poll(at + Duration::from_millis(due), HELD), Errand::Sync, "{sync:?}");
            spooling.handle_report(at, Errand::Sync, &report(Answer::Done, 13, 13), HELD.mark, Seq(13));
            assert_eq!(spooling.next(HELD), None, "{sync:?}");
        }
        let mut short = spooling(SyncPolicy::Interval);
        write(&mut short, at, HELD);
        assert_eq!(short.poll(at, Holding { half_full: true, ..HELD }), Errand::Sync);
    }

    #[test]
    fn a_failure_is_followed_by_another_attempt_a_second_later() {
        let (at, mut spooling) = (ms(1_000), spooling(SyncPolicy::Always));
        assert_eq!(spooling.poll(at, HELD), Errand::Write);
        spooling.handle_report(at, Errand::Write, &report(Answer::Failed(()), 10, 10), HELD.mark, Seq(13));
        assert_eq!((spooling.next(HELD), spooling.hindrance(at)), (Some(ms(2_000)), Hindrance::Failing));
        spooling.handle_stop();
        assert_eq!(spooling.poll(at, HELD), Errand::Write, "a stop does not wait");
    }

    #[test]
    fn a_full_spool_waits_for_room_and_at_a_stop_the_oldest_give_way() {
        let (at, mut spooling) = (ms(1_000), spooling(SyncPolicy::Always));
        assert_eq!(spooling.poll(at, HELD), Errand::Write);
        spooling.handle_report(at, Errand::Write, &report(Answer::Full(Seq(12)), 10, 10), HELD.mark, Seq(13));
        assert_eq!((spooling.next(HELD), spooling.hindrance(at)), (None, Hindrance::Full));
        let gone = Holding { mark: Mark { below: Seq(12), ..HELD.mark }, ..HELD };
        assert_eq!(spooling.poll(at, gone), Errand::Mark);
        assert_eq!(spooling.giving_way(HELD), None);
        spooling.handle_stop();
        assert_eq!(spooling.giving_way(HELD), Some(Seq(12)));
        assert_eq!(spooling.giving_way(Holding { gives_way: false, ..HELD }), None);
        // A segment of five datagrams would go for the sake of three.
        let report = report(Answer::Full(Seq(15)), 20, 20);
        spooling.handle_report(at, Errand::Write, &report, HELD.mark, Seq(23));
        let holding = Holding { tail: Seq(23), ..HELD };
        assert_eq!(spooling.giving_way(holding), None);
        assert_eq!(spooling.giving_way(Holding { tail: Seq(25), ..holding }), Some(Seq(15)));
    }

    #[test]
    fn what_an_earlier_process_has_left_is_gone_from_the_disk_when_it_is_held_no_more() {
        let mut spooling = Spooling::new(SyncPolicy::Interval, 64 << 20, (HELD.mark, Seq(13)), true, true);
        assert_eq!(spooling.next(HELD), None);
        let empty = Holding { oldest: None, datagrams: 0, mark: Mark { below: Seq(13), ..HELD.mark }, ..HELD };
        assert_eq!(spooling.poll(ms(1), empty), Errand::Mark);
        spooling.handle_report(ms(1), Errand::Mark, &report(Answer::Done, 13, 13), empty.mark, Seq(13));
        spooling.handle_empty(Seq(13));
        assert_eq!(spooling.next(empty), None, "the disk is left alone");
    }

    #[test]
    fn a_disk_is_slow_only_while_it_has_been_busy_for_a_second() {
        let mut spooling = spooling(SyncPolicy::Interval);
        assert_eq!(spooling.poll(ms(1_000), HELD), Errand::Write);
        assert_eq!(spooling.hindrance(ms(1_999)), Hindrance::Burst);
        assert_eq!(spooling.hindrance(ms(2_000)), Hindrance::Slow);
        spooling.handle_report(ms(2_000), Errand::Write, &report(Answer::Done, 13, 10), HELD.mark, Seq(13));
        assert_eq!(spooling.poll(ms(2_001), HELD), Errand::Wait);
        assert_eq!(spooling.hindrance(ms(9_000)), Hindrance::Burst);
    }

    #[test]
    fn when_nothing_is_held_a_mark_says_so_and_the_disk_is_left_alone() {
        let (at, mut spooling) = (ms(1_000), spooling(SyncPolicy::Never));
        write(&mut spooling, at, HELD);
        spooling.handle_report(at, Errand::Sync, &report(Answer::Done, 13, 13), HELD.mark, Seq(13));
        let mark = Mark { below: Seq(13), ..HELD.mark };
        let empty = Holding { oldest: None, datagrams: 0, mark, ..HELD };
        assert_eq!(spooling.poll(at, empty), Errand::Mark);
        spooling.handle_report(at, Errand::Mark, &report(Answer::Done, 13, 13), mark, Seq(13));
        spooling.handle_empty(Seq(13));
        assert_eq!(spooling.next(empty), None);
        let next = Holding { datagrams: 1, oldest: Some(at), tail: Seq(14), mark, ..HELD };
        spooling.handle_datagram(at, 100);
        assert_eq!(spooling.next(next), Some(at + AGE), "memory first");
    }
}
