//! One heartbeat, for people and monitoring: what does the broker server say at this moment?

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use crate::keyfile;
use crate::net::HostPort;
use crate::seal::{Key, Seal};
use crate::wire::{Assembler, Features, Frame, Hello, Ping, Pong, Target, VERSION, Verdict};

/// How long to wait for the server at each step.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Config {
    /// The broker server.
    pub broker: HostPort,
    /// The file with the key.
    pub psk_file: Option<PathBuf>,
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
        Err(why) => return Answer::Unreachable(why),
    };
    match ask(&config.broker, key.as_ref()) {
        Ok(Pong { verdict: Verdict::Up, pid, .. }) if pid > 0 => Answer::Up(format!("up: process {pid}")),
        Ok(Pong { verdict: Verdict::Up, .. }) => Answer::Up("up".into()),
        Ok(Pong { verdict, .. }) => Answer::Down(format!("down: remoted {verdict}")),
        // What the system calls it when a read has taken too long.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Answer::Unreachable(format!("unreachable: {}: no answer within {PATIENCE:?}", config.broker))
        }
        Err(error) => Answer::Unreachable(format!("unreachable: {}: {error}", config.broker)),
    }
}

fn ask(broker: &HostPort, key: Option<&Key>) -> io::Result<Pong> {
    let mut stream = connect(&broker.resolve()?)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let hello = Hello {
        version: VERSION,
        features: Features::NONE,
        stream: crate::net::random(),
        interval_ms: 1_000,
        target: Target::NONE,
    };
    let (mut out, mut unsealed) = (Vec::new(), Vec::new());
    let mut seal = Seal::client(key, &mut out);
    Frame::Hello(hello).encode(&mut unsealed);
    Frame::Ping(Ping { number: 1, ..Ping::default() }).encode(&mut unsealed);
    seal.seal(&mut unsealed, &mut out);
    stream.write_all(&out)?;
    let (mut assembler, mut read) = (Assembler::default(), [0; 1_024]);
    loop {
        let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
        match assembler.next_frame().map_err(|error| invalid(error.to_string()))? {
            Some(Frame::Pong(pong)) => return Ok(pong),
            Some(Frame::Refusal(refusal)) => return Err(invalid(refusal.text)),
            Some(_) => {}
            None => match stream.read(&mut read)? {
                0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection")),
                bytes => {
                    out.clear();
                    let opened = seal.open(&read[..bytes], &mut assembler, &mut out);
                    opened.map_err(|error| invalid(error.to_string()))?;
                    // With the handshake done, what waited for it goes out.
                    seal.seal(&mut unsealed, &mut out);
                    stream.write_all(&out)?;
                }
            },
        }
    }
}

/// Connects to the first address that answers.
fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match TcpStream::connect_timeout(address, PATIENCE) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}
