//! In the place of `parking_lot`: the lock around the relay, which the judge may look into.

use std::sync::Arc;

use ossec_broker::proto::client::Relay;
use shuttle::sync::MutexGuard;

use crate::system::System;
use crate::world::World;

#[derive(Debug)]
pub(crate) struct Mutex<T>(Arc<shuttle::sync::Mutex<T>>);

impl Mutex<Relay> {
    pub(crate) fn new(relay: Relay) -> Self {
        let inner = Arc::new(shuttle::sync::Mutex::new(relay));
        System::here().keep_relay(&inner);
        Self(inner)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Relay> {
        let guard = self.0.lock().expect("nobody panics with it");
        World::here().say(|| format!("takes the lock: {:?}", *guard));
        guard
    }
}
