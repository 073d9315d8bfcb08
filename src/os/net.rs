//! Sockets and the clock: what the system does for us, and where systems differ.
//!
//! The rooms above never see a socket's options. Nothing here decides anything.
//!
//! | room | what for |
//! |---|---|
//! | `sockets` | UDP and TCP sockets with their options |
//! | `address` | hosts by name or address, the addresses of this host |
//! | `system` | the clock, random numbers, descriptors, memory |
//! | [`udp`] | datagrams in batches |
//! | [`framed`], `tcp_info` | a TCP connection that carries frames, and its state in the kernel |
//! | [`raw`], [`packet`] | datagrams with a source address of our choice, and their headers |

mod address;
pub mod framed;
pub mod packet;
pub mod raw;
mod sockets;
mod system;
mod tcp_info;
#[cfg(test)]
mod tests;
pub mod udp;

pub use address::{HostPort, comes_back, family, is_local};
pub use sockets::{bind_agent, bind_source, bind_upstream, dial, explain, listen, receive_buffer, turn_away};
pub use system::{is_shortage, memory_bytes, now, raise_descriptor_limit, random};
