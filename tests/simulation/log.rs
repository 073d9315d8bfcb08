//! The spool's log alone, over a disk that fails, and processes that end at any point.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use ossec_broker::proto::client::buffer::Entry;
use ossec_broker::proto::client::spool::folder::Folder;
use ossec_broker::proto::client::spool::log::{Log, SPOOL_BYTES_MIN, Setting, Trouble};
use ossec_broker::proto::client::spool::open::Found;
use ossec_broker::proto::client::spool::record::{Agent, Clock, Totals};
use ossec_broker::proto::client::spool::records::{Mark, Records};
use ossec_broker::proto::client::spool::struck;
use ossec_broker::proto::terms::{Seq, StreamId};
use ossec_broker::proto::time::Time;

use crate::disk::{Disk, Failure, Fault};
use crate::random::Random;

pub(crate) const NOW: Time = Time::from_millis(1_000_000);
pub(crate) const CLOCK: Clock = Clock { boot: 1, offset_ms: 0, trusted: false };
pub(crate) const STREAM: StreamId = 7;

pub(crate) const fn setting(bound_bytes: u64) -> Setting {
    Setting { bound_bytes, stream: STREAM, clock: CLOCK, now: NOW }
}

pub(crate) fn open<F: Folder>(folder: F, bound_bytes: u64) -> (Log<F>, Found<F::Error>)
where
    F::Error: Debug,
{
    Log::open(folder, setting(bound_bytes)).unwrap_or_else(|error| panic!("it always opens: {error:?}"))
}

fn payload(number: u64, length: usize) -> Vec<u8> {
    let mut bytes = number.to_be_bytes().repeat(length / 8 + 1);
    bytes.truncate(length.max(8));
    bytes
}

pub(crate) fn agent(session: u16) -> Agent {
    let address = ([10, 0, 0, 9], 1_000 + session).into();
    Agent { session, generation: 1, address, local: None, id: *b"1024\0\0\0\0", port: 9 }
}

/// Everything that can be read from a number on.
pub(crate) fn contents<F: Folder>(log: &mut Log<F>, from: Seq, room: usize) -> BTreeMap<u64, Vec<u8>>
where
    F::Error: Debug,
{
    let mut all = BTreeMap::new();
    let (mut records, mut from) = (Records::default(), from);
    loop {
        let through = log.read(from, room, &mut records).expect("it can be read");
        for entry in records.entries() {
            assert!(entry.seq >= from, "in order");
            assert!(all.last_key_value().is_none_or(|(last, _)| *last < entry.seq.0), "in order, and once");
            all.insert(entry.seq.0, entry.bytes.to_vec());
        }
        if through <= from {
            return all;
        }
        from = through;
    }
}

/// A client that writes all that it holds.
struct Run {
    log: Log<Disk>,
    held: BTreeMap<u64, Vec<u8>>,
    tail: u64,
    bound: u64,
    confirmed: u64,
    /// Everything below was promised to survive a power cut.
    promised: Seq,
    /// Numbers that were dropped, for want of room or from the middle.
    dropped: u64,
    /// Numbers that were dropped from the middle.
    struck: BTreeSet<u64>,
    /// How many of them the log was told of, and how many of these would survive a power cut.
    struck_written: BTreeSet<u64>,
    struck_durable: BTreeSet<u64>,
    /// Something could not be written since the process began.
    is_troubled: bool,
    /// The disk took everything so far, and the power was never cut.
    is_sound: bool,
    random: Random,
}

impl Run {
    fn step(&mut self) {
        match self.random.range(0, 22) {
            20.. => self.strike(),
            0..10 => self.write(),
            10..13 => self.confirm(),
            13..16 => self.sync(),
            16 => {
                let fault = self.random.pick(&[Fault::ReadOnly, Fault::Full, Fault::Sync]);
                self.disk().fault = Some(fault);
            }
            17 => self.disk().room = self.random.range(0, 5_000) as usize,
            _ => {
                self.disk().fault = None;
                self.disk().room = usize::MAX;
            }
        }
    }

    fn disk(&mut self) -> &mut Disk {
        self.log.folder()
    }

    fn write(&mut self) {
        for _ in 0..self.random.range(0, 30) {
            let length = if self.random.per_mille(20) { 20_000 } else { self.random.range(8, 400) as usize };
            self.held.insert(self.tail, payload(self.tail, length));
            self.tail += 1;
        }
        let mut records = self.accounts();
        let from = self.log.written();
        for (&number, bytes) in self.held.range(from.0..) {
            let session = (number % 3) as u16;
            records.push(Entry { seq: Seq(number), session, arrived: NOW, bytes });
        }
        records.agents = (0..3).map(agent).collect();
        records.end = Seq(self.tail);
        let mut times_full = 0..1_000;
        while let Err(trouble) = self.log.append(&records) {
            match trouble {
                Trouble::Failed(Failure) => return self.handle_failure(),
                Trouble::Full => {
                    times_full.next().expect("it comes to an end");
                    let below = self.log.oldest_end();
                    let kept = self.held.split_off(&below.0);
                    self.dropped += self.held.len() as u64;
                    self.held = kept;
                    records.mark = self.mark();
                    if self.log.confirm(records.mark).is_err() {
                        return self.handle_failure();
                    }
                }
            }
        }
        assert_eq!(self.log.written(), Seq(self.tail));
        self.struck_written.clone_from(&self.struck);
    }

    /// Drops datagrams behind the oldest.
    fn strike(&mut self) {
        let Some((first, newest)) = self.held.keys().nth(1).zip(self.held.keys().last()) else {
            return;
        };
        let from = self.random.range(*first, *newest + 1);
        let gone: Vec<u64> = self.held.range(from..).take(5).map(|(&number, _)| number).collect();
        for number in gone {
            self.held.remove(&number);
            self.struck.insert(number);
            self.dropped += 1;
        }
    }

    /// Something could not be written, or what was may be lost.
    fn handle_failure(&mut self) {
        self.is_troubled = true;
        self.struck_written.clone_from(&self.struck_durable);
    }

    fn accounts(&self) -> Records {
        let mut records = Records::from(self.mark());
        let run = |&number: &u64| struck::Run { first: Seq(number), end: Seq(number + 1) };
        records.struck = self.struck.iter().map(run).collect();
        records
    }

    fn mark(&self) -> Mark {
        let mut totals = Totals { confirmed: self.confirmed, ..Totals::default() };
        totals.dropped[0] = self.dropped;
        Mark { below: Seq(self.held.keys().next().copied().unwrap_or(self.tail)), totals }
    }

    fn confirm(&mut self) {
        for _ in 0..self.random.range(0, 60) {
            if self.held.pop_first().is_none() {
                break;
            }
            self.confirmed += 1;
        }
        let mut records = self.accounts();
        records.agents = vec![agent(0)];
        match self.log.append_state(&records) {
            Ok(()) => self.struck_written.clone_from(&self.struck),
            Err(Trouble::Full) => self.is_troubled = true,
            Err(Trouble::Failed(Failure)) => self.handle_failure(),
        }
    }

    fn sync(&mut self) {
        match self.log.sync() {
            Ok(()) => self.struck_durable.clone_from(&self.struck_written),
            Err(Failure) => self.handle_failure(),
        }
        self.promised = self.log.durable();
    }

    /// The process ends, and another one begins.
    fn restart(mut self, power_cut: bool) -> Self {
        let mut disk = self.log.folder().clone();
        assert!(disk.peak_bytes <= self.bound, "{} of {}", disk.peak_bytes, self.bound);
        disk = disk.after(power_cut);
        let durable = if power_cut { self.promised } else { self.log.written() };
        let (mut log, found) = open(disk, self.bound);
        let known = found.first.min(found.tail);
        let read = contents(&mut log, known, self.random.pick(&[1, 1_000, 100_000]));
        assert!(found.tail.0 > self.tail, "another generation");
        assert_eq!(found.held.datagrams, read.len() as u64, "what was counted can be read");
        assert_eq!(found.held.bytes, read.values().map(|bytes| bytes.len() as u64).sum::<u64>());
        for (number, bytes) in &read {
            assert_eq!(bytes, &payload(*number, bytes.len()), "as it was");
        }
        for (number, bytes) in self.held.range(..durable.0) {
            assert_eq!(read.get(number), Some(bytes), "{number} was promised, below {durable:?}");
        }
        let struck = if power_cut { &self.struck_durable } else { &self.struck_written };
        // What was forgotten with its segment may be back after a power cut, and of all things that alone.
        let is_back = |number: &u64| *number >= self.mark().below.0 && struck.contains(number);
        assert!(!read.keys().any(is_back), "what was dropped does not come back");
        let is_held = |number: &u64| self.held.contains_key(number) || self.struck.contains(number);
        if !power_cut && !self.is_troubled {
            assert!(read.keys().all(is_held), "a mark or its segment's removal says what is held no more");
            assert_eq!(found.mark.totals.confirmed, self.confirmed);
        }
        let is_sound = self.is_sound && !power_cut && !self.is_troubled;
        if is_sound {
            assert_eq!(found.damaged, (0, 0), "every byte belongs to a record");
        }
        let confirmed = found.mark.totals.confirmed;
        Self {
            promised: log.durable(),
            tail: found.tail.0,
            held: read,
            log,
            is_troubled: false,
            is_sound,
            confirmed,
            struck: BTreeSet::new(),
            struck_written: BTreeSet::new(),
            struck_durable: BTreeSet::new(),
            ..self
        }
    }
}

fn explore(seed: u64) {
    let mut random = Random::new(seed);
    let bound = random.pick(&[SPOOL_BYTES_MIN, 100_000, 1 << 20]);
    let (log, found) = open(Disk::new(random.clone()), bound);
    let mut run = Run {
        held: BTreeMap::new(),
        tail: found.tail.0,
        bound,
        confirmed: 0,
        promised: log.durable(),
        dropped: 0,
        struck: BTreeSet::new(),
        struck_written: BTreeSet::new(),
        struck_durable: BTreeSet::new(),
        is_troubled: false,
        is_sound: true,
        random,
        log,
    };
    for _ in 0..run.random.range(1, 6) {
        for _ in 0..run.random.range(0, 60) {
            run.step();
        }
        let cut = run.random.per_mille(500);
        run = run.restart(cut);
    }
}

#[test]
fn what_the_log_promised_is_there_after_any_end() {
    let count = crate::number("SEEDS").unwrap_or(2_000);
    let first = crate::number("FIRST").unwrap_or(1);
    if let Some(seed) = crate::number("SEED") {
        return explore(seed);
    }
    for seed in first..first + count {
        let outcome = std::panic::catch_unwind(|| explore(seed));
        assert!(outcome.is_ok(), "seed {seed}");
    }
}

#[test]
fn numbers_are_not_given_again_after_a_process_that_could_not_write() {
    let (mut log, first) = open(Disk::new(Random::new(1)), SPOOL_BYTES_MIN);
    let mut disk = log.folder().clone();
    disk.fault = Some(Fault::Full);
    let (mut log, second) = Log::open(disk, Setting { stream: 8, ..setting(SPOOL_BYTES_MIN) }).expect("it opens");
    assert!(second.failure.is_some(), "the disk is full");
    assert_ne!(second.stream, first.stream, "somebody else may get the numbers of this process");
    let (_, third) = open(log.folder().clone().after(true), SPOOL_BYTES_MIN);
    assert!(third.tail > first.tail, "{:?} was given before", third.tail);
}

fn batch(numbers: std::ops::Range<u64>, length: usize) -> Records {
    let mut records = Records::default();
    for number in numbers {
        records.push(Entry { seq: Seq(number), session: 0, arrived: NOW, bytes: &payload(number, length) });
        records.end = Seq(number + 1);
    }
    records
}

#[test]
fn a_full_log_takes_the_rest_of_a_batch_and_not_the_whole_again() {
    let (mut log, found) = open(Disk::new(Random::new(1)), SPOOL_BYTES_MIN);
    let (first, count, length) = (found.tail.0, 150, 1_000);
    let mut records = batch(first..first + count, length);
    let mut times_full = 0;
    while log.append(&records) == Err(Trouble::Full) {
        times_full += 1;
        assert!(times_full < count, "it comes to an end");
        records.mark.below = log.oldest_end();
    }
    assert_eq!((log.written(), times_full > 1), (Seq(first + count), true));
    let (payload, written) = (count * length as u64, log.folder().written_bytes);
    assert!(written < payload * 5 / 4, "{written} bytes for {payload}");
}

#[test]
fn what_a_failed_sync_has_left_is_gone_with_the_next() {
    let (mut log, found) = open(Disk::new(Random::new(1)), SPOOL_BYTES_MIN);
    let first = found.tail.0;
    log.append(&batch(first..first + 3, 100)).expect("there is room");
    log.sync().expect("the disk is well");
    // To the end of this segment, and into another one.
    log.append(&batch(first + 3..first + 60, 100)).expect("there is room");
    log.folder().fault = Some(Fault::ReadOnly);
    log.sync().expect_err("nothing can be written, nor cut back");
    assert_eq!(log.written(), Seq(first + 3), "nobody knows what is on the disk");
    assert!(log.folder().bytes() > 5_700, "it is there nevertheless");
    log.folder().fault = None;
    log.sync().expect("the disk is well");
    // A kernel that could not write something takes it for written.
    let (mut log, found) = open(log.folder().clone().after(false), SPOOL_BYTES_MIN);
    let held: Vec<u64> = contents(&mut log, found.first, 1_000).into_keys().collect();
    assert_eq!(held, [first, first + 1, first + 2]);
}
