//! The pure floor: what both roles decide, and what they say to each other. No socket, no clock, no thread, no file.
//!
//! | room | what for |
//! |---|---|
//! | [`client`] | the client's whole logic: held datagrams, sessions, the link |
//! | [`server`] | the server's whole logic: verdict, windows, streams, conversation |
//! | [`seal`], [`agent_keys`] | the key of a connection; the keys that agents have |
//! | [`wire`] | frames as bytes |
//! | [`terms`], [`cost`] | words that both have in common; what a datagram costs in a receive buffer |
//! | [`time`], [`amounts`] | a moment; numbers for people |
//! | [`foreign`] | texts from elsewhere, fit to be shown |

pub mod agent_keys;
pub mod amounts;
pub mod client;
pub mod cost;
pub mod foreign;
pub mod seal;
pub mod server;
pub mod terms;
pub mod time;
pub mod wire;
