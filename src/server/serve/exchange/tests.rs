use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use crossbeam_channel::bounded;
use mio::Events;

use super::*;
use crate::os::remoted::{Found, Names};
use crate::proto::seal::Keys;
use crate::proto::terms::Port;
use crate::server::inject::Way;

/// Longest wait for the server, so that a test that fails ends.
const PATIENCE: Duration = Duration::from_mins(1);

#[test]
fn who_asks_while_remoted_is_searched_for_is_answered_from_what_was_found() {
    let names = Names::These(vec!["no such process".into()]);
    let config = Config { names, settle: Duration::ZERO, connections_max: 4, ..Config::default() };
    let mut poll = Poll::new().expect("descriptors");
    let listener = net::listen("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let mut client = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
    let (ask_search, asked) = bounded(1);
    let (found, founds) = bounded(1);
    let connections = Connections::new(&config, Keys::from([]), 4, listener, &poll).expect("descriptors");
    let watch = Watch::new(config.wanted(Vec::new()), ask_search, founds);
    let way = Way::open(&config, false, Vec::new(), 1).expect("it takes no right");
    let injection = Injection::new(config.inject, way, &poll).expect("descriptors");
    let mut exchange = Exchange::new(&config, connections, watch, injection);
    client.write_all(b"ping\n").expect("it listens");
    let deadline = net::now() + PATIENCE;
    let mut events = Events::with_capacity(8);
    while asked.try_recv().is_err() {
        assert!(net::now() < deadline, "it does not search");
        let at = exchange.next_deadline().unwrap_or(deadline).min(deadline);
        poll.poll(&mut events, Some(at.since(net::now()))).expect("the system waits");
        for event in &events {
            exchange.handle_ready(net::now(), event.token(), &poll);
        }
        exchange.handle_time(net::now(), &poll);
    }
    assert!(!exchange.connections.asking.is_empty(), "it waits for what the search finds");

    exchange.look(net::now(), &poll);
    assert!(!exchange.connections.asking.is_empty(), "also when another look is due meanwhile");

    let mut looks = 0;
    while !exchange.connections.asking.is_empty() {
        found.send(Found::default()).expect("the server is there");
        exchange.handle_ready(net::now(), DOORBELL, &poll);
        looks += 1;
        assert!(looks < 1_000, "it is not answered");
    }
    assert_eq!(exchange.core.judge().verdict(), Verdict::NoProcess(Port::Free));
}
