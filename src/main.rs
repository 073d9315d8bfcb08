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
            Command::Client(config) => run(verbosity, || accept(&config)),
            Command::Check(config) => run(verbosity, || check(&config)),
            Command::Spool(config) => run(verbosity, || look_into(&config)),
            Command::Genkey => run(verbosity, genkey),
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
    let end = run().map_err(|why| tell(&*why));
    log.finish();
    match end {
        Ok(Some((Successor { image, legacy }, environment))) => {
            let path = image.path().to_string();
            let why = image.replace(legacy, environment);
            complain(&format!("ossec-broker: cannot become {path}: {why}\n"), FAILED)
        }
        Ok(None) => 0,
        Err(code) => code,
    }
}

/// The exit code of what runs with a log. An error is one line: what was attempted, and why it failed.
fn run(verbosity: u8, body: impl FnOnce() -> Result<u8, Box<dyn Error>>) -> u8 {
    let log = logging::start(verbosity);
    let code = body().unwrap_or_else(|why| tell(&*why));
    log.finish();
    code
}

fn tell(why: &dyn Error) -> u8 {
    log::error!("{why}");
    FAILED
}

fn be_server(config: &server::Config, verbosity: u8) -> u8 {
    // Before the first thread.
    let held = signals::hold();
    run(verbosity, || {
        server::run(config, &held.listen()?.stop)?;
        Ok(0)
    })
}

fn accept(config: &client::Config) -> Result<u8, Box<dyn Error>> {
    client::accept(config)?;
    Ok(0)
}

fn genkey() -> Result<u8, Box<dyn Error>> {
    print(&format_args!("{}\n", keyfile::generate()?.to_text()))?;
    Ok(0)
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
