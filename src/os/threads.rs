//! Threads: named, scoped, joined; when one ends, all end.
//!
//! A thread waits for exactly one thing that a stop can interrupt. Where that is a channel, the stop is another
//! channel, which closes. Where that is the thread's sockets, the stop also rings its [`Doorbell`]. No thread wakes
//! up to look whether something has happened.

mod crew;
mod wait;

use std::convert::Infallible;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};

pub use crew::{Cause, Crew, Ended, detach, scope};
pub use wait::{DOORBELL, Doorbell, Wait, WaitError};

/// Stops threads: they stop when this is dropped.
#[derive(Debug)]
pub struct Stopper {
    sender: Option<Sender<Infallible>>,
    doorbells: Vec<Doorbell>,
}

/// Tells a thread that it must stop.
#[derive(Clone, Debug)]
pub struct Stop {
    closed: Receiver<Infallible>,
    /// Keeps the bells alive: a bell that is rung and closed at once is never heard.
    _doorbells: Vec<Doorbell>,
}

impl Stopper {
    /// A stopper, and the stop that its threads look at. `doorbells` belong to the threads that wait for sockets.
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
    pub const fn channel(&self) -> &Receiver<Infallible> {
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
