//! A role's threads, from their start to the report of their end.

use std::error::Error as StdError;
use std::io;
use std::thread::Scope;

use crossbeam_channel::{Receiver, Sender, bounded};
use nix::sys::signal::SigSet;
use thiserror::Error;

pub use std::thread::scope;

/// Why a thread could not go on.
pub type Cause = Box<dyn StdError + Send + Sync>;

/// How the thread of this name has ended: an error, if nobody had told it to stop.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Ended {
    #[error("the thread {0} ended unexpectedly")]
    Stopped(&'static str),
    #[error("{0}: {1}")]
    Failed(&'static str, #[source] Cause),
    #[error("the thread {0} ended unexpectedly")]
    Panicked(&'static str),
}

/// The threads of one role. They report their end, however it comes.
#[derive(Debug)]
pub struct Crew<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    ended: Sender<Ended>,
}

impl<'scope, 'env> Crew<'scope, 'env> {
    /// A crew of at most `size` threads, and where their ends are reported.
    pub fn new(scope: &'scope Scope<'scope, 'env>, size: usize) -> (Self, Receiver<Ended>) {
        let (ended, reports) = bounded(size);
        (Self { scope, ended }, reports)
    }

    /// The same crew with its next threads in another scope.
    pub fn within<'inner, 'outer>(&self, scope: &'inner Scope<'inner, 'outer>) -> Crew<'inner, 'outer> {
        Crew { scope, ended: self.ended.clone() }
    }

    /// Starts a thread. Fails if the system starts no more threads.
    pub fn spawn<E: Into<Cause>>(
        &self,
        name: &'static str,
        body: impl FnOnce() -> Result<(), E> + Send + 'scope,
    ) -> io::Result<()> {
        let mut report = Report { ended: Some(Ended::Panicked(name)), reports: self.ended.clone() };
        let run = move || {
            leave_signals();
            report.ended = Some(body().map_or_else(|why| Ended::Failed(name, why.into()), |()| Ended::Stopped(name)));
            drop(report);
        };
        std::thread::Builder::new().name(name.into()).spawn_scoped(self.scope, run).map(|_| ())
    }
}

/// Tells of the end of a thread when it is dropped, which a panic does too.
struct Report {
    ended: Option<Ended>,
    reports: Sender<Ended>,
}

impl Drop for Report {
    fn drop(&mut self) {
        // Each thread's end has a place; without a listener nobody wants to know.
        let _ = self.ended.take().map(|ended| self.reports.try_send(ended));
    }
}

/// Starts a thread that is not joined and ends with the process.
///
/// It is for calls that cannot be interrupted: to resolve a name may take half a minute, and a stop must not wait.
/// Fails if the system starts no more threads.
pub fn detach(name: &'static str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let run = move || {
        leave_signals();
        body();
    };
    std::thread::Builder::new().name(name.into()).spawn(run).map(|_| ())
}

/// Leaves all signals to the main thread.
fn leave_signals() {
    // It does not fail.
    let _ = SigSet::all().thread_block();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::threads::Stopper;

    #[test]
    fn a_thread_that_waits_for_a_bell_hears_the_stop() {
        let (stopper, stop) = Stopper::new(Vec::new());
        let (_bell, rung) = bounded::<()>(1);
        scope(|scope| {
            let (crew, reports) = Crew::new(scope, 1);
            let watched = stop.clone();
            crew.spawn("waits", move || {
                watched.wait(&rung, None);
                if watched.is_set() { Ok(()) } else { Err("woken for nothing") }
            })
            .expect("a thread starts");
            drop(stopper);
            assert!(matches!(reports.recv(), Ok(Ended::Stopped("waits"))));
        });
        assert!(stop.is_set());
    }

    #[test]
    fn the_end_of_a_thread_is_told_even_if_it_panics() {
        let result = std::panic::catch_unwind(|| {
            scope(|scope| {
                let (crew, reports) = Crew::new(scope, 2);
                crew.spawn("panics", || -> Result<(), Cause> { panic!("on purpose") }).expect("a thread starts");
                let ended = reports.recv().expect("its end is told");
                assert_eq!(ended.to_string(), "the thread panics ended unexpectedly");
                crew.spawn("fails", || Err("no socket")).expect("a thread starts");
                let ended = reports.recv().expect("its end is told");
                assert_eq!(ended.to_string(), "fails: no socket");
            });
        });
        assert!(result.is_err(), "the scope passes the panic on");
    }
}
