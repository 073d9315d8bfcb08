//! Threads: named, scoped, joined; when one ends, all end.
//!
//! A thread waits for exactly one thing that a stop can interrupt: a channel (then the stop is another channel, which closes), or its sockets
//! (then the stop also rings its [`Doorbell`]). Nobody wakes up to look whether something has happened.

mod crew;

use std::io;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use mio::{Poll, Token, Waker};

pub use crew::{Crew, Ended, Outcome, detach, scope};

/// The token under which a thread's own doorbell shows among its sockets.
pub const DOORBELL: Token = Token(usize::MAX);

/// Carries nothing: its channel closes.
#[derive(Debug)]
pub enum Never {}

/// Wakes a thread that waits for sockets.
#[derive(Clone, Debug)]
pub struct Doorbell(Arc<Waker>);

impl Doorbell {
    /// A doorbell for the thread that will wait with `poll`.
    pub fn new(poll: &Poll) -> io::Result<Self> {
        Waker::new(poll.registry(), DOORBELL).map(|waker| Self(Arc::new(waker)))
    }

    /// Rings. Rings before the thread looks again count as one.
    pub fn ring(&self) {
        if let Err(error) = self.0.wake() {
            log::error!("cannot wake a thread: {error}");
        }
    }
}

/// Stops threads: they stop when this is dropped.
#[derive(Debug)]
pub struct Stopper {
    sender: Option<Sender<Never>>,
    doorbells: Vec<Doorbell>,
}

/// What a thread looks at to learn that it must stop.
#[derive(Clone, Debug)]
pub struct Stop {
    closed: Receiver<Never>,
    /// Keeps the bells alive: a bell that is rung and closed at once is never heard.
    _doorbells: Vec<Doorbell>,
}

impl Stopper {
    /// A stopper, and what its threads look at. `doorbells` are those of threads that wait for sockets.
    pub fn new(doorbells: Vec<Doorbell>) -> (Self, Stop) {
        let (sender, receiver) = bounded(0);
        let stop = Stop { closed: receiver, _doorbells: doorbells.clone() };
        (Self { sender: Some(sender), doorbells }, stop)
    }
}

impl Drop for Stopper {
    fn drop(&mut self) {
        self.sender = None;
        for doorbell in &self.doorbells {
            doorbell.ring();
        }
    }
}

impl Stop {
    /// The thread must end.
    pub fn is_set(&self) -> bool {
        matches!(self.closed.try_recv(), Err(TryRecvError::Disconnected))
    }

    /// The channel that closes, for a thread that waits for more than a bell.
    pub const fn channel(&self) -> &Receiver<Never> {
        &self.closed
    }

    /// Waits for a bell, for the stop, or until `wait` is over (for ever if `None`).
    pub fn wait(&self, bell: &Receiver<()>, wait: Option<std::time::Duration>) {
        let timeout = wait.map_or_else(crossbeam_channel::never, crossbeam_channel::after);
        crossbeam_channel::select! {
            recv(self.closed) -> _ => {}
            recv(bell) -> _ => {}
            recv(timeout) -> _ => {}
        }
    }
}
