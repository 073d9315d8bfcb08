use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

/// The same FIFO, written to be obviously right.
#[derive(Debug, Default)]
struct Naive {
    /// Number, session, payload, struck.
    held: VecDeque<(u64, u16, Vec<u8>, bool)>,
    next: u64,
    tail: u64,
}

impl Naive {
    fn oldest(&self) -> u64 {
        self.held.front().map_or(self.tail, |first| first.0)
    }

    fn peek(&self) -> Option<(u64, Vec<u8>)> {
        let unsent = |record: &&(u64, u16, Vec<u8>, bool)| record.0 >= self.next && !record.3;
        self.held.iter().find(unsent).map(|record| (record.0, record.2.clone()))
    }

    fn pop(&mut self) -> Option<(u64, bool)> {
        loop {
            let (seq, _, _, struck) = self.held.pop_front()?;
            let released = seq < self.next;
            self.next = self.next.max(seq + 1);
            if !struck {
                return Some((seq, released));
            }
        }
    }

    fn live(&self, from: u64) -> Tally {
        let lengths = self.held.iter().filter(|record| record.0 >= from && !record.3).map(|record| record.2.len());
        lengths.fold(Tally::default(), |mut sum, length| {
            sum.add(length);
            sum
        })
    }
}

#[derive(Clone, Debug)]
enum Step {
    Push(u16, usize),
    Advance,
    Strike,
    Rewind,
    Pop,
    PopReleased(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u16..9, prop_oneof![9 => 0usize..300, 1 => 0usize..20_000, 1 => Just(65_507)]).prop_map(|(s, n)| Step::Push(s, n)),
        4 => Just(Step::Advance),
        1 => Just(Step::Strike),
        1 => Just(Step::Rewind),
        1 => Just(Step::Pop),
        3 => (0u64..8).prop_map(Step::PopReleased),
    ]
}

fn payload(seq: u64, length: usize) -> Vec<u8> {
    (0..length).map(|i| (seq as usize * 31 + i) as u8).collect()
}

fn take(buffer: &mut Buffer, naive: &mut Naive, step: &Step) {
    match *step {
        Step::Push(session, length) => {
            let bytes = payload(naive.tail, length);
            if buffer.push(Time::from_millis(naive.tail), session, &bytes).is_ok() {
                naive.held.push_back((naive.tail, session, bytes, false));
                naive.tail += 1;
            }
        }
        Step::Advance => {
            let expected = naive.peek().map(|(seq, _)| seq);
            assert_eq!(buffer.advance().map(|gone| gone.seq.0), expected);
            naive.next = expected.map_or(naive.next, |seq| seq + 1);
        }
        Step::Strike => {
            let expected = naive.peek().map(|(seq, _)| seq);
            assert_eq!(buffer.strike().map(|gone| gone.seq.0), expected);
            if let Some(record) = naive.held.iter_mut().find(|record| Some(record.0) == expected) {
                record.3 = true;
                naive.next = record.0 + 1;
            }
        }
        Step::Rewind => {
            buffer.rewind();
            naive.next = naive.oldest();
        }
        Step::Pop => {
            let expected = naive.pop();
            assert_eq!(buffer.pop().map(|gone| (gone.seq.0, gone.released)), expected);
        }
        Step::PopReleased(ahead) => {
            let bound = naive.oldest() + ahead;
            while let Some(gone) = buffer.pop_released(Seq(bound)) {
                assert!(gone.released && gone.seq.0 < bound);
                assert_eq!(naive.pop(), Some((gone.seq.0, true)));
            }
            assert!(
                naive.held.iter().all(|record| record.3 || record.0 >= bound.min(naive.next)),
                "one was left behind"
            );
        }
    }
}

proptest! {
    #[test]
    fn it_behaves_like_the_naive_fifo_and_keeps_its_bound(steps in proptest::collection::vec(step(), 1..400)) {
        let limit = 256 * 1024;
        let mut buffer = Buffer::new(limit);
        let mut naive = Naive::default();
        for step in &steps {
            take(&mut buffer, &mut naive, step);
            prop_assert_eq!(buffer.tail().0, naive.tail);
            prop_assert_eq!(buffer.held(), naive.live(0));
            prop_assert_eq!(buffer.unsent(), naive.live(naive.next));
            prop_assert!(buffer.memory() <= limit, "{} bytes", buffer.memory());
            prop_assert!(buffer.oldest() <= buffer.next() && buffer.next() <= buffer.tail());
            let seen = buffer.peek().map(|entry| (entry.seq.0, entry.bytes.to_vec()));
            prop_assert_eq!(seen, naive.peek());
            let ahead: Vec<u64> = buffer.unsent_entries().map(|entry| entry.seq.0).collect();
            let expected: Vec<u64> = naive.held.iter().filter(|r| r.0 >= naive.next && !r.3).map(|r| r.0).collect();
            prop_assert_eq!(ahead, expected);
        }
        while buffer.pop().is_some() {}
        prop_assert_eq!(buffer.charged, 0, "what is forgotten is not charged any more");
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
    // One is enough, or a few where the gap at the end of a chunk counts.
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
