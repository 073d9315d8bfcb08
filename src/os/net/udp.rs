//! Datagrams in batches: one system call for up to 32 of them.

mod receive;
mod send;

pub use receive::{Inbox, Received, discard, kernel_drops, unwatch, watch};
pub(super) use send::send_messages;
pub use send::{SendError, send_batch, send_from, send_run, take_refusal};
