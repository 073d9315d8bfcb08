//! The command line: argh's structs, turned into each role's settings.

mod client;
mod server;
#[cfg(test)]
mod tests;
mod usage;
mod values;

use std::path::PathBuf;

use argh::{EarlyExit, FromArgs};

use crate::check;
use crate::client::Config as ClientConfig;
use crate::os::net::HostPort;
use crate::server::Config as ServerConfig;
use crate::spool::{self, Action};
use client::ClientArgs;
use server::ServerArgs;
pub use usage::Usage;
use usage::wrong;

const ROLES: [&str; 5] = ["client", "server", "check", "spool", "genkey"];

/// Makes OSSEC's UDP link between agent and server reliable.
#[derive(Debug, FromArgs)]
struct TopLevel {
    #[argh(subcommand)]
    role: Option<Role>,

    /// print the version
    #[argh(switch)]
    version: bool,
}

#[derive(Debug, FromArgs)]
#[argh(subcommand)]
enum Role {
    Client(Box<ClientArgs>),
    Server(ServerArgs),
    Check(CheckArgs),
    Spool(SpoolArgs),
    Genkey(GenkeyArgs),
}

/// One heartbeat: prints the verdict. Exit code 0: up, 1: down, 2: unreachable.
#[derive(Debug, FromArgs)]
#[argh(subcommand, name = "check")]
struct CheckArgs {
    /// the broker server: HOST[:1517]
    #[argh(option, arg_name = "host[:port]", from_str_fn(values::broker))]
    broker: HostPort,

    /// file with the key that the server has
    #[argh(option, arg_name = "file")]
    psk_file: Option<PathBuf>,

    /// say more: what came of each address that was asked
    #[argh(switch, short = 'v')]
    verbose: u8,
}

/// Shows what waits in a spool, also while a client uses it.
#[derive(Debug, FromArgs)]
#[argh(subcommand, name = "spool")]
struct SpoolArgs {
    #[argh(subcommand)]
    action: SpoolAction,
}

#[derive(Debug, FromArgs)]
#[argh(subcommand)]
enum SpoolAction {
    Ls(LsArgs),
    Cat(CatArgs),
    Verify(VerifyArgs),
    Purge(PurgeArgs),
}

/// How much waits, from whom, and for how long.
#[derive(Debug, FromArgs)]
#[argh(subcommand, name = "ls")]
struct LsArgs {
    /// the folder of the spool
    #[argh(positional, arg_name = "dir")]
    path: PathBuf,
}

/// Each datagram: number, time of arrival, agent, length in bytes, payload.
#[derive(Debug, FromArgs)]
#[argh(subcommand, name = "cat")]
struct CatArgs {
    /// the folder of the spool
    #[argh(positional, arg_name = "dir")]
    path: PathBuf,
}

/// Whether everything can be read. Exit code 0: yes, 1: no.
#[derive(Debug, FromArgs)]
#[argh(subcommand, name = "verify")]
struct VerifyArgs {
    /// the folder of the spool
    #[argh(positional, arg_name = "dir")]
    path: PathBuf,
}

/// Throws everything away, if no client uses the spool.
#[derive(Debug, FromArgs)]
#[argh(subcommand, name = "purge")]
struct PurgeArgs {
    /// the folder of the spool
    #[argh(positional, arg_name = "dir")]
    path: PathBuf,
}

impl SpoolArgs {
    fn config(self) -> spool::Config {
        let (action, path) = match self.action {
            SpoolAction::Ls(LsArgs { path }) => (Action::Ls, path),
            SpoolAction::Cat(CatArgs { path }) => (Action::Cat, path),
            SpoolAction::Verify(VerifyArgs { path }) => (Action::Verify, path),
            SpoolAction::Purge(PurgeArgs { path }) => (Action::Purge, path),
        };
        spool::Config { action, path }
    }
}

/// Prints a new key for --psk-file on standard output.
#[derive(Debug, FromArgs)]
#[argh(subcommand, name = "genkey")]
struct GenkeyArgs {}

/// What to do.
#[derive(Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Command {
    Client(Box<ClientConfig>),
    Server(ServerConfig),
    Check(check::Config),
    Spool(spool::Config),
    Genkey,
}

/// The command line, understood.
#[derive(Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Invocation {
    pub command: Command,
    /// How often `-v` was given.
    pub verbosity: u8,
}

/// Understands the arguments that follow the program's name.
pub fn parse(arguments: &[String]) -> Result<Invocation, Usage> {
    let arguments = spread(arguments);
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let top = TopLevel::from_args(&["ossec-broker"], &words).map_err(|exit| usage(exit, words.first().copied()))?;
    if top.version {
        return Err(Usage::Asked(format!("ossec-broker {}\n", env!("CARGO_PKG_VERSION"))));
    }
    let (verbosity, command) = match top.role {
        None => return Err(wrong("which role? client, server, check, spool or genkey; see ossec-broker --help")),
        Some(Role::Client(args)) => (args.verbose, Command::Client(Box::new(args.config()?))),
        Some(Role::Server(args)) => (args.verbose, Command::Server(args.config()?)),
        Some(Role::Check(CheckArgs { broker, psk_file, verbose })) => {
            (verbose, Command::Check(check::Config { broker, psk_file }))
        }
        Some(Role::Spool(args)) => (0, Command::Spool(args.config())),
        Some(Role::Genkey(GenkeyArgs {})) => (0, Command::Genkey),
    };
    Ok(Invocation { command, verbosity })
}

fn usage(EarlyExit { mut output, status }: EarlyExit, first: Option<&str>) -> Usage {
    // Some of argh's texts end with their line, some do not.
    output.truncate(output.trim_end().len());
    if status.is_ok() {
        return Usage::Asked(output + "\n");
    }
    let role = first.filter(|word| ROLES.contains(word)).map_or(String::new(), |role| format!(" {role}"));
    wrong(format_args!("{output}\nsee ossec-broker{role} --help"))
}

/// Writes `--name=value` as two words and `-vvv` as three: argh knows neither.
fn spread(arguments: &[String]) -> Vec<String> {
    let mut words = Vec::with_capacity(arguments.len());
    for argument in arguments {
        let verbose =
            argument.strip_prefix('-').filter(|rest| rest.len() > 1 && rest.bytes().all(|byte| byte == b'v'));
        if let Some(rest) = verbose {
            words.extend(rest.chars().map(|_| "-v".to_string()));
        } else if argument == "-h" {
            words.push("--help".into());
        } else if let Some((name, value)) = argument.split_once('=').filter(|(name, _)| name.starts_with("--")) {
            words.extend([name.to_string(), value.to_string()]);
        } else {
            words.push(argument.clone());
        }
    }
    words
}
