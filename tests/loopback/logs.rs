//! What a process says on standard output and standard error, and what it does when nobody reads that.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Output, Stdio};

use crate::{BROKER, DEADLINE, Role, ask, free_port, receiver, wait_until_listening};

/// A standard error that takes nothing more, and the end that nobody reads. `refuses`: it says so instead of having its writer wait.
fn full_pipe(refuses: bool) -> (Stdio, UnixStream, usize) {
    let (mut writer, reader) = UnixStream::pair().expect("a pair");
    writer.set_nonblocking(true).expect("it can be set");
    let mut filled = 0;
    loop {
        match writer.write(&[b'\n'; 64]) {
            Ok(length) => filled += length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    writer.set_nonblocking(refuses).expect("it can be set");
    reader.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    (OwnedFd::from(writer).into(), reader, filled)
}

fn server(broker: u16, remoted: u16, log: Stdio) -> Role {
    let (listen, remoted) = (format!("127.0.0.1:{broker}"), format!("127.0.0.1:{remoted}"));
    let mut command = Command::new(BROKER);
    command.args(["server", "-v", "--listen", &listen, "--remoted", &remoted, "--process", "any", "--settle", "0"]);
    Role(Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("it starts")))
}

#[test]
fn a_server_whose_log_nobody_reads_goes_on_and_tells_later_what_it_left_out() {
    for refuses in [false, true] {
        let (_receiver, remoted) = receiver();
        let broker = free_port(0);
        let (log, mut reader, filled) = full_pipe(refuses);
        let server = server(broker, remoted, log);
        wait_until_listening(broker);
        assert_eq!(ask(broker, b"ping\n"), b"pong\n");
        // Each of them is a line, and together they are more than wait for a reader. So many at a time are not too many of one address.
        for _ in 0..5 {
            for _ in 0..300 {
                drop(TcpStream::connect(("127.0.0.1", broker)).expect("it takes connections"));
            }
            assert_eq!(ask(broker, b"ping\n"), b"pong\n", "it has noticed all that were closed before");
        }
        reader.read_exact(&mut vec![0; filled]).expect("what was in the pipe before");
        let mut lines = BufReader::new(reader).lines().map(|line| line.expect("text"));
        let first = lines.next().expect("a line");
        assert!(first.contains(" without a key") || first.contains("listening on"), "{first}");
        let note = lines.find(|line| line.contains(" left out: ")).expect("it says what is missing");
        assert!(note.contains(" WARN ") && note.contains("standard error was not read"), "{note}");
        let log = server.stop();
        assert!(log.status.success());
        assert!(lines.any(|line| line.ends_with(" stopping")), "the last line comes, too");
    }
}

#[test]
fn a_stop_does_not_wait_for_whoever_does_not_read_the_log() {
    let (_receiver, remoted) = receiver();
    let broker = free_port(0);
    let (log, _reader, _) = full_pipe(false);
    let server = server(broker, remoted, log);
    wait_until_listening(broker);
    assert!(server.stop().status.success());
}

/// Runs it with standard output that takes nothing.
fn with_full_disk(arguments: &[&str], log: Stdio) -> Output {
    let full = File::options().write(true).open("/dev/full").expect("Linux has it");
    let mut command = Command::new(BROKER);
    let child = command.args(arguments).stdin(Stdio::null()).stdout(full).stderr(log).spawn();
    child.and_then(Child::wait_with_output).expect("it runs")
}

#[test]
fn what_cannot_be_printed_is_an_error_and_no_panic() {
    for arguments in [&["--help"][..], &["genkey"], &["check", "--broker", "127.0.0.1:9"], &["client", "--help"]] {
        let output = with_full_disk(arguments, Stdio::piped());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
        assert!(text.contains("cannot write to standard output: No space left"), "{arguments:?}: {text}");
        assert!(text.lines().count() == 1 && !text.contains("panicked"), "{arguments:?}: {text}");
        let full = File::options().write(true).open("/dev/full").expect("Linux has it");
        assert_eq!(with_full_disk(arguments, full.into()).status.code(), Some(1), "{arguments:?}");
    }
    let full = File::options().write(true).open("/dev/full").expect("Linux has it");
    assert_eq!(with_full_disk(&["--nonsense"], full.into()).status.code(), Some(2));
}

#[test]
fn the_environment_says_what_is_logged_unless_the_command_line_does() {
    let log = |level: &str, more: &[&str]| {
        let listen = format!("127.0.0.1:{}", free_port(0));
        let mut command = Command::new(BROKER);
        // It fails at once, with one line.
        command.args(["server", "--listen", &listen, "--psk-file", "/nowhere/at/all"]).args(more);
        let output = command.env("RUST_LOG", level).stdin(Stdio::null()).output().expect("it runs");
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let text = log("error", &[]);
    assert!(text.lines().count() == 1 && text.contains("ERROR there is no key"), "{text}");
    assert_eq!(log("off", &[]), "");
    assert!(log("off", &["-v"]).contains("ERROR there is no key"));
    let text = log("ossec_broker=loud", &[]);
    assert!(text.contains(" WARN  RUST_LOG is not understood") && text.contains("ERROR"), "{text}");
}

#[test]
fn a_process_that_was_started_with_nohup_outlives_its_terminal() {
    for protected in [true, false] {
        let (_receiver, remoted) = receiver();
        let broker = free_port(0);
        let options = format!("--listen 127.0.0.1:{broker} --remoted 127.0.0.1:{remoted} --process any --settle 0");
        let nohup = if protected { "trap '' HUP; " } else { "" };
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{nohup}exec {BROKER} server {options}")]);
        let child = shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let server = Role(Some(child.expect("a shell")));
        wait_until_listening(broker);
        let pid = server.0.as_ref().expect("it runs").id().to_string();
        assert!(Command::new("kill").args(["-HUP", &pid]).status().expect("kill").success());
        if protected {
            // A stop would have come about meanwhile.
            for _ in 0..100 {
                assert_eq!(ask(broker, b"ping\n"), b"pong\n", "it serves on");
            }
            let output = server.stop();
            let log = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success() && log.contains(" stopping"), "{log}");
        } else {
            let output = { server }.0.take().expect("it runs").wait_with_output().expect("it ends");
            let log = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success() && log.contains(" stopping"), "{log}");
        }
    }
}
