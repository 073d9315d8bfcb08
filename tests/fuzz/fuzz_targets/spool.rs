//! `spool`: a folder with any files in it is opened, read, written to and opened again.
//!
//! The plan: the number of files, for each its kind and what stands in it, then what the client does.
//!
//! * An opening ends, whatever it finds, and counts exactly what can be read.
//! * Datagrams are read in the order of their numbers, each once, and none that is in no file.
//! * Everything that this process has written is there for the next one, as it was, until it is confirmed.
#![no_main]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};

use libfuzzer_sys::fuzz_target;
use ossec_broker::proto::client::buffer::Entry;
use ossec_broker::proto::client::spool::folder::Folder;
use ossec_broker::proto::client::spool::log::{Log, SPOOL_BYTES_MIN, Setting, Trouble};
use ossec_broker::proto::client::spool::open::{Found, OpenError};
use ossec_broker::proto::client::spool::record::{Agent, Clock, Item, Record, Totals};
use ossec_broker::proto::client::spool::records::{Mark, Records};
use ossec_broker::proto::client::spool::segment::{Header, first_of};
use ossec_broker::proto::terms::Seq;
use ossec_broker::proto::time::Time;
use ossec_broker_fuzz::Plan;

const NOW: Time = Time::from_millis(1_000_000);
const FILES_MAX: u8 = 8;
const RECORDS_MAX: u8 = 24;
/// Longest payload of a written datagram, in bytes.
const PAYLOAD_BYTES_MAX: usize = 6_000;
/// More than the memory of a plan can ask for in one reading, in bytes.
const ALL: usize = 1 << 20;

/// A folder in memory.
#[derive(Clone, Default)]
struct Memory {
    files: BTreeMap<String, Vec<u8>>,
    random: u64,
}

impl Memory {
    fn file(&mut self, name: &str) -> &mut Vec<u8> {
        self.files.get_mut(name).expect("the log knows its files")
    }
}

impl Folder for Memory {
    type Error = Infallible;

    fn random(&mut self) -> u64 {
        self.random += 1;
        // Salts of planted segments are small.
        self.random << 32
    }

    fn list(&mut self) -> Result<Vec<(String, u64)>, Infallible> {
        Ok(self.files.iter().map(|(name, bytes)| (name.clone(), bytes.len() as u64)).collect())
    }

    fn create(&mut self, name: &str) -> Result<(), Infallible> {
        let before = self.files.insert(name.to_owned(), Vec::new());
        assert_eq!(before, None, "{name} was there");
        Ok(())
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> (usize, Result<(), Infallible>) {
        self.file(name).extend(bytes);
        (bytes.len(), Ok(()))
    }

    fn truncate(&mut self, name: &str, length: u64) -> Result<(), Infallible> {
        self.file(name).truncate(usize::try_from(length).expect("it is short"));
        Ok(())
    }

    fn sync(&mut self, name: &str) -> Result<(), Infallible> {
        self.file(name);
        Ok(())
    }

    fn sync_names(&mut self) -> Result<(), Infallible> {
        Ok(())
    }

    fn remove(&mut self, name: &str) -> Result<(), Infallible> {
        self.files.remove(name);
        Ok(())
    }

    fn rename(&mut self, name: &str, new: &str) -> Result<(), Infallible> {
        let bytes = self.files.remove(name).expect("the log knows its files");
        self.files.insert(new.to_owned(), bytes);
        Ok(())
    }

    fn read(&mut self, name: &str, from: u64, bytes: &mut [u8]) -> Result<usize, Infallible> {
        let from = usize::try_from(from).expect("it is short");
        let rest = self.file(name).get(from..).unwrap_or_default();
        let length = rest.len().min(bytes.len());
        bytes[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }
}

/// What an earlier process, a bad disk or a person may have left.
fn planted(plan: &mut Plan<'_>) -> Memory {
    let mut memory = Memory::default();
    for at in 0..plan.byte() % (FILES_MAX + 1) {
        let kind = plan.byte();
        let header = Header { salt: plan.byte().into(), first: number(plan), serial: (plan.byte() % 16).into() };
        let (name, mut bytes) = match kind % 8 {
            0..4 => (header.file_name(), [&header.to_bytes()[..], &records(plan, header)].concat()),
            // The name tells what the head does not.
            4 => (header.file_name(), [&[0; 32][..], &records(plan, header)].concat()),
            5 => (header.file_name(), noise(plan)),
            6 => (format!("{at}.seg"), noise(plan)),
            _ => (format!("{at}.seg.bad"), noise(plan)),
        };
        if kind & 8 != 0 {
            let places = bytes.len().max(1);
            let place = (usize::from(plan.byte()) << 8 | usize::from(plan.byte())) % places;
            bytes.iter_mut().skip(place).take(1).for_each(|byte| *byte ^= plan.byte() | 1);
        }
        if kind & 16 != 0 {
            bytes.truncate(usize::from(plan.byte()) << 2);
        }
        memory.files.insert(name, bytes);
    }
    memory
}

/// A number of one of the first generations, or of the last.
fn number(plan: &mut Plan<'_>) -> Seq {
    let generation = match plan.byte() % 8 {
        7 => (1 << 24) - 1,
        few => few.into(),
    };
    Seq(first_of(generation).expect("there are so many").0 + u64::from(plan.byte()))
}

fn noise(plan: &mut Plan<'_>) -> Vec<u8> {
    let length = plan.byte();
    plan.take(length.into()).to_vec()
}

fn agent(plan: &mut Plan<'_>) -> Agent {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, plan.byte().into()));
    Agent { session: (plan.byte() % 4).into(), generation: 0, address, local: None, id: [0; 8], port: 0 }
}

/// Records of a segment, in any order, and noise.
fn records(plan: &mut Plan<'_>, header: Header) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..plan.byte() % RECORDS_MAX {
        let kind = plan.byte();
        let number = if kind & 16 == 0 { Seq(header.first.0 + u64::from(plan.byte())) } else { number(plan) };
        let payload = noise_for(kind, plan);
        let item = match kind % 8 {
            0..3 => Item::Datagram { session: (plan.byte() % 4).into(), arrived_ms: 7, bytes: &payload },
            3 => Item::Mark(Totals { confirmed: plan.byte().into(), ..Totals::default() }),
            4 => Item::Stream(plan.byte().into()),
            5 => Item::Agent(agent(plan)),
            6 => Item::Clock(clock(plan)),
            _ => {
                bytes.extend(noise(plan));
                continue;
            }
        };
        Record { number, item }.encode(header.salt, &mut bytes);
    }
    bytes
}

fn noise_for(kind: u8, plan: &mut Plan<'_>) -> Vec<u8> {
    if kind % 8 < 3 { noise(plan) } else { Vec::new() }
}

fn clock(plan: &mut Plan<'_>) -> Clock {
    let kind = plan.byte();
    Clock { boot: (kind % 2).into(), offset_ms: u64::from(kind) << 20, trusted: kind & 2 != 0 }
}

/// A client that knows what it has to find again.
struct Client {
    log: Log<Memory>,
    clock: Clock,
    held: BTreeMap<u64, Vec<u8>>,
    /// A mark on disk says which datagrams are held no more. In a full spool there may be no room for one.
    is_marked: bool,
    next: u64,
    bound_bytes: u64,
}

type Opened = Option<(Log<Memory>, Found<Infallible>)>;

fn opened(memory: Memory, bound_bytes: u64, clock: Clock) -> Opened {
    match Log::open(memory, Setting { bound_bytes, stream: 7, clock, now: NOW }) {
        Ok(opened) => Some(opened),
        Err(OpenError::Exhausted) => None,
        Err(error) => panic!("it opens: {error:?}"),
    }
}

/// Everything that can be read, which must be what was counted.
fn read_back(log: &mut Log<Memory>, found: &Found<Infallible>) -> BTreeMap<u64, Vec<u8>> {
    let (mut records, mut from) = (Records::default(), found.first);
    let mut all: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut reads = 0;
    while from < found.tail {
        reads += 1;
        assert!(reads <= found.held.datagrams + log.folder().files.len() as u64 + 1, "it reads on and on");
        // Now one at a time, now all at once.
        let room = if reads % 2 == 0 { 1 } else { ALL };
        let Ok(through) = log.read(from, room, &mut records);
        assert!(through > from, "it stands still at {from:?}");
        for entry in records.entries() {
            assert!(entry.seq >= from && entry.seq < through, "{:?} from {from:?} to {through:?}", entry.seq);
            assert!(all.last_key_value().is_none_or(|(last, _)| *last < entry.seq.0), "out of order");
            all.insert(entry.seq.0, entry.bytes.to_vec());
        }
        from = through;
    }
    let bytes = all.values().map(|bytes| bytes.len() as u64).sum();
    assert_eq!((found.held.datagrams, found.held.bytes), (all.len() as u64, bytes), "not what was counted");
    let counted: u64 = found.agents.iter().map(|(_, count)| count).sum();
    assert_eq!(counted, found.held.datagrams, "each datagram has an agent");
    all
}

impl Client {
    fn mark(&self) -> Mark {
        let below = self.held.keys().next().copied().unwrap_or(self.next);
        Mark { below: Seq(below), totals: Totals::default() }
    }

    fn write(&mut self, count: u8, length: usize, agents: Vec<Agent>) {
        let mut records = Records::default();
        (records.stream, records.agents) = (7, agents);
        for _ in 0..count {
            let bytes = self.next.to_be_bytes().into_iter().cycle().take(length).collect::<Vec<u8>>();
            records.push(Entry { seq: Seq(self.next), session: u16::from(count % 4), arrived: NOW, bytes: &bytes });
            self.held.insert(self.next, bytes);
            self.next += 1;
        }
        records.end = Seq(self.next);
        loop {
            records.mark = self.mark();
            match self.log.append(&records) {
                Ok(()) => {
                    self.is_marked |= count > 0;
                    break;
                }
                Err(Trouble::Failed(never)) => match never {},
                Err(Trouble::Full) => {
                    self.is_marked = false;
                    let end = self.log.oldest_end();
                    if end <= records.mark.below {
                        // Nothing of this process makes room. What is not written stays in memory, and goes with it.
                        self.held.split_off(&self.log.written().0);
                        break;
                    }
                    // The oldest datagrams give way.
                    self.held = self.held.split_off(&end.0);
                }
            }
        }
    }

    fn confirm(&mut self, count: u8) {
        for _ in 0..count {
            self.held.pop_first();
        }
        let mark = self.mark();
        self.is_marked = match self.log.append_state(&Records::from(mark)) {
            Ok(()) => true,
            Err(Trouble::Full) => false,
            Err(Trouble::Failed(never)) => match never {},
        };
    }
}

fuzz_target!(|data: &[u8]| {
    let mut plan = Plan::new(data);
    let memory = planted(&mut plan);
    let before: Vec<Vec<u8>> = memory.files.values().cloned().collect();
    let bound_bytes = SPOOL_BYTES_MIN << (plan.byte() % 3);
    let clock = clock(&mut plan);
    let Some((mut log, found)) = opened(memory, bound_bytes, clock) else { return };
    let held = read_back(&mut log, &found);
    for bytes in held.values() {
        let lies_in = |file: &Vec<u8>| bytes.is_empty() || file.windows(bytes.len()).any(|window| window == bytes);
        assert!(before.iter().any(lies_in), "made up");
    }
    let mut client = Client { log, clock, held, is_marked: true, next: found.tail.0, bound_bytes };
    while let Some(step) = plan.pop() {
        match step % 8 {
            0..3 => {
                let length = usize::from(plan.byte()) * if step & 8 == 0 { 1 } else { PAYLOAD_BYTES_MAX / 255 };
                let agents = if step & 16 == 0 { Vec::new() } else { vec![agent(&mut plan)] };
                client.write(step >> 5, length, agents);
            }
            3 | 4 => client.confirm(step >> 3),
            5 => {
                let Ok(()) = client.log.sync();
            }
            6 => {
                client.clock = self::clock(&mut plan);
                client.log.set_clock(client.clock);
            }
            _ => {
                let memory = client.log.folder().clone();
                let Some((mut log, found)) = opened(memory, client.bound_bytes, client.clock) else { return };
                assert!(found.tail.0 > client.next - 1, "a number is given twice");
                let read = read_back(&mut log, &found);
                let is_there = |(number, bytes): (&u64, &Vec<u8>)| read.get(number) == Some(bytes);
                assert!(client.held.iter().all(is_there), "not what was written: {read:?} of {:?}", client.held);
                assert!(!client.is_marked || read.len() == client.held.len(), "confirmed datagrams are back");
                client = Client { log, held: read, is_marked: true, next: found.tail.0, ..client };
            }
        }
    }
});
