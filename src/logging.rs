//! Lines of the log, from the thread that logs to standard error.
//!
//! In a terminal or a file a line begins with the time (UTC). Under journald it begins with the `<N>` priority that
//! journald understands. No thread that logs waits for the reader of standard error (see `queue`).

mod queue;

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::time::SystemTime;

use env_logger::{Builder, Target};
use humantime::format_rfc3339_millis;
use log::{Level, LevelFilter};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::os::threads::detach;
use queue::Queue;

/// This program's lines.
const OWN: &str = "ossec_broker";
/// Lines about single datagrams have this target, so that they can be had or not.
const DATAGRAMS: &str = "ossec_broker::datagram";
const VARIABLE: &str = "RUST_LOG";

/// The log, from its start to the end of the process.
#[derive(Clone, Debug)]
pub struct Log {
    /// `None`: no thread could be started for writing, so each thread writes its own lines.
    queue: Option<Queue>,
}

impl Log {
    /// Waits until the last lines are written, for a second at most. This is the end of the process.
    pub fn finish(&self) {
        if let Some(queue) = &self.queue {
            queue.finish();
        }
    }
}

/// Starts logging. `verbosity` is how often `-v` was given.
pub fn start(verbosity: u8) -> Log {
    let journald = is_read_by_journald();
    let log = Log { queue: start_writer(journald) };
    let variable = std::env::var(VARIABLE).ok().filter(|text| !text.is_empty());
    let (understood, strange) = match variable {
        Some(text) if is_understood(&text) => (Some(text), None),
        other => (None, other),
    };
    let mut builder = Builder::new();
    choose_levels(&mut builder, verbosity, understood.as_deref());
    builder.target(log.queue.clone().map_or(Target::Stderr, |queue| Target::Pipe(Box::new(queue))));
    builder.format(move |out, record| write_line(journald, out, record.level(), record.args()));
    builder.init();
    tell_panics(log.clone());
    if let Some(text) = strange {
        log::warn!("{VARIABLE} is not understood: {text:?}; its form is error or ossec_broker=debug");
    }
    log
}

/// The command line comes before the environment, but a module that the environment names keeps its level.
fn choose_levels(builder: &mut Builder, verbosity: u8, variable: Option<&str>) {
    match variable {
        Some(directives) => builder.parse_filters(directives),
        None => builder.filter_level(LevelFilter::Warn),
    };
    let (level, datagrams) = match verbosity {
        0 if variable.is_some() => return,
        0 => (LevelFilter::Info, LevelFilter::Off),
        1 => (LevelFilter::Debug, LevelFilter::Off),
        2 => (LevelFilter::Trace, LevelFilter::Off),
        _ => (LevelFilter::Trace, LevelFilter::Trace),
    };
    builder.filter_module(OWN, level).filter_module(DATAGRAMS, datagrams);
}

/// Whether env_logger understands this text. It complains of other texts on standard error, and panics if that fails:
/// it never sees them.
fn is_understood(directives: &str) -> bool {
    let (directives, pattern) = directives.split_once('/').unwrap_or((directives, ""));
    let is_directive = |directive: &str| match directive.split_once('=') {
        None => true,
        Some((_, level)) => level.trim().is_empty() || level.trim().parse::<LevelFilter>().is_ok(),
    };
    !pattern.contains('/') && directives.split(',').all(is_directive)
}

/// Whether standard error is the stream that journald reads. systemd names that stream by device and inode, and the
/// process may have been started with standard error redirected.
fn is_read_by_journald() -> bool {
    let stderr = io::stderr().as_fd().try_clone_to_owned().and_then(|copy| File::from(copy).metadata());
    let stderr = stderr.map(|stderr| format!("{}:{}", stderr.dev(), stderr.ino()));
    std::env::var("JOURNAL_STREAM").is_ok_and(|stream| stderr.is_ok_and(|stderr| stderr == stream))
}

/// Starts the thread that writes. It is not joined: a write to standard error cannot be interrupted, and the process
/// must end all the same.
fn start_writer(journald: bool) -> Option<Queue> {
    let (queue, lines) = queue::queue();
    let note = move |text: &str| {
        let mut line = Vec::new();
        // To memory: it does not fail.
        let _ = write_line(journald, &mut line, Level::Warn, text);
        line
    };
    detach("log", move || lines.write_to(Patient(io::stderr()), note)).ok().map(|()| queue)
}

/// Makes a panic a line of the log like any other, behind everything that was logged before it.
fn tell_panics(log: Log) {
    std::panic::set_hook(Box::new(move |panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("without a name");
        let place = panic.location().map_or_else(String::new, |place| format!(" at {place}"));
        let why = panic.payload_as_str().unwrap_or("it does not say why");
        log::error!("the thread {name} panicked{place}: {why}");
        // After this hook the process may be gone.
        log.finish();
    }));
}

/// Standard error. Where the process inherited it in non-blocking mode, a write waits until standard error takes more.
struct Patient(io::Stderr);

impl Write for Patient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE)?;
                }
                outcome => return outcome,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn write_line(journald: bool, out: &mut impl Write, level: Level, text: impl Display) -> io::Result<()> {
    if journald {
        writeln!(out, "<{}>{text}", priority(level))
    } else {
        writeln!(out, "{} {level:5} {text}", format_rfc3339_millis(SystemTime::now()))
    }
}

/// syslog's numbers.
const fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The most detailed levels that are logged: of this program, of single datagrams and of other crates.
    fn levels(verbosity: u8, variable: Option<&str>) -> [Option<Level>; 3] {
        let mut builder = Builder::new();
        choose_levels(&mut builder, verbosity, variable);
        let logger = builder.build();
        let most = |target: &str| {
            let is_logged =
                |level: &Level| logger.matches(&log::Record::builder().target(target).level(*level).build());
            Level::iter().filter(is_logged).max()
        };
        [most("ossec_broker::client"), most(DATAGRAMS), most("mio")]
    }

    #[test]
    fn levels_come_from_the_command_line_or_else_from_the_environment() {
        use Level::{Debug, Error, Info, Trace, Warn};
        let table = [
            (0, None, [Some(Info), None, Some(Warn)]),
            (1, None, [Some(Debug), None, Some(Warn)]),
            (2, None, [Some(Trace), None, Some(Warn)]),
            (3, None, [Some(Trace), Some(Trace), Some(Warn)]),
            (0, Some("error"), [Some(Error), Some(Error), Some(Error)]),
            (0, Some("off"), [None, None, None]),
            (0, Some("ossec_broker=debug"), [Some(Debug), Some(Debug), None]),
            (0, Some("warn,ossec_broker::client=trace"), [Some(Trace), Some(Warn), Some(Warn)]),
            (1, Some("error"), [Some(Debug), None, Some(Error)]),
            (1, Some("error,ossec_broker::client=trace"), [Some(Trace), None, Some(Error)]),
        ];
        for (verbosity, variable, expected) in table {
            assert_eq!(levels(verbosity, variable), expected, "{verbosity} times -v, {variable:?}");
        }
    }

    #[test]
    fn what_env_logger_would_complain_of_is_kept_from_it() {
        for good in ["error", "OFF", "ossec_broker=debug,warn", "a=,b", "debug/ossec", ","] {
            assert!(is_understood(good), "{good}");
        }
        for bad in ["ossec_broker=loud", "a=b=info", "debug/a/b"] {
            assert!(!is_understood(bad), "{bad}");
        }
    }

    #[test]
    fn journald_gets_priorities_and_others_the_time() {
        let line = |journald| {
            let mut line = Vec::new();
            write_line(journald, &mut line, Level::Warn, "link down").expect("to memory");
            String::from_utf8(line).expect("text")
        };
        assert_eq!(line(true), "<4>link down\n");
        let timed = line(false);
        assert!(timed.len() == "2026-11-24T02:10:03.123Z WARN  link down\n".len(), "{timed}");
        assert!(timed.starts_with("20") && timed.ends_with("Z WARN  link down\n"), "{timed}");
    }
}
