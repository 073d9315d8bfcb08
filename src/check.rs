//! One heartbeat, for people and monitoring: what does the broker server say at this moment?

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;

use crate::os::keyfile::{self, KeyError};
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

/// The settings of a check.
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

/// What the server says of remoted: one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer(Pong);

impl Answer {
    /// remoted is up.
    pub fn is_up(&self) -> bool {
        self.0.verdict == Verdict::Up
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.verdict, self.0.pid) {
            (Verdict::Up, 0) => f.write_str("up"),
            (Verdict::Up, pid) => write!(f, "up: process {pid}"),
            (verdict, _) => write!(f, "down: remoted {verdict}"),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum Error {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("unreachable: {0}: {why}", why = explain(.1))]
    Unreachable(HostPort, #[source] io::Error),
}

fn explain(error: &io::Error) -> String {
    if is_timeout(error) { format!("no answer within {PATIENCE:?}") } else { error.to_string() }
}

/// The system's words for a read or a connection that has taken too long.
fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Asks once.
///
/// # Errors
/// The key cannot be used, or the server does not answer.
pub fn run(config: &Config) -> Result<Answer, Error> {
    let key = config.psk_file.as_deref().map(keyfile::load).transpose()?;
    let pong = ask(&config.broker, key.as_ref());
    pong.map(Answer).map_err(|why| Error::Unreachable(config.broker.clone(), why))
}

/// Asks all addresses, one a little after the other. The first answer counts. The threads that are left behind are not
/// waited for: resolving and connecting cannot be interrupted, and the process ends.
fn ask(broker: &HostPort, key: Option<&Key>) -> io::Result<Pong> {
    let until = net::now() + PATIENCE;
    let addresses = resolve(broker, until)?;
    let (answer, answers) = bounded(addresses.len());
    let (mut unasked, mut asked) = (addresses.iter(), 0_usize);
    let mut last = io::Error::from(ErrorKind::TimedOut);
    loop {
        if let Some(&address) = unasked.next() {
            start(address, key, until, answer.clone())?;
            asked += 1;
        }
        let Ok(left) = left(until) else {
            return Err(last);
        };
        let wait = if unasked.len() > 0 { SPACING.min(left) } else { left };
        match answers.recv_timeout(wait) {
            Ok(Ok(pong)) => return Ok(pong),
            Ok(Err(why)) => {
                asked -= 1;
                // A server that says why is of more use than a silent one.
                if !is_timeout(&why) {
                    last = why;
                }
            }
            Err(_) => {}
        }
        if asked == 0 && unasked.len() == 0 {
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
    let late = |_| io::Error::other(format!("the name is not resolved within {PATIENCE:?}"));
    let mut addresses = addresses.recv_timeout(left(until)?).map_err(late)??;
    addresses.truncate(ADDRESSES_MAX);
    Ok(addresses)
}

fn start(address: SocketAddr, key: Option<&Key>, until: Time, answer: Sender<io::Result<Pong>>) -> io::Result<()> {
    let key = key.cloned();
    detach("ask", move || {
        let outcome = Conversation::begin(address, key.as_ref(), until).and_then(Conversation::hear);
        match &outcome {
            Ok(_) => log::debug!("{address} answers"),
            Err(why) => log::debug!("{address}: {why}"),
        }
        let _ = answer.send(outcome);
    })
}

/// The time that is left, or the error that none is.
fn left(until: Time) -> io::Result<Duration> {
    let left = until.since(net::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// A connection on which one heartbeat is sent.
struct Conversation {
    stream: TcpStream,
    seal: Seal,
    /// Frames that wait for the end of the handshake.
    unsealed: Vec<u8>,
    /// Bytes to be written.
    out: Vec<u8>,
    assembler: Assembler,
    /// Why no more can be written. A server that refuses may have reset the connection by now; the words before that
    /// can still be read.
    ended: Option<io::Error>,
    until: Time,
}

impl Conversation {
    fn begin(address: SocketAddr, key: Option<&Key>, until: Time) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        let ended = match socket.connect_timeout(&address.into(), left(until)?) {
            Ok(()) => None,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Some(error),
            Err(error) => return Err(error),
        };
        let (features, target, stream) = (Features::NONE, Target::NONE, net::random());
        let (mut out, mut unsealed) = (Vec::new(), Vec::new());
        let mut seal = Seal::client(key, &mut out);
        Frame::Hello(Hello { version: VERSION, features, stream, interval_ms: 1_000, target }).encode(&mut unsealed);
        Frame::Ping(Ping { number: 1, ..Ping::default() }).encode(&mut unsealed);
        seal.seal(&mut unsealed, &mut out);
        Ok(Self { stream: socket.into(), seal, unsealed, out, assembler: Assembler::default(), ended, until })
    }

    /// Waits for the answer.
    fn hear(mut self) -> io::Result<Pong> {
        loop {
            self.stream.set_write_timeout(Some(left(self.until)?))?;
            if let Err(error) = self.stream.write_all(&std::mem::take(&mut self.out)) {
                self.ended.get_or_insert(error);
            }
            match self.assembler.next_frame().map_err(io::Error::other)? {
                Some(Frame::Pong(pong)) => return Ok(pong),
                Some(Frame::Refusal(refusal)) => return Err(io::Error::other(refusal.text)),
                Some(_) => {}
                None => self.read()?,
            }
        }
    }

    fn read(&mut self) -> io::Result<()> {
        let mut read = [0; 1_024];
        self.stream.set_read_timeout(Some(left(self.until)?))?;
        match self.stream.read(&mut read) {
            Ok(0) => Err(self.ended.take().unwrap_or_else(|| io::Error::other("it closed the connection"))),
            Ok(bytes) => {
                self.seal.open(&read[..bytes], &mut self.assembler, &mut self.out).map_err(io::Error::other)?;
                // The frames that waited for the handshake go out with its end.
                self.seal.seal(&mut self.unsealed, &mut self.out);
                Ok(())
            }
            Err(error) => Err(self.ended.take().unwrap_or(error)),
        }
    }
}
