//! A TCP connection that carries frames, without blocking.

use std::io::{self, ErrorKind, Read, Write};
use std::net::IpAddr;
use std::time::Duration;

use mio::event::Source;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use nix::sys::socket::getsockopt;
use nix::{getsockopt_impl, setsockopt_impl, sockopt_impl};

use crate::proto::client::segments::Sent;
use crate::proto::seal::{Key, Seal, SealError};
use crate::proto::wire::{Assembler, Frame, WireError, give_back};

sockopt_impl!(
    /// How much may wait unsent in a TCP connection before it counts as full.
    NotsentLowat, SetOnly, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, u32
);
sockopt_impl!(
    /// The state of a TCP connection.
    TcpInfo, GetOnly, libc::IPPROTO_TCP, libc::TCP_INFO, TcpState
);

/// The beginning of the kernel's `struct tcp_info`, up to what Linux 4.1 tells: the kernel says how much it wrote,
/// and `nix` takes less than was asked for as an error of the program. So nothing is asked for that an older kernel
/// lacks; the structure that `libc` knows grows with each version.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct TcpState {
    _flags: [u8; 8],
    _timers: [u32; 2],
    /// Bytes in a segment.
    sent_mss: u32,
    _received_mss: u32,
    /// Segments that were sent and not acknowledged.
    unacknowledged: u32,
    _counts: [u32; 4],
    _ages: [u32; 3],
    /// Milliseconds since the newest acknowledgement came.
    last_acknowledgement: u32,
    /// Bytes in a packet of the path.
    path_mtu: u32,
    _estimates: [u32; 10],
    _pacing: [u64; 2],
    /// Bytes that were acknowledged, the connection's beginning included.
    bytes_acknowledged: u64,
}

/// What may wait to be written before the peer counts as one that does not read. Some hundreds of frames.
const UNWRITTEN_BYTES_MAX: usize = 256 * 1024;
/// Datagrams are added only up to here.
const CONGESTED_BYTES: usize = 32 * 1024;
/// No path has shorter segments, so less than this is no full one.
const SEGMENT_BYTES_MIN: u64 = 400;
/// Read at once.
const READ_BYTES: usize = 16 * 1024;

/// Reads in a row: a peer that sends without end must not keep the thread from others.
const READS_MAX: usize = 4;

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
    seal: Seal,
    assembler: Assembler,
    /// Frames to be sealed, and what is to be written.
    unsealed: Vec<u8>,
    unwritten: Vec<u8>,
    /// Bytes that the system gave.
    read: u64,
    /// Bytes that the system took.
    written: u64,
    /// ... before the first that were enough for a full segment, and how long that is.
    full: Option<(u64, u32)>,
}

/// Why a connection is of no more use.
#[derive(Debug)]
pub enum Broken {
    /// The peer closed it, or the network did.
    Io(io::Error),
    /// The peer speaks another protocol.
    Wire(WireError),
    /// The keys do not fit.
    Seal(SealError),
    /// The peer does not read what is sent to it.
    SlowReader,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) if error.kind() == ErrorKind::UnexpectedEof => f.write_str("closed by the peer"),
            Self::Io(error) => error.fmt(f),
            Self::Wire(error) => error.fmt(f),
            Self::Seal(error) => error.fmt(f),
            Self::SlowReader => f.write_str("the peer does not read"),
        }
    }
}

impl From<WireError> for Broken {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

impl From<SealError> for Broken {
    fn from(error: SealError) -> Self {
        Self::Seal(error)
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Framed {
    /// Takes a client's stream, connected or connecting.
    pub fn client(stream: TcpStream, key: Option<&Key>) -> Self {
        let mut unwritten = Vec::new();
        let seal = Seal::client(key, &mut unwritten);
        Self { unwritten, ..Self::new(stream, seal) }
    }

    /// Takes a stream that a server has accepted.
    pub fn server(stream: TcpStream, key: Option<Key>) -> Self {
        Self::new(stream, Seal::server(key))
    }

    fn new(stream: TcpStream, seal: Seal) -> Self {
        let (unsealed, unwritten) = (Vec::new(), Vec::new());
        let assembler = Assembler::default();
        Self { stream, seal, assembler, unsealed, unwritten, read: 0, written: 0, full: None }
    }

    /// Whether what comes in was sealed with the key.
    pub const fn is_sealed(&self) -> bool {
        self.seal.is_sealed()
    }

    /// Whether nobody between can have forged what comes in: it was sealed with the key, or does not leave this host.
    pub fn is_trusted(&self, peer: IpAddr) -> bool {
        self.is_sealed() || peer.to_canonical().is_loopback()
    }

    /// Bytes that have come in.
    pub const fn read(&self) -> u64 {
        self.read
    }

    /// The connection below.
    pub const fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Reads what has come in, without waiting. Frames that were read before an error are there all the same.
    pub fn fill(&mut self) -> Result<Filled, Broken> {
        let mut read = [0; READ_BYTES];
        for _ in 0..READS_MAX {
            match self.stream.read(&mut read) {
                Ok(0) => return Ok(Filled::Ended),
                Ok(bytes) => {
                    self.read += bytes as u64;
                    let opened = self.seal.open(&read[..bytes], &mut self.assembler, &mut self.unwritten);
                    // A step of the handshake, or why there is none. Where it cannot be written any more, the peer's
                    // last words may still be unread: reading goes on, and meets the end by itself.
                    let flushed = self.flush();
                    opened?;
                    if let Err(broken @ Broken::SlowReader) = flushed {
                        return Err(broken);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Filled::Dry),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Filled::More)
    }

    /// What was read and not yet taken, and what is to be written; [`Self::flush`] writes it.
    pub const fn ends(&mut self) -> (&mut Assembler, &mut Vec<u8>) {
        (&mut self.assembler, &mut self.unsealed)
    }

    /// The next whole frame that was read.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, WireError> {
        self.assembler.next_frame()
    }

    /// Sends a frame, or keeps what the socket does not take.
    pub fn send(&mut self, frame: &Frame) -> Result<(), Broken> {
        frame.encode(&mut self.unsealed);
        self.flush()
    }

    /// Sends what is frames already.
    pub fn send_bytes(&mut self, frames: &[u8]) -> Result<(), Broken> {
        self.unsealed.extend_from_slice(frames);
        self.flush()
    }

    /// So much waits to be written that no more datagrams should be added: what comes after them must not wait for
    /// long.
    pub fn is_congested(&self) -> bool {
        self.unwritten.len() >= CONGESTED_BYTES
    }

    /// While something is under way: how long ago the other host acknowledged something. It says nothing of a program
    /// that does not read, whose host goes on acknowledging probes of the full window: with those nothing is under
    /// way.
    pub fn acknowledged(&self) -> Option<Duration> {
        let state = getsockopt(&self.stream, TcpInfo).ok().filter(|state| state.unacknowledged > 0)?;
        Some(Duration::from_millis(state.last_acknowledgement.into()))
    }

    /// What was sent and acknowledged, as far as the system tells.
    pub fn sent(&self) -> Option<Sent> {
        let (first_full, segment) = self.full.unzip();
        let state = getsockopt(&self.stream, TcpInfo).ok()?;
        Some(Sent {
            first_full,
            segment: segment.unwrap_or(0).into(),
            // The beginning of a connection counts as a byte.
            acknowledged: state.bytes_acknowledged.saturating_sub(1),
            packet: state.path_mtu,
        })
    }

    fn note_written(&mut self, bytes: u64) {
        if self.full.is_none() && bytes >= SEGMENT_BYTES_MIN {
            let segment = getsockopt(&self.stream, TcpInfo).map_or(u32::MAX, |state| state.sent_mss);
            self.full = Some((self.written, segment)).filter(|_| bytes >= segment.into());
        }
        self.written += bytes;
    }

    /// Bytes of memory that are set aside.
    pub const fn capacity(&self) -> usize {
        self.seal.capacity() + self.assembler.capacity() + self.unsealed.capacity() + self.unwritten.capacity()
    }

    /// Writes what is left to write, as far as the socket takes it.
    pub fn flush(&mut self) -> Result<(), Broken> {
        self.seal.seal(&mut self.unsealed, &mut self.unwritten);
        let mut written = 0;
        let outcome = loop {
            if written == self.unwritten.len() {
                break Ok(());
            }
            match self.stream.write(&self.unwritten[written..]) {
                Ok(bytes) => {
                    self.note_written(bytes as u64);
                    written += bytes;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Not connected yet counts as full: the socket will say when it is writable.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => break Ok(()),
                Err(error) => break Err(error.into()),
            }
        };
        self.unwritten.drain(..written);
        give_back(&mut self.unsealed);
        give_back(&mut self.unwritten);
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
