//! A role of the broker inside the test's own process, and its log.

use std::collections::VecDeque;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Sender, bounded};
use log::{LevelFilter, Log, Metadata, Record};
use ossec_broker::cli::{self, Command};
use ossec_broker::os::handover::Inherited;
use ossec_broker::os::signals::Signals;
use ossec_broker::{client, server};
use parking_lot::Mutex;

use super::wait::wait_until;

/// Lines of the log that are kept: the last ones of a failed test, and a stopped client's last words.
const LINES_MAX: usize = 400;

/// A role that runs on threads of this process, as `main` would run it.
#[derive(Debug)]
pub(crate) struct Role {
    name: &'static str,
    signals: Sender<()>,
    thread: JoinHandle<Result<(), String>>,
}

impl Role {
    /// Starts the role that the command line names.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Lines::keep();
        let words: Vec<String> = arguments.iter().map(|&word| word.to_owned()).collect();
        let command = cli::parse(&words).expect("the command line is right").command;
        let (signals, signalled) = bounded(2);
        let (name, body): (_, Box<dyn FnOnce() -> Result<(), String> + Send>) = match command {
            Command::Client(config) => (
                "client",
                Box::new(move || {
                    let signals = Signals { stop: signalled, replace: crossbeam_channel::never() };
                    let end = client::run(keep(config), &signals, Inherited::default());
                    end.map(|_| ()).map_err(|error| error.to_string())
                }),
            ),
            Command::Server(config) => (
                "server",
                Box::new(move || server::run(keep(Box::new(config)), &signalled).map_err(|error| error.to_string())),
            ),
            Command::Check(_) | Command::Spool(_) | Command::Genkey => panic!("a check is no role"),
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(body).expect("a thread starts");
        Self { name, signals, thread }
    }

    /// Asks for a stop and waits for the end, which must be orderly.
    pub(crate) fn stop(self) {
        self.signals.send(()).unwrap_or_else(|_| panic!("the {} ended by itself", self.name));
        wait_until(&format!("the {} ends", self.name), || {
            if self.thread.is_finished() { Ok(()) } else { Err("it still runs".to_owned()) }
        });
        let outcome = self.thread.join().unwrap_or_else(|_| panic!("the {} panicked", self.name));
        assert_eq!(outcome, Ok(()), "the {} failed", self.name);
    }
}

/// Never frees a configuration that a role's threads have read. ThreadSanitizer does not see that the end of their
/// scope comes after that.
fn keep<T>(config: Box<T>) -> &'static T {
    Box::leak(config)
}

/// The last lines of the log.
pub(crate) struct Lines(Mutex<VecDeque<String>>);

static LINES: Lines = Lines(Mutex::new(VecDeque::new()));

impl Lines {
    /// Keeps the lines that are logged from here on.
    fn keep() {
        // The call fails when the log is kept already.
        if log::set_logger(&LINES).is_ok() {
            log::set_max_level(LevelFilter::Debug);
        }
    }

    /// The newest line that begins with `begins`, without that beginning.
    pub(crate) fn newest(begins: &str) -> Option<String> {
        LINES.0.lock().iter().rev().find_map(|line| line.strip_prefix(begins).map(str::to_owned))
    }
}

/// Says what was tried, and the log's last lines, if the test is failing when this value goes.
pub(crate) struct Trace(pub(crate) String);

impl Drop for Trace {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("{}; the log's last lines:", self.0);
            for line in LINES.0.lock().iter() {
                println!("{line}");
            }
        }
    }
}

impl Log for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let mut lines = self.0.lock();
        if lines.len() == LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(record.args().to_string());
    }

    fn flush(&self) {}
}
