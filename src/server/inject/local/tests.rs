use std::time::Duration;

use mio::Events;
use mio::net::UdpSocket;

use super::*;
use crate::os::remoted::{Names, Searcher, Wanted};
use crate::proto::terms::SessionName;
use crate::proto::wire::Session;

const SERVER: Seen = Seen::Server { is_ossec: true };

/// Longest wait for something that must come.
const DEADLINE: Duration = Duration::from_secs(30);

/// A stand-in for remoted, and the result of a search for it.
struct Stage {
    remoted: UdpSocket,
    at: SocketAddr,
    found: Found,
    poll: Poll,
    inbox: Inbox,
}

impl Stage {
    fn new() -> Self {
        let remoted = net::bind_agent("127.0.0.1:0".parse().expect("an address"), 1 << 20).expect("a socket");
        let at = remoted.local_addr().expect("it is bound");
        let port = at.port();
        let wanted = Wanted { port, addresses: Vec::new(), names: Names::Any, required: Vec::new() };
        let found = Searcher::new(wanted).search();
        Self { remoted, at, found, poll: Poll::new().expect("descriptors"), inbox: Inbox::default() }
    }

    fn local(&self, seen: Seen, sockets_max: usize) -> Local {
        Local::open(seen, vec![self.at], sockets_max)
    }

    fn inject(&self, local: &mut Local, volley: &Volley<'_>) -> Result<Sent, Error> {
        local.send(net::now(), &self.poll, &self.found, volley)
    }

    /// The next datagram that remoted gets, and its source. The datagram is there already: loopback.
    fn next(&self) -> (Vec<u8>, SocketAddr) {
        let mut bytes = [0; 64];
        let (length, from) = self.remoted.recv_from(&mut bytes).expect("it was injected");
        (bytes[..length].to_vec(), from)
    }

    /// Waits until datagrams arrive at a socket of an agent, and takes the replies among them.
    fn replies(&mut self, local: &Local) -> Vec<(StreamId, u16, Vec<u8>)> {
        let mut events = Events::with_capacity(8);
        self.poll.poll(&mut events, Some(DEADLINE)).expect("it waits");
        assert!(!events.is_empty(), "nothing arrives");
        let mut replies = Vec::new();
        for event in &events {
            let (taken, _) = local.take_replies(event.token(), &mut self.inbox);
            replies.extend(taken.into_iter().map(|(stream, reply)| (stream, reply.name.id, reply.bytes)));
        }
        replies
    }
}

fn volley<'a>(stream: StreamId, agent: u16, payloads: &[&'a [u8]]) -> Volley<'a> {
    let session = Session { name: SessionName { id: agent, generation: 0 }, port: 0 };
    Volley { stream, address: IpAddr::from([127, 0, 0, 1]), session, payloads: payloads.to_vec() }
}

#[test]
fn what_remoted_answers_goes_to_the_agent_that_it_answers_and_nobody_else_is_heard() {
    for seen in [Seen::Client, SERVER] {
        let mut stage = Stage::new();
        let mut local = stage.local(seen, 8);
        assert!(matches!(stage.inject(&mut local, &volley(1, 0, &[b"a", b"b"])), Ok((_, 2, Ok(())))));
        assert!(matches!(stage.inject(&mut local, &volley(1, 1, &[b"c"])), Ok((_, 1, Ok(())))));
        let [(a, first), (b, again), (c, other)] = [(); 3].map(|()| stage.next());
        assert_eq!((&a[..], &b[..], &c[..]), (&b"a"[..], &b"b"[..], &b"c"[..]));
        assert!(first == again && first != other && first.ip().is_loopback());

        let stranger = net::bind_source("127.0.0.1:0".parse().expect("an address")).expect("a socket");
        stranger.send_to(b"forged", other).expect("the system takes it");
        stage.remoted.send_to(b"pong", other).expect("the socket is there");
        assert_eq!(stage.replies(&local), [(1, 1, b"pong".to_vec())]);
        assert_eq!(stranger.send_to(b"forged", first).ok(), Some(6));
        // The system keeps the forged datagram out: it does not even wake the server.
        let mut events = Events::with_capacity(8);
        stage.poll.poll(&mut events, Some(Duration::ZERO)).expect("it does not wait");
        assert!(events.is_empty(), "{events:?}");
    }
}

#[test]
fn with_more_agents_than_sockets_everything_arrives_and_what_is_lost_is_said() {
    for sockets_max in [0, 2] {
        let stage = Stage::new();
        let mut local = stage.local(SERVER, sockets_max);
        for round in 0..3_u8 {
            for agent in 0..6 {
                assert!(matches!(stage.inject(&mut local, &volley(1, agent, &[&[round]])), Ok((_, 1, Ok(())))));
            }
            let ports: std::collections::BTreeSet<u16> = (0..6).map(|_| stage.next().1.port()).collect();
            assert_eq!(ports.len(), sockets_max + 1, "those that have none share one");
        }
        assert!(local.trouble.is_some_and(|why| why.contains("replies")), "replies of some are lost");
    }
}

#[test]
fn a_remoted_that_was_away_is_injected_into_again_and_its_client_is_not_refused() {
    let mut stage = Stage::new();
    let mut local = stage.local(SERVER, 8);
    assert!(matches!(stage.inject(&mut local, &volley(1, 0, &[b"1"])), Ok((_, 1, Ok(())))));
    let at = stage.at;
    stage.remoted = net::bind_agent("127.0.0.1:0".parse().expect("an address"), 1 << 20).expect("a socket");
    // The first datagram leaves, and the system tells of the refusal at the next call. A datagram that cannot be sent
    // for long waits.
    let outcomes = [(); 4].map(|()| stage.inject(&mut local, &volley(1, 0, &[b"2"])));
    let is_failed = |outcome: &Result<Sent, Error>| matches!(outcome, Err(_) | Ok((_, _, Err(SendError::Refused(_)))));
    assert!(!outcomes.iter().any(is_failed), "{outcomes:?}");
    stage.remoted = net::bind_agent(at, 1 << 20).expect("its port is free");
    assert!(matches!(stage.inject(&mut local, &volley(1, 0, &[b"3", b"4"])), Ok((_, 2, Ok(())))));
    assert_eq!((stage.next().0, stage.next().0), (b"3".to_vec(), b"4".to_vec()));
}
