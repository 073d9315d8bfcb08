use std::io::Write;
use std::net::{TcpStream, UdpSocket};

use crossbeam_channel::bounded;

use super::*;
use crate::os::remoted::Names;
use crate::proto::terms::{Port, Verdict};
use crate::server::Inject;
use crate::server::inject::Means;

/// How long the server has, so that a test that fails ends.
const PATIENCE: Duration = Duration::from_mins(1);

fn config() -> Config {
    Config { names: None, settle: Duration::ZERO, connections_max: 4, ..Config::default() }
}

/// A server that finds nobody, and a connection to it that was not accepted yet.
fn served(config: &Config, ask_search: Sender<()>, founds: Receiver<Found>) -> (Server<'_>, TcpStream) {
    let listener = net::listen("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let client = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
    let nobody = Names::These(vec!["no such process".into()]);
    let means = Means { inject: Inject::Local, keyed: false, ossec: true, remoted: Vec::new(), sockets_max: 1 };
    let parts = Parts {
        key: None,
        places: 4,
        injector: Injector::open(means).expect("it takes no right"),
        wanted: Wanted { port: 1_514, addresses: Vec::new(), names: nobody, required: Vec::new() },
        listener,
        poll: Poll::new().expect("descriptors"),
        ask_search,
        founds,
    };
    (Server::new(config, parts).expect("descriptors"), client)
}

#[test]
fn tokens_of_connections_begin_anew_below_those_of_others_and_pass_over_what_is_taken() {
    let config = config();
    let (_founds, founds) = bounded(1);
    let (mut server, _first) = served(&config, bounded(1).0, founds);
    server.accept(net::now());
    assert_eq!(server.conns.keys().copied().collect::<Vec<_>>(), [Token(0)]);
    server.tokens = CONNECTION_TOKENS - 1;
    let address = server.listener.local_addr().expect("it is bound");
    let _others = [(); 2].map(|()| TcpStream::connect(address).expect("it listens"));
    server.accept(net::now());
    let mut tokens: Vec<usize> = server.conns.keys().map(|token| token.0).collect();
    tokens.sort_unstable();
    assert_eq!(tokens, [0, 1, CONNECTION_TOKENS - 1], "the first connection keeps its token");
    assert!(tokens.iter().all(|&token| !Injector::owns(Token(token)) && ![LISTENER, DOORBELL].contains(&Token(token))));
    let ids: std::collections::HashSet<u64> = server.conns.values().map(|conn| conn.id).collect();
    assert_eq!(ids.len(), 3);
}

#[test]
fn who_asks_while_remoted_is_searched_for_is_answered_from_what_was_found() {
    let config = config();
    let (ask_search, asked) = bounded(1);
    let (found, founds) = bounded(1);
    let (mut server, mut client) = served(&config, ask_search, founds);
    client.write_all(b"ping\n").expect("it listens");
    let deadline = net::now() + PATIENCE;
    let mut events = Events::with_capacity(8);
    while asked.try_recv().is_err() {
        assert!(net::now() < deadline, "it does not search");
        let at = server.next_turn().unwrap_or(deadline).min(deadline);
        server.poll.poll(&mut events, Some(at.since(net::now()))).expect("the system waits");
        server.take_events(net::now(), &events);
        server.turn(net::now());
    }
    assert_eq!(server.waiting.len(), 1, "it waits for what the search finds");

    server.sample(net::now());
    assert_eq!(server.waiting.len(), 1, "also when another look is due meanwhile");

    while !server.waiting.is_empty() {
        found.send(Found::default()).expect("the server is there");
        server.take_found();
    }
    assert_eq!(server.news.told(), Some(Verdict::NoProcess(Port::Free)));
}

#[test]
fn a_search_is_due_each_half_minute_and_soon_after_a_socket_has_come() {
    let config = config();
    let (ask_search, asked) = bounded(1);
    let (found, founds) = bounded(1);
    let (mut server, _client) = served(&config, ask_search, founds);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let port = socket.local_addr().expect("it is bound").port();
    let wanted = Wanted { port, addresses: Vec::new(), names: Names::Any, required: Vec::new() };
    server.inspector = Inspector::new(wanted.clone());
    let begun = net::now();
    server.search(begun);
    asked.try_recv().expect("it searches");
    found.send(crate::os::remoted::search(&wanted)).expect("the server is there");
    server.take_found();
    assert_eq!(server.news.told(), Some(Verdict::Up));
    let mut searches = |after: u64| {
        server.sample(begun + Duration::from_secs(after));
        let searches = asked.try_recv().is_ok();
        if searches {
            found.send(crate::os::remoted::search(&wanted)).expect("the server is there");
            // What it looks at then is looked at now, which is long before.
            server.found = server.founds.try_recv().expect("it was sent");
            server.search_open = false;
        }
        searches
    };
    assert_eq!([1, 29, 30, 31, 60].map(&mut searches), [false, false, true, false, true]);
    let _second = UdpSocket::bind(("127.0.0.2", port)).expect("another address");
    assert_eq!([60, 61, 62].map(&mut searches), [false, true, false]);
}

/// A client's connection falls silent with every cut of the way to it: the log must not call that a stranger.
#[test]
fn only_who_never_said_what_it_is_is_complained_of_for_its_silence() {
    let config = config();
    let (_founds, founds) = bounded(1);
    let (mut server, mut client) = served(&config, bounded(1).0, founds);
    let mut hello = Vec::new();
    let (features, target) = (crate::proto::wire::Features::NONE, crate::proto::wire::Target::NONE);
    let greeting = crate::proto::wire::Hello {
        version: crate::proto::wire::VERSION,
        features,
        stream: 1,
        interval_ms: 100,
        target,
    };
    Frame::Hello(greeting).encode(&mut hello);
    client.write_all(&hello).expect("it listens");
    let deadline = net::now() + PATIENCE;
    let mut events = Events::with_capacity(8);
    while !server.conns.values().any(Conn::is_client) {
        assert!(net::now() < deadline, "it does not take the greeting");
        server.poll.poll(&mut events, Some(PATIENCE)).expect("the system waits");
        server.take_events(net::now(), &events);
    }
    let later = net::now() + Duration::from_hours(2);
    server.sweep(later);
    assert!(server.conns.is_empty());
    assert_eq!(server.complaints.lines(), Vec::<String>::new());

    let _stranger = TcpStream::connect(server.listener.local_addr().expect("it is bound")).expect("it listens");
    server.accept(net::now());
    server.sweep(later);
    let expected = "1 connection cut off, the last from 127.0.0.1: it did not say in time what it is";
    assert_eq!(server.complaints.lines(), [expected]);
}
