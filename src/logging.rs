//! Where log lines go and what they look like: standard error, a line each.
//!
//! In a terminal or a file with the time (UTC); under journald without it, and with the `<N>` priority that journald understands. No thread
//! that logs waits for whoever reads (see `queue`).

mod queue;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::time::{SystemTime, UNIX_EPOCH};

use env_logger::{Builder, Target};
use log::{Level, LevelFilter};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::os::threads::detach;
use crate::proto::time::Utc;
use queue::Queue;

/// This program's lines.
const OWN: &str = "ossec_broker";
/// Lines about single datagrams have this target, so that they can be had or not.
const DATAGRAMS: &str = "ossec_broker::datagram";
/// Levels by module, in place of what is logged without an option.
const VARIABLE: &str = "RUST_LOG";

/// The log, from its start to the end of the process.
#[derive(Debug)]
pub struct Log {
    /// `None`: no thread could be started, and whoever logs writes.
    queue: Option<Queue>,
}

impl Log {
    /// Waits for what was logged last to be written, for a second at most. To be called at the end of the process.
    pub fn finish(&self) {
        if let Some(queue) = &self.queue {
            queue.finish();
        }
    }
}

/// Starts logging. `verbosity` is how often `-v` was given.
pub fn start(verbosity: u8) -> Log {
    let layout = Layout { journald: is_read_by_journald() };
    let log = Log { queue: start_writer(layout) };
    let variable = std::env::var(VARIABLE).ok().filter(|text| !text.is_empty());
    let (understood, strange) = match variable {
        Some(text) if is_understood(&text) => (Some(text), None),
        other => (None, other),
    };
    let mut builder = Builder::new();
    choose_levels(&mut builder, verbosity, understood.as_deref());
    builder.target(log.queue.clone().map_or(Target::Stderr, |queue| Target::Pipe(Box::new(queue))));
    builder.format(move |out, record| layout.write(out, record.level(), record.args()));
    builder.init();
    tell_panics(log.queue.clone());
    if let Some(text) = strange {
        log::warn!("{VARIABLE} is not understood: {text:?}; its form is error or ossec_broker=debug");
    }
    log
}

/// The command line goes before the environment, but a module that the environment names keeps its level.
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

/// env_logger writes its complaints about what it does not understand to standard error, and panics if that fails. So it gets nothing of the kind.
fn is_understood(directives: &str) -> bool {
    let (directives, pattern) = directives.split_once('/').unwrap_or((directives, ""));
    let is_directive = |directive: &str| match directive.split_once('=') {
        None => true,
        Some((_, level)) => level.trim().is_empty() || level.trim().parse::<LevelFilter>().is_ok(),
    };
    !pattern.contains('/') && directives.split(',').all(is_directive)
}

/// systemd names the stream that journald reads, by device and inode; standard error may have been led elsewhere since.
fn is_read_by_journald() -> bool {
    let stderr = io::stderr().as_fd().try_clone_to_owned().and_then(|own| File::from(own).metadata());
    let own = stderr.map(|own| format!("{}:{}", own.dev(), own.ino()));
    std::env::var("JOURNAL_STREAM").is_ok_and(|stream| own.is_ok_and(|own| own == stream))
}

/// The thread that writes. Nobody waits for it: a write to standard error cannot be interrupted, and the process ends all the same.
fn start_writer(layout: Layout) -> Option<Queue> {
    let (queue, lines) = queue::queue();
    let note = move |text: &str| {
        let mut line = Vec::new();
        // To memory: it does not fail.
        let _ = layout.write(&mut line, Level::Warn, format_args!("{text}"));
        line
    };
    detach("log", move || lines.write_to(Patient(io::stderr()), note)).ok().map(|()| queue)
}

/// A panic is a line of the log like any other, behind all that was logged before it.
fn tell_panics(queue: Option<Queue>) {
    std::panic::set_hook(Box::new(move |panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("without a name");
        let place = panic.location().map_or_else(String::new, |place| format!(" at {place}"));
        let why = panic.payload_as_str().unwrap_or("it does not say why");
        log::error!("the thread {name} panicked{place}: {why}");
        // After this hook the process may be gone.
        if let Some(queue) = &queue {
            queue.finish();
        }
    }));
}

/// Standard error as it may be inherited: set to refuse what it cannot take at once. Then this waits until it can.
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

/// What a line looks like.
#[derive(Clone, Copy, Debug)]
struct Layout {
    /// journald reads it.
    journald: bool,
}

impl Layout {
    fn write(self, out: &mut impl Write, level: Level, text: impl std::fmt::Display) -> io::Result<()> {
        if self.journald {
            writeln!(out, "<{}>{text}", priority(level))
        } else {
            writeln!(out, "{} {level:5} {text}", timestamp(SystemTime::now()))
        }
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

/// `2026-11-24T02:10:03.123Z`.
fn timestamp(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let utc = Utc::from_unix(since.as_secs());
    format!("{}T{}.{:03}Z", utc.date(), utc.time_of_day(), since.subsec_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is logged of this program, of single datagrams and of others.
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
            Layout { journald }.write(&mut line, Level::Warn, "link down").expect("to memory");
            String::from_utf8(line).expect("text")
        };
        assert_eq!(line(true), "<4>link down\n");
        assert!(line(false).ends_with("Z WARN  link down\n"), "{}", line(false));
        assert_eq!(
            timestamp(UNIX_EPOCH + std::time::Duration::from_millis(951_782_399_007)),
            "2000-02-28T23:59:59.007Z"
        );
    }
}
