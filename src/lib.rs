//! `ossec-broker` makes the one-way UDP link between an OSSEC agent and its server reliable, without touching OSSEC.
//!
//! A client beside the agent takes in the unchanged datagrams and holds them in a FIFO. A server beside
//! `ossec-remoted` says over TCP whether remoted is alive and how much it can take. The client releases datagrams
//! within these limits, and keeps each one until it is believed read. When something went wrong, it sends them again
//! in order.
//!
//! **The promise.** An outage may hit the link, the host, remoted or the broker server. If it lasts longer than the
//! lease (some 100 ms and a round trip), no datagram that fits the buffer is lost, and the order is kept. Copies come
//! only after an outage, and OSSEC drops them. Datagrams dropped on purpose are counted and logged.
//!
//! # The rooms
//!
//! Imports point down, never up or sideways; `tests/tidy.rs` enforces it.
//!
//! | room | purpose |
//! |---|---|
//! | [`cli`], [`logging`] | arguments in, each role's configuration out; where log lines go |
//! | [`client`], [`server`] | the roles: threads and sockets, composed |
//! | [`check`], [`spool`] | answers for people: one heartbeat; what waits on disk |
//! | [`os`] | the outside world |
//! | [`proto`] | the decisions of both roles: pure, no socket, no clock, no thread, no file |

#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod check;
pub mod cli;
pub mod client;
pub mod logging;
pub mod os;
pub mod proto;
pub mod server;
pub mod spool;
