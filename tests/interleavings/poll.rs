//! The part of `mio` that the client uses. It tells readiness once for each thing that comes, as epoll does for mio.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::world::World;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Token(pub(crate) usize);

/// Tokens for which something new has come, in the order of its coming.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registry(Arc<Mutex<Vec<Token>>>);

impl Registry {
    fn ready(&self) -> MutexGuard<'_, Vec<Token>> {
        self.0.lock().expect("nobody panics with it")
    }

    /// Something has come for `token`.
    pub(crate) fn tell(&self, token: Token) {
        {
            let mut ready = self.ready();
            if !ready.contains(&token) {
                ready.push(token);
            }
        }
        World::here().notify();
    }
}

#[derive(Debug)]
pub(crate) struct Event(Token);

impl Event {
    pub(crate) const fn token(&self) -> Token {
        self.0
    }
}

#[derive(Debug)]
pub(crate) struct Events(Vec<Event>);

impl Events {
    pub(crate) fn with_capacity(places: usize) -> Self {
        Self(Vec::with_capacity(places))
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Event> {
        self.0.iter()
    }
}

#[derive(Debug)]
pub(crate) struct Poll(Registry);

impl Poll {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(Registry::default()))
    }

    pub(crate) const fn registry(&self) -> &Registry {
        &self.0
    }

    pub(crate) fn poll(&mut self, events: &mut Events, wait: Option<Duration>) -> io::Result<()> {
        events.0.clear();
        let ready = World::here().sleep(wait, || {
            let mut ready = self.0.ready();
            (!ready.is_empty()).then(|| std::mem::take(&mut *ready))
        });
        events.0.extend(ready.unwrap_or_default().into_iter().map(Event));
        Ok(())
    }
}

/// The inside of a doorbell.
#[derive(Debug)]
pub(crate) struct Waker(Registry, Token);

impl Waker {
    pub(crate) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        Ok(Self(registry.clone(), token))
    }

    pub(crate) fn wake(&self) -> io::Result<()> {
        World::here().step();
        self.0.tell(self.1);
        Ok(())
    }
}
