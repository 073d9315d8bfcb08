//! Two processes with one memory, or with one spool: a guest that was cloned while it ran, a disk that was copied or
//! put back to an earlier moment while the other goes on.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use ossec_broker::proto::client::spool::keeper::{Errand, Keeper};
use ossec_broker::proto::client::spool::log::{Log, Setting};
use ossec_broker::proto::client::spool::record::Clock;
use ossec_broker::proto::client::spool::records::Records;
use ossec_broker::proto::client::{Batch, ClientCore, Config, DropReason, Origin, SyncPolicy};
use ossec_broker::proto::server::streams::Streams;
use ossec_broker::proto::terms::{ConnectionId, StreamId};
use ossec_broker::proto::terms::{Incarnation, Reading, SessionName, Verdict};
use ossec_broker::proto::time::Time;
use ossec_broker::proto::wire::{Assembler, DataWriter, Frame, Session};

use crate::disk::Disk;
use crate::plan::Plan;
use crate::random::Random;

const NOW: Time = Time::from_millis(1_000_000);
const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const NAME: StreamId = 7;

/// One of the two processes, and its connection.
struct Process {
    core: ClientCore,
    connection: ConnectionId,
}

/// The broker server, and the datagrams that it has injected.
#[derive(Default)]
struct Server {
    streams: Streams,
    injected: BTreeSet<Vec<u8>>,
}

impl Process {
    fn new(connection: ConnectionId) -> Self {
        Self { core: ClientCore::new(Plan::of(1).over_tcp().config(), 1), connection }
    }

    fn receive(&mut self, payloads: &[&str]) {
        let agent = SocketAddr::from((Ipv4Addr::LOCALHOST, 40_000));
        for payload in payloads {
            self.core.handle_datagram(NOW, Origin { agent, local: None }, payload.as_bytes());
        }
    }

    /// Connects and says the name of its stream. Returns whether it takes the server's answer for its own.
    fn attach(&mut self, server: &mut Server, connection: ConnectionId, name: StreamId) -> bool {
        self.connection = connection;
        self.core.handle_connected(NOW, Duration::from_millis(1), SocketAddr::from((HOST, 1_514)));
        server.streams.handle_attach(NOW, connection, name, HOST, false);
        let session = Session { name: SessionName { id: 0, generation: 0 }, port: 0 };
        server.streams.handle_session(connection, session).expect("it is attached");
        let is_own = self.hear(server);
        self.core.handle_notice(Verdict::Up);
        is_own
    }

    fn hear(&mut self, server: &mut Server) -> bool {
        let told: Vec<_> = std::iter::from_fn(|| server.streams.poll_frame()).collect();
        told.into_iter().filter(|(to, _)| *to == self.connection).all(|(_, told)| {
            let outcome = match told {
                Frame::Resume(resume) => self.core.handle_resume(&resume),
                Frame::Ack(ack) => self.core.handle_ack(&ack),
                other => panic!("streams never say {other:?}"),
            };
            outcome.is_ok()
        })
    }

    /// Sends all datagrams that it may: to nobody, or to a server that injects them. The server acknowledges them if
    /// they are `read`.
    fn send(&mut self, server: Option<&mut Server>, read: bool) {
        let (mut batch, mut bytes) = (Batch::default(), Vec::new());
        if !self.core.poll_release(NOW, &mut batch) {
            return;
        }
        let epoch = self.core.stream_epoch(&batch).expect("it was told where to go on");
        let mut writer = DataWriter::new(&mut bytes, epoch);
        (0..batch.len()).for_each(|at| writer.push(batch.seq(at), 0, batch.payload(at)));
        writer.finish();
        self.core.handle_sent(NOW, &batch, batch.len());
        let Some(server) = server else {
            return;
        };
        let mut frames = Assembler::default();
        frames.push(&bytes);
        while let Ok(Some(Frame::Data(data))) = frames.next_frame() {
            server.streams.handle_data(self.connection, data).expect("in order");
        }
        while let Some(volley) = server.streams.poll(u64::MAX, usize::MAX) {
            let count = volley.payloads.len();
            server.injected.extend(volley.payloads.iter().map(|payload| payload.to_vec()));
            server.streams.handle_injected(count);
        }
        if read {
            for _ in 0..3 {
                server.streams.handle_sample(Incarnation(1), Reading::default());
            }
            assert!(self.hear(server), "it is its own");
        }
    }
}

#[test]
fn of_two_processes_with_one_memory_neither_takes_for_delivered_what_the_other_has_sent() {
    // The numbers say how many datagrams each process has sent when the clone finds its connection dead.
    for (first, second) in [(1, 0), (1, 1), (1, 3), (3, 1), (3, 3)] {
        let mut server = Server::default();
        server.streams.handle_sample(Incarnation(1), Reading::default());
        let (mut original, mut clone) = (Process::new(1), Process::new(1));
        assert!(original.attach(&mut server, 1, NAME));
        original.receive(&["common 1", "common 2"]);
        original.send(Some(&mut server), true);
        // Everything that happened to the original happened to the clone, too.
        let mut memory = Server::default();
        memory.streams.handle_sample(Incarnation(1), Reading::default());
        assert!(clone.attach(&mut memory, 1, NAME));
        clone.receive(&["common 1", "common 2"]);
        clone.send(Some(&mut memory), true);

        let [ones, others] = [["one 1", "one 2", "one 3"], ["other 1", "other 2", "other 3"]];
        original.receive(&ones[..first]);
        original.send(Some(&mut server), false);
        clone.receive(&others[..second]);
        clone.send(None, false);
        clone.receive(&others[second..]);
        clone.core.handle_disconnected(NOW);
        assert!(!clone.attach(&mut server, 2, NAME), "{first} {second}: it has sent none of that");
        clone.core.handle_disconnected(NOW);
        assert!(clone.attach(&mut server, 3, NAME + 1), "under a name of its own");
        clone.send(Some(&mut server), true);
        // The original lost its connection to the attempt of the clone.
        original.core.handle_disconnected(NOW);
        original.receive(&ones[first..]);
        assert!(original.attach(&mut server, 4, NAME));
        original.send(Some(&mut server), true);
        let all = ["common 1", "common 2"].into_iter().chain(ones).chain(others);
        let all: BTreeSet<Vec<u8>> = all.map(|payload| payload.as_bytes().to_vec()).collect();
        assert_eq!(server.injected, all, "{first} {second}");
        for process in [&original, &clone] {
            let counters = process.core.snapshot(NOW).counters;
            assert_eq!((counters.received, counters.confirmed), (5, 5), "{first} {second}");
        }
    }
}

/// A process with a spool.
struct Spooled {
    process: Process,
    keeper: Keeper<Disk>,
    stream: StreamId,
}

impl Spooled {
    fn open(disk: &Disk) -> Self {
        Self::open_with(disk, Plan::of(1).over_tcp().config())
    }

    fn open_with(disk: &Disk, config: Config) -> Self {
        let clock = Clock { boot: 1, offset_ms: 0, trusted: false };
        let setting = Setting { bound_bytes: 1 << 20, stream: NAME, clock, now: NOW };
        let (log, found) = Log::open(disk.clone(), setting).expect("it opens");
        let core = ClientCore::reopen(config, SyncPolicy::Interval, &found, 1_000);
        Self { process: Process { core, connection: 0 }, keeper: Keeper::new(log, true), stream: found.stream }
    }

    /// Runs all errands that are due.
    fn run_errands(&mut self) {
        let (mut records, clock) = (Records::default(), Clock::default());
        loop {
            let errand = self.process.core.poll_spool(NOW, &mut records);
            if errand == Errand::Wait {
                return;
            }
            let report = self.keeper.run(errand, clock, &mut records);
            self.process.core.handle_errand(NOW, errand, &records, &report);
        }
    }

    /// The disk after an orderly stop.
    fn stop(mut self) -> Disk {
        self.process.core.handle_stop();
        self.run_errands();
        self.disk()
    }

    fn disk(&mut self) -> Disk {
        self.keeper.log().folder().clone()
    }

    fn attach(&mut self, server: &mut Server, connection: ConnectionId, name: StreamId) -> bool {
        self.run_errands();
        self.process.attach(server, connection, name)
    }

    /// Sends everything, and gets it confirmed.
    fn deliver(&mut self, server: &mut Server) {
        self.run_errands();
        self.process.send(Some(server), true);
        let snapshot = self.process.core.snapshot(NOW);
        assert_eq!(snapshot.held.datagrams, 0, "{snapshot:?}");
    }
}

fn server() -> Server {
    let mut server = Server::default();
    server.streams.handle_sample(Incarnation(1), Reading::default());
    server
}

fn payloads(of: &[&[&str]]) -> BTreeSet<Vec<u8>> {
    of.iter().flat_map(|part| part.iter()).map(|payload| payload.as_bytes().to_vec()).collect()
}

#[test]
fn of_two_hosts_with_one_spool_neither_takes_for_delivered_what_the_other_has_sent() {
    let held = ["held 1", "held 2"];
    for (first, second) in [(0, 0), (1, 0), (1, 1), (1, 3), (3, 1), (3, 3)] {
        let mut before = Spooled::open(&Disk::new(Random::new(1)));
        before.process.receive(&held);
        let disk = before.stop();
        let (ones, others) = (&["one 1", "one 2", "one 3"][..first], &["other 1", "other 2", "other 3"][..second]);
        let mut server = server();
        let (mut one, mut other) = (Spooled::open(&disk), Spooled::open(&disk));
        assert_eq!((one.stream, other.stream), (NAME, NAME), "the copy has the name, too");
        one.process.receive(ones);
        assert!(one.attach(&mut server, 1, NAME));
        one.deliver(&mut server);
        other.process.receive(others);
        // Only where the first has sent nothing of its own do both speak of the same datagrams.
        let is_own = other.attach(&mut server, 2, NAME);
        assert_eq!(is_own, first == 0, "{first} {second}");
        if !is_own {
            other.process.core.handle_disconnected(NOW);
            assert!(other.attach(&mut server, 3, NAME + 1), "under a name of its own");
        }
        other.deliver(&mut server);
        assert_eq!(server.injected, payloads(&[&held, ones, others]), "{first} {second}");
    }
}

#[test]
fn a_spool_that_was_put_back_to_an_earlier_moment_confirms_nothing_unread_and_ends() {
    let (held, later, fresh) = (["held 1", "held 2"], ["later 1", "later 2"], ["fresh 1"]);
    for restarts in 0..3 {
        let mut server = server();
        let mut process = Spooled::open(&Disk::new(Random::new(1)));
        process.process.receive(&held);
        process.process.core.handle_stop();
        process.run_errands();
        let backup = process.disk();
        let mut disk = backup.clone();
        // The processes after that moment use the numbers that the one after the backup will use as well.
        for connection in 1..=restarts {
            let mut process = Spooled::open(&disk);
            process.process.receive(&later);
            assert!(process.attach(&mut server, connection, NAME));
            process.deliver(&mut server);
            disk = process.stop();
        }
        let mut restored = Spooled::open(&backup);
        restored.process.receive(&fresh);
        let mut name = NAME;
        let mut attempts = 0;
        while !restored.attach(&mut server, 10 + attempts, name) {
            restored.process.core.handle_disconnected(NOW);
            (name, attempts) = (name + 1, attempts + 1);
            assert!(attempts < 2, "one other name is enough");
        }
        restored.deliver(&mut server);
        let sent: &[&[&str]] = if restarts > 0 { &[&held, &later, &fresh] } else { &[&held, &fresh] };
        assert_eq!(server.injected, payloads(sent), "{restarts}");
    }
}

#[test]
fn what_has_expired_behind_a_datagram_under_way_is_counted_once_by_all_processes_together() {
    let config = Config { max_age: Some(Duration::from_secs(1)), ..Plan::of(1).over_tcp().config() };
    let mut server = server();
    let mut process = Spooled::open_with(&Disk::new(Random::new(1)), config);
    assert!(process.attach(&mut server, 1, NAME));
    process.process.receive(&["under way"]);
    process.process.send(Some(&mut server), false);
    process.process.core.handle_notice(Verdict::Stopped);
    process.process.receive(&["too old in a moment"]);
    process.process.core.handle_flush(true);
    process.run_errands();
    let later = NOW + Duration::from_secs(2);
    assert!(!process.process.core.poll_release(later, &mut Batch::default()));
    let counters = process.process.core.snapshot(later).counters;
    assert_eq!((counters.received, counters.dropped(DropReason::Expired)), (2, 1));
    let next = Spooled::open_with(&process.stop(), config);
    assert_eq!(next.process.core.snapshot(later).counters.received, 2);
}

#[test]
fn with_a_spool_most_of_the_memory_stays_behind_the_cursor_so_that_it_can_be_given_back() {
    let config = Config { buffer_bytes: 64 << 10, ..Plan::of(1).over_tcp().config() };
    let mut server = server();
    let mut process = Spooled::open_with(&Disk::new(Random::new(1)), config);
    assert!(process.attach(&mut server, 1, NAME));
    let long = "x".repeat(900);
    process.process.receive(&[&*long; 40]);
    for _ in 0..10 {
        process.process.send(Some(&mut server), false);
    }
    let snapshot = process.process.core.snapshot(NOW);
    assert_eq!(snapshot.held.datagrams, 40);
    assert!((25..40).contains(&snapshot.unsent.datagrams), "{snapshot:?}");
}
