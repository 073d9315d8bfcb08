use std::io::Write;
use std::net::TcpStream as Client;

use mio::Events;

use super::*;
use crate::os::remoted::Names;
use crate::os::threads::DOORBELL;
use crate::proto::seal::Keys;
use crate::proto::wire::{Hello, Target, VERSION};

/// Longest wait for the server, so that a test that fails ends.
const PATIENCE: Duration = Duration::from_mins(1);

fn connections(poll: &Poll) -> Connections {
    let config = Config { names: Names::Any, settle: Duration::ZERO, connections_max: 4, ..Config::default() };
    let listener = net::listen("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    Connections::new(&config, Keys::from([]), 4, listener, poll).expect("descriptors")
}

fn connect(connections: &Connections) -> Client {
    Client::connect(connections.listener.local_addr().expect("it is bound")).expect("it listens")
}

#[test]
fn tokens_of_connections_begin_anew_below_those_of_others_and_pass_over_what_is_taken() {
    let poll = Poll::new().expect("descriptors");
    let (mut connections, mut complaints) = (connections(&poll), Complaints::default());
    let _first = connect(&connections);
    connections.accept(net::now(), &poll, &mut complaints);
    assert_eq!(connections.by_id.keys().copied().collect::<Vec<_>>(), [0]);
    connections.next_id = TOKENS_FROM - 1;
    let _others = [(); 2].map(|()| connect(&connections));
    connections.accept(net::now(), &poll, &mut complaints);
    let mut ids: Vec<ConnectionId> = connections.by_id.keys().copied().collect();
    ids.sort_unstable();
    assert_eq!(ids, [0, 1, TOKENS_FROM as u64 - 1], "the first connection keeps its number");
    assert!([LISTENER, DOORBELL].iter().all(|other| other.0 > TOKENS_FROM));
}

/// A client's connection falls silent with every cut of the path to it. The log must not call that client a stranger.
#[test]
fn only_who_never_said_what_it_is_is_complained_of_for_its_silence() {
    let mut poll = Poll::new().expect("descriptors");
    let (mut connections, mut complaints) = (connections(&poll), Complaints::default());
    let mut client = connect(&connections);
    let mut hello = Vec::new();
    let (features, target) = (Features::NONE, Target::NONE);
    Frame::Hello(Hello { version: VERSION, features, stream: 1, interval_ms: 100, target }).encode(&mut hello);
    client.write_all(&hello).expect("it listens");
    let deadline = net::now() + PATIENCE;
    let mut events = Events::with_capacity(8);
    while !connections.has_client() {
        assert!(net::now() < deadline, "it does not take the greeting");
        poll.poll(&mut events, Some(PATIENCE)).expect("the system waits");
        for event in &events {
            match event.token() {
                LISTENER => connections.accept(net::now(), &poll, &mut complaints),
                Token(id) => {
                    let (_, close) = connections.attend(net::now(), id as ConnectionId).expect("it was accepted");
                    assert!(close.is_none(), "it makes sense: {close:?}");
                }
            }
        }
    }
    let later = net::now() + Duration::from_hours(2);
    for id in connections.sweep(later) {
        assert!(connections.close(id, &Close::Silent, &mut complaints));
    }
    assert!(connections.by_id.is_empty());
    assert_eq!(complaints.lines(), Vec::<String>::new());

    let _stranger = connect(&connections);
    connections.accept(net::now(), &poll, &mut complaints);
    let later = later + SWEEP_GAP;
    for id in connections.sweep(later) {
        assert!(connections.close(id, &Close::Silent, &mut complaints));
    }
    let expected = "1 connection cut off, the last from 127.0.0.1: it did not say in time what it is";
    assert_eq!(complaints.lines(), [expected]);
    assert_eq!(connections.sweep(later), [], "they are looked for from time to time");
}
