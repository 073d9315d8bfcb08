//! A pre-shared key for a connection: outgoing bytes are sealed, incoming bytes are opened. Bytes in, bytes out; no
//! socket.
//!
//! ```text
//!   client ── "OSBN" ── record: psk, e ──►        record:  length (u16)   Noise message (length bytes)
//!          ◄── record: e, ee ──────────── server
//!          ◄══ records of sealed frames ═►
//! ```
//!
//! A server may accept several keys, while they are exchanged: the first message shows which one a client has.
//!
//! The handshake is `Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s` of the Noise Protocol Framework (revision 34). Both sides
//! prove that they have the key, and agree on new keys for this connection. If the pre-shared key becomes known later,
//! it does not open this connection. Frames are a stream that is cut into records as it comes.
//!
//! The first byte tells the kind of a connection: a plain frame begins with a zero, the plain request with `p`, a
//! sealed connection with `O`. A server that cannot go on says so in a plain [`Refusal`]. A client tells it from a
//! record by its second byte.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use snow::{Builder, HandshakeState, TransportState};
use zeroize::Zeroize;

use crate::proto::wire::{Assembler, Frame, Refusal, give_back};

/// The first bytes of a sealed connection.
const MAGIC: &[u8; 4] = b"OSBN";
/// The handshake. With `psk0` the key is mixed in before anything else, so that the first message proves it.
const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
/// The handshake is bound to this: another version of the records around it fails like another key.
const PROLOGUE: &[u8] = b"ossec-broker 1";
/// The length of the longest Noise message.
const MESSAGE_BYTES_MAX: usize = 65_535;
/// The bytes that sealing adds to a message.
const TAG_BYTES: usize = 16;
const LENGTH_BYTES: usize = 2;
/// The length of a public key, and the tag of an empty payload.
const HANDSHAKE_BYTES: usize = 32 + TAG_BYTES;
/// The number of hexadecimal digits in a key file.
const KEY_DIGITS: usize = 64;

/// A pre-shared key. Its memory is overwritten when it is given back.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; 32]);

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// The keys that a server accepts: none, or more than one while keys are exchanged.
pub type Keys = Arc<[Key]>;

/// Why a text is no key; the error says nothing of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyTextError {
    /// There is nothing but space.
    #[error("empty; `ossec-broker genkey` prints a key")]
    Empty,
    /// It has another length, or other characters.
    #[error("not {KEY_DIGITS} hexadecimal digits; `ossec-broker genkey` prints a key")]
    Digits,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    /// A key of these bytes, which must be random.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads a key as [`Self::to_text`] wrote it, and ignores space around it.
    ///
    /// # Errors
    /// The text of the error says what is wrong, and contains nothing of `text`.
    pub fn from_text(text: &str) -> Result<Self, KeyTextError> {
        let digits = text.trim();
        if digits.is_empty() {
            return Err(KeyTextError::Empty);
        }
        if digits.len() != KEY_DIGITS || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(KeyTextError::Digits);
        }
        let mut key = Self([0; 32]);
        for (byte, pair) in key.0.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).expect("digits are text");
            *byte = u8::from_str_radix(pair, 16).expect("they are hexadecimal digits");
        }
        Ok(key)
    }

    /// The key as text for a key file.
    pub fn to_text(&self) -> String {
        use std::fmt::Write as _;
        self.0.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

/// Why a connection cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The other side has another key, or the bytes were changed on their way.
    #[error("the keys of both ends differ (--psk-file)")]
    Key,
    /// This side has no key, but the other side uses one.
    #[error("this server has no key, and the client uses one (--psk-file)")]
    NoKeyHere,
    /// A record was changed, repeated or left out on its way.
    #[error("a garbled record")]
    Record,
    /// The server gives this reason, without proof that it is the server.
    #[error("refused: {0}")]
    Refused(String),
}

/// One end of a connection.
#[derive(Debug)]
pub struct Seal {
    stage: Stage,
    incoming: Vec<u8>,
    /// Bytes to be sealed once that is possible.
    waiting: Vec<u8>,
}

#[derive(Debug)]
enum Stage {
    Plain,
    /// A server's end before the first byte.
    Undecided(Keys),
    /// A client's end that waits for the answer.
    Asked(Box<HandshakeState>),
    /// A server's end that waits for the first message.
    Waiting(Keys),
    Sealed(Box<TransportState>),
    /// The connection is broken: nothing more goes either way.
    Broken,
}

impl Seal {
    /// A client's end. With a key its first bytes are appended to `out`.
    pub fn client(key: Option<&Key>, out: &mut Vec<u8>) -> Self {
        let stage = key.map_or(Stage::Plain, |key| {
            let mut handshake = handshake(key, true);
            out.extend_from_slice(MAGIC);
            write_handshake(&mut handshake, out);
            Stage::Asked(Box::new(handshake))
        });
        Self { stage, incoming: Vec::new(), waiting: Vec::new() }
    }

    /// A server's end.
    pub const fn server(keys: Keys) -> Self {
        Self { stage: Stage::Undecided(keys), incoming: Vec::new(), waiting: Vec::new() }
    }

    /// Whether incoming bytes were sealed with the key.
    pub const fn is_sealed(&self) -> bool {
        matches!(self.stage, Stage::Sealed(_))
    }

    /// The first bytes have shown what kind of connection it is.
    pub const fn is_decided(&self) -> bool {
        !matches!(self.stage, Stage::Undecided(_))
    }

    /// The bytes of memory that are set aside for waiting bytes.
    pub const fn capacity(&self) -> usize {
        self.incoming.capacity() + self.waiting.capacity()
    }

    /// Takes in the bytes in `read`. Their contents go to `input`, and bytes to be written at once go to `out`, also
    /// before an error.
    ///
    /// # Errors
    /// The connection is of no more use.
    pub fn open(&mut self, read: &[u8], input: &mut Assembler, out: &mut Vec<u8>) -> Result<(), SealError> {
        if let Stage::Plain = self.stage {
            input.push(read);
            return Ok(());
        }
        self.incoming.extend_from_slice(read);
        self.decide(input, out)?;
        let outcome = self.open_records(input, out);
        if let Err(error) = &outcome {
            if let (Stage::Waiting(_), SealError::Key) = (&self.stage, error) {
                refuse(error, out);
            }
            self.stage = Stage::Broken;
        }
        outcome
    }

    /// Seals `plain` and appends it to `out`. Bytes that cannot be sealed yet are kept.
    pub fn seal(&mut self, plain: &mut Vec<u8>, out: &mut Vec<u8>) {
        match &mut self.stage {
            Stage::Plain | Stage::Undecided(_) => out.append(plain),
            Stage::Asked(_) | Stage::Waiting(_) => self.waiting.append(plain),
            Stage::Broken => plain.clear(),
            Stage::Sealed(transport) => {
                self.waiting.append(plain);
                for piece in self.waiting.chunks(MESSAGE_BYTES_MAX - TAG_BYTES) {
                    let start = out.len();
                    out.extend_from_slice(&((piece.len() + TAG_BYTES) as u16).to_be_bytes());
                    out.resize(start + LENGTH_BYTES + piece.len() + TAG_BYTES, 0);
                    let written = transport.write_message(piece, &mut out[start + LENGTH_BYTES..]);
                    // Sealing fails only after 2^64 messages, or with too small a buffer.
                    assert_eq!(written, Ok(piece.len() + TAG_BYTES), "a message of this length can be sealed");
                }
                self.waiting.clear();
                give_back(&mut self.waiting);
            }
        }
    }

    /// Decides at a server's end what kind of connection it is.
    fn decide(&mut self, input: &mut Assembler, out: &mut Vec<u8>) -> Result<(), SealError> {
        let Stage::Undecided(keys) = &self.stage else {
            return Ok(());
        };
        let seen = self.incoming.len().min(MAGIC.len());
        if self.incoming[..seen] != MAGIC[..seen] {
            input.push(&std::mem::take(&mut self.incoming));
            self.stage = Stage::Plain;
        } else if seen == MAGIC.len() {
            if keys.is_empty() {
                refuse(&SealError::NoKeyHere, out);
                self.stage = Stage::Broken;
                return Err(SealError::NoKeyHere);
            }
            self.stage = Stage::Waiting(Arc::clone(keys));
            self.incoming.drain(..MAGIC.len());
        }
        Ok(())
    }

    fn open_records(&mut self, input: &mut Assembler, out: &mut Vec<u8>) -> Result<(), SealError> {
        let mut taken = 0;
        let mut plain = Vec::new();
        while let Some((&head, rest)) = self.incoming[taken..].split_first_chunk::<LENGTH_BYTES>() {
            let length = usize::from(u16::from_be_bytes(head));
            if let Stage::Asked(_) = self.stage
                && length == 0
            {
                return self.read_refusal();
            }
            let handshake = matches!(self.stage, Stage::Asked(_) | Stage::Waiting(_));
            if handshake && length != HANDSHAKE_BYTES {
                return Err(SealError::Key);
            }
            let Some(message) = rest.get(..length) else {
                break;
            };
            self.stage = match std::mem::replace(&mut self.stage, Stage::Broken) {
                Stage::Asked(mut handshake) => {
                    read_handshake(&mut handshake, message)?;
                    Stage::Sealed(Box::new(handshake.into_transport_mode().expect("both messages have passed")))
                }
                Stage::Waiting(keys) => {
                    let Some(mut handshake) = keys.iter().find_map(|key| accept(key, message)) else {
                        self.stage = Stage::Waiting(keys);
                        return Err(SealError::Key);
                    };
                    write_handshake(&mut handshake, out);
                    Stage::Sealed(Box::new(handshake.into_transport_mode().expect("both messages have passed")))
                }
                Stage::Sealed(mut transport) => {
                    plain.resize(length, 0);
                    let opened = transport.read_message(message, &mut plain).map_err(|_| SealError::Record)?;
                    input.push(&plain[..opened]);
                    Stage::Sealed(transport)
                }
                other @ (Stage::Plain | Stage::Undecided(_) | Stage::Broken) => {
                    self.stage = other;
                    return Ok(());
                }
            };
            taken += LENGTH_BYTES + length;
        }
        self.incoming.drain(..taken);
        give_back(&mut self.incoming);
        Ok(())
    }

    /// Handles a plain frame that came to a client's end instead of the answer.
    fn read_refusal(&self) -> Result<(), SealError> {
        let mut assembler = Assembler::default();
        assembler.push(&self.incoming);
        match assembler.next_frame() {
            Ok(Some(Frame::Refusal(refusal))) => Err(SealError::Refused(refusal.text)),
            Ok(None) => Ok(()),
            Ok(Some(_)) | Err(_) => Err(SealError::Key),
        }
    }
}

fn handshake(key: &Key, initiator: bool) -> HandshakeState {
    let builder = Builder::new(PATTERN.parse().expect("it is a pattern"));
    let builder = builder.psk(0, &key.0).and_then(|builder| builder.prologue(PROLOGUE)).expect("set once");
    let built = if initiator { builder.build_initiator() } else { builder.build_responder() };
    built.expect("the pattern needs nothing but the key")
}

/// A server's end of a handshake, if this is the first message of one with this key.
fn accept(key: &Key, message: &[u8]) -> Option<HandshakeState> {
    let mut handshake = handshake(key, false);
    read_handshake(&mut handshake, message).ok().map(|()| handshake)
}

fn write_handshake(handshake: &mut HandshakeState, out: &mut Vec<u8>) {
    let mut message = [0; HANDSHAKE_BYTES];
    let written = handshake.write_message(&[], &mut message);
    // This fails only where the system has no random numbers.
    assert_eq!(written, Ok(HANDSHAKE_BYTES), "a handshake message of this length can be written");
    out.extend_from_slice(&(HANDSHAKE_BYTES as u16).to_be_bytes());
    out.extend_from_slice(&message);
}

fn read_handshake(handshake: &mut HandshakeState, message: &[u8]) -> Result<(), SealError> {
    let mut payload = [0; HANDSHAKE_BYTES];
    handshake.read_message(message, &mut payload).map(|_| ()).map_err(|_| SealError::Key)
}

fn refuse(error: &SealError, out: &mut Vec<u8>) {
    Frame::Refusal(Refusal { text: error.to_string() }).encode(out);
}
