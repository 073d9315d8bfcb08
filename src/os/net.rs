//! Sockets and the clock, with one face on every system.
//!
//! The rooms above never see a socket's options. UDP is received and sent in batches ([`udp`]), TCP connections carry
//! frames ([`framed`]), raw sockets send in the clients' names ([`raw`]). Nothing here decides anything.

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
pub use sockets::{
    RECEIVE_BUFFER_BYTES_MAX, bind_agent, bind_source, bind_upstream, dial, duplicate, explain, listen,
    receive_buffer, take_agent, take_upstream, turn_away,
};
pub use system::{clock, is_shortage, memory_bytes, now, raise_descriptor_limit, random};
