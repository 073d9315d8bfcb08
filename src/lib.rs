//! `ossec-broker` makes the one-way UDP link between an OSSEC agent and its server reliable, without touching OSSEC.
//!
//! A client beside the agent takes in the unchanged datagrams and holds them in a FIFO. A server beside `ossec-remoted` says over TCP whether
//! remoted is alive and how much it can take. The client releases what it may, keeps it until it is believed read, and sends it again, in
//! order, when something went wrong.
//!
//! **The promise.** An outage of the link, of the host, of remoted or of the broker server that lasts longer than the lease (some 100 ms and a
//! round trip) loses nothing that fits the buffer; the order is kept; copies come only after an outage, and OSSEC drops them; what is lost on
//! purpose is counted and logged.
//!
//! # The rooms
//!
//! Imports point down, never up or sideways; `tests/tidy.rs` sees to it.
//!
//! | room | what for |
//! |---|---|
//! | [`cli`], [`logging`] | arguments in, each role's configuration out; where log lines go |
//! | [`client`], [`server`], [`check`] | the roles: threads and sockets, composed |
//! | [`os`] | the outside world |
//! | [`proto`] | what both roles decide: pure, no socket, no clock, no thread, no file |

#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod check;
pub mod cli;
pub mod client;
pub mod logging;
pub mod os;
pub mod proto;
pub mod server;
