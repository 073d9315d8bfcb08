//! The output of a process on standard output and standard error, and its behaviour when nobody reads that.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Output, Stdio};

use ossec_broker::logging;

use crate::{BROKER, DEADLINE, Role, ask, free_port, receiver, wait_until_listening};

/// A standard error that takes nothing more, the end that nobody reads, and the bytes in the pipe. With `refuses`, the
/// pipe says that it is full; otherwise its writer waits.
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
        // Each connection makes a line, and together the lines are more than may wait for a reader. So many
        // connections at a time are not too many for one address.
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

fn full_disk() -> Stdio {
    File::options().write(true).open("/dev/full").expect("Linux has it").into()
}

fn pipe_without_reader() -> Stdio {
    OwnedFd::from(UnixStream::pair().expect("a pair").0).into()
}

fn run_with(arguments: &[&str], out: Stdio, log: Stdio) -> Output {
    let mut command = Command::new(BROKER);
    let child = command.args(arguments).stdin(Stdio::null()).stdout(out).stderr(log).spawn();
    child.and_then(Child::wait_with_output).expect("it runs")
}

#[test]
fn what_cannot_be_printed_is_an_error_and_no_panic() {
    for arguments in [&["--help"][..], &["genkey"], &["check", "--broker", "127.0.0.1:9"], &["client", "--help"]] {
        for (out, why) in [(full_disk as fn() -> Stdio, "No space left"), (pipe_without_reader, "Broken pipe")] {
            let output = run_with(arguments, out(), Stdio::piped());
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
            assert!(text.contains(&format!("cannot write to standard output: {why}")), "{arguments:?}: {text}");
            assert!(text.lines().count() == 1 && !text.contains("panicked"), "{arguments:?}: {text}");
            assert_eq!(run_with(arguments, out(), out()).status.code(), Some(1), "{arguments:?}");
        }
    }
    assert_eq!(run_with(&["--nonsense"], Stdio::null(), full_disk()).status.code(), Some(2));
}

#[test]
fn check_says_what_came_of_an_address_if_it_is_to_say_more() {
    let output = run_with(&["check", "-v", "--broker", "127.0.0.1:9"], Stdio::piped(), Stdio::piped());
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(log.contains("DEBUG 127.0.0.1:9: Connection refused"), "{log}");
}

#[test]
fn the_environment_says_what_is_logged_unless_the_command_line_does() {
    let log = |level: &str, more: &[&str]| {
        let listen = format!("127.0.0.1:{}", free_port(0));
        let mut command = Command::new(BROKER);
        // The server fails at once, with one line.
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
        // These tests may themselves have been started with nohup.
        let start = if protected { "trap '' HUP; exec" } else { "exec env --default-signal=HUP" };
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{start} {BROKER} server {options}")]);
        let child = shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let server = Role(Some(child.expect("a shell")));
        wait_until_listening(broker);
        let pid = server.0.as_ref().expect("it runs").id().to_string();
        assert!(Command::new("kill").args(["-HUP", &pid]).status().expect("kill").success());
        if protected {
            // A stop would have shown within this time.
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

/// The test below runs this in a process of its own.
#[test]
#[ignore = "part of another test"]
fn a_process_that_panics() {
    let _log = logging::start(0);
    log::warn!("before");
    panic!("on purpose");
}

#[test]
fn a_panic_is_a_line_of_the_log_behind_all_that_was_logged_before() {
    let mut command = Command::new(std::env::current_exe().expect("a test knows itself"));
    let output = command.args(["--ignored", "--exact", "logs::a_process_that_panics"]).output().expect("it runs");
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    let [before, panicked, ..] = log.lines().collect::<Vec<_>>()[..] else { panic!("{log}") };
    assert!(before.ends_with(" WARN  before"), "{log}");
    let line = " ERROR the thread logs::a_process_that_panics panicked at ";
    assert!(panicked.contains(line) && panicked.ends_with(": on purpose"), "{log}");
}

#[test]
fn lines_have_a_priority_where_journald_reads_them_and_the_time_elsewhere() {
    let path = std::env::temp_dir().join(format!("ossec-broker-log-{}", std::process::id()));
    let log = |stream: &str| {
        let file = File::create(&path).expect("a file");
        let metadata = file.metadata().expect("it is there");
        let stream = stream.replace("own", &format!("{}:{}", metadata.dev(), metadata.ino()));
        let mut command = Command::new(BROKER);
        command.args(["server", "--psk-file", "/nowhere/at/all"]).env("JOURNAL_STREAM", stream);
        command.stdin(Stdio::null()).stderr(file).status().expect("it runs");
        fs::read_to_string(&path).expect("a text")
    };
    let (journald, elsewhere) = (log("own"), log("1:2"));
    fs::remove_file(&path).expect("it is there");
    assert!(journald.starts_with("<3>there is no key"), "{journald}");
    assert!(elsewhere.contains("Z ERROR there is no key"), "{elsewhere}");
}
