//! A role's threads, from their start to the report of their end.

use std::io;
use std::thread::Scope;

use crossbeam_channel::{Receiver, Sender, bounded};

pub use std::thread::scope;

/// A thread has ended.
#[derive(Debug)]
pub struct Ended {
    /// Its name.
    pub name: &'static str,
    /// How.
    pub outcome: Outcome,
}

/// How a thread ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was told to stop.
    Stopped,
    /// It could not go on; one line that says why.
    Failed(String),
    /// It panicked.
    Panicked,
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

    /// Starts a thread.
    pub fn spawn(
        &self,
        name: &'static str,
        body: impl FnOnce() -> Result<(), String> + Send + 'scope,
    ) -> io::Result<()> {
        let report = Report { name, outcome: Outcome::Panicked, ended: self.ended.clone() };
        let run = move || report.of(body);
        std::thread::Builder::new().name(name.into()).spawn_scoped(self.scope, run).map(|_| ())
    }
}

/// Tells of the end of a thread when it is dropped, which a panic does too.
struct Report {
    name: &'static str,
    outcome: Outcome,
    ended: Sender<Ended>,
}

impl Report {
    fn of(mut self, body: impl FnOnce() -> Result<(), String>) {
        self.outcome = match body() {
            Ok(()) => Outcome::Stopped,
            Err(why) => Outcome::Failed(why),
        };
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        let outcome = std::mem::replace(&mut self.outcome, Outcome::Panicked);
        // There is a place for each thread's end; without a listener nobody wants to know.
        let _ = self.ended.try_send(Ended { name: self.name, outcome });
    }
}

/// Starts a thread that may outlive its usefulness: it is not joined, and ends with the process.
///
/// For calls that the system gives no way to interrupt (resolving a name may take half a minute). A stop must not wait for them.
pub fn detach(name: &'static str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name.into()).spawn(body).map(|_| ())
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
                if watched.is_set() { Ok(()) } else { Err("woken for nothing".into()) }
            })
            .expect("a thread starts");
            drop(stopper);
            assert_eq!(reports.recv().map(|ended| ended.outcome), Ok(Outcome::Stopped));
        });
        assert!(stop.is_set());
    }

    #[test]
    fn the_end_of_a_thread_is_told_even_if_it_panics() {
        let result = std::panic::catch_unwind(|| {
            scope(|scope| {
                let (crew, reports) = Crew::new(scope, 2);
                crew.spawn("panics", || panic!("on purpose")).expect("a thread starts");
                let ended = reports.recv().expect("its end is told");
                assert_eq!((ended.name, ended.outcome), ("panics", Outcome::Panicked));
                crew.spawn("fails", || Err("no socket".into())).expect("a thread starts");
                let ended = reports.recv().expect("its end is told");
                assert_eq!((ended.name, ended.outcome), ("fails", Outcome::Failed("no socket".into())));
            });
        });
        assert!(result.is_err(), "the scope passes the panic on");
    }
}
