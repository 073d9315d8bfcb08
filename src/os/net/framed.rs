//! A TCP connection that carries frames, without blocking.

use std::io::{self, ErrorKind, Read, Write};
use std::net::IpAddr;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use thiserror::Error;

use super::tcp_info::TcpInfo;
use crate::proto::client::segments::Sent;
use crate::proto::seal::{Key, Keys, Seal, SealError};
use crate::proto::wire::{Assembler, Frame, GREETING_BYTES_MAX, WireError, give_back};

/// Bytes that may wait to be written, some hundreds of frames. A peer that lets more wait does not read.
const UNWRITTEN_BYTES_MAX: usize = 256 * 1024;
/// With so many bytes waiting to be written, no datagrams should be added.
const CONGESTED_BYTES_MIN: usize = 32 * 1024;
/// No path has shorter segments, so a shorter write fills none.
const SEGMENT_BYTES_MIN: u64 = 400;
/// Bytes read with one system call.
const READ_BYTES_MAX: usize = 16 * 1024;
/// Reads in a row: a peer that sends without end must not keep the thread from others.
const READS_MAX: usize = 4;
/// Bytes read of a peer of which not even the kind is known.
const UNKNOWN_BYTES_MAX: usize = 64;

/// How reading has left a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// Read empty: the socket tells when there is more.
    Dry,
    /// With more to read: the socket will *not* tell, so it has to be read again.
    More,
    /// At its end: the peer has closed its side.
    Ended,
}

/// A stream of frames.
#[derive(Debug)]
pub struct Framed {
    stream: TcpStream,
    seal: Seal,
    assembler: Assembler,
    unsealed: Vec<u8>,
    unwritten: Vec<u8>,
    read: u64,
    written: u64,
    /// The peer has said who it is, or was dialled.
    is_known: bool,
    /// The first full segment: the bytes written before it, and its length in bytes.
    full: Option<(u64, u32)>,
}

/// Why a connection is of no more use.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum Broken {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error("the peer does not read")]
    SlowReader,
}

impl Framed {
    /// Takes a client's stream, connected or connecting.
    pub fn client(stream: TcpStream, key: Option<&Key>) -> Self {
        let mut unwritten = Vec::new();
        let seal = Seal::client(key, &mut unwritten);
        Self { unwritten, is_known: true, ..Self::new(stream, seal) }
    }

    /// Takes a stream that a server has accepted.
    pub fn server(stream: TcpStream, keys: Keys) -> Self {
        Self::new(stream, Seal::server(keys))
    }

    fn new(stream: TcpStream, seal: Seal) -> Self {
        let (unsealed, unwritten) = (Vec::new(), Vec::new());
        let assembler = Assembler::default();
        Self { stream, seal, assembler, unsealed, unwritten, read: 0, written: 0, is_known: false, full: None }
    }

    /// Whether the frames that come in were sealed with the key.
    pub const fn is_sealed(&self) -> bool {
        self.seal.is_sealed()
    }

    /// Whether nobody can have forged the frames that come in: they were sealed, or `peer` is on this host.
    pub fn is_trusted(&self, peer: IpAddr) -> bool {
        self.is_sealed() || peer.to_canonical().is_loopback()
    }

    /// Bytes that have come in.
    pub const fn read(&self) -> u64 {
        self.read
    }

    /// Has the poll of `registry` tell when there is something to read or room to write, once for each change.
    pub fn watch(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.stream, token, Interest::READABLE | Interest::WRITABLE)
    }

    /// The connection below.
    pub const fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// The peer has said who it is: it may send as much as any. Whether that is news.
    pub const fn handle_greeted(&mut self) -> bool {
        !std::mem::replace(&mut self.is_known, true)
    }

    /// Reads the bytes that have come in, without waiting. Frames read before an error can be taken all the same. Of a
    /// peer that has not said who it is, hardly more is read than that takes.
    pub fn fill(&mut self) -> Result<Filled, Broken> {
        let mut read = [0; READ_BYTES_MAX];
        let (bytes_max, reads_max) = match (self.is_known, self.seal.is_decided()) {
            (true, _) => (READ_BYTES_MAX, READS_MAX),
            (false, true) => (GREETING_BYTES_MAX, 1),
            (false, false) => (UNKNOWN_BYTES_MAX, 1),
        };
        for _ in 0..reads_max {
            match self.stream.read(&mut read[..bytes_max]) {
                Ok(0) => return Ok(Filled::Ended),
                Ok(bytes) => {
                    self.read += bytes as u64;
                    let opened = self.seal.open(&read[..bytes], &mut self.assembler, &mut self.unwritten);
                    // This may answer the handshake. If the answer cannot be written any more, the peer's last words
                    // may still be unread: reading goes on, and meets the end by itself.
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

    /// The bytes that were read and not yet taken, and the frames to be written, which [`Self::flush`] writes.
    pub const fn ends(&mut self) -> (&mut Assembler, &mut Vec<u8>) {
        (&mut self.assembler, &mut self.unsealed)
    }

    /// The next whole frame that was read; `None` until more bytes come in, an error if it is of another protocol.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, WireError> {
        self.assembler.next_frame()
    }

    /// Sends a frame. Bytes that the socket does not take are kept; [`Self::flush`] writes them later.
    pub fn send(&mut self, frame: &Frame) -> Result<(), Broken> {
        frame.encode(&mut self.unsealed);
        self.flush()
    }

    /// Sends frames that are bytes already, like [`Self::send`].
    pub fn send_bytes(&mut self, frames: &[u8]) -> Result<(), Broken> {
        self.unsealed.extend_from_slice(frames);
        self.flush()
    }

    /// Whether so much waits to be written that datagrams should wait, too: heartbeats come behind them.
    pub fn is_congested(&self) -> bool {
        self.unwritten.len() >= CONGESTED_BYTES_MIN
    }

    /// How long ago the other host acknowledged something; `None` while nothing is under way. This says nothing of a
    /// program that does not read: its host acknowledges probes of the full window, with which nothing is under way.
    pub fn acknowledged(&self) -> Option<Duration> {
        let info = TcpInfo::of(&self.stream).filter(|info| info.unacknowledged > 0)?;
        Some(Duration::from_millis(info.last_acknowledgement_ms.into()))
    }

    /// How much was sent and acknowledged; `None` if the system does not tell.
    pub fn sent(&self) -> Option<Sent> {
        let (first_full, segment) = self.full.unzip();
        let info = TcpInfo::of(&self.stream)?;
        Some(Sent {
            first_full,
            segment: segment.unwrap_or(0).into(),
            // The beginning of a connection counts as a byte.
            acknowledged: info.bytes_acknowledged.saturating_sub(1),
            packet: info.path_mtu,
        })
    }

    fn note_written(&mut self, bytes: u64) {
        if self.full.is_none() && bytes >= SEGMENT_BYTES_MIN {
            let segment = TcpInfo::of(&self.stream).map_or(u32::MAX, |info| info.sent_mss);
            self.full = Some((self.written, segment)).filter(|_| bytes >= segment.into());
        }
        self.written += bytes;
    }

    /// Bytes of memory that are set aside.
    pub const fn capacity(&self) -> usize {
        self.seal.capacity() + self.assembler.capacity() + self.unsealed.capacity() + self.unwritten.capacity()
    }

    /// Writes the bytes that wait, as far as the socket takes them.
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
