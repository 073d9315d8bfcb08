//! `ossec-broker`: parse, log, signals, run, exit code. Everything else is in the library.

#![deny(clippy::print_stdout, clippy::print_stderr)]

use std::error::Error;
use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use ossec_broker::cli::{self, Command, Usage};
use ossec_broker::os::{keyfile, signals};
use ossec_broker::{check, client, logging, server};

/// Exit code: failed at start, or beyond repair.
const FAILED: u8 = 1;
/// Exit code: wrong arguments; for `check`: unreachable.
const WRONG: u8 = 2;

fn main() -> ExitCode {
    // Before the first thread.
    signals::respect_nohup();
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    let code = match cli::parse(&arguments) {
        Ok(invocation) => {
            let log = logging::start(invocation.verbosity);
            let code = run(invocation.command).unwrap_or_else(|why| {
                log::error!("{why}");
                FAILED
            });
            log.finish();
            code
        }
        Err(Usage::Asked(text)) => match print(&text) {
            Ok(()) => 0,
            Err(why) => complain(&format!("ossec-broker: {why}\n"), FAILED),
        },
        Err(Usage::Wrong(text)) => complain(&text, WRONG),
    };
    ExitCode::from(code)
}

/// The exit code, or an error that is one line: what was attempted, and why it failed.
fn run(command: Command) -> Result<u8, Box<dyn Error>> {
    match command {
        Command::Client(config) => client::run(&config, &signals::listen()?)?,
        Command::Server(config) => server::run(&config, &signals::listen()?)?,
        Command::Check(config) => return check(&config),
        Command::Genkey => print(&format_args!("{}\n", keyfile::generate()?.to_text()))?,
    }
    Ok(0)
}

fn check(config: &check::Config) -> Result<u8, Box<dyn Error>> {
    let (text, code) = match check::run(config) {
        Ok(answer) => (answer.to_string(), if answer.is_up() { 0 } else { FAILED }),
        Err(why) => (why.to_string(), WRONG),
    };
    print(&format_args!("{text}\n"))?;
    Ok(code)
}

/// Prints to standard output. A full disk or a reader that is gone is an error like any other, and no panic.
fn print(text: &dyn Display) -> Result<(), String> {
    let mut out = io::stdout().lock();
    let printed = write!(out, "{text}").and_then(|()| out.flush());
    printed.map_err(|error| format!("cannot write to standard output: {error}"))
}

/// Says on standard error why there is this exit code, as far as that is possible.
fn complain(text: &str, code: u8) -> u8 {
    let _ = io::stderr().write_all(text.as_bytes());
    code
}
