//! Frames ⇄ bytes: what client and server say to each other over TCP.
//!
//! ```text
//!   length (u32)   kind (u8)   body (length - 1 bytes)
//! ```
//!
//! All numbers are big-endian. A body is a fixed sequence of fields; fields are only ever added at its end. A reader takes what it
//! knows and ignores the rest, and gives a field that an older peer did not send the value zero. So neither side needs to know the
//! other's age for the fields, and `Hello::version` changes only when the meaning of an old field does.
//!
//! The first byte of a frame is always zero, because no frame is longer than [`FRAME_BYTES_MAX`]. That tells a frame from the plain
//! request `ping`, from HTTP and from TLS by one byte.
//!
//! This room holds no state but the bytes of an unfinished frame ([`Assembler`]), and nothing here can panic on what the network sends.

mod assembler;
mod codec;
mod data;
mod frame;
#[cfg(test)]
mod tests;

pub use assembler::{Assembler, give_back};
pub use codec::{FRAME_BYTES_MAX, WireError};
pub use data::{Data, DataItem, DataWriter};
pub use frame::{
    Ack, Attach, Features, Frame, Hello, Notice, Ping, Pong, Refusal, Reply, Resume, Session, TEXT_BYTES_MAX, Target,
    VERSION, Welcome,
};
