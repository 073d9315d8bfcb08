//! The settings of this role, and their defaults.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::os::net::HostPort;
use crate::proto;
use crate::proto::terms::{BROKER_PORT, REMOTED_PORT};

/// The settings of this role.
#[derive(Clone, Debug)]
pub struct Config {
    /// remoted.
    pub server: HostPort,
    /// The broker server, where it is not on remoted's host.
    pub broker: Option<HostPort>,
    /// Where agents send to.
    pub listen: HostPort,
    /// Source address towards the server.
    pub source: Option<IpAddr>,
    /// Source port of the first session.
    pub source_port: u16,
    /// Receive buffer asked for, in bytes.
    pub receive_buffer_bytes: usize,
    /// How long to drain at shutdown.
    pub drain: Duration,
    /// The file with the key of the connection.
    pub psk_file: Option<PathBuf>,
    /// The user to become.
    pub user: Option<String>,
    /// Buffer, sessions and link.
    pub core: proto::client::Config,
}

impl Default for Config {
    /// Everything but the server's host, which has no default and stays empty.
    fn default() -> Self {
        Self {
            server: HostPort { host: String::new(), port: REMOTED_PORT },
            broker: None,
            listen: HostPort { host: "127.0.0.1".into(), port: REMOTED_PORT },
            source: None,
            source_port: BROKER_PORT,
            receive_buffer_bytes: 8 << 20,
            drain: Duration::from_secs(2),
            psk_file: None,
            user: None,
            core: proto::client::Config::default(),
        }
    }
}
