//! A module in the place of `src/os/threads/crew.rs`: threads whose steps the explorer chooses.

use std::io;

pub use ossec_broker::os::threads::{Cause, Ended};
use shuttle::thread::Scope;
pub use shuttle::thread::scope;

use crate::channels::{Receiver, Sender, bounded};
use crate::world::World;

#[derive(Debug)]
pub struct Crew<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    ended: Sender<Ended>,
}

impl<'scope, 'env> Crew<'scope, 'env> {
    pub fn new(scope: &'scope Scope<'scope, 'env>, size: usize) -> (Self, Receiver<Ended>) {
        let (ended, reports) = bounded(size);
        (Self { scope, ended }, reports)
    }

    pub fn within<'inner, 'outer>(&self, scope: &'inner Scope<'inner, 'outer>) -> Crew<'inner, 'outer> {
        Crew { scope, ended: self.ended.clone() }
    }

    pub fn spawn<E: Into<Cause>>(
        &self,
        name: &'static str,
        body: impl FnOnce() -> Result<(), E> + Send + 'scope,
    ) -> io::Result<()> {
        let ended = self.ended.clone();
        World::here().born();
        self.scope.spawn(move || {
            World::here().name(name);
            let end = body().map_or_else(|why| Ended::Failed(name, why.into()), |()| Ended::Stopped(name));
            let _ = ended.try_send(end);
            drop(ended);
            World::here().leave();
        });
        Ok(())
    }
}

/// The client of this model has nothing to resolve.
pub fn detach(name: &'static str, _: impl FnOnce() + Send + 'static) -> io::Result<()> {
    panic!("{name} has nothing to do here")
}
