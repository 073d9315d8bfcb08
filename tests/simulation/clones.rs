//! Two processes with one memory: a guest that was cloned while it ran, or put back to an earlier moment while the
//! other goes on.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use ossec_broker::proto::client::{Batch, ClientCore, Origin};
use ossec_broker::proto::server::streams::Streams;
use ossec_broker::proto::terms::{ConnectionId, StreamId};
use ossec_broker::proto::terms::{Incarnation, Reading, SessionName, Verdict};
use ossec_broker::proto::time::Time;
use ossec_broker::proto::wire::{Assembler, DataWriter, Frame, Session};

use crate::plan::Plan;

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
        Self { core: ClientCore::new(Plan::of(1).over_tcp().config()), connection }
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
