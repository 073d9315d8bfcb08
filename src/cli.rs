//! The command line: argh's structs, turned into each role's own configuration.

#[cfg(test)]
mod tests;
mod values;

use std::path::PathBuf;
use std::time::Duration;

use argh::{EarlyExit, FromArgs};

use crate::os::net::{self, HostPort};
use crate::proto;
use crate::proto::client::FullPolicy;
use crate::proto::client::buffer::SESSION_ID_MAX;
use crate::proto::client::link;
use crate::{check, client, server};
use values::{BufferBytes, Full, Host, Injected, Prefix, Resend, Source, Span, Way};

const DEFAULT_PORT_REMOTED: u16 = 1_514;
const DEFAULT_PORT_BROKER: u16 = 1_517;
/// Hours of an agent that sends a few events a second.
const BUFFER_BYTES_DEFAULT: usize = 64 << 20;
const ROLES: [&str; 4] = ["client", "server", "check", "genkey"];
/// More frequent heartbeats of an idle link would only cost.
const INTERVAL_MIN: Duration = Duration::from_millis(10);

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
    Client(ClientArgs),
    Server(ServerArgs),
    Check(CheckArgs),
    Genkey(GenkeyArgs),
}

/// Beside the agent: takes in its datagrams, holds them while remoted is away, and forwards them in order.
#[derive(Debug, FromArgs)]
#[argh(subcommand, name = "client")]
struct ClientArgs {
    /// remoted's host and port: HOST[:1514]
    #[argh(option, arg_name = "host[:port]")]
    server: Host,

    /// the broker server, where it is not on remoted's host: HOST[:1517]
    #[argh(option, arg_name = "host[:port]")]
    broker: Option<Host>,

    /// where the agent sends to (127.0.0.1:1514)
    #[argh(option, arg_name = "addr", default = "Host::of(\"127.0.0.1\", DEFAULT_PORT_REMOTED)")]
    listen: Host,

    /// source address towards the server, for hosts with several
    #[argh(option, arg_name = "ip")]
    source: Option<Source>,

    /// source port of the first session; others take the next free ones upward (1517)
    #[argh(option, arg_name = "port", default = "DEFAULT_PORT_BROKER")]
    source_port: u16,

    /// way of the data: udp, as the agent would; tcp, over the connection to the broker server, with --psk-file (udp)
    #[argh(option, arg_name = "udp|tcp", default = "Way(proto::client::Transport::Udp)")]
    transport: Way,

    /// heartbeat of an idle link (1s)
    #[argh(option, arg_name = "duration", default = "Span(Duration::from_secs(1))")]
    interval: Span,

    /// how long a good heartbeat allows release, on top of the round trip (100ms)
    #[argh(option, arg_name = "duration", default = "Span(Duration::from_millis(100))")]
    lease: Span,

    /// bound of the lease and of a connection attempt (2s)
    #[argh(option, arg_name = "duration", default = "Span(Duration::from_secs(2))")]
    timeout: Span,

    /// whether what was not confirmed is sent again: yes or never (yes)
    #[argh(option, arg_name = "yes|never", default = "Resend::Yes")]
    resend: Resend,

    /// memory for datagrams, overhead included (64MiB)
    #[argh(option, arg_name = "size")]
    buffer: Option<BufferBytes>,

    /// what gives way when the buffer is full: drop-oldest or drop-newest (drop-oldest)
    #[argh(option, arg_name = "policy", default = "Full(FullPolicy::DropOldest)")]
    full: Full,

    /// drop datagrams that are older (off)
    #[argh(option, arg_name = "duration")]
    max_age: Option<Span>,

    /// never release more datagrams per second (off)
    #[argh(option, arg_name = "n")]
    rate: Option<std::num::NonZeroU32>,

    /// receive buffer asked for, by force where allowed (8MiB)
    #[argh(option, arg_name = "size", default = "values::ReceiveBytes(8 << 20)")]
    rcvbuf: values::ReceiveBytes,

    /// agents behind this client (256)
    #[argh(option, arg_name = "n", default = "values::Sessions(256)")]
    max_sessions: values::Sessions,

    /// at shutdown: how long to go on sending what is held, if the link is up (2s)
    #[argh(option, arg_name = "duration", default = "values::Pause(Duration::from_secs(2))")]
    drain: values::Pause,

    /// file with the key that both ends have; `ossec-broker genkey` makes one
    #[argh(option, arg_name = "file")]
    psk_file: Option<PathBuf>,

    /// become this user once the sockets are bound
    #[argh(option, arg_name = "name")]
    user: Option<String>,

    /// say more: -v connections and what is sent again, -vv each heartbeat, -vvv each datagram
    #[argh(switch, short = 'v')]
    verbose: u8,
}

/// Beside remoted: tells clients over TCP whether remoted is alive and reading, and hands it what comes over tcp.
#[derive(Debug, FromArgs)]
#[argh(subcommand, name = "server")]
struct ServerArgs {
    /// where clients connect to ([::]:1517; 0.0.0.0:1517 where there is no IPv6)
    #[argh(option, arg_name = "addr")]
    listen: Option<Host>,

    /// remoted; its port is the one looked for; with an address that is not the loopback's, only a socket that receives there counts (127.0.0.1:1514)
    #[argh(option, arg_name = "host:port", default = "Host::of(\"127.0.0.1\", DEFAULT_PORT_REMOTED)")]
    remoted: Host,

    /// name of the process that owns the port, or the path of its executable, also of one in a container, repeatable; `any`: the port alone (ossec-remoted, wazuh-remoted)
    #[argh(option, arg_name = "name")]
    process: Vec<String>,

    /// a process beside remoted that must be running too, by name or path, repeatable
    #[argh(option, arg_name = "name")]
    require: Vec<String>,

    /// how long remoted must have been there before it counts as up (3s)
    #[argh(option, arg_name = "duration", default = "values::Pause(Duration::from_secs(3))")]
    settle: values::Pause,

    /// transport tcp: whose address remoted sees: spoof, the client's; local, this host's, for keys `any` (spoof)
    #[argh(option, arg_name = "spoof|local", default = "Injected(server::Inject::Spoof)")]
    inject: Injected,

    /// with spoof: addresses besides its own that a client may ask to be seen as with --source, repeatable: 10.0.0.0/8 or 10.1.2.3
    #[argh(option, arg_name = "cidr")]
    allow_source: Vec<Prefix>,

    /// connections at a time (4096)
    #[argh(option, arg_name = "n", default = "values::Connections(4096)")]
    max_connections: values::Connections,

    /// file with the key that both ends have; `ossec-broker genkey` makes one
    #[argh(option, arg_name = "file")]
    psk_file: Option<PathBuf>,

    /// become this user once the sockets are bound, and keep the rights that looking at remoted needs
    #[argh(option, arg_name = "name")]
    user: Option<String>,

    /// say more: -v connections, -vv each heartbeat
    #[argh(switch, short = 'v')]
    verbose: u8,
}

/// One heartbeat: prints the verdict. Exit code 0: up, 1: down, 2: unreachable.
#[derive(Debug, FromArgs)]
#[argh(subcommand, name = "check")]
struct CheckArgs {
    /// the broker server: HOST[:1517]
    #[argh(option, arg_name = "host[:port]")]
    broker: Host,

    /// file with the key that the server has
    #[argh(option, arg_name = "file")]
    psk_file: Option<PathBuf>,

    /// say more: what came of each address that was asked
    #[argh(switch, short = 'v')]
    verbose: u8,
}

/// Prints a new key for --psk-file on standard output.
#[derive(Debug, FromArgs)]
#[argh(subcommand, name = "genkey")]
struct GenkeyArgs {}

/// What to do.
#[derive(Debug)]
pub enum Command {
    /// Be the client.
    Client(Box<client::Config>),
    /// Be the server.
    Server(server::Config),
    /// Ask once.
    Check(check::Config),
    /// Print a new key.
    Genkey,
}

/// The command line, understood.
#[derive(Debug)]
pub struct Invocation {
    /// What to do.
    pub command: Command,
    /// How often `-v` was given.
    pub verbosity: u8,
}

/// What to print instead of doing anything.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `--help` or `--version`: on standard output, exit code 0.
    Asked(String),
    /// Wrong arguments: on standard error, exit code 2.
    Wrong(String),
}

/// Understands the arguments, the program's name not among them.
pub fn parse(arguments: &[String]) -> Result<Invocation, Refusal> {
    let arguments = values::spread(arguments);
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let top = TopLevel::from_args(&["ossec-broker"], &words).map_err(|EarlyExit { mut output, status }| {
        // Some of argh's texts end with their line, some do not.
        output.truncate(output.trim_end().len());
        output.push('\n');
        if status.is_ok() {
            return Refusal::Asked(output);
        }
        let role = words.first().filter(|word| ROLES.contains(word)).map_or(String::new(), |role| format!(" {role}"));
        Refusal::Wrong(format!("{output}see ossec-broker{role} --help\n"))
    })?;
    if top.version {
        return Err(Refusal::Asked(format!("ossec-broker {}\n", env!("CARGO_PKG_VERSION"))));
    }
    let wrong = |text: String| Refusal::Wrong(text + "\n");
    match top.role {
        None => Err(wrong("which role? client, server, check or genkey; see ossec-broker --help".into())),
        Some(Role::Client(args)) => {
            let verbosity = args.verbose;
            let config = client_config(args).map_err(wrong)?;
            Ok(Invocation { command: Command::Client(Box::new(config)), verbosity })
        }
        Some(Role::Server(args)) => {
            let verbosity = args.verbose;
            let config = server_config(args).map_err(wrong)?;
            Ok(Invocation { command: Command::Server(config), verbosity })
        }
        Some(Role::Genkey(GenkeyArgs {})) => Ok(Invocation { command: Command::Genkey, verbosity: 0 }),
        Some(Role::Check(args)) => {
            let config = check::Config { broker: args.broker.with_port(DEFAULT_PORT_BROKER), psk_file: args.psk_file };
            Ok(Invocation { command: Command::Check(config), verbosity: args.verbose })
        }
    }
}

fn client_config(args: ClientArgs) -> Result<client::Config, String> {
    if args.interval.0 < INTERVAL_MIN {
        return Err(format!("--interval: at least {INTERVAL_MIN:?}"));
    }
    if args.lease.0 > args.timeout.0 {
        return Err("--lease is longer than --timeout, which bounds it".into());
    }
    if let (Some(buffer), Some(memory)) = (args.buffer, net::memory_bytes())
        && buffer.0 as u64 > memory
    {
        return Err(format!("--buffer: this host has {} MiB of memory, swap included", memory >> 20));
    }
    let server = args.server.with_port(DEFAULT_PORT_REMOTED);
    let listen = args.listen.with_port(DEFAULT_PORT_REMOTED);
    if listen == server {
        return Err(format!(
            "--listen and --server are both {server}: the client would send to itself; give --listen another port"
        ));
    }
    Ok(client::Config {
        server,
        broker: args.broker.map(|broker| broker.with_port(DEFAULT_PORT_BROKER)),
        broker_port: DEFAULT_PORT_BROKER,
        listen,
        source: args.source.map(|source| source.0),
        source_port: args.source_port,
        timeout: args.timeout.0,
        receive_buffer_bytes: args.rcvbuf.0,
        drain: args.drain.0,
        psk_file: args.psk_file,
        user: args.user,
        core: proto::client::Config {
            buffer_bytes: args.buffer.map_or(BUFFER_BYTES_DEFAULT, |buffer| buffer.0),
            full: args.full.0,
            max_age: args.max_age.map(|span| span.0),
            rate: args.rate,
            resend: args.resend == Resend::Yes,
            sessions_max: args.max_sessions.0.min(SESSION_ID_MAX),
            transport: args.transport.0,
            link: link::Settings { interval: args.interval.0, lease: args.lease.0, timeout: args.timeout.0 },
        },
    })
}

fn server_config(args: ServerArgs) -> Result<server::Config, String> {
    let remoted = args.remoted.with_port(DEFAULT_PORT_REMOTED);
    let any = args.process.iter().any(|name| name == "any");
    if any && args.process.len() > 1 {
        return Err("--process any stands alone".into());
    }
    if let Some(empty) = [&args.process, &args.require].into_iter().flatten().find(|name| name.is_empty()) {
        return Err(format!("{empty:?} is no name of a process"));
    }
    let is_relative = |name: &&String| name.contains('/') && !name.starts_with('/');
    if let Some(path) = args.process.iter().chain(&args.require).find(is_relative) {
        return Err(format!("{path}: a process is named by its name, or by the whole path of its executable"));
    }
    if args.inject.0 == server::Inject::Local && !args.allow_source.is_empty() {
        return Err("--allow-source is for --inject spoof".into());
    }
    if args.psk_file.is_none() && !args.allow_source.is_empty() {
        return Err("--allow-source needs --psk-file: without a key any program of this host could use it".into());
    }
    let defaults = || vec!["ossec-remoted".to_string(), "wazuh-remoted".to_string()];
    let names = if any { None } else { Some(if args.process.is_empty() { defaults() } else { args.process }) };
    Ok(server::Config {
        listen: args.listen.map(|listen| listen.with_port(DEFAULT_PORT_BROKER)),
        default_port: DEFAULT_PORT_BROKER,
        remoted,
        inject: args.inject.0,
        allowed_sources: args.allow_source.into_iter().map(|prefix| prefix.0).collect(),
        psk_file: args.psk_file,
        user: args.user,
        names,
        required: args.require,
        settle: args.settle.0,
        connections_max: args.max_connections.0,
    })
}

impl Host {
    fn of(host: &str, port: u16) -> Self {
        Self { host: host.into(), port: Some(port) }
    }

    fn with_port(self, port: u16) -> HostPort {
        HostPort { host: self.host, port: self.port.unwrap_or(port) }
    }
}
