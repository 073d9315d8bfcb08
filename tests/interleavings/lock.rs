//! A module in the place of `parking_lot`: the lock around the core, which the judge may look into.

use std::sync::Arc;

use ossec_broker::proto::client::ClientCore;
use shuttle::sync::MutexGuard;

use crate::system::System;
use crate::world::World;

#[derive(Debug)]
pub(crate) struct Mutex<T>(Arc<shuttle::sync::Mutex<T>>);

impl Mutex<ClientCore> {
    pub(crate) fn new(core: ClientCore) -> Self {
        let inner = Arc::new(shuttle::sync::Mutex::new(core));
        System::here().keep_relay(&inner);
        Self(inner)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, ClientCore> {
        let guard = self.0.lock().expect("nobody panics with it");
        World::here().say(|| format!("takes the lock: {:?}", *guard));
        guard
    }
}
