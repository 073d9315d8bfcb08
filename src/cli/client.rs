//! The flags of the client.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use argh::FromArgs;

use crate::cli::usage::{Usage, wrong};
use crate::cli::values::{
    broker, buffer_bytes, duration, full, pause, rate, receive_bytes, remoted, resend, sessions, source, source_port,
    spool_bytes, spool_sync, transport,
};
use crate::client::{Config, SPOOL_BYTES, SpoolConfig};
use crate::os::net::{self, HostPort};
use crate::proto::client::{self, FullPolicy, SyncPolicy, Transport, link::Settings};

/// More frequent heartbeats of an idle link would only cost.
const INTERVAL_MIN: Duration = Duration::from_millis(10);

/// Beside the agent: takes in its datagrams, holds them while remoted is away, and forwards them in order.
#[derive(Debug, FromArgs)]
#[argh(subcommand, name = "client")]
pub(super) struct ClientArgs {
    /// remoted's host and port: HOST[:1514]
    #[argh(option, arg_name = "host[:port]", from_str_fn(remoted))]
    server: HostPort,

    /// the broker server, where it is not on remoted's host: HOST[:1517]
    #[argh(option, arg_name = "host[:port]", from_str_fn(broker))]
    broker: Option<HostPort>,

    /// where the agent sends to (127.0.0.1:1514)
    #[argh(option, arg_name = "addr", from_str_fn(remoted), default = "Config::default().listen")]
    listen: HostPort,

    /// source address towards the server, for hosts with several addresses
    #[argh(option, arg_name = "ip", from_str_fn(source))]
    source: Option<IpAddr>,

    /// source port of the first session; others take the next free ones upward (1517)
    #[argh(option, arg_name = "port", from_str_fn(source_port), default = "Config::default().source_port")]
    source_port: u16,

    /// way of the data: udp, as the agent would; tcp, over the connection to the broker server, with --psk-file (udp)
    #[argh(option, arg_name = "udp|tcp", from_str_fn(transport), default = "Config::default().core.transport")]
    transport: Transport,

    /// heartbeat of an idle link (1s)
    #[argh(option, arg_name = "duration", from_str_fn(duration), default = "Settings::default().interval")]
    interval: Duration,

    /// how long a good heartbeat allows release, on top of the round trip (100ms)
    #[argh(option, arg_name = "duration", from_str_fn(duration), default = "Settings::default().lease")]
    lease: Duration,

    /// bound of the lease and of a connection attempt (2s)
    #[argh(option, arg_name = "duration", from_str_fn(duration), default = "Settings::default().timeout")]
    timeout: Duration,

    /// whether what was not confirmed is sent again: yes or never (yes)
    #[argh(option, arg_name = "yes|never", from_str_fn(resend), default = "Config::default().core.resend")]
    resend: bool,

    /// memory for datagrams, overhead included (64MiB)
    #[argh(option, arg_name = "size", from_str_fn(buffer_bytes))]
    buffer: Option<usize>,

    /// what gives way when the buffer is full: drop-oldest or drop-newest (drop-oldest)
    #[argh(option, arg_name = "policy", from_str_fn(full), default = "Config::default().core.full")]
    full: FullPolicy,

    /// folder on disk for datagrams that are held longer than a moment: they survive the end of this process (off)
    #[argh(option, arg_name = "dir")]
    spool: Option<PathBuf>,

    /// bound of the spool (1GiB)
    #[argh(option, arg_name = "size", from_str_fn(spool_bytes))]
    spool_size: Option<u64>,

    /// when the spool is made to survive a power cut: never, interval (each second) or always (interval)
    #[argh(option, arg_name = "policy", from_str_fn(spool_sync))]
    spool_sync: Option<SyncPolicy>,

    /// drop datagrams that are older (off)
    #[argh(option, arg_name = "duration", from_str_fn(duration))]
    max_age: Option<Duration>,

    /// never release more datagrams per second (off)
    #[argh(option, arg_name = "n", from_str_fn(rate))]
    rate: Option<NonZeroU32>,

    /// receive buffer asked for, by force where allowed (8MiB)
    #[argh(option, arg_name = "size", from_str_fn(receive_bytes), default = "Config::default().receive_buffer_bytes")]
    rcvbuf: usize,

    /// agents behind this client (256)
    #[argh(option, arg_name = "n", from_str_fn(sessions), default = "Config::default().core.sessions_max")]
    max_sessions: u16,

    /// at shutdown: how long to go on sending what is held, if the link is up (2s)
    #[argh(option, arg_name = "duration", from_str_fn(pause), default = "Config::default().drain")]
    drain: Duration,

    /// file with the key that both ends have; `ossec-broker genkey` makes one
    #[argh(option, arg_name = "file")]
    psk_file: Option<PathBuf>,

    /// become this user once the sockets are bound
    #[argh(option, arg_name = "name")]
    user: Option<String>,

    /// says by the exit code whether this program could go on where the client of this version is
    #[argh(option, arg_name = "version", hidden_help)]
    accept_handover: Option<String>,

    /// say more: -v connections and what is sent again, -vv each heartbeat, -vvv each datagram
    #[argh(switch, short = 'v')]
    pub(super) verbose: u8,
}

impl ClientArgs {
    /// The settings, if the flags agree with each other and with this host.
    pub(super) fn config(self) -> Result<Config, Usage> {
        self.check()?;
        Ok(Config {
            server: self.server,
            broker: self.broker,
            listen: self.listen,
            source: self.source,
            source_port: self.source_port,
            receive_buffer_bytes: self.rcvbuf,
            drain: self.drain,
            psk_file: self.psk_file,
            user: self.user,
            accept_handover: self.accept_handover,
            spool: self.spool.map(|path| SpoolConfig {
                path,
                bytes: self.spool_size.unwrap_or(SPOOL_BYTES),
                sync: self.spool_sync.unwrap_or_default(),
            }),
            core: client::Config {
                buffer_bytes: self.buffer.unwrap_or(Config::default().core.buffer_bytes),
                full: self.full,
                max_age: self.max_age,
                rate: self.rate,
                resend: self.resend,
                sessions_max: self.max_sessions,
                transport: self.transport,
                link: Settings { interval: self.interval, lease: self.lease, timeout: self.timeout },
            },
        })
    }

    fn check(&self) -> Result<(), Usage> {
        if self.interval < INTERVAL_MIN {
            return Err(wrong(format_args!("--interval: at least {INTERVAL_MIN:?}")));
        }
        if self.lease > self.timeout {
            return Err(wrong("--lease is longer than --timeout, which bounds it"));
        }
        if let (Some(buffer), Some(memory)) = (self.buffer, net::memory_bytes())
            && buffer as u64 > memory
        {
            let mebibytes = memory >> 20;
            return Err(wrong(format_args!("--buffer: this host has {mebibytes} MiB of memory, swap included")));
        }
        if self.spool.is_none() && (self.spool_size.is_some() || self.spool_sync.is_some()) {
            return Err(wrong("--spool-size and --spool-sync need --spool"));
        }
        let server = &self.server;
        if self.listen == *server {
            return Err(wrong(format_args!(
                "--listen and --server are both {server}: the client would send to itself; give --listen another port"
            )));
        }
        Ok(())
    }
}
