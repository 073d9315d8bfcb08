//! Both roles as real processes on loopback: no root needed.

#[path = "loopback/logs.rs"]
mod logs;
#[path = "support/ports.rs"]
mod ports;
#[path = "loopback/spool.rs"]
mod spool;
#[path = "loopback/strangers.rs"]
mod strangers;
#[path = "support/uninterrupted.rs"]
mod uninterrupted;
#[path = "support/wait.rs"]
#[expect(dead_code, reason = "no scenario here has a span of its own")]
mod wait;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use ossec_broker::proto::terms::{Incarnation, Seq, SessionName, Verdict};
use ossec_broker::proto::wire::{
    Assembler, Features, Frame, Hello, Ping, Pong, Refusal, Reply, Resume, Target, VERSION, Welcome,
};
use ports::free_port;
use socket2::{Domain, Socket, Type};
use uninterrupted::uninterrupted;
use wait::wait_until;

const BROKER: &str = env!("CARGO_BIN_EXE_ossec-broker");
/// Longest wait of a test for something that must come.
const DEADLINE: Duration = Duration::from_mins(1);

/// A process that is ended with the test.
struct Role(Option<Child>);

impl Role {
    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(BROKER);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        Self(Some(command.spawn().expect("the broker starts")))
    }

    /// The lines that the process logs from here on. It would stand still if nobody read them.
    fn lines(&mut self) -> Receiver<String> {
        let log = self.0.as_mut().and_then(|child| child.stderr.take()).expect("its log is a pipe");
        let (sender, lines) = channel();
        let read = move || BufReader::new(log).lines().map_while(Result::ok).try_for_each(|line| sender.send(line));
        thread::Builder::new().spawn(read).expect("a thread starts");
        lines
    }

    /// The exit status of the process, if it has ended by itself.
    fn has_ended(&mut self) -> Option<ExitStatus> {
        self.0.as_mut().expect("it was started").try_wait().expect("it is a child")
    }

    /// Asks for a stop, waits for the end.
    fn stop(mut self) -> Output {
        let child = self.0.as_mut().expect("it runs");
        let pid = child.id().to_string();
        assert!(Command::new("kill").arg(pid).status().expect("kill").success());
        // The process would not end if nobody read its last words.
        let log = child.stderr.take();
        let read = move || {
            let mut stderr = Vec::new();
            log.map_or(Ok(0), |mut log| log.read_to_end(&mut stderr)).map(|_| stderr)
        };
        let reading = thread::Builder::new().spawn(read).expect("a thread starts");
        let status = wait_until("it ends", || self.has_ended().ok_or_else(|| "it still runs".to_owned()));
        let stderr = reading.join().expect("it is read").expect("its log");
        Output { status, stdout: Vec::new(), stderr }
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn receiver() -> (UdpSocket, u16) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let port = socket.local_addr().expect("an address").port();
    (socket, port)
}

/// A socket that sends to the client as an agent does. It is connected when the client listens.
fn agent(port: u16) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.connect(SocketAddr::from(([127, 0, 0, 1], port))).expect("connected");
    socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
    // Until the client listens, each datagram is answered with a refusal, and the next call shows it. A datagram that
    // is not refused counts as sent.
    for _ in 0..3_000 {
        let says_so = |error: std::io::Error| error.kind() == std::io::ErrorKind::ConnectionRefused;
        let refused =
            socket.send(b"hello").is_err() || uninterrupted(|| socket.recv(&mut [0; 16])).is_err_and(says_so);
        if !refused {
            socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
            return socket;
        }
    }
    panic!("the client does not listen");
}

fn server(broker: u16, remoted: u16) -> Role {
    let (listen, remoted) = (format!("127.0.0.1:{broker}"), format!("127.0.0.1:{remoted}"));
    Role::start(&["server", "--listen", &listen, "--remoted", &remoted, "--process", "any", "--settle", "0"])
}

fn client(listen: u16, broker: u16, remoted: u16) -> Role {
    client_over("udp", listen, broker, remoted)
}

fn client_over(transport: &str, listen: u16, broker: u16, remoted: u16) -> Role {
    let [listen, broker, remoted] = [listen, broker, remoted].map(|port| format!("127.0.0.1:{port}"));
    let ways = ["--listen", &listen, "--broker", &broker, "--server", &remoted, "--source-port", "0"];
    Role::start(&[&["client", "--transport", transport], &ways[..]].concat())
}

/// A key in a file that goes with the test.
struct KeyFile(std::path::PathBuf);

impl KeyFile {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("ossec-broker-loopback-{}-{}", std::process::id(), free_port(0)));
        let key = Command::new(BROKER).arg("genkey").output().expect("it prints a key");
        assert!(key.status.success());
        std::fs::write(&path, key.stdout).expect("a file");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("permissions");
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("it is text")
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A server with `--inject local`, which needs no rights, and this key.
fn keyed_server(broker: u16, remoted: u16, key: &KeyFile) -> Role {
    let (listen, remoted) = (format!("127.0.0.1:{broker}"), format!("127.0.0.1:{remoted}"));
    let arguments = ["server", "--listen", &listen, "--remoted", &remoted, "--process", "any", "--settle", "0"];
    Role::start(&[&arguments[..], &["--inject", "local", "--psk-file", key.path()]].concat())
}

fn keyed_client(transport: &str, listen: u16, broker: u16, remoted: u16, key: &KeyFile) -> Role {
    let [listen, broker, remoted] = [listen, broker, remoted].map(|port| format!("127.0.0.1:{port}"));
    let ways = ["--listen", &listen, "--broker", &broker, "--server", &remoted, "--source-port", "0"];
    Role::start(&[&["client", "--transport", transport, "--psk-file", key.path()], &ways[..]].concat())
}

#[test]
fn with_a_key_both_transports_carry_datagrams_and_replies() {
    for transport in ["udp", "tcp"] {
        let key = KeyFile::new();
        let (receiver, remoted) = receiver();
        let (broker, listen) = (free_port(0), free_port(0));
        let _server = keyed_server(broker, remoted, &key);
        let client = keyed_client(transport, listen, broker, remoted, &key);
        let agent = agent(listen);
        let mut from = None;
        for number in 0..200u32 {
            agent.send(&number.to_be_bytes()).expect("sent");
            let (bytes, source) = next(&receiver);
            assert_eq!(bytes, number.to_be_bytes(), "over {transport}");
            from = Some(source);
        }
        receiver.send_to(b"reply", from.expect("it came from somewhere")).expect("sent");
        let mut reply = [0; 16];
        assert_eq!(agent.recv(&mut reply).expect("a reply"), 5);
        let output = client.stop();
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && log.contains(" 0 left"), "{log}");
    }
}

#[test]
fn while_keys_are_exchanged_clients_with_either_key_are_served() {
    let (old, new) = (KeyFile::new(), KeyFile::new());
    // The server has both, and a client that has both uses the first.
    let both = KeyFile::new();
    let text = [&old, &new].map(|key| std::fs::read_to_string(&key.0).expect("a key")).join("# of June\n");
    std::fs::write(&both.0, text).expect("a file");
    for (clients, servers) in [(&old, &both), (&new, &both), (&both, &old)] {
        let (receiver, remoted) = receiver();
        let (broker, listen) = (free_port(0), free_port(0));
        let _server = keyed_server(broker, remoted, servers);
        let _client = keyed_client("tcp", listen, broker, remoted, clients);
        let agent = agent(listen);
        agent.send(b"event").expect("sent");
        assert_eq!(next(&receiver).0, b"event");
    }
}

#[test]
fn keys_that_do_not_fit_are_told_at_both_ends_and_let_nothing_through() {
    let (key, other) = (KeyFile::new(), KeyFile::new());
    let (_receiver, remoted) = receiver();
    let broker = free_port(0);
    let server = keyed_server(broker, remoted, &key);
    wait_until_listening(broker);
    let address = format!("127.0.0.1:{broker}");
    let check = |more: &[&str]| {
        let output = Command::new(BROKER).args(["check", "--broker", &address]).args(more).output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert_eq!(check(&["--psk-file", key.path()]).0, Some(0));
    let (code, text) = check(&["--psk-file", other.path()]);
    assert!(code == Some(2) && text.contains("keys of both ends differ"), "{text}");
    let (code, text) = check(&[]);
    assert!(code == Some(2) && text.contains("wants a key"), "{text}");
    assert_eq!(ask(broker, b"ping\n"), b"pong\n", "the plain request passes");
    let log = String::from_utf8_lossy(&server.stop().stderr).into_owned();
    assert!(log.contains("keys"), "{log}");
}

#[test]
fn a_server_without_a_key_tells_a_client_that_has_one() {
    let key = KeyFile::new();
    let (_receiver, remoted) = receiver();
    let broker = free_port(0);
    let _server = server(broker, remoted);
    wait_until_listening(broker);
    let address = format!("127.0.0.1:{broker}");
    let output = Command::new(BROKER)
        .args(["check", "--broker", &address, "--psk-file", key.path()])
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.code() == Some(2) && text.contains("this server has no key"), "{text}");
}

/// The next datagram that is not one of the greetings that `agent` sends.
fn next(receiver: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut bytes = vec![0; 65_536];
    loop {
        let (length, from) = uninterrupted(|| receiver.recv_from(&mut bytes)).expect("something arrives");
        if &bytes[..length] != b"hello" {
            return (bytes[..length].to_vec(), from);
        }
    }
}

fn ask(port: u16, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    stream.write_all(request).expect("it reads");
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        // The server does not read all of a stranger's garbage, and the system ends such a connection with a reset.
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("it answers and closes: {error}"),
    }
    answer
}

/// Waits for this answer. A dropped socket lives on for a moment if a program is just being started beside this test.
fn comes_true<T: PartialEq + std::fmt::Debug>(ask: impl Fn() -> T, expected: &T) {
    wait_until("that is the answer", || {
        let answer = ask();
        if answer == *expected { Ok(()) } else { Err(format!("{answer:?}")) }
    });
}

fn wait_until_listening(port: u16) {
    for _ in 0..100_000 {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return;
        }
        thread::yield_now();
    }
    panic!("nobody listens on {port}");
}

#[test]
fn an_outage_is_replayed_in_order_and_replies_come_back() {
    an_outage("udp");
}

#[test]
fn an_outage_is_replayed_over_tcp_and_replies_come_back() {
    an_outage("tcp");
}

fn an_outage(transport: &str) {
    let (receiver, remoted) = receiver();
    let (broker, listen) = (free_port(0), free_port(0));
    let client = client_over(transport, listen, broker, remoted);
    let agent = agent(listen);
    // Nobody answers for remoted yet: the client holds all datagrams.
    for number in 0..300u32 {
        agent.send(&number.to_be_bytes()).expect("sent");
    }
    agent.send(&[]).expect("a datagram of no length is one");
    agent.send(&vec![7; 65_507]).expect("the largest there is");
    let _server = server(broker, remoted);
    for number in 0..300u32 {
        assert_eq!(next(&receiver).0, number.to_be_bytes());
    }
    assert_eq!(next(&receiver).0, Vec::<u8>::new());
    let (large, from) = next(&receiver);
    assert_eq!(large, vec![7; 65_507]);
    for number in 0..100u32 {
        receiver.send_to(&number.to_be_bytes(), from).expect("sent");
    }
    let mut reply = [0; 16];
    for number in 0..100u32 {
        assert_eq!(
            uninterrupted(|| agent.recv(&mut reply)).map(|length| reply[..length].to_vec()).expect("a reply"),
            number.to_be_bytes()
        );
    }
    let output = client.stop();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && log.contains(" 0 left"), "{log}");
}

/// Whether the client takes a datagram of the agent. A refusal comes back at once over loopback.
fn is_taken(agent: &UdpSocket, payload: &[u8]) -> bool {
    let sent = agent.send(payload).is_ok();
    agent.set_nonblocking(true).expect("it can be asked");
    let refused = uninterrupted(|| agent.recv(&mut [0; 16])).is_err_and(|error| {
        assert!([std::io::ErrorKind::ConnectionRefused, std::io::ErrorKind::WouldBlock].contains(&error.kind()));
        error.kind() == std::io::ErrorKind::ConnectionRefused
    });
    agent.set_nonblocking(false).expect("it can be asked");
    sent && !refused
}

#[test]
fn what_comes_in_while_the_client_drains_is_drained_or_refused() {
    let (receiver, remoted) = receiver();
    let (broker, listen) = (free_port(0), free_port(0));
    let _server = server(broker, remoted);
    let [at, broker, remoted] = [listen, broker, remoted].map(|port| format!("127.0.0.1:{port}"));
    let ways = ["--listen", &at, "--broker", &broker, "--server", &remoted, "--source-port", "0"];
    let client = Role::start(&[&["client", "--rate", "300", "--drain", "10m"], &ways[..]].concat());
    let agent = agent(listen);
    let read = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&read);
    let reads = move || {
        while next(&receiver).0 != b"end" {
            count.fetch_add(1, Ordering::Relaxed);
        }
    };
    let reading = thread::Builder::new().spawn(reads).expect("a thread starts");
    let backlog = 300;
    for _ in 0..backlog {
        assert!(is_taken(&agent, b"before"));
    }
    // A client that is stopped while it finds no server drains nothing.
    wait_until("something arrives", || {
        if read.load(Ordering::Relaxed) > 0 { Ok(()) } else { Err("nothing yet".to_owned()) }
    });
    // Some datagrams are still to be sent for a while.
    let stopping = thread::Builder::new().spawn(move || client.stop()).expect("a thread starts");
    let mut taken = 0;
    while !stopping.is_finished() {
        // The agent must not get ahead of remoted without a bound.
        if taken > read.load(Ordering::Relaxed) {
            thread::yield_now();
        } else if is_taken(&agent, b"meanwhile") {
            taken += 1;
        } else {
            break;
        }
    }
    let output = stopping.join().expect("it ends");
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    UdpSocket::bind("127.0.0.1:0").expect("a socket").send_to(b"end", &*remoted).expect("sent");
    reading.join().expect("it reads to the end");
    let all = 1 + backlog + taken;
    assert_eq!(1 + read.load(Ordering::Relaxed), all, "{log}");
    assert!(
        taken > 0 && log.contains(&format!("stopped: {all} received, {all} confirmed, 0 dropped, 0 left")),
        "{log}"
    );
}

#[test]
fn agents_that_give_way_to_one_another_cost_no_new_sockets() {
    const SESSIONS: usize = 4;
    let (receiver, remoted) = receiver();
    let (broker, listen) = (free_port(0), free_port(0));
    let _server = server(broker, remoted);
    let [at, broker, remoted] = [listen, broker, remoted].map(|port| format!("127.0.0.1:{port}"));
    let ways = ["--listen", &at, "--broker", &broker, "--server", &remoted, "--source-port", "0"];
    let client = Role::start(&[&["client", "-v", "--max-sessions", &SESSIONS.to_string()], &ways[..]].concat());
    let first = agent(listen);
    for round in 0..20u8 {
        let agent = UdpSocket::bind((Ipv4Addr::new(127, 0, 1, 1 + round), 0)).expect("an address of this host");
        agent.connect(("127.0.0.1", listen)).expect("connected");
        agent.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        // The client refuses a newcomer while every place holds something. The newcomer sends again, as agents do.
        receiver.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
        let mut bytes = [0; 16];
        let from = wait_until("its datagram arrives", || {
            agent.send(&[round]).expect("the client is there");
            match uninterrupted(|| receiver.recv_from(&mut bytes)) {
                Ok((1, from)) if bytes[0] == round => Ok(from),
                Ok((_, from)) => Err(format!("another of {from}")),
                Err(error) => Err(error.to_string()),
            }
        });
        receiver.send_to(b"reply", from).expect("sent");
        assert_eq!(agent.recv(&mut bytes).expect("its reply"), 5);
    }
    drop(first);
    let log = String::from_utf8_lossy(&client.stop().stderr).into_owned();
    let sockets = log.matches("sends from port").count();
    assert!((1..=SESSIONS).contains(&sockets), "{sockets} sockets: {log}");
}

#[test]
fn memory_that_cannot_be_had_is_a_full_buffer() {
    let (receiver, remoted) = receiver();
    let (broker, listen) = (free_port(0), free_port(0));
    let [at, broker_at, remoted_at] = [listen, broker, remoted].map(|port| format!("127.0.0.1:{port}"));
    let options = ["--buffer", "1GiB", "--listen", &at, "--broker", &broker_at, "--server", &remoted_at];
    let script = "ulimit -v 120000; exec \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, BROKER, "client", "--transport", "tcp", "--source-port", "0"]).args(options);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut client = Role(Some(command.spawn().expect("the broker starts")));
    let lines = client.lines();
    let agent = agent(listen);
    // The agent sends more than fits into any memory that the client may have.
    let mut last = 0u64;
    let mut payload = vec![0; 8_000];
    let mut said = Vec::new();
    let full = loop {
        assert!(last < 5_000_000, "40 GB fit");
        last += 1;
        payload[..8].copy_from_slice(&last.to_be_bytes());
        if let Err(error) = agent.send(&payload) {
            said.extend(lines.iter());
            panic!("the client is gone: {error}; it said {said:?}");
        }
        said.extend(lines.try_iter());
        if let Some(line) = said.iter().find(|line| line.contains("buffer is full")) {
            break line.clone();
        }
    };
    assert!(full.contains("the system gives no more memory"), "{full}");
    let _server = server(broker, remoted);
    let number = |bytes: &[u8]| u64::from_be_bytes(bytes[..8].try_into().expect("eight bytes"));
    // The socket may have had no room for the last datagram, as for others that were sent so fast. The agent sends it
    // again.
    receiver.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    let (mut before, mut bytes) = (0, vec![0; 65_536]);
    wait_until("the last one arrives", || {
        while before < last {
            match uninterrupted(|| receiver.recv(&mut bytes)) {
                Ok(_) if bytes.starts_with(b"hello") => {}
                Ok(_) => {
                    assert!(number(&bytes) > before, "{} after {before}", number(&bytes));
                    before = number(&bytes);
                }
                Err(error) => {
                    if let Err(gone) = agent.send(&payload) {
                        said.extend(lines.iter());
                        panic!("the client is gone: {gone}; it said {said:?}");
                    }
                    return Err(error.to_string());
                }
            }
        }
        Ok(())
    });
}

#[test]
fn a_server_that_does_not_listen_is_told_from_one_that_closes_the_connection() {
    let nobody = free_port(0);
    let mut client = Role::start(&[
        "client",
        "--listen",
        &format!("127.0.0.1:{}", free_port(0)),
        "--server",
        "127.0.0.1:9",
        "--broker",
        &format!("127.0.0.1:{nobody}"),
        "--source-port",
        "0",
    ]);
    let lines = client.lines();
    let said = wait_until("the link is down", || {
        lines.try_iter().find(|line| line.contains("link down")).ok_or_else(|| "nothing".to_owned())
    });
    assert!(said.contains("Connection refused"), "{said}");
}

/// Over a slow link, a heartbeat that waited behind all data would be late by the time that the data takes.
#[test]
fn a_heartbeat_does_not_wait_behind_all_that_is_to_be_sent() {
    const BYTES_AHEAD_MAX: usize = 192 << 10;
    let slow = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    slow.set_recv_buffer_size(4 << 10).expect("a small buffer");
    slow.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bound");
    slow.listen(1).expect("it listens");
    let slow = TcpListener::from(slow);
    let listen = free_port(0);
    let [client_at, broker] =
        [listen, slow.local_addr().expect("an address").port()].map(|port| format!("127.0.0.1:{port}"));
    let options = ["--server", "127.0.0.1:9", "--broker", &broker, "--listen", &client_at, "--source-port", "0"];
    let mut client = Role::start(
        &[&["client", "--transport", "tcp", "--interval", "50ms", "--timeout", "60s", "-vv"], &options[..]].concat(),
    );
    let lines = client.lines();
    let (mut connection, _) = uninterrupted(|| slow.accept()).expect("the client connects");
    connection.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let mut input = Assembler::default();
    let Frame::Hello(_) = next_frame(&mut connection, &mut input).0 else { panic!("a greeting comes first") };
    say(&mut connection, &Frame::Welcome(Welcome { version: VERSION, features: Features::STREAM }));
    // The client may send at once far more than lies between the two ends.
    say(
        &mut connection,
        &Frame::Resume(Resume { epoch: 1, from: None, reached: Seq(u64::MAX), window: 4 << 20, digest: 0 }),
    );

    // Nothing is sent before a heartbeat has found remoted up.
    let number = loop {
        if let (Frame::Ping(ping), _) = next_frame(&mut connection, &mut input) {
            break ping.number;
        }
    };
    let pong = Pong {
        number,
        verdict: Verdict::Up,
        incarnation: Incarnation(1),
        pid: 0,
        read: 0,
        queue: 0,
        drops: 0,
        window: 4 << 20,
        gap_us: 1_000,
        ask_again_ms: 0,
        active: 1,
    };
    say(&mut connection, &Frame::Pong(pong));

    // The test reads nothing until a heartbeat was begun with more than enough data waiting.
    let agent = agent(listen);
    let heartbeat = wait_until("a heartbeat is begun while data waits", || {
        for _ in 0..50 {
            agent.send(&[b'x'; 1_000]).expect("sent");
        }
        let line = lines.try_iter().find_map(|line| heartbeat_with_unsent(&line, 1_000));
        line.ok_or_else(|| "none yet".to_owned())
    });
    let mut ahead = 0;
    loop {
        match next_frame(&mut connection, &mut input) {
            (Frame::Ping(ping), _) if ping.number >= heartbeat => break,
            (Frame::Data(_), bytes) => ahead += bytes,
            _ => {}
        }
    }
    assert!((1..=BYTES_AHEAD_MAX).contains(&ahead), "{ahead} bytes came before the heartbeat");
}

/// Over transport udp, the agents' datagrams do not travel over the connection. A program that answers in a server's
/// place must not speak to agents there.
#[test]
fn over_transport_udp_a_reply_that_comes_over_the_connection_is_not_passed_on() {
    let forger = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let (listen, broker) = (free_port(0), forger.local_addr().expect("an address").port());
    let mut client = client(listen, broker, 9);
    let lines = client.lines();
    let agent = agent(listen);
    let (mut connection, _) = uninterrupted(|| forger.accept()).expect("the client connects");
    connection.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let Frame::Hello(_) = next_frame(&mut connection, &mut Assembler::default()).0 else {
        panic!("a greeting comes first")
    };
    say(&mut connection, &Frame::Welcome(Welcome { version: VERSION, features: Features::STREAM }));
    let name = SessionName { id: 0, generation: 0 };
    say(&mut connection, &Frame::Reply(Reply { name, bytes: b"forged".to_vec() }));
    // The client takes frames in their order. When it tells of this one, it has looked at the one before.
    say(&mut connection, &Frame::Refusal(Refusal { text: "the marker".into() }));
    wait_until("the client tells of the refusal", || {
        lines.try_iter().find(|line| line.contains("the marker")).map(drop).ok_or_else(|| "not yet".to_owned())
    });
    agent.set_nonblocking(true).expect("an option");
    let received = agent.recv(&mut [0; 16]).map_err(|error| error.kind());
    assert_eq!(received, Err(std::io::ErrorKind::WouldBlock));
}

/// The number of the heartbeat that a line of the log tells of, if more than `least` datagrams wait.
fn heartbeat_with_unsent(line: &str, least: u64) -> Option<u64> {
    let (number, rest) = line.split_once("heartbeat ")?.1.split_once(": ")?;
    let unsent: u64 = rest.split_once("held, ")?.1.strip_suffix(" unsent")?.parse().ok()?;
    (unsent > least).then_some(number.parse().ok()?)
}

fn say(connection: &mut TcpStream, frame: &Frame) {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    connection.write_all(&bytes).expect("written");
}

/// The next frame, and its length.
fn next_frame(connection: &mut TcpStream, input: &mut Assembler) -> (Frame, usize) {
    loop {
        let before = input.rest().len();
        if let Some(frame) = input.next_frame().expect("the client makes sense") {
            return (frame, before - input.rest().len());
        }
        let mut bytes = [0; 4 << 10];
        let count = uninterrupted(|| connection.read(&mut bytes)).expect("it comes in time");
        assert!(count > 0, "the client has closed its connection");
        input.push(&bytes[..count]);
    }
}

#[test]
fn what_is_held_at_a_stop_is_said() {
    let (broker, listen) = (free_port(0), free_port(0));
    let client = client(listen, broker, free_port(0));
    let agent = agent(listen);
    for _ in 0..10 {
        agent.send(b"event").expect("sent");
    }
    let output = client.stop();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && log.contains("lost with this stop: 1"), "{log}");
}

#[test]
fn the_plain_request_is_answered_as_in_2015() {
    let (receiver, remoted) = receiver();
    let broker = free_port(0);
    let _server = server(broker, remoted);
    wait_until_listening(broker);
    assert_eq!(ask(broker, b"ping"), b"pong");
    assert_eq!(ask(broker, b"ping\n"), b"pong\n");
    drop(receiver);
    comes_true(|| ask(broker, b"ping\n"), &b"ossec_not_found\n".to_vec());
}

#[test]
fn no_answer_is_older_than_its_question() {
    let (mut socket, remoted) = receiver();
    let broker = free_port(0);
    let _server = server(broker, remoted);
    wait_until_listening(broker);
    for _ in 0..4 {
        // The server may have looked a moment ago.
        comes_true(|| ask(broker, b"ping"), &b"pong".to_vec());
        drop(socket);
        wait_until("the socket is gone", || {
            let sockets = std::fs::read_to_string("/proc/net/udp").expect("the kernel's table");
            let is_held = sockets.contains(&format!(": 0100007F:{remoted:04X} "));
            if is_held { Err(sockets) } else { Ok(()) }
        });
        assert_eq!(ask(broker, b"ping"), b"ossec_not_found");
        socket = UdpSocket::bind(("127.0.0.1", remoted)).expect("the port is free");
    }
}

/// The answers to one client are a gap apart, however fast it asks.
#[test]
fn a_client_that_asks_as_fast_as_it_can_is_answered_no_sooner_than_the_gap() {
    const PINGS: u64 = 16;
    let (_receiver, remoted) = receiver();
    let broker = free_port(0);
    let _server = server(broker, remoted);
    wait_until_listening(broker);
    let mut connection = TcpStream::connect(("127.0.0.1", broker)).expect("the server listens");
    connection.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    say(&mut connection, &Frame::Hello(hello()));
    let mut input = Assembler::default();
    let Frame::Welcome(_) = next_frame(&mut connection, &mut input).0 else { panic!("a greeting comes first") };
    let mut pings = Vec::new();
    for number in 1..=PINGS {
        Frame::Ping(Ping { number, ..Ping::default() }).encode(&mut pings);
    }
    let begun = ossec_broker::os::net::now();
    connection.write_all(&pings).expect("written");
    let mut gap = Duration::MAX;
    for number in 1..=PINGS {
        let Frame::Pong(pong) = next_frame(&mut connection, &mut input).0 else { panic!("only pongs come") };
        assert_eq!(pong.number, number, "in order");
        gap = gap.min(Duration::from_micros(pong.gap_us.into()));
    }
    let took = ossec_broker::os::net::now().since(begun);
    assert!(took >= (PINGS as u32 - 1) * gap, "{PINGS} answers after {took:?}, with a gap of {gap:?}");
}

fn hello() -> Hello {
    Hello { version: VERSION, features: Features::NONE, stream: 1, interval_ms: 1_000, target: Target::NONE }
}

#[test]
fn garbage_is_cut_off_and_harms_nobody() {
    let (_receiver, remoted) = receiver();
    let broker = free_port(0);
    let _server = server(broker, remoted);
    wait_until_listening(broker);
    let mut silent = Vec::new();
    for garbage in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 5_000], &[0, 0, 0, 5, 1, 2, 3, 4, 5], &[0, 0, 0, 1, 4], b"pinging"]
    {
        assert_eq!(ask(broker, garbage), b"", "{garbage:?}");
        silent.push(TcpStream::connect(("127.0.0.1", broker)).expect("the server listens"));
    }
    assert_eq!(ask(broker, b"ping"), b"pong");
}

#[test]
fn check_tells_up_down_and_unreachable_apart() {
    let (receiver, remoted) = receiver();
    let broker = free_port(0);
    let check = || {
        let output = Command::new(BROKER)
            .args(["check", "--broker", &format!("127.0.0.1:{broker}")])
            .output()
            .expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, text) = check();
    assert!(code == Some(2) && text.starts_with("unreachable: "), "{text}");
    let _server = server(broker, remoted);
    wait_until_listening(broker);
    assert_eq!(check(), (Some(0), "up\n".into()));
    drop(receiver);
    comes_true(check, &(Some(1), "down: remoted no socket\n".into()));
}

#[test]
fn a_port_that_is_taken_fails_at_start_with_the_likely_cause() {
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let listen = taken.local_addr().expect("an address").to_string();
    let output = Command::new(BROKER)
        .args(["client", "--server", "127.0.0.1:9", "--listen", &listen])
        .output()
        .expect("it runs");
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(log.contains(&format!("cannot bind {listen}: address in use")), "{log}");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let listen = taken.local_addr().expect("an address").to_string();
    let output = Command::new(BROKER).args(["server", "--listen", &listen]).output().expect("it runs");
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(log.contains(&format!("cannot bind {listen}: address in use")), "{log}");
}

#[test]
fn wrong_arguments_end_with_2_and_help_with_0() {
    for (arguments, code) in
        [(vec!["client"], 2), (vec!["--help"], 0), (vec!["client", "--server", "a", "--interval", "x"], 2)]
    {
        let output = Command::new(BROKER).args(&arguments).output().expect("it runs");
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
    }
}

#[test]
fn a_client_that_would_send_to_itself_says_so_however_its_addresses_are_written() {
    let port = free_port(0);
    for (listen, server) in
        [("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "[::ffff:127.0.0.1]"), ("[::ffff:127.0.0.1]", "0.0.0.0")]
    {
        let (listen, server) = (format!("{listen}:{port}"), format!("{server}:{port}"));
        let mut client = Role::start(&["client", "--listen", &listen, "--server", &server]);
        let said = client.lines().iter().find(|line| line.contains("comes back"));
        assert!(said.is_some(), "--listen {listen} --server {server}");
        let ended = client.0.as_mut().map(|child| child.wait().expect("it ends"));
        assert_eq!(ended.and_then(|status| status.code()), Some(1));
    }
    // A name may mean something else tomorrow: the client holds.
    let (broker, name) = (free_port(0), format!("localhost:{port}"));
    let _remoted = UdpSocket::bind(("127.0.0.2", port)).expect("a socket");
    let _server = server(broker, port);
    wait_until_listening(broker);
    let (listen, broker) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{broker}"));
    let mut client = Role::start(&["client", "--listen", &listen, "--server", &name, "--broker", &broker]);
    let said = client.lines().iter().find(|line| line.contains("link down") && line.contains("comes back"));
    assert!(said.is_some(), "it sends to itself");
}
