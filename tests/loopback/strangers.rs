//! Answers to a client from peers that it cannot use as a broker server: a server of another version, a server that
//! refuses, and another program on that port.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use ossec_broker::os::net;
use ossec_broker::proto::terms::Verdict;
use ossec_broker::proto::wire::{Features, Frame, Notice, Refusal, VERSION, Welcome};
use socket2::SockRef;

use crate::{BROKER, DEADLINE, Role, free_port, say, uninterrupted, wait_until};

/// Half of the pause after a refusal: its random part may take the rest away.
const PAUSE_MIN: Duration = Duration::from_millis(2_500);

/// A client of the program that listens there, and the lines that it logs.
fn client_of(listener: &TcpListener) -> (Role, Receiver<String>) {
    let [listen, broker] =
        [free_port(0), listener.local_addr().expect("it is bound").port()].map(|port| format!("127.0.0.1:{port}"));
    let options = ["--server", "127.0.0.1:9", "--broker", &broker, "--listen", &listen, "--source-port", "0"];
    let mut client = Role::start(&[&["client", "-v"], &options[..]].concat());
    let lines = client.lines();
    (client, lines)
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a free port")
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (connection, _) = uninterrupted(|| listener.accept()).expect("the client connects");
    connection.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    connection
}

fn refuse_and_reset(mut connection: TcpStream) {
    say(&mut connection, &Frame::Refusal(Refusal { text: "not today".into() }));
    SockRef::from(&connection).set_linger(Some(Duration::ZERO)).expect("an option");
}

/// Ends so many connections with `end`, and expects that the next connection comes after a pause.
fn expect_pause_after(connections: usize, end: impl Fn(TcpStream)) {
    let listener = listener();
    let (_client, _lines) = client_of(&listener);
    for _ in 0..connections {
        end(accept(&listener));
    }
    let ended = net::now();
    drop(accept(&listener));
    let pause = net::now().since(ended);
    assert!(pause >= PAUSE_MIN, "the next one came after {pause:?}");
}

#[test]
fn a_server_of_another_version_is_not_asked_again_at_once() {
    expect_pause_after(1, |mut connection| {
        say(&mut connection, &Frame::Welcome(Welcome { version: VERSION + 1, features: Features::NONE }));
        // This waits until the client has closed the connection.
        let _ = connection.read_to_end(&mut Vec::new());
    });
}

#[test]
fn a_port_whose_owner_hangs_up_on_greetings_is_asked_slowly_from_the_third_time_on() {
    expect_pause_after(3, |mut connection| {
        // A web server takes the greeting for a bad request.
        let _ = connection.read(&mut [0; 64]);
    });
}

#[test]
fn a_refusal_is_heard_although_a_reset_follows_it() {
    for _ in 0..5 {
        let listener = listener();
        let (_client, lines) = client_of(&listener);
        refuse_and_reset(accept(&listener));
        let told = loop {
            let line = lines.recv_timeout(DEADLINE).expect("it says why");
            if line.contains("attempt failed") {
                break line;
            }
        };
        assert!(told.ends_with("refuses: not today"), "{told}");
    }
}

#[test]
fn check_tells_a_refusal_although_a_reset_follows_it() {
    let listener = listener();
    let at = listener.local_addr().expect("it is bound").to_string();
    for _ in 0..40 {
        let mut command = Command::new(BROKER);
        command.args(["check", "--broker", &at]).stdout(Stdio::piped());
        let check = command.spawn().expect("it starts");
        refuse_and_reset(accept(&listener));
        let output = check.wait_with_output().expect("it ends");
        let told = String::from_utf8_lossy(&output.stdout);
        assert_eq!(told.trim_end(), format!("unreachable: {at}: not today"));
    }
}

#[test]
fn check_ends_although_the_server_goes_on_saying_something_else() {
    let listener = listener();
    let at = listener.local_addr().expect("it is bound").to_string();
    let mut check = Role::start(&["check", "--broker", &at]);
    let mut connection = accept(&listener);
    say(&mut connection, &Frame::Welcome(Welcome { version: VERSION, features: Features::NONE }));
    let mut notice = Vec::new();
    Frame::Notice(Notice { verdict: Verdict::Stopped }).encode(&mut notice);
    let status = wait_until("check ends", || {
        // The next frame comes before the patience for any single frame is over.
        let _ = connection.write_all(&notice);
        check.has_ended().ok_or_else(|| "it goes on".to_owned())
    });
    assert_eq!(status.code(), Some(2));
}
