//! Frames ⇄ bytes: the messages between client and server over TCP.
//!
//! ```text
//!   length (u32)   kind (u8)   body (length - 1 bytes)
//! ```
//!
//! All numbers are big-endian. A body is a fixed sequence of fields, and new fields are only ever added at its end. A
//! reader takes the fields that it knows and ignores the rest. A field that an older peer did not send has the value
//! zero. So a new field needs no new version: `Hello::version` changes only when the meaning of an old field does.
//!
//! The first byte of a frame is always zero, because no frame is longer than [`FRAME_BYTES_MAX`]. This byte
//! distinguishes a frame from the plain request `ping`, from HTTP and from TLS.
//!
//! The only state of this room is the bytes of an unfinished frame ([`Assembler`]). No bytes from the network can make
//! it panic.

mod assembler;
mod codec;
mod data;
mod frame;
#[cfg(test)]
mod tests;

pub use assembler::{Assembler, give_back};
pub use codec::{FRAME_BYTES_MAX, GREETING_BYTES_MAX, WireError};
pub use data::{Data, DataItem, DataWriter};
pub use frame::{
    Ack, Attach, Features, Frame, Hello, Notice, Ping, Pong, Refusal, Reply, Resume, Session, TEXT_BYTES_MAX, Target,
    VERSION, Welcome,
};
