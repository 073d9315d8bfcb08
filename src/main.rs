//! `ossec-broker`: see the library for everything but this: parse, log, signals, run, exit code.

#![deny(clippy::print_stdout, clippy::print_stderr)]

use std::io::{self, Write};
use std::process::ExitCode;

use ossec_broker::cli::{self, Command, Refusal};
use ossec_broker::os::{keyfile, signals};
use ossec_broker::{check, client, logging, server};

/// Failed at start, or beyond repair.
const FAILED: u8 = 1;
/// Wrong arguments; for `check`: unreachable.
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
        Err(Refusal::Asked(text)) => match print(&text) {
            Ok(()) => 0,
            Err(why) => complain(&format!("ossec-broker: {why}\n"), FAILED),
        },
        Err(Refusal::Wrong(text)) => complain(&text, WRONG),
    };
    ExitCode::from(code)
}

/// The exit code, or one line that says what was attempted and why it failed.
fn run(command: Command) -> Result<u8, String> {
    match command {
        Command::Client(config) => client::run(&config, &signals::listen()?).map(|()| 0),
        Command::Server(config) => {
            server::run(&config, &signals::listen()?).map(|()| 0).map_err(|error| error.to_string())
        }
        Command::Check(config) => check(&config),
        Command::Genkey => print(&format!("{}\n", keyfile::generate()?.to_text())).map(|()| 0),
    }
}

fn check(config: &check::Config) -> Result<u8, String> {
    let (text, code) = match check::run(config) {
        check::Answer::Up(text) => (text, 0),
        check::Answer::Down(text) => (text, FAILED),
        check::Answer::Unreachable(text) => (text, WRONG),
    };
    print(&format!("{text}\n")).map(|()| code)
}

/// Prints to standard output. A full disk or a reader that is gone is an error like any other, and no panic.
fn print(text: &str) -> Result<(), String> {
    let mut out = io::stdout().lock();
    let printed = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    printed.map_err(|error| format!("cannot write to standard output: {error}"))
}

/// Says on standard error, if that is possible, why there is this exit code.
fn complain(text: &str, code: u8) -> u8 {
    let _ = io::stderr().write_all(text.as_bytes());
    code
}
