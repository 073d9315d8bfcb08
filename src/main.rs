//! `ossec-broker`: parse, log, signals, run, exit code. Everything else is in the library.

#![deny(clippy::print_stdout, clippy::print_stderr)]

use std::error::Error;
use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use ossec_broker::cli::{self, Command, Invocation, Usage};
use ossec_broker::client::Successor;
use ossec_broker::os::handover::Inherited;
use ossec_broker::os::{keyfile, signals};
use ossec_broker::{check, client, logging, server, spool};

/// Exit code: failed at start, or beyond repair.
const FAILED: u8 = 1;
/// Exit code: wrong arguments; for `check`: unreachable.
const WRONG: u8 = 2;

fn main() -> ExitCode {
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    let code = match cli::parse(&arguments) {
        Ok(Invocation { command, verbosity }) => match command {
            Command::Client(config) if config.accept_handover.is_none() => be_client(&config, verbosity),
            Command::Server(config) => be_server(&config, verbosity),
            command => answer(command, verbosity),
        },
        Err(Usage::Asked(text)) => match print(&text) {
            Ok(()) => 0,
            Err(why) => complain(&format!("ossec-broker: {why}\n"), FAILED),
        },
        Err(Usage::Wrong(text)) => complain(&text, WRONG),
    };
    ExitCode::from(code)
}

/// The program that takes over, and what its environment must say beside its own.
type Continuation = (Successor, Vec<(&'static str, &'static str)>);

fn be_client(config: &client::Config, verbosity: u8) -> u8 {
    // Before the first thread: a thread inherits what is blocked, and the environment changes.
    let (held, inherited) = (signals::hold(), Inherited::from_environment());
    let log = logging::start(verbosity);
    let run = || -> Result<Option<Continuation>, Box<dyn Error>> {
        let signals = held.listen()?;
        let successor = client::run(config, &signals, inherited?)?;
        Ok(successor.map(|successor| (successor, held.hold_again(&signals))))
    };
    let end = run();
    let code = tell(&end);
    log.finish();
    match end {
        Ok(Some((Successor { image, legacy }, environment))) => {
            let path = image.path().to_string();
            let why = image.replace(legacy, environment);
            complain(&format!("ossec-broker: cannot become {path}: {why}\n"), FAILED)
        }
        _ => code,
    }
}

fn be_server(config: &server::Config, verbosity: u8) -> u8 {
    let held = signals::hold();
    let log = logging::start(verbosity);
    let run = || -> Result<(), Box<dyn Error>> { Ok(server::run(config, &held.listen()?.stop)?) };
    let code = tell(&run());
    log.finish();
    code
}

/// What a person asks once.
fn answer(command: Command, verbosity: u8) -> u8 {
    let log = logging::start(verbosity);
    let run = || -> Result<u8, Box<dyn Error>> {
        match command {
            Command::Client(config) => {
                client::accept(&config)?;
                Ok(0)
            }
            Command::Check(config) => check(&config),
            Command::Spool(config) => look_into(&config),
            Command::Genkey => {
                print(&format_args!("{}\n", keyfile::generate()?.to_text()))?;
                Ok(0)
            }
            Command::Server(_) => unreachable!("a server runs"),
        }
    };
    let answer = run();
    let code = tell(&answer);
    log.finish();
    answer.unwrap_or(code)
}

/// The exit code. An error is one line: what was attempted, and why it failed.
fn tell<T>(outcome: &Result<T, Box<dyn Error>>) -> u8 {
    match outcome {
        Ok(_) => 0,
        Err(why) => {
            log::error!("{why}");
            FAILED
        }
    }
}

fn look_into(config: &spool::Config) -> Result<u8, Box<dyn Error>> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let is_sound = spool::run(config, &mut out)?;
    out.flush().map_err(spool::Error::Output)?;
    Ok(if is_sound { 0 } else { FAILED })
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
