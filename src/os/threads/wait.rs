//! A thread's wait for its sockets, and the bell that ends it.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use mio::event::Event;
use mio::{Events, Poll, Token, Waker};
use thiserror::Error;

/// The token under which a thread's doorbell shows among its sockets.
pub const DOORBELL: Token = Token(usize::MAX);

/// Wakes a thread that waits for sockets.
#[derive(Clone, Debug)]
pub struct Doorbell(Arc<Waker>);

impl Doorbell {
    /// Rings. Rings before the thread looks again count as one.
    pub fn ring(&self) {
        if let Err(error) = self.0.wake() {
            log::error!("cannot wake a thread: {error}");
        }
    }
}

/// A thread cannot wait for its sockets.
#[derive(Debug, Error)]
#[error("cannot wait for {what}: {source}")]
pub struct WaitError {
    what: &'static str,
    source: io::Error,
}

/// The wait of one thread for its sockets and its doorbell.
#[derive(Debug)]
pub struct Wait {
    what: &'static str,
    poll: Poll,
    events: Events,
}

impl Wait {
    /// A wait without sockets, and its doorbell. `what` says for people what the thread waits for. A wait tells of
    /// `events_max` sockets at once; the others come with the next wait.
    pub fn new(what: &'static str, events_max: usize) -> io::Result<(Self, Doorbell)> {
        let poll = Poll::new()?;
        let bell = Doorbell(Arc::new(Waker::new(poll.registry(), DOORBELL)?));
        Ok((Self { what, poll, events: Events::with_capacity(events_max) }, bell))
    }

    /// Where the thread's sockets are registered.
    pub const fn poll(&self) -> &Poll {
        &self.poll
    }

    /// Waits until a socket is ready, the bell rings, a signal comes, or `limit` is over (for ever if `None`).
    pub fn wait(&mut self, limit: Option<Duration>) -> Result<(), WaitError> {
        match self.poll.poll(&mut self.events, limit) {
            Err(error) if error.kind() != ErrorKind::Interrupted => Err(self.error(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// The tokens of everything that the last wait has found ready.
    pub fn ready(&self) -> impl Iterator<Item = Token> {
        self.events.iter().map(Event::token)
    }

    /// The error of this wait, which fails for that reason.
    pub const fn error(&self, source: io::Error) -> WaitError {
        WaitError { what: self.what, source }
    }
}
