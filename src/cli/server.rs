//! The flags of the server.

use std::path::PathBuf;
use std::time::Duration;

use argh::FromArgs;
use ipnet::IpNet;

use crate::cli::usage::{Usage, wrong};
use crate::cli::values::{broker, connections, inject, pause, prefix, remoted};
use crate::os::net::HostPort;
use crate::os::remoted::Names;
use crate::server::{Config, Inject};

/// Beside remoted: tells clients over TCP whether remoted is alive and reading, and hands it what comes over tcp.
#[derive(Debug, FromArgs)]
#[argh(subcommand, name = "server")]
pub(super) struct ServerArgs {
    /// where clients connect to ([::]:1517; 0.0.0.0:1517 where there is no IPv6)
    #[argh(option, arg_name = "addr", from_str_fn(broker))]
    listen: Option<HostPort>,

    /// remoted; its port is the one looked for; with an address that is not the loopback's, only a socket that
    /// receives there counts (127.0.0.1:1514)
    #[argh(option, arg_name = "host:port", from_str_fn(remoted), default = "Config::default().remoted")]
    remoted: HostPort,

    /// name of the program that owns the port, or the path of its executable, also of one in a container, repeatable;
    /// `any`: the port alone (ossec-remoted, wazuh-remoted)
    #[argh(option, arg_name = "name")]
    process: Vec<String>,

    /// a process beside remoted that must be running too, by name or path, repeatable
    #[argh(option, arg_name = "name")]
    require: Vec<String>,

    /// how long remoted must have been there before it counts as up (3s)
    #[argh(option, arg_name = "duration", from_str_fn(pause), default = "Config::default().settle")]
    settle: Duration,

    /// transport tcp: whose address remoted sees: spoof, the client's; local, this host's, for keys `any` (spoof)
    #[argh(option, arg_name = "spoof|local", from_str_fn(inject), default = "Config::default().inject")]
    inject: Inject,

    /// with spoof: addresses besides its own that a client may ask to be seen as with --source, repeatable:
    /// 10.0.0.0/8 or 10.1.2.3
    #[argh(option, arg_name = "cidr", from_str_fn(prefix))]
    allow_source: Vec<IpNet>,

    /// connections at a time (4096)
    #[argh(option, arg_name = "n", from_str_fn(connections), default = "Config::default().connections_max")]
    max_connections: usize,

    /// file with the key that both ends have; `ossec-broker genkey` makes one
    #[argh(option, arg_name = "file")]
    psk_file: Option<PathBuf>,

    /// become this user once the sockets are bound, and keep the rights that looking at remoted needs
    #[argh(option, arg_name = "name")]
    user: Option<String>,

    /// say more: -v connections, -vv each heartbeat
    #[argh(switch, short = 'v')]
    pub(super) verbose: u8,
}

impl ServerArgs {
    /// The settings, if the flags agree with each other.
    pub(super) fn config(self) -> Result<Config, Usage> {
        self.check()?;
        let default = Config::default();
        let names = match self.process {
            names if names.is_empty() => default.names,
            names if is_any(&names) => Names::Any,
            names => Names::These(names),
        };
        Ok(Config {
            listen: self.listen,
            default_port: default.default_port,
            remoted: self.remoted,
            inject: self.inject,
            allowed_sources: self.allow_source,
            user: self.user,
            names,
            required: self.require,
            psk_file: self.psk_file,
            settle: self.settle,
            connections_max: self.max_connections,
        })
    }

    fn check(&self) -> Result<(), Usage> {
        if is_any(&self.process) && self.process.len() > 1 {
            return Err(wrong("--process any stands alone"));
        }
        for name in self.process.iter().chain(&self.require) {
            if name.is_empty() {
                return Err(wrong(format_args!("{name:?} is no name of a process")));
            }
            if name.contains('/') && !name.starts_with('/') {
                return Err(wrong(format_args!(
                    "{name}: a process is named by its name, or by the whole path of its executable"
                )));
            }
        }
        if self.inject == Inject::Local && !self.allow_source.is_empty() {
            return Err(wrong("--allow-source is for --inject spoof"));
        }
        if self.psk_file.is_none() && !self.allow_source.is_empty() {
            return Err(wrong("--allow-source needs --psk-file: without a key any program of this host could use it"));
        }
        Ok(())
    }
}

fn is_any(names: &[String]) -> bool {
    names.iter().any(|name| name == "any")
}
