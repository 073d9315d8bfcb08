//! A module in the place of `parking_lot`: the lock around the core, which the judge may look into, and others.

use std::fmt::Debug;
use std::sync::Arc;

use ossec_broker::proto::client::ClientCore;
use shuttle::sync::MutexGuard;

use crate::system::System;
use crate::world::World;

#[derive(Debug)]
pub(crate) struct Mutex<T>(Arc<shuttle::sync::Mutex<T>>);

/// A value behind a lock.
pub(crate) trait Value: Debug + Sized {
    /// The judge may want to look at it.
    fn show(_: &Arc<shuttle::sync::Mutex<Self>>) {}
}

impl Value for bool {}

impl Value for ClientCore {
    fn show(inner: &Arc<shuttle::sync::Mutex<Self>>) {
        System::here().keep_relay(inner);
    }
}

impl<T: Value> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        let inner = Arc::new(shuttle::sync::Mutex::new(value));
        T::show(&inner);
        Self(inner)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        let guard = self.0.lock().expect("nobody panics with it");
        World::here().say(|| format!("takes the lock: {:?}", *guard));
        guard
    }
}
