//! A TCP connection that carries frames, without blocking.

use std::io::{self, ErrorKind, Read, Write};

use mio::event::Source;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use crate::wire::{Assembler, Frame, WireError};

/// What may wait to be written before the peer counts as one that does not read. Some hundreds of frames.
const UNWRITTEN_BYTES_MAX: usize = 64 * 1024;
/// Read at once. Frames are far smaller; one read usually empties the socket.
const READ_BYTES: usize = 4 * 1024;

/// Reads in a row: a peer that sends without end must not keep the thread from others.
const READS_MAX: usize = 16;

/// What reading has left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// Nothing: the socket tells when there is more.
    Dry,
    /// More: the socket will *not* tell, it has to be read again.
    More,
    /// The end: the peer has closed its side.
    Ended,
}

/// A stream of frames.
#[derive(Debug)]
pub struct Framed {
    stream: TcpStream,
    assembler: Assembler,
    unwritten: Vec<u8>,
}

/// Why a connection is of no more use.
#[derive(Debug)]
pub enum Broken {
    /// The peer closed it, or the network did.
    Io(io::Error),
    /// The peer speaks another protocol.
    Wire(WireError),
    /// The peer does not read what is sent to it.
    SlowReader,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) if error.kind() == ErrorKind::UnexpectedEof => f.write_str("closed by the peer"),
            Self::Io(error) => error.fmt(f),
            Self::Wire(error) => error.fmt(f),
            Self::SlowReader => f.write_str("the peer does not read"),
        }
    }
}

impl From<WireError> for Broken {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Framed {
    /// Takes a stream, connected or connecting.
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, assembler: Assembler::default(), unwritten: Vec::new() }
    }

    /// The connection below.
    pub const fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Reads what has come in, without waiting.
    pub fn fill(&mut self) -> Result<Filled, Broken> {
        let mut read = [0; READ_BYTES];
        for _ in 0..READS_MAX {
            match self.stream.read(&mut read) {
                Ok(0) => return Ok(Filled::Ended),
                Ok(bytes) => self.assembler.push(&read[..bytes]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Filled::Dry),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Filled::More)
    }

    /// What was read and not yet taken, and what is to be written; [`Self::flush`] writes it.
    pub const fn ends(&mut self) -> (&mut Assembler, &mut Vec<u8>) {
        (&mut self.assembler, &mut self.unwritten)
    }

    /// The next whole frame that was read.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, WireError> {
        self.assembler.next_frame()
    }

    /// Sends a frame, or keeps what the socket does not take.
    pub fn send(&mut self, frame: &Frame) -> Result<(), Broken> {
        frame.encode(&mut self.unwritten);
        self.flush()
    }

    /// Writes what is left to write, as far as the socket takes it.
    pub fn flush(&mut self) -> Result<(), Broken> {
        let mut written = 0;
        let outcome = loop {
            if written == self.unwritten.len() {
                break Ok(());
            }
            match self.stream.write(&self.unwritten[written..]) {
                Ok(bytes) => written += bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Not connected yet counts as full: the socket will say when it is writable.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => break Ok(()),
                Err(error) => break Err(error.into()),
            }
        };
        self.unwritten.drain(..written);
        if self.unwritten.len() > UNWRITTEN_BYTES_MAX { Err(Broken::SlowReader) } else { outcome }
    }
}

impl Source for Framed {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.stream.register(registry, token, interests)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.stream.reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.stream.deregister(registry)
    }
}
