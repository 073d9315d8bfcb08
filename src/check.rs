//! One heartbeat, for people and monitoring: what does the broker server say at this moment?

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use socket2::{Domain, Protocol, Socket, Type};

use crate::os::keyfile;
use crate::os::net::{self, HostPort};
use crate::os::threads::detach;
use crate::proto::seal::{Key, Seal};
use crate::proto::terms::{BROKER_PORT, Verdict};
use crate::proto::time::Time;
use crate::proto::wire::{Assembler, Features, Frame, Hello, Ping, Pong, Target, VERSION};

/// How long all of it may take: the name, the connection, the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between the starts at two addresses of a name, unless the one before has failed (RFC 8305, section 5).
const SPACING: Duration = Duration::from_millis(250);
/// Addresses that are asked.
const ADDRESSES_MAX: usize = 16;

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Config {
    /// The broker server.
    pub broker: HostPort,
    /// The file with the key.
    pub psk_file: Option<PathBuf>,
}

impl Default for Config {
    /// Everything but the server's host, which has no default and stays empty.
    fn default() -> Self {
        Self { broker: HostPort { host: String::new(), port: BROKER_PORT }, psk_file: None }
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// remoted is up.
    Up(String),
    /// The server answers, and remoted is not up.
    Down(String),
    /// The server does not answer.
    Unreachable(String),
}

/// Asks once. The text is one line for standard output.
pub fn run(config: &Config) -> Answer {
    let key = match config.psk_file.as_deref().map(keyfile::load).transpose() {
        Ok(key) => key,
        Err(why) => return Answer::Unreachable(why.to_string()),
    };
    match ask(&config.broker, key.as_ref()) {
        Ok(Pong { verdict: Verdict::Up, pid, .. }) if pid > 0 => Answer::Up(format!("up: process {pid}")),
        Ok(Pong { verdict: Verdict::Up, .. }) => Answer::Up("up".into()),
        Ok(Pong { verdict, .. }) => Answer::Down(format!("down: remoted {verdict}")),
        Err(error) if is_timeout(&error) => {
            Answer::Unreachable(format!("unreachable: {}: no answer within {PATIENCE:?}", config.broker))
        }
        Err(error) => Answer::Unreachable(format!("unreachable: {}: {error}", config.broker)),
    }
}

/// What the system calls it when a read or a connection has taken too long.
fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Asks all addresses, one a little after the other. The first answer counts. Nobody waits for a thread that is left
/// behind: resolving and connecting cannot be interrupted, and the process ends.
fn ask(broker: &HostPort, key: Option<&Key>) -> io::Result<Pong> {
    let until = net::now() + PATIENCE;
    let addresses = resolve(broker, until)?;
    let (answer, answers) = bounded(addresses.len());
    let (mut waiting, mut asked) = (addresses.iter(), 0_usize);
    let mut last = io::Error::from(io::ErrorKind::TimedOut);
    loop {
        if let Some(&address) = waiting.next() {
            start(address, key, until, answer.clone())?;
            asked += 1;
        }
        let Ok(left) = left(until) else {
            return Err(last);
        };
        let wait = if waiting.len() > 0 { SPACING.min(left) } else { left };
        match answers.recv_timeout(wait) {
            Ok(Ok(pong)) => return Ok(pong),
            Ok(Err(error)) => {
                asked -= 1;
                // One that says why is of more use than one that says nothing.
                if !is_timeout(&error) {
                    last = error;
                }
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        if asked == 0 && waiting.len() == 0 {
            return Err(last);
        }
    }
}

fn resolve(broker: &HostPort, until: Time) -> io::Result<Vec<SocketAddr>> {
    let (found, addresses) = bounded(1);
    let name = broker.clone();
    detach("resolve", move || {
        let _ = found.send(name.resolve());
    })?;
    let mut addresses = match addresses.recv_timeout(left(until)?) {
        Ok(resolved) => resolved?,
        Err(_) => return Err(io::Error::other(format!("the name is not resolved within {PATIENCE:?}"))),
    };
    addresses.truncate(ADDRESSES_MAX);
    Ok(addresses)
}

fn start(address: SocketAddr, key: Option<&Key>, until: Time, answer: Sender<io::Result<Pong>>) -> io::Result<()> {
    let key = key.cloned();
    detach("ask", move || {
        let outcome = ask_at(address, key.as_ref(), until);
        match &outcome {
            Ok(_) => log::debug!("{address} answers"),
            Err(error) => log::debug!("{address}: {error}"),
        }
        let _ = answer.send(outcome);
    })
}

/// What is left of the time, or the error that says that nothing is.
fn left(until: Time) -> io::Result<Duration> {
    let left = until.since(net::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn ask_at(address: SocketAddr, key: Option<&Key>, until: Time) -> io::Result<Pong> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A server that refuses may have reset the connection by now. What it said before that can still be read.
    let mut ended = match socket.connect_timeout(&address.into(), left(until)?) {
        Ok(()) => None,
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Some(error),
        Err(error) => return Err(error),
    };
    let mut stream = TcpStream::from(socket);
    let hello = Hello {
        version: VERSION,
        features: Features::NONE,
        stream: net::random(),
        interval_ms: 1_000,
        target: Target::NONE,
    };
    let (mut out, mut unsealed) = (Vec::new(), Vec::new());
    let mut seal = Seal::client(key, &mut out);
    Frame::Hello(hello).encode(&mut unsealed);
    Frame::Ping(Ping { number: 1, ..Ping::default() }).encode(&mut unsealed);
    seal.seal(&mut unsealed, &mut out);
    let (mut assembler, mut read) = (Assembler::default(), [0; 1_024]);
    loop {
        let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
        stream.set_write_timeout(Some(left(until)?))?;
        if let Err(error) = stream.write_all(&std::mem::take(&mut out)) {
            ended.get_or_insert(error);
        }
        match assembler.next_frame().map_err(|error| invalid(error.to_string()))? {
            Some(Frame::Pong(pong)) => return Ok(pong),
            Some(Frame::Refusal(refusal)) => return Err(invalid(refusal.text)),
            Some(_) => continue,
            None => {}
        }
        stream.set_read_timeout(Some(left(until)?))?;
        match stream.read(&mut read) {
            Ok(0) => {
                let closed = || io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection");
                return Err(ended.unwrap_or_else(closed));
            }
            Ok(bytes) => {
                let opened = seal.open(&read[..bytes], &mut assembler, &mut out);
                opened.map_err(|error| invalid(error.to_string()))?;
                // With the handshake done, what waited for it goes out.
                seal.seal(&mut unsealed, &mut out);
            }
            Err(error) => return Err(ended.unwrap_or(error)),
        }
    }
}
