use std::collections::VecDeque;
use std::ops::Range;

use proptest::prelude::*;

use super::*;

/// The same FIFO, written to be obviously right.
#[derive(Debug, Default)]
struct Naive {
    held: VecDeque<Kept>,
    next: u64,
    tail: u64,
    /// The numbers that the cursor cannot pass: they lie on disk.
    spilled: Option<Range<u64>>,
    /// The datagrams that cannot be read back. They count as held until nothing more can be.
    missing: Tally,
}

#[derive(Clone, Debug)]
struct Kept {
    seq: u64,
    session: SessionId,
    arrived: Time,
    bytes: Vec<u8>,
    struck: bool,
}

impl Kept {
    fn entry(&self) -> Entry<'_> {
        Entry { seq: Seq(self.seq), session: self.session, arrived: self.arrived, bytes: &self.bytes }
    }

    fn gone(&self, released: bool) -> Gone {
        let (seq, length) = (Seq(self.seq), self.bytes.len());
        Gone { seq, session: self.session, arrived: self.arrived, length, released }
    }
}

impl Naive {
    fn oldest(&self) -> u64 {
        self.held.front().map_or(self.tail, |first| first.seq)
    }

    /// The number at which the datagrams on disk begin.
    fn stop(&self) -> u64 {
        self.spilled.as_ref().map_or(u64::MAX, |spilled| spilled.start)
    }

    /// The datagrams in memory from this number on, up to those on disk.
    fn near(&self, from: u64) -> impl Iterator<Item = Entry<'_>> {
        self.live(from).map(Kept::entry).take_while(|entry| entry.seq.0 < self.stop())
    }

    fn live(&self, from: u64) -> impl Iterator<Item = &Kept> {
        self.held.iter().filter(move |kept| kept.seq >= from && !kept.struck)
    }

    fn tally(&self, from: u64) -> Tally {
        self.live(from).fold(Tally::default(), |mut sum, kept| {
            sum.add(kept.bytes.len());
            sum
        })
    }

    fn push(&mut self, arrived: Time, session: SessionId, bytes: Vec<u8>) {
        self.held.push_back(Kept { seq: self.tail, session, arrived, bytes, struck: false });
        self.tail += 1;
    }

    /// Passes the cursor over the datagram at it.
    fn pass(&mut self, struck: bool) -> Option<Gone> {
        let near = self.live(self.next).next().filter(|kept| kept.seq < self.stop());
        let (next, gone) = near.map(|kept| (kept.seq + 1, kept.gone(!struck)))?;
        self.next = next;
        let at = self.held.iter_mut().find(|kept| kept.seq + 1 == next);
        at.expect("it is held").struck = struck;
        Some(gone)
    }

    fn lose(&mut self, is_lost: impl Fn(u64) -> bool) {
        self.held.iter().filter(|kept| is_lost(kept.seq)).for_each(|kept| self.missing.add(kept.bytes.len()));
        self.held.retain(|kept| !is_lost(kept.seq));
    }

    fn pop(&mut self) -> Option<Gone> {
        let stop = self.stop();
        loop {
            let first = self.held.pop_front_if(|first| first.seq < stop)?;
            let released = first.seq < self.next;
            self.next = self.next.max(first.seq + 1);
            if !first.struck {
                return Some(first.gone(released));
            }
        }
    }

    fn pop_released(&mut self, bound: u64) -> Option<Gone> {
        while self.held.front().is_some_and(|first| first.struck && first.seq < bound.min(self.next)) {
            self.held.pop_front();
        }
        self.held.front().filter(|first| first.seq < bound.min(self.next))?;
        self.pop()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Push(SessionId, usize),
    /// Drops older datagrams until the new one fits.
    PushAnyway(SessionId, usize),
    Advance(usize),
    Strike,
    Rewind,
    Pop,
    PopReleased(u64),
    /// Drops datagrams that came before the moment so long ago, as `--max-age` does.
    Expire(u64),
    Wait(u64),
    /// Everything but the last datagrams is on disk.
    Spill(u64),
    /// So many datagrams are read back; every so many were lost on disk.
    Fill(usize, u64),
    /// What is on disk cannot be read.
    Forget,
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![20 => 0usize..300, 2 => 0usize..20_000, 1 => Just(65_507)]
}

fn step() -> impl Strategy<Value = Step> {
    let session = || prop_oneof![9 => 0..9u16, 1 => Just(SESSION_ID_MAX - 1)];
    prop_oneof![
        6 => (session(), length()).prop_map(|(session, length)| Step::Push(session, length)),
        2 => (session(), length()).prop_map(|(session, length)| Step::PushAnyway(session, length)),
        4 => (1usize..6).prop_map(Step::Advance),
        1 => Just(Step::Strike),
        1 => Just(Step::Rewind),
        1 => Just(Step::Pop),
        3 => (0u64..12).prop_map(Step::PopReleased),
        1 => (0u64..3_000).prop_map(Step::Expire),
        2 => (0u64..1_000).prop_map(Step::Wait),
        4 => (0u64..5).prop_map(Step::Spill),
        3 => (1usize..30, prop_oneof![3 => Just(u64::MAX), 1 => 2u64..5])
            .prop_map(|(count, lost)| Step::Fill(count, lost)),
        1 => Just(Step::Forget),
    ]
}

fn payload(seq: u64, length: usize) -> Vec<u8> {
    let mut bytes = seq.to_be_bytes().repeat(length / 8 + 1);
    bytes.truncate(length);
    bytes
}

/// Both FIFOs, side by side.
struct Pair {
    buffer: Buffer,
    naive: Naive,
    now: Time,
    has_starved: bool,
}

impl Pair {
    fn take(&mut self, step: &Step) {
        let Self { buffer, naive, now, .. } = self;
        match *step {
            Step::Push(session, length) => {
                let empty = naive.held.is_empty();
                let outcome = self.push(session, length);
                assert!(!empty || outcome != Err(Full::ByOthers), "an empty buffer is not full by others");
            }
            Step::PushAnyway(session, length) => {
                while self.push(session, length) == Err(Full::ByOthers) {
                    let gone = self.buffer.pop();
                    assert_eq!(gone, self.naive.pop());
                    if gone.is_none() {
                        assert!(self.naive.spilled.is_some(), "an empty buffer is not full by others");
                        break;
                    }
                }
            }
            Step::Advance(times) => {
                for _ in 0..times {
                    assert_eq!(buffer.advance(), naive.pass(false));
                }
            }
            Step::Strike => assert_eq!(buffer.strike(), naive.pass(true)),
            Step::Rewind => {
                buffer.rewind();
                naive.next = naive.oldest();
            }
            Step::Pop => assert_eq!(buffer.pop(), naive.pop()),
            Step::PopReleased(ahead) => {
                let bound = naive.oldest() + ahead;
                loop {
                    let gone = buffer.pop_released(Seq(bound));
                    assert_eq!(gone, naive.pop_released(bound));
                    if gone.is_none() {
                        break;
                    }
                }
            }
            Step::Expire(age) => {
                while buffer.peek().is_some_and(|entry| now.since(entry.arrived) > Duration::from_millis(age)) {
                    let front = buffer.next() == buffer.oldest();
                    let gone = if front { buffer.pop() } else { buffer.strike() };
                    let expected = if front { naive.pop() } else { naive.pass(true) };
                    assert_eq!(gone, expected);
                }
            }
            Step::Spill(left) => {
                let before = buffer.memory();
                if buffer.spill(Seq(naive.tail.saturating_sub(left))) {
                    assert!(buffer.memory() < before || buffer.spare.is_some(), "memory is given back");
                }
                self.look();
            }
            Step::Fill(count, every) => self.fill(count, every),
            Step::Forget => {
                let range = self.look();
                self.naive.lose(|seq| range.contains(&seq));
                assert_eq!(self.buffer.forget_spilled(), std::mem::take(&mut self.naive.missing));
                self.look();
            }
            Step::Wait(millis) => *now = *now + Duration::from_millis(millis),
        }
    }

    /// Takes in which datagrams lie on disk.
    fn look(&mut self) -> Range<u64> {
        let at = self.buffer.spilled_chunk();
        self.naive.spilled = at.map(|at| self.buffer.start(at).0..self.buffer.chunks[at].end.0);
        self.naive.spilled.clone().unwrap_or(0..0)
    }

    fn fill(&mut self, count: usize, every: u64) {
        let range = self.look();
        let kept: Vec<Kept> = self.naive.live(range.start).take(count).cloned().collect();
        let mut there = kept.iter().filter(|kept| !kept.seq.is_multiple_of(every));
        let (starves, first) = (self.buffer.front().is_none(), there.clone().next().map(|first| first.seq));
        self.has_starved |= starves;
        let outcome = self.buffer.fill(there.clone().map(Kept::entry));
        let after = self.look();
        let taken = |seq: u64| range.contains(&seq) && !after.contains(&seq);
        assert!(!starves || first.is_none_or(|first| !range.contains(&first) || taken(first)), "one is always taken");
        assert!(outcome.is_err() || there.next_back().is_none_or(|last| !after.contains(&last.seq)), "all were taken");
        self.naive.lose(|seq| taken(seq) && seq.is_multiple_of(every));
    }

    fn push(&mut self, session: SessionId, length: usize) -> Result<Seq, Full> {
        let bytes = payload(self.naive.tail, length);
        let outcome = self.buffer.push(self.now, session, &bytes);
        if let Ok(seq) = outcome {
            assert_eq!(seq.0, self.naive.tail);
            self.naive.push(self.now, session, bytes);
        }
        outcome
    }

    fn compare(&mut self) {
        self.look();
        let Self { buffer, naive, .. } = self;
        let with_missing = |mut tally: Tally| {
            tally.join(naive.missing);
            tally
        };
        assert_eq!(buffer.tail().0, naive.tail);
        assert_eq!(buffer.held(), with_missing(naive.tally(0)));
        assert_eq!(buffer.unsent(), with_missing(naive.tally(naive.next)));
        let tail = naive.spilled.as_ref().map_or(0, |spilled| spilled.end);
        for from in [tail, naive.tail - (naive.tail - tail) / 2] {
            assert!(buffer.entries_from(Seq(from)).eq(naive.live(from).map(Kept::entry)));
        }
        assert!(buffer.oldest() <= buffer.next() && buffer.next() <= buffer.tail());
        assert_eq!(buffer.front(), naive.near(0).next());
        assert!(buffer.unsent_entries().eq(naive.near(naive.next)));
        let (peeked, expected) = (buffer.peek(), naive.near(naive.next).next());
        assert!(peeked == expected, "{:?} and {:?}", peeked.map(|entry| entry.seq), expected.map(|entry| entry.seq));
    }
}

proptest! {
    #[test]
    fn it_behaves_like_the_naive_fifo_and_keeps_its_bound(
        steps in proptest::collection::vec(step(), 1..400),
        limit in prop_oneof![Just(BUFFER_BYTES_MIN), Just(256 * 1024)],
    ) {
        let (buffer, now) = (Buffer::new(limit), Time::from_millis(1_000));
        let mut pair = Pair { buffer, naive: Naive::default(), now, has_starved: false };
        for step in &steps {
            pair.take(step);
            pair.compare();
            // A datagram that is read back into a full memory may go beyond it.
            let bound = limit + if pair.has_starved { 65_507 + HEADER_BYTES } else { 0 };
            prop_assert!(pair.buffer.memory() <= bound, "{} bytes", pair.buffer.memory());
        }
        loop {
            let gone = pair.buffer.pop();
            prop_assert_eq!(gone, pair.naive.pop());
            if gone.is_none() && pair.naive.spilled.is_none() {
                break;
            }
            pair.take(&Step::Fill(10, u64::MAX));
            if pair.naive.near(0).next().is_none() {
                pair.take(&Step::Forget);
            }
        }
        prop_assert_eq!(pair.buffer.charged, 0, "what is forgotten is not charged any more");
        prop_assert!(pair.buffer.memory() <= pair.buffer.chunk_bytes, "memory goes back");
    }
}

#[test]
fn a_full_buffer_says_whether_dropping_helps() {
    let mut buffer = Buffer::new(BUFFER_BYTES_MIN);
    assert_eq!(buffer.push(Time::ZERO, 0, &vec![0; 65_507]), Err(Full::ByItself));
    let mut pushed = 0;
    while buffer.push(Time::ZERO, 0, &[0; 1_000]).is_ok() {
        pushed += 1;
    }
    assert!(pushed > 30, "{pushed} datagrams of 1,000 bytes in {BUFFER_BYTES_MIN}");
    assert_eq!(buffer.push(Time::ZERO, 0, &[0; 1_000]), Err(Full::ByOthers));
    assert_eq!(buffer.pop().map(|gone| gone.seq), Some(Seq(0)));
    // Dropping one datagram is enough, or a few where the gap at the end of a chunk counts.
    while buffer.push(Time::ZERO, 0, &[0; 1_000]).is_err() {
        assert!(buffer.pop().is_some());
    }
    assert!(buffer.held().datagrams > 25);
}

#[test]
fn zero_length_datagrams_are_datagrams() {
    let mut buffer = Buffer::new(BUFFER_BYTES_MIN);
    for _ in 0..3 {
        buffer.push(Time::ZERO, 1, &[]).expect("there is room");
    }
    assert_eq!(buffer.unsent(), Tally { datagrams: 3, bytes: 0 });
    assert_eq!(buffer.advance().map(|gone| (gone.seq, gone.length)), Some((Seq(0), 0)));
    assert_eq!(buffer.unsent_entries().count(), 2);
}

#[test]
fn arrival_times_are_kept_to_the_millisecond_over_chunks() {
    let mut buffer = Buffer::new(BUFFER_BYTES_MIN);
    for i in 0..40u64 {
        buffer.push(Time::from_millis(1_000 * i), 0, &[7; 900]).expect("there is room");
    }
    for i in 0..40u64 {
        assert_eq!(buffer.pop().map(|gone| gone.arrived), Some(Time::from_millis(1_000 * i)));
    }
}

#[test]
fn the_overhead_of_a_small_datagram_is_a_few_bytes() {
    let mut buffer = Buffer::new(64 << 20);
    let count = 100_000;
    for _ in 0..count {
        buffer.push(Time::ZERO, 0, &[1; 300]).expect("there is room");
    }
    let overhead = buffer.memory() as f64 / f64::from(count) - 300.0;
    assert!(overhead < 12.0, "{overhead} bytes each");
    while buffer.pop().is_some() {}
    assert!(buffer.memory() <= CHUNK_BYTES_MAX, "memory goes back when the buffer empties: {}", buffer.memory());
}

#[test]
fn what_was_struck_takes_no_room_once_nothing_lies_before_it() {
    let mut buffer = Buffer::new(BUFFER_BYTES_MIN);
    for _ in 0..2 {
        buffer.push(Time::ZERO, 0, &[0; 1_000]).expect("there is room");
    }
    buffer.advance().expect("there are two");
    buffer.strike().expect("there is one");
    assert_eq!(buffer.pop_released(Seq(1)).map(|gone| gone.seq), Some(Seq(0)));
    assert_eq!((buffer.oldest(), buffer.next()), (Seq(2), Seq(2)), "nothing is under way");
    assert_eq!(buffer.charged, 0);
}

#[test]
fn what_has_expired_behind_one_under_way_is_room_for_newer_ones() {
    let mut buffer = Buffer::new(BUFFER_BYTES_MIN);
    buffer.push(Time::ZERO, 0, &[0; 100]).expect("there is room");
    buffer.advance().expect("there is one");
    let mut round = || {
        let mut pushed = 0;
        while buffer.push(Time::ZERO, 0, &[1; 100]).is_ok() {
            pushed += 1;
        }
        while buffer.strike().is_some() {}
        (pushed, buffer.held().datagrams, buffer.chunks.len())
    };
    let (first, ..) = round();
    // Datagrams in the same first chunk as the one under way keep their place. Datagrams in the last chunk may keep
    // theirs, too.
    let least = first - 2 * CHUNK_BYTES_MIN / (HEADER_BYTES + 100);
    for _ in 0..1_000 {
        let (pushed, held, chunks) = round();
        assert!(pushed >= least, "{pushed} of {first} fit again");
        assert_eq!(held, 1);
        assert!(chunks <= 4, "{chunks} chunks stand for what was dropped");
    }
    assert_eq!(buffer.pop_released(Seq(1)).map(|gone| gone.seq), Some(Seq(0)));
    assert_eq!((buffer.charged, buffer.oldest()), (0, buffer.tail()));
}

#[test]
fn what_was_read_back_is_given_back_to_the_disk_for_newer_ones_and_what_is_being_sent_is_not() {
    for is_sent in [false, true] {
        let mut buffer = Buffer::new(BUFFER_BYTES_MIN);
        while buffer.push(Time::ZERO, 0, &[0; 200]).is_ok() {}
        let tail = buffer.tail();
        while buffer.spill(tail) {}
        let (from, _) = buffer.wanted().expect("some lie on disk alone");
        let entry = |seq| Entry { seq: Seq(seq), session: 0, arrived: Time::ZERO, bytes: &[0; 200] };
        buffer.fill((from.0..tail.0).map(entry)).expect_err("there is not room for all");
        let (through, _) = buffer.wanted().expect("some lie on disk alone");
        assert!(through > from, "some were read back");
        if is_sent {
            buffer.handle_taken_out(through);
        }
        while buffer.spill(Seq(0)) {}
        let (left, _) = buffer.wanted().expect("some lie on disk alone");
        assert_eq!(left == through, is_sent, "{left:?} of {from:?} to {through:?}");
        assert!(!buffer.can_fill(BUFFER_BYTES_MIN / 8) || is_sent, "newer ones come first");
    }
}

#[test]
fn arrivals_leave_room_for_what_is_to_be_read_back() {
    const BYTES: usize = 256 * 1024;
    let mut buffer = Buffer::new(BYTES);
    while buffer.push(Time::ZERO, 0, &[0; 200]).is_ok() {}
    while buffer.spill(buffer.tail()) {}
    // Nothing of these is on disk.
    while buffer.push(Time::ZERO, 0, &[0; 200]).is_ok() || buffer.spill(Seq(0)) {}
    while buffer.advance().is_some() {}
    while buffer.pop_released(buffer.next()).is_some() {}
    let (_, room) = buffer.wanted().expect("some lie on disk alone");
    assert!(buffer.front().is_none() && room > BYTES / 16, "{room} bytes");
}
