use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use mio::net::UdpSocket;
use mio::{Events, Poll, Token};

use super::framed::Framed;
use super::tcp_info::TcpInfo;
use super::udp::{Inbox, SendError, kernel_drops, send_batch, send_from, send_run, take_refusal, watch};
use super::*;
use crate::proto::seal::Key;
use crate::proto::terms::SessionName;
use crate::proto::time::Time;
use crate::proto::wire::{Frame, Ping, Reply};

/// Longest wait for something that must come.
const DEADLINE: Duration = Duration::from_secs(30);

fn local(socket: &UdpSocket) -> SocketAddr {
    socket.local_addr().expect("it is bound")
}

fn any_port(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an address"), 0)
}

/// Waits until the socket has something, then reads a batch.
fn receive(socket: &UdpSocket, inbox: &mut Inbox) -> usize {
    let mut poll = Poll::new().expect("a poll");
    watch(&poll, socket, Token(0)).expect("it is watched");
    let mut events = Events::with_capacity(4);
    poll.poll(&mut events, Some(DEADLINE)).expect("it waits");
    inbox.receive(socket).expect("it receives")
}

#[test]
fn batches_keep_order_length_and_sender() {
    for ip in ["127.0.0.1", "::1"] {
        let receiver = bind_agent(any_port(ip), 1 << 20).expect("a socket");
        let sender = bind_upstream(any_port(ip)).expect("a socket");
        let payloads: Vec<Vec<u8>> =
            [0, 1, 300, 65_507, 0, 1_472].iter().map(|&length| vec![length as u8; length]).collect();
        let slices: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
        let (sent, outcome) = send_batch(&sender, local(&receiver), &slices);
        assert!(sent == 6 && outcome.is_ok(), "{outcome:?}");
        let mut inbox = Inbox::default();
        assert_eq!(receive(&receiver, &mut inbox), 6);
        let got: Vec<_> = inbox.iter().map(|one| (one.from, one.local, one.bytes.to_vec())).collect();
        let expected: Vec<_> = payloads.into_iter().map(|bytes| (local(&sender), None, bytes)).collect();
        assert_eq!(got, expected);
        assert_eq!(inbox.receive(&receiver).expect("it receives"), 0);
    }
}

#[test]
fn an_inbox_may_read_sockets_of_either_family_in_turn() {
    let mut inbox = Inbox::default();
    for _ in 0..2 {
        for ip in ["127.0.0.1", "::1"] {
            let receiver = bind_agent(any_port(ip), 1 << 20).expect("a socket");
            let sender = bind_upstream(any_port(ip)).expect("a socket");
            let (sent, outcome) = send_batch(&sender, local(&receiver), &[b"one", b"two"]);
            assert!(sent == 2 && outcome.is_ok(), "{outcome:?}");
            assert_eq!(receive(&receiver, &mut inbox), 2);
            let from: Vec<_> = inbox.iter().map(|one| one.from).collect();
            assert_eq!(from, [local(&sender); 2]);
        }
    }
}

#[test]
fn what_is_sent_to_a_socket_of_this_host_comes_back_however_it_is_written() {
    let back = |bound: &str, target: &str| {
        comes_back(bound.parse().expect("an address"), target.parse().expect("an address"))
    };
    for (bound, target) in [
        ("127.0.0.1:9", "127.0.0.1:9"),
        ("127.0.0.1:9", "[::ffff:127.0.0.1]:9"),
        ("127.0.0.1:9", "0.0.0.0:9"),
        ("0.0.0.0:9", "127.0.0.9:9"),
        ("[::]:9", "127.0.0.1:9"),
        ("[::]:9", "[::1]:9"),
    ] {
        assert!(back(bound, target), "{bound} {target}");
    }
    for (bound, target) in [
        ("127.0.0.1:9", "127.0.0.1:10"),
        ("127.0.0.1:9", "127.0.0.2:9"),
        ("0.0.0.0:9", "[::1]:9"),
        ("[::1]:9", "127.0.0.1:9"),
        // No host has addresses of the documentation.
        ("0.0.0.0:9", "192.0.2.1:9"),
        ("[::]:9", "[2001:db8::1]:9"),
    ] {
        assert!(!back(bound, target), "{bound} {target}");
    }
}

#[test]
fn a_reply_leaves_from_the_address_that_was_asked() {
    for (listen, asked) in [("0.0.0.0", "127.0.0.7"), ("::", "127.0.0.8"), ("::", "::1")] {
        let receiver = bind_agent(any_port(listen), 1 << 20).expect("a socket");
        let agent = std::net::UdpSocket::bind(any_port(asked)).expect("a socket");
        agent.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        let to = SocketAddr::new(asked.parse().expect("an address"), local(&receiver).port());
        agent.connect(to).expect("connected");
        let mut inbox = Inbox::default();
        // The test receives twice: the room for control messages must not shrink.
        for _ in 0..2 {
            agent.send(b"question").expect("sent");
            assert_eq!(receive(&receiver, &mut inbox), 1);
            let (from, local) = inbox.iter().map(|one| (one.from, one.local)).next().expect("one came");
            assert_eq!(local.map(|ip| ip.to_canonical()), Some(to.ip()));
            send_from(&receiver, local, from, b"answer").expect("sent");
            let mut bytes = [0; 16];
            let length = loop {
                match agent.recv(&mut bytes) {
                    // The process was frozen for a while.
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    outcome => break outcome.expect("a connected socket takes nothing from elsewhere"),
                }
            };
            assert_eq!(length, 6);
        }
    }
}

#[test]
fn a_refused_datagram_is_reported_and_the_socket_goes_on() {
    let upstream = bind_upstream(any_port("127.0.0.1")).expect("a socket");
    let closed = std::net::UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
    let (sent, _) = send_batch(&upstream, closed, &[b"x"]);
    assert_eq!(sent, 1, "the refusal comes later");
    let mut poll = Poll::new().expect("a poll");
    watch(&poll, &upstream, Token(0)).expect("it is watched");
    poll.poll(&mut Events::with_capacity(4), Some(DEADLINE)).expect("it waits");
    let refusal = take_refusal(&upstream).expect("it is reported");
    assert_eq!(refusal.kind(), io::ErrorKind::ConnectionRefused);
    assert!(take_refusal(&upstream).is_none());
    let _ = upstream.take_error();
    let open = bind_agent(any_port("127.0.0.1"), 1 << 16).expect("a socket");
    let (sent, outcome) = send_batch(&upstream, local(&open), &[b"y"]);
    assert!(sent == 1 && outcome.is_ok(), "{outcome:?}");
}

#[test]
fn what_can_never_be_sent_is_told_from_what_is_refused() {
    let upstream = bind_upstream(any_port("127.0.0.1")).expect("a socket");
    let open = bind_agent(any_port("127.0.0.1"), 1 << 16).expect("a socket");
    let (sent, outcome) = send_batch(&upstream, local(&open), &[b"fits", &vec![0; 65_508], b"fits"]);
    assert!(sent == 1 && matches!(outcome, Err(SendError::Unsendable(_))), "{sent} {outcome:?}");
    let (sent, outcome) = send_run(&upstream, local(&open), &[b"fits", &vec![0; 65_508], b"fits"]);
    assert!(
        sent == 1 && matches!(outcome, Err(SendError::Unsendable(_))),
        "it is believed in the end: {sent} {outcome:?}"
    );
    // A route that is a black hole for a moment gives the same error. So does an address that was taken off the host.
    let (sent, outcome) = send_batch(&upstream, any_port("127.0.0.1"), &[b"x"]);
    let invalid = matches!(&outcome, Err(SendError::Refused(error)) if error.kind() == io::ErrorKind::InvalidInput);
    assert!(sent == 0 && invalid, "{sent} {outcome:?}");
    let elsewhere = "[2001:db8::1]:9".parse().expect("an address");
    let (sent, outcome) = send_batch(&upstream, elsewhere, &[b"x"]);
    assert!(sent == 0 && matches!(outcome, Err(SendError::Refused(_))), "{sent} {outcome:?}");
}

#[test]
fn drops_of_the_kernel_are_counted() {
    let receiver = bind_agent(any_port("127.0.0.1"), 4_096).expect("a socket");
    let sender = bind_upstream(any_port("127.0.0.1")).expect("a socket");
    assert_eq!(kernel_drops(&receiver), Some(0));
    let payload = [0; 1_000];
    for _ in 0..50 {
        let _ = send_batch(&sender, local(&receiver), &[&payload[..]; 20]);
    }
    assert!(kernel_drops(&receiver) > Some(900));
}

#[test]
fn hosts_and_ports_are_written_as_they_are_read() {
    let shown = |host: &str| HostPort { host: host.into(), port: 7 }.to_string();
    assert_eq!([shown("a.example"), shown("10.0.0.1"), shown("::1")], ["a.example:7", "10.0.0.1:7", "[::1]:7"]);
    assert_eq!(HostPort { host: "::1".into(), port: 7 }.address(), Some("[::1]:7".parse().expect("an address")));
    assert_eq!(HostPort { host: "a.example".into(), port: 7 }.address(), None);
    let mapped = HostPort { host: "::ffff:10.0.0.1".into(), port: 7 };
    let meant = "10.0.0.1:7".parse().expect("an address");
    assert_eq!((mapped.address(), mapped.resolve().expect("an address")), (Some(meant), vec![meant]));
}

#[test]
fn the_clock_goes_forward() {
    let first = now();
    assert!(now() >= first && first > Time::ZERO);
}

/// Two ends of a connection.
fn connection(key: Option<&Key>) -> (Framed, Framed) {
    let listener = listen(any_port("127.0.0.1")).expect("a free port");
    let stream = dial(listener.local_addr().expect("it is bound"), None, None).expect("it begins");
    let mut accepted = listener.accept();
    while accepted.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
        std::thread::yield_now();
        accepted = listener.accept();
    }
    let (client, server) = (Framed::client(stream, key), accepted.expect("it comes").0);
    (client, Framed::server(server, key.cloned().into_iter().collect()))
}

#[test]
fn without_a_key_only_a_peer_of_this_host_is_trusted() {
    let (mut client, mut server) = connection(Some(&Key::new([7; 32])));
    client.send(&Frame::Ping(Ping::default())).expect("it is connected");
    carry(&mut client, &mut server);
    let (plain, _plain) = connection(None);
    for (peer, here) in [("127.0.0.1", true), ("::1", true), ("::ffff:127.0.0.1", true), ("10.0.0.1", false)] {
        let peer = peer.parse().expect("an address");
        assert_eq!((plain.is_trusted(peer), server.is_trusted(peer)), (here, true), "{peer}");
    }
}

/// Moves bytes in both directions until a frame arrives at `to`.
fn carry(from: &mut Framed, to: &mut Framed) -> Frame {
    loop {
        from.flush().expect("the other end reads");
        from.fill().expect("the other end is there");
        to.flush().expect("the other end reads");
        to.fill().expect("the other end is there");
        if let Some(frame) = to.next_frame().expect("it makes sense") {
            return frame;
        }
        std::thread::yield_now();
    }
}

#[test]
fn a_large_frame_leaves_no_memory_behind_at_either_end() {
    let key = Key::new([7; 32]);
    for key in [None, Some(&key)] {
        let (mut client, mut server) = connection(key);
        let name = SessionName { id: 1, generation: 1 };
        let large = Frame::Reply(Reply { name, bytes: vec![1; 65_000] });
        for small in [false, true] {
            let (from, to) = if small { (&mut server, &mut client) } else { (&mut client, &mut server) };
            from.send(&large).expect("it is connected");
            assert_eq!(carry(from, to), large);
        }
        // Nothing is left to be read.
        for end in [&mut client, &mut server] {
            assert_eq!(end.next_frame(), Ok(None));
            assert!(end.capacity() <= 16 << 10, "{} bytes are kept", end.capacity());
        }
    }
}

/// The kernel's structure has grown with each version: an older kernel must be able to fill ours.
#[test]
fn the_state_of_a_connection_is_asked_for_as_far_as_linux_4_1_tells_it() {
    assert_eq!(size_of::<TcpInfo>(), 128);
    let (mut client, mut server) = connection(None);
    let ping = Frame::Ping(Ping::default());
    client.send(&ping).expect("it is connected");
    assert_eq!(carry(&mut client, &mut server), ping);
}

#[test]
fn an_address_is_this_hosts_if_it_is_reached_from_itself() {
    assert!(is_local([127, 0, 0, 1].into()));
    // No host has addresses of the documentation.
    assert!(!is_local([192, 0, 2, 1].into()));
    assert!(!is_local([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into()));
}

#[test]
fn an_agent_that_is_turned_away_is_refused_and_what_it_had_sent_before_is_read() {
    for ip in ["127.0.0.1", "::1", "0.0.0.0", "::"] {
        let socket = bind_agent(any_port(ip), 1 << 20).expect("a socket");
        let mut address = local(&socket);
        if address.ip().is_unspecified() {
            address.set_ip(if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
        }
        let agent = std::net::UdpSocket::bind(any_port(&address.ip().to_string())).expect("a socket");
        agent.connect(address).expect("it is there");
        for number in 0..40u8 {
            agent.send(&[number]).expect("somebody listens");
        }
        turn_away(&socket).expect("it can be connected to itself");
        agent.send(b"late").expect("the refusal comes afterwards");
        agent.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        let refused = agent.recv(&mut [0; 4]).expect_err("nobody answers");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "at {ip}");
        let (mut inbox, mut read) = (Inbox::default(), Vec::new());
        while inbox.receive(&socket).expect("it receives") > 0 {
            read.extend(inbox.iter().flat_map(|received| received.bytes.to_vec()));
        }
        assert_eq!(read, (0..40).collect::<Vec<u8>>(), "at {ip}");
        let agent = agent.local_addr().expect("it is bound");
        send_from(&socket, Some(address.ip()).filter(|_| ip.contains("0.0") || ip == "::"), agent, b"reply")
            .expect("replies still go out");
    }
}
