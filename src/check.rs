//! One heartbeat, for people and monitoring: what does the broker server say at this moment?

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crossbeam_channel::bounded;
use mio::{Poll, Token};
use thiserror::Error;

use crate::os::keyfile::{self, KeyError};
use crate::os::net::framed::{Broken, Filled, Framed};
use crate::os::net::{self, HostPort};
use crate::os::threads::{Cause, Wait, detach};
use crate::proto::seal::Key;
use crate::proto::terms::Verdict;
use crate::proto::wire::{Features, Frame, Hello, Ping, Pong, Target, VERSION};

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

/// What the server says of remoted: one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer(Pong);

impl Answer {
    /// Whether remoted is up.
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
    #[error("unreachable: {0}: {1}")]
    Unreachable(HostPort, #[source] Cause),
}

/// Asks once.
pub fn run(config: &Config) -> Result<Answer, Error> {
    let key = config.psk_file.as_deref().map(keyfile::load_first).transpose()?;
    let pong = ask(&config.broker, key.as_ref());
    pong.map(Answer).map_err(|why| Error::Unreachable(config.broker.clone(), why))
}

/// Asks all addresses, one a little after the other. The first answer counts.
fn ask(broker: &HostPort, key: Option<&Key>) -> Result<Pong, Cause> {
    let mut now = net::now();
    let until = now + PATIENCE;
    let mut unasked = resolve(broker)?.into_iter().take(ADDRESSES_MAX);
    let (mut wait, _bell) = Wait::new("the servers' answers", ADDRESSES_MAX)?;
    let mut calls: Vec<(SocketAddr, Result<Framed, Broken>)> = Vec::new();
    let mut next_start = now;
    let mut why = Cause::from(format!("no answer within {PATIENCE:?}"));
    loop {
        if next_start <= now
            && let Some(address) = unasked.next()
        {
            calls.push((address, call(address, key, wait.poll())));
            next_start = now + SPACING;
        }
        let mut wake = if unasked.len() > 0 { until.min(next_start) } else { until };
        for (address, call) in std::mem::take(&mut calls) {
            match call.and_then(hear) {
                Ok(Heard::Pong(pong)) => {
                    log::debug!("{address} answers");
                    return Ok(pong);
                }
                Ok(Heard::Nothing(framed, filled)) => {
                    // The socket does not tell of bytes that are left to read.
                    if filled == Filled::More {
                        wake = now;
                    }
                    calls.push((address, Ok(framed)));
                }
                Err(error) => {
                    log::debug!("{address}: {error}");
                    (next_start, wake) = (now, now);
                    // A server that says why is of more use than a silent one.
                    if !matches!(&error, Broken::Io(error) if error.kind() == ErrorKind::TimedOut) {
                        why = error.into();
                    }
                }
            }
        }
        if until <= now || calls.is_empty() && unasked.len() == 0 {
            return Err(why);
        }
        wait.wait(Some(wake.since(now)))?;
        now = net::now();
    }
}

/// The addresses of the broker. The thread is not waited for: resolving cannot be interrupted, and the process ends.
fn resolve(broker: &HostPort) -> Result<Vec<SocketAddr>, Cause> {
    let (found, addresses) = bounded(1);
    let name = broker.clone();
    detach("resolve", move || {
        let _ = found.send(name.resolve());
    })?;
    let late = |_| format!("the name is not resolved within {PATIENCE:?}");
    Ok(addresses.recv_timeout(PATIENCE).map_err(late)??)
}

/// Begins a connection on which one heartbeat is sent.
fn call(address: SocketAddr, key: Option<&Key>, poll: &Poll) -> Result<Framed, Broken> {
    let mut framed = Framed::client(net::dial(address, None, None)?, key);
    let (features, target, stream) = (Features::NONE, Target::NONE, net::random());
    let (_, out) = framed.ends();
    Frame::Hello(Hello { version: VERSION, features, stream, interval_ms: 1_000, target }).encode(out);
    Frame::Ping(Ping { number: 1, ..Ping::default() }).encode(out);
    framed.watch(poll.registry(), Token(0))?;
    Ok(framed)
}

enum Heard {
    Pong(Pong),
    Nothing(Framed, Filled),
}

/// Does what the connection is ready for. A server that refuses may have reset it by now; the words before that can
/// still be read.
fn hear(mut framed: Framed) -> Result<Heard, Broken> {
    let written = framed.flush();
    let filled = framed.fill();
    while let Some(frame) = framed.next_frame()? {
        match frame {
            Frame::Pong(pong) => return Ok(Heard::Pong(pong)),
            Frame::Refusal(refusal) => return Err(io::Error::other(refusal.text).into()),
            _ => {}
        }
    }
    match filled {
        Ok(Filled::Ended) => written.and(Err(io::Error::other("it closed the connection").into())),
        Ok(filled) => written.map(|()| Heard::Nothing(framed, filled)),
        Err(Broken::Io(error)) => written.and(Err(error.into())),
        Err(broken) => Err(broken),
    }
}
