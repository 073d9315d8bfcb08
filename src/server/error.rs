//! Why a server does not start, or ends.

use std::io;

use crate::os::keyfile::KeyError;
use crate::os::net::{self, HostPort};
use crate::os::privileges::UserError;
use crate::os::threads::Ended;

/// The reason why a server does not start, or ends without being asked to: one line for people.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// No client could connect to this address, name or port.
    #[error("cannot bind {0}: {why}", why = explain(.1))]
    Bind(String, #[source] io::Error),
    /// remoted's name has no address.
    #[error("cannot resolve {0}: {1}")]
    Resolve(HostPort, #[source] io::Error),
    /// Raw sockets cannot be opened.
    #[error("cannot inject with the clients' addresses: {0}: run as root, with CAP_NET_RAW, or with --inject local")]
    RawSockets(#[source] io::Error),
    /// The process cannot become another user's.
    #[error(transparent)]
    User(#[from] UserError),
    /// The system has no means to wait for many sockets.
    #[error("cannot set up the wait for sockets: {0}")]
    Wait(#[source] io::Error),
    /// A thread does not start.
    #[error("cannot start a thread: {0}")]
    Spawn(#[source] io::Error),
    /// A thread ended that was not to end.
    #[error(transparent)]
    Thread(#[from] Ended),
}

/// An error of `bind`, with the likely cause where there is one.
fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "address in use (another ossec-broker server?)".into(),
        _ => net::explain(error),
    }
}
