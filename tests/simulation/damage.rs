//! Spools whose files were damaged, and spools that another process, another host or another version has left.
//!
//! The promise behind the first three tests: whatever happens to one place of a file, the spool opens, and no datagram
//! is lost but those whose records lay there. Datagrams that were confirmed already may come back where the damage hit
//! the mark that says so. A datagram with changed bytes never comes back.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::ops::Range;

use ossec_broker::proto::client::buffer::Entry;
use ossec_broker::proto::client::spool::folder::{Blame, Folder};
use ossec_broker::proto::client::spool::keeper::{Answer, Errand, Keeper};
use ossec_broker::proto::client::spool::log::{Log, SPOOL_BYTES_MIN, Setting};
use ossec_broker::proto::client::spool::open::{Found, OpenError};
use ossec_broker::proto::client::spool::record::{Agent, Clock, HEADER_BYTES, Item, Record, Totals};
use ossec_broker::proto::client::spool::records::{Mark, Records};
use ossec_broker::proto::client::spool::segment::{self, Header, generation};
use ossec_broker::proto::terms::Seq;
use ossec_broker::proto::time::Time;

use crate::disk::{Disk, Failure, Fault};
use crate::log::{self, CLOCK, NOW, STREAM, agent, contents};
use crate::random::Random;

const AGENTS: u16 = 3;
/// More operations than an opening of a small spool and its reading ever need: an endless loop runs into this.
const OPERATIONS_MAX: u64 = 2_000;
/// More than everything that a small spool holds, in bytes of payload.
const ALL: usize = 1 << 20;

const fn setting() -> Setting {
    log::setting(SPOOL_BYTES_MIN)
}

fn new_disk() -> Disk {
    Disk::new(Random::new(1))
}

fn open<F: Folder>(folder: F) -> (Log<F>, Found<F::Error>)
where
    F::Error: Debug,
{
    log::open(folder, SPOOL_BYTES_MIN)
}

/// A payload that no other datagram has, long enough that a segment holds about twenty of them.
fn payload(number: u64) -> Vec<u8> {
    let mut text = format!("event {number:x} ").repeat(20).into_bytes();
    text.truncate(120 + (number % 80) as usize);
    text
}

fn names(disk: &mut Disk) -> Vec<String> {
    disk.contents().map(|(name, _)| name.clone()).collect()
}

/// The contents of the file with this name.
fn file<'a>(disk: &'a mut Disk, name: &str) -> &'a mut Vec<u8> {
    disk.contents().find(|(known, _)| *known == name).expect("there is such a file").1
}

/// Makes a file as somebody else would who can write to the folder.
fn plant(disk: &mut Disk, name: &str, bytes: &[u8]) {
    disk.create(name).expect("a new name");
    let (written, outcome) = disk.append(name, bytes);
    assert_eq!((written, outcome), (bytes.len(), Ok(())));
}

/// A client that writes everything that it holds.
struct Writer {
    log: Log<Disk>,
    held: BTreeMap<u64, Vec<u8>>,
    /// Every datagram that was ever written, by this process or an earlier one.
    written: BTreeMap<u64, Vec<u8>>,
    /// The marks that were ever written.
    marks: Vec<Mark>,
    next: u64,
    confirmed: u64,
}

impl Writer {
    fn new() -> Self {
        let (log, found) = open(new_disk());
        let (held, written) = (BTreeMap::new(), BTreeMap::new());
        Self { log, held, written, marks: vec![found.mark], next: found.tail.0, confirmed: 0 }
    }

    fn mark(&mut self) -> Mark {
        let below = Seq(self.held.keys().next().copied().unwrap_or(self.next));
        let mark = Mark { below, totals: Totals { confirmed: self.confirmed, ..Totals::default() } };
        self.marks.push(mark);
        mark
    }

    fn write(&mut self, payloads: impl IntoIterator<Item = Vec<u8>>) {
        let mut records = Records::default();
        (records.stream, records.agents) = (STREAM, (0..AGENTS).map(agent).collect());
        for bytes in payloads {
            let (seq, session) = (Seq(self.next), (self.next % u64::from(AGENTS)) as u16);
            records.push(Entry { seq, session, arrived: NOW, bytes: &bytes });
            self.written.insert(self.next, bytes.clone());
            self.held.insert(self.next, bytes);
            self.next += 1;
        }
        (records.mark, records.end) = (self.mark(), Seq(self.next));
        self.log.append(&records).expect("there is room");
    }

    fn write_some(&mut self, count: u64) {
        self.write((self.next..self.next + count).map(payload));
    }

    fn confirm(&mut self, count: u64) {
        for _ in 0..count {
            self.held.pop_first().expect("so many are held");
        }
        self.confirmed += count;
        let mark = self.mark();
        self.log.append_state(&Records::from(mark)).expect("there is room");
    }

    /// The process ends, and another one goes on.
    fn restart(mut self) -> Self {
        let (log, found) = open(self.log.folder().clone());
        Self { log, next: found.tail.0, ..self }
    }
}

/// A record of a held datagram on the disk.
struct Place {
    name: String,
    range: Range<usize>,
    number: u64,
}

/// A small spool of two processes, and the truth about it.
struct Sample {
    disk: Disk,
    held: BTreeMap<u64, Vec<u8>>,
    written: BTreeMap<u64, Vec<u8>>,
    marks: Vec<Mark>,
    places: Vec<Place>,
}

impl Sample {
    fn new() -> Self {
        let mut writer = Writer::new();
        writer.write_some(24);
        writer.confirm(3);
        writer.write_some(18);
        // The mark lies in another segment than the datagrams that it confirms.
        writer.confirm(9);
        writer = writer.restart();
        writer.write_some(20);
        writer.confirm(1);
        writer.write_some(2);
        let Writer { mut log, held, written, marks, .. } = writer;
        let mut disk = log.folder().clone();
        let place_of = |(&number, bytes): (&u64, &Vec<u8>)| {
            let find = |(name, data): (&String, &mut Vec<u8>)| {
                let at = data.windows(bytes.len()).position(|window| window == bytes)?;
                Some(Place { name: name.clone(), range: at - HEADER_BYTES..at + bytes.len(), number })
            };
            disk.contents().find_map(find).expect("it lies in a file")
        };
        let places = held.iter().map(place_of).collect();
        Self { disk, held, written, marks, places }
    }

    /// Opens the spool after something happened to this range of a file, and again.
    fn survives(&self, damaged: &mut Disk, name: &str, range: Range<usize>, what: &str) {
        let what = format!("{what} {range:?} of {name}");
        damaged.operations = OPERATIONS_MAX;
        let (mut log, found) = open(damaged.clone());
        let room = [1, 1_000, ALL][range.start % 3];
        let read = contents(&mut log, found.first, room);

        for (number, bytes) in &read {
            assert_eq!(Some(bytes), self.written.get(number), "{what}: {number} was never written like that");
        }
        let lost: Vec<u64> = self.held.keys().copied().filter(|number| !read.contains_key(number)).collect();
        let was_hit = |number: u64| {
            let place = self.places.iter().find(|place| place.number == number).expect("it was held");
            place.name == name && place.range.start < range.end && range.start < place.range.end
        };
        let lost_elsewhere: Vec<u64> = lost.iter().copied().filter(|&number| !was_hit(number)).collect();
        assert_eq!(lost_elsewhere, [0; 0], "{what}: these lay elsewhere");

        let bytes = read.values().map(|bytes| bytes.len() as u64).sum();
        assert_eq!((found.held.datagrams, found.held.bytes), (read.len() as u64, bytes), "{what}");
        let counted: u64 = found.agents.iter().map(|(_, count)| count).sum();
        assert_eq!(counted, found.held.datagrams, "{what}: each datagram has an agent");
        for (known, _) in &found.agents {
            let session = known.session;
            assert!([agent(session), Agent::unknown(session)].contains(known), "{what}: {known:?}");
        }
        assert!(self.marks.contains(&found.mark), "{what}: {:?}", found.mark);
        assert_eq!((found.stream, found.failure), (STREAM, None), "{what}");
        let newest = self.written.keys().next_back().expect("there are some");
        assert!(found.tail.0 > *newest, "{what}: no number is given again");
        if range.end < self.length(name) && !lost.is_empty() {
            assert!(found.damaged.0 > 0 && found.damaged.1 == 1 || found.set_aside == 1, "{what}: nobody says so");
        }

        let after = log.folder().clone();
        assert!(after.operations > 0, "{what}: it went on and on");
        let (mut log, again) = open(after);
        assert_eq!(contents(&mut log, again.first, ALL), read, "{what}: it is the same the next time");
        assert_eq!((again.held, again.mark, again.set_aside), (found.held, found.mark, 0), "{what}");
        assert!(again.tail > found.tail, "{what}");
    }

    fn length(&self, name: &str) -> usize {
        file(&mut self.disk.clone(), name).len()
    }

    /// Every file, with its length.
    fn files(&self) -> Vec<(String, usize)> {
        self.disk.clone().contents().map(|(name, data)| (name.clone(), data.len())).collect()
    }
}

#[test]
fn each_flipped_byte_costs_at_most_the_datagram_that_it_belongs_to() {
    let sample = Sample::new();
    for (name, length) in sample.files() {
        for at in 0..length {
            for flip in [0xff, 1 << (at % 8)] {
                let mut damaged = sample.disk.clone();
                file(&mut damaged, &name)[at] ^= flip;
                sample.survives(&mut damaged, &name, at..at + 1, "a flipped byte");
            }
        }
    }
}

#[test]
fn each_truncation_costs_what_was_cut_off() {
    let sample = Sample::new();
    for (name, length) in sample.files() {
        for at in 0..length {
            let mut damaged = sample.disk.clone();
            file(&mut damaged, &name).truncate(at);
            sample.survives(&mut damaged, &name, at..length, "the end");
        }
    }
}

#[test]
fn each_zeroed_sector_costs_the_datagrams_in_it() {
    const SECTOR_BYTES: usize = 512;
    let sample = Sample::new();
    for (name, length) in sample.files() {
        // The file may begin anywhere in a sector, on a file system that packs files.
        for start in (0..length).step_by(16) {
            let end = (start + SECTOR_BYTES).min(length);
            let mut damaged = sample.disk.clone();
            file(&mut damaged, &name)[start..end].fill(0);
            sample.survives(&mut damaged, &name, start..end, "a hole");
        }
    }
}

#[test]
fn the_sample_is_worth_being_damaged() {
    let sample = Sample::new();
    let files = sample.files();
    assert!(files.len() >= 4, "{files:?}");
    let generations: BTreeSet<u64> = sample.held.keys().map(|&number| generation(Seq(number))).collect();
    assert_eq!((generations.len(), sample.held.len()), (2, 51));
    let (mut log, found) = open(sample.disk);
    assert_eq!(contents(&mut log, found.first, ALL), sample.held);
    assert_eq!((found.damaged, found.set_aside, Some(&found.mark)), ((0, 0), 0, sample.marks.last()));
    assert_eq!(found.agents.len(), usize::from(AGENTS));
}

/// A payload with the bytes of a record.
fn forged(salt: u64, number: u64) -> Vec<u8> {
    let mut bytes = b"before ".to_vec();
    let item = Item::Datagram { session: 0, arrived_ms: 0, bytes: b"forged" };
    Record { number: Seq(number), item }.encode(salt, &mut bytes);
    bytes
}

#[test]
fn a_record_inside_a_datagram_is_never_taken_for_one_unless_its_writer_knows_the_salt() {
    let salt_of = |disk: &mut Disk| {
        let newest = names(disk).pop().expect("there is a segment");
        Header::from_file_name(&newest).expect("it is a segment").salt
    };
    // With the salt of the segment the record is found: without it nothing but the salt can have kept it out.
    for (knows_salt, expected) in [(false, 2), (true, 3)] {
        let mut writer = Writer::new();
        let salt = salt_of(writer.log.folder());
        let inside = forged(if knows_salt { salt } else { salt ^ 1 }, writer.next + 1);
        writer.write([payload(0), inside.clone(), payload(2)]);
        let disk = writer.log.folder().clone();
        let (name, at) = {
            let mut disk = disk.clone();
            let find = |(name, data): (&String, &mut Vec<u8>)| {
                Some((name.clone(), data.windows(inside.len()).position(|window| window == inside)?))
            };
            disk.contents().find_map(find).expect("it was written")
        };
        // Everything in front of the inner record, the header of the outer one included.
        for hit in at - HEADER_BYTES..at + b"before ".len() {
            let mut damaged = disk.clone();
            file(&mut damaged, &name)[hit] ^= 0xff;
            let (mut log, found) = open(damaged);
            let read = contents(&mut log, found.first, ALL);
            let forgeries = read.values().filter(|bytes| *bytes == b"forged").count();
            assert_eq!((read.len(), forgeries), (expected, expected - 2), "byte {hit}, salt known: {knows_salt}");
        }
    }
}

#[test]
fn files_that_make_no_sense_are_set_aside_take_room_and_go_first_and_the_oldest_of_them_before_the_others() {
    const NONSENSE_BYTES: usize = 12_000;
    let mut writer = Writer::new();
    writer.write_some(10);
    let mut disk = writer.log.folder().clone();
    let newest = names(&mut disk).pop().expect("there is a segment");
    let Header { first, serial, .. } = Header::from_file_name(&newest).expect("it is a segment");
    let noise: Vec<u8> = (0..NONSENSE_BYTES).map(|at| (at * 7 % 251) as u8).collect();
    let named = |more: u32| Header { salt: 5, first, serial: serial + more }.file_name();
    let strange = [named(1), named(2), "xyz.seg".to_owned()];
    for name in &strange {
        plant(&mut disk, name, &noise);
    }
    // A file of somebody else is nobody's business.
    plant(&mut disk, "notes.txt", b"mine");

    let (mut log, found) = open(disk);
    let aside = strange.map(|name| name + ".bad");
    let left = |log: &mut Log<Disk>| -> Vec<String> {
        names(log.folder()).into_iter().filter(|name| name.strip_suffix(".bad").is_some()).collect()
    };
    assert_eq!((found.set_aside, left(&mut log)), (3, aside.to_vec()));
    assert_eq!(contents(&mut log, found.first, ALL), writer.held);
    let theirs = b"mine".len() as u64;
    assert_eq!(log.bytes() + theirs, log.folder().bytes(), "they count");

    let (mut log, again) = open(log.folder().clone());
    assert_eq!((again.set_aside, left(&mut log)), (0, aside.to_vec()), "once is enough");
    writer = Writer { next: again.tail.0, log, ..writer };
    let mut seen = vec![aside.to_vec()];
    while !left(&mut writer.log).is_empty() {
        assert!(seen.len() <= 4 && writer.held.len() < 1_000, "they take all the room");
        writer.write_some(1);
        let bytes = writer.log.folder().bytes();
        assert!(bytes <= SPOOL_BYTES_MIN + theirs, "{bytes} bytes");
        let now = left(&mut writer.log);
        if seen.last() != Some(&now) {
            seen.push(now);
        }
    }
    assert_eq!(seen, [&aside[..], &aside[1..], &aside[2..], &[]]);
    assert_eq!(*file(writer.log.folder(), "notes.txt"), b"mine");
    let (mut log, found) = open(writer.log.folder().clone());
    assert_eq!(contents(&mut log, found.first, ALL), writer.held, "no datagram had to go");
}

#[test]
fn a_segment_of_a_newer_version_ends_the_opening_and_nothing_is_touched() {
    for place in 0..3 {
        let sample = Sample::new();
        let mut disk = sample.disk;
        plant(&mut disk, "xyz.seg", b"nonsense");
        let name = names(&mut disk)[place].clone();
        let head = &mut file(&mut disk, &name)[..segment::HEADER_BYTES];
        head[5] = segment::VERSION as u8 + 1;
        let crc = crc32fast::hash(&head[..segment::HEADER_BYTES - 4]);
        head[segment::HEADER_BYTES - 4..].copy_from_slice(&crc.to_be_bytes());
        let all = |disk: &mut Disk| -> Vec<(String, Vec<u8>)> {
            disk.contents().map(|(name, data)| (name.clone(), data.clone())).collect()
        };
        let before = all(&mut disk);
        let opened = Log::open(Scratched::new(&mut disk), setting()).map(|_| ());
        assert_eq!(opened, Err(OpenError::Newer(segment::VERSION + 1)));
        let looked = Log::look(Scratched::new(&mut disk), setting()).map(|_| ());
        assert_eq!(looked, Err(OpenError::Newer(segment::VERSION + 1)));
        assert_eq!(Log::check(Scratched::new(&mut disk)), Err(OpenError::Newer(segment::VERSION + 1)));
        assert_eq!(all(&mut disk), before);
    }
}

/// What holds of the numbers of two processes, one after the other:
///
/// * If the first one's generation was synced, the second one begins another generation.
/// * If it could not be synced, both may begin the same generation. Then the first one sends under another name of
///   stream, so that the server never takes a datagram of one process for a datagram of the other.
#[test]
fn processes_that_open_one_disk_in_turn_never_give_a_number_twice_in_one_stream() {
    let faults = [None, Some(Fault::ReadOnly), Some(Fault::Full), Some(Fault::Sync)];
    let (mut synced, mut same) = (0, 0);
    for seed in 0..400 {
        let mut random = Random::new(seed);
        let mut disk = Disk::new(random.clone());
        if random.per_mille(500) {
            let mut log = open(disk).0;
            disk = log.folder().clone().after(random.per_mille(500));
        }
        disk.fault = random.pick(&faults);
        let [(first, disk), (second, _)] = {
            let (mut log, first) = Log::open(disk, Setting { stream: 11, ..setting() }).expect("it opens");
            let disk = log.folder().clone().after(random.per_mille(700));
            let (mut log, second) = Log::open(disk.clone(), Setting { stream: 12, ..setting() }).expect("it opens");
            [(first, disk), (second, log.folder().clone())]
        };
        assert_eq!((second.failure, disk.fault), (None, None), "seed {seed}");
        if first.failure.is_none() {
            assert!(second.tail > first.tail && second.stream == first.stream, "seed {seed}: {first:?} {second:?}");
            synced += 1;
        } else {
            assert_ne!(first.stream, second.stream, "seed {seed}: {first:?} {second:?}");
            same += u32::from(first.tail == second.tail);
        }
    }
    assert!(synced > 50 && same > 50, "both happened: {synced}, {same}");
}

/// Nothing on a disk tells a copy from its original. Both processes send under one name with the same numbers; the
/// server finds out, and one of them takes another name (`clones`).
#[test]
fn processes_with_copies_of_one_disk_begin_the_same_generation_of_the_same_stream() {
    let disk = Sample::new().disk;
    let [one, other] = [disk.clone(), disk].map(|copy| open(copy).1);
    assert_eq!((one.tail, one.stream), (other.tail, other.stream));
}

/// The arrivals of all datagrams, in their order.
fn arrivals(disk: Disk, clock: Clock) -> Vec<Time> {
    let (mut log, found) = Log::open(disk, Setting { clock, ..setting() }).expect("it opens");
    let (mut records, mut arrivals, mut from) = (Records::default(), Vec::new(), found.first);
    while from < found.tail {
        let through = log.read(from, ALL, &mut records).expect("it can be read");
        assert!(through > from, "it goes on");
        arrivals.extend(records.entries().map(|entry| entry.arrived));
        from = through;
    }
    arrivals
}

/// A spool with one datagram from before each change of the clock.
fn written_by(clocks: &[Clock], arrived: Time) -> Disk {
    let (first, rest) = clocks.split_first().expect("there is a clock");
    let (mut log, found) = Log::open(new_disk(), Setting { clock: *first, ..setting() }).expect("it opens");
    let mut next = found.tail;
    for change in rest.iter().map(Some).chain([None]) {
        let mut records = Records::default();
        records.stream = STREAM;
        records.push(Entry { seq: next, session: 0, arrived, bytes: b"event" });
        next = next.next();
        records.end = next;
        log.append(&records).expect("there is room");
        if let Some(clock) = change {
            log.set_clock(*clock);
        }
    }
    log.folder().clone()
}

#[test]
fn an_arrival_is_kept_within_a_boot_translated_between_right_clocks_and_else_the_moment_of_the_opening() {
    const HOUR_MS: u64 = 3_600_000;
    let past = Clock { boot: 1, offset_ms: 1_000 * HOUR_MS, trusted: true };
    let arrived = Time::from_millis(12 * HOUR_MS);
    // The other boot began ten hours later.
    let other = Clock { boot: 2, offset_ms: 1_010 * HOUR_MS, trusted: true };
    let translated = Time::from_millis(2 * HOUR_MS);
    let doubtful = |clock: Clock| Clock { trusted: false, ..clock };
    for (past, present, expected) in [
        (past, past, arrived),
        (doubtful(past), doubtful(past), arrived),
        (past, Clock { offset_ms: 5, ..doubtful(past) }, arrived),
        (past, other, translated),
        (doubtful(past), other, NOW),
        (past, doubtful(other), NOW),
        (doubtful(past), doubtful(other), NOW),
    ] {
        assert_eq!(arrivals(written_by(&[past], arrived), present), [expected], "{past:?} {present:?}");
    }
    // The clock was set while the process ran: what it says of the boot holds for earlier datagrams, too.
    let became_right = written_by(&[Clock { offset_ms: 0, ..doubtful(past) }, past], arrived);
    assert_eq!(arrivals(became_right, other), [translated; 2]);
    // A datagram that had come long before the other boot counts as having come with it.
    let early = written_by(&[past], Time::from_millis(HOUR_MS));
    assert_eq!(arrivals(early, other), [Time::ZERO]);
}

#[test]
fn without_a_record_of_its_clock_a_generation_counts_from_the_opening() {
    let arrived = Time::from_millis(5);
    let mut disk = written_by(&[CLOCK], arrived);
    assert_eq!(arrivals(disk.clone(), CLOCK), [arrived]);
    let name = names(&mut disk)[0].clone();
    let header = Header::from_file_name(&name).expect("it is a segment");
    let data = file(&mut disk, &name);
    let mut record = Vec::new();
    Record { number: header.first, item: Item::Clock(CLOCK) }.encode(header.salt, &mut record);
    let at = data.windows(record.len()).position(|window| window == record).expect("it has one");
    data[at + HEADER_BYTES] ^= 0xff;
    assert_eq!(arrivals(disk, CLOCK), [NOW]);
}

/// More errands than a small spool needs, with ten attempts at each segment that cannot be read.
const ERRANDS_MAX: u32 = 200;

#[test]
fn segments_that_cannot_be_read_cost_their_datagrams_and_no_other() {
    // One of them, and several in a row: the client must get past them.
    for count in 1..4 {
        let Sample { mut disk, held, places, .. } = Sample::new();
        let all = names(&mut disk);
        let lost = &all[1..=count];
        let (log, found) = open(Scratched::new(&mut disk));
        let mut keeper = Keeper::new(log, true);
        keeper.log().folder().unreadable = lost.iter().map(|name| (name.clone(), 0)).collect();
        let (mut records, mut read, mut from) = (Records::default(), BTreeSet::new(), found.first);
        let mut errands = 0;
        while from < found.tail {
            errands += 1;
            assert!(errands < ERRANDS_MAX, "without {count} segments it stands still at {from:?}");
            if let Answer::ReadBack(through) = keeper.run(Errand::Read(from, ALL), CLOCK, &mut records).answer {
                read.extend(records.entries().map(|entry| entry.seq.0));
                from = through;
            }
        }
        let is_lost = |number: &u64| places.iter().any(|place| place.number == *number && lost.contains(&place.name));
        let expected: BTreeSet<u64> = held.into_keys().filter(|number| !is_lost(number)).collect();
        assert_eq!(read, expected, "without {count} segments");
    }
}

#[test]
fn a_look_gets_past_segments_that_a_client_has_removed_meanwhile() {
    for count in 1..4 {
        let Sample { mut disk, .. } = Sample::new();
        let (mut log, found) = Log::look(Scratched::new(&mut disk), setting()).expect("it can be read");
        for name in names(log.folder().disk).into_iter().take(count) {
            log.folder().remove(&name).expect("it is there");
        }
        let (mut records, mut from, mut looks) = (Records::default(), found.first, 0);
        while from < found.tail {
            looks += 1;
            assert!(looks < ERRANDS_MAX, "without {count} segments it stands still at {from:?}");
            match log.read(from, ALL, &mut records) {
                Ok(through) => from = through,
                Err(_) => log.give_up(),
            }
        }
    }
}

#[test]
fn a_segment_that_could_not_be_read_at_an_opening_is_still_there_for_the_next_one() {
    // A segment is read in several parts, and everything in its first part is confirmed.
    const DATAGRAMS: u64 = 800;
    const CONFIRMED: u64 = 200;
    let setting = || Setting { bound_bytes: 1 << 30, ..setting() };
    for readable_bytes in [0, 150_000] {
        let (mut log, found) = Log::open(new_disk(), setting()).expect("it opens");
        let mut records = Records::default();
        (records.stream, records.agents) = (STREAM, vec![agent(0)]);
        let first = found.tail.0;
        for number in first..first + DATAGRAMS {
            records.push(Entry { seq: Seq(number), session: 0, arrived: NOW, bytes: &[7; 1_000] });
        }
        records.end = Seq(first + DATAGRAMS);
        log.append(&records).expect("there is room");
        let below = Seq(first + CONFIRMED);
        log.append_state(&Records::from(Mark { below, totals: Totals::default() })).expect("there is room");
        let mut disk = log.folder().clone();
        let name = names(&mut disk).pop().expect("there is a segment");
        // The next process says in its segment what is confirmed.
        disk = Log::open(disk, setting()).expect("it opens").0.folder().clone();

        let unreadable = vec![(name, readable_bytes)];
        drop(Log::open(Scratched { unreadable, ..Scratched::new(&mut disk) }, setting()).expect("it opens"));
        let (mut log, found) = Log::open(disk, setting()).expect("it opens");
        let read = contents(&mut log, found.first, ALL);
        let missing = (below.0..first + DATAGRAMS).filter(|number| !read.contains_key(number)).count();
        assert_eq!(missing, 0, "the disk is well again, and {readable_bytes} bytes could be read before");
    }
}

#[test]
fn a_file_that_only_this_process_cannot_read_is_no_damage_and_one_that_is_gone_is_nothing() {
    for readable_bytes in [0, 1_000] {
        let Sample { mut disk, .. } = Sample::new();
        let before = disk.clone();
        let name = names(&mut disk).into_iter().next().expect("there is a segment");
        let unreadable = vec![(name, readable_bytes)];
        let refused = Log::open(Scratched::failing(&mut disk, &unreadable, Blame::Other), setting()).map(|_| ());
        assert_eq!(refused.err(), Some(OpenError::Unreadable(Blame::Other)));
        assert_eq!(disk.bytes(), before.bytes(), "nothing was changed");
        let (_, found) = Log::look(Scratched::failing(&mut disk, &unreadable, Blame::Gone), setting())
            .expect("it can be looked at");
        assert_eq!((found.damaged, found.set_aside, found.unreadable), ((0, 0), 0, None));
        let (_, found) = Log::look(Scratched::failing(&mut disk, &unreadable, Blame::Medium), setting())
            .expect("it can be looked at");
        assert_eq!((found.damaged.1, found.unreadable), (1, Some(Blame::Medium)));
    }
}

/// A disk with places that cannot be read, which outlives its log.
struct Scratched<'a> {
    disk: &'a mut Disk,
    /// Names of files, and the byte from which on each cannot be read.
    unreadable: Vec<(String, u64)>,
    /// Why not.
    why: Blame,
}

impl<'a> Scratched<'a> {
    const fn new(disk: &'a mut Disk) -> Self {
        Self { disk, unreadable: Vec::new(), why: Blame::Medium }
    }

    fn failing(disk: &'a mut Disk, unreadable: &[(String, u64)], why: Blame) -> Self {
        Self { disk, unreadable: unreadable.to_vec(), why }
    }
}

impl Folder for Scratched<'_> {
    type Error = Blame;

    fn blame(why: &Blame) -> Blame {
        *why
    }

    fn random(&mut self) -> u64 {
        self.disk.random()
    }

    fn list(&mut self) -> Result<Vec<(String, u64)>, Blame> {
        self.disk.list().map_err(medium)
    }

    fn create(&mut self, name: &str) -> Result<(), Blame> {
        self.disk.create(name).map_err(medium)
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> (usize, Result<(), Blame>) {
        let (taken, outcome) = self.disk.append(name, bytes);
        (taken, outcome.map_err(medium))
    }

    fn truncate(&mut self, name: &str, length: u64) -> Result<(), Blame> {
        self.disk.truncate(name, length).map_err(medium)
    }

    fn sync(&mut self, name: &str) -> Result<(), Blame> {
        self.disk.sync(name).map_err(medium)
    }

    fn sync_names(&mut self) -> Result<(), Blame> {
        self.disk.sync_names().map_err(medium)
    }

    fn remove(&mut self, name: &str) -> Result<(), Blame> {
        self.disk.remove(name).map_err(medium)
    }

    fn rename(&mut self, name: &str, new: &str) -> Result<(), Blame> {
        self.disk.rename(name, new).map_err(medium)
    }

    fn read(&mut self, name: &str, from: u64, bytes: &mut [u8]) -> Result<usize, Blame> {
        match self.unreadable.iter().find(|(known, _)| known == name) {
            Some((_, first)) if from + bytes.len() as u64 > *first => Err(self.why),
            _ => self.disk.read(name, from, bytes).map_err(medium),
        }
    }
}

const fn medium(_: Failure) -> Blame {
    Blame::Medium
}
