//! `ossec-broker`: see the library for everything but this: parse, log, signals, run, exit code.

use std::process::ExitCode;

use crossbeam_channel::{Receiver, bounded};
use ossec_broker::cli::{self, Command, Invocation, Refusal};
use ossec_broker::{check, client, keyfile, logging, server};

/// Failed at start, or beyond repair.
const FAILED: u8 = 1;
/// Wrong arguments; for `check`: unreachable.
const WRONG: u8 = 2;

fn main() -> ExitCode {
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    match cli::parse(&arguments) {
        Ok(invocation) => run(invocation),
        Err(Refusal::Asked(text)) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(Refusal::Wrong(text)) => {
            eprint!("{text}");
            ExitCode::from(WRONG)
        }
    }
}

fn run(invocation: Invocation) -> ExitCode {
    logging::start(invocation.verbosity);
    let outcome = match invocation.command {
        Command::Client(config) => signals().and_then(|signals| client::run(&config, &signals)),
        Command::Server(config) => signals().and_then(|signals| server::run(&config, &signals)),
        Command::Check(config) => return check(&config),
        Command::Genkey => keyfile::generate().map(|key| println!("{}", key.to_text())),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            log::error!("{why}");
            ExitCode::from(FAILED)
        }
    }
}

fn check(config: &check::Config) -> ExitCode {
    let (text, code) = match check::run(config) {
        check::Answer::Up(text) => (text, 0),
        check::Answer::Down(text) => (text, FAILED),
        check::Answer::Unreachable(text) => (text, WRONG),
    };
    println!("{text}");
    ExitCode::from(code)
}

/// SIGINT, SIGTERM and SIGHUP. The first asks for an orderly stop, the second ends what is still being drained.
fn signals() -> Result<Receiver<()>, String> {
    let (sender, receiver) = bounded(2);
    let handler = move || {
        // A third says nothing new.
        let _ = sender.try_send(());
    };
    ctrlc::set_handler(handler).map_err(|error| format!("cannot handle signals: {error}"))?;
    Ok(receiver)
}
