//! The settings of this role, and their defaults.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::os::net::HostPort;
use crate::proto;
use crate::proto::terms::{BROKER_PORT, REMOTED_PORT};

/// The settings of this role.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the flags say it")]
pub struct Config {
    pub server: HostPort,
    pub broker: Option<HostPort>,
    pub listen: HostPort,
    pub source: Option<IpAddr>,
    pub source_port: u16,
    pub receive_buffer_bytes: usize,
    pub drain: Duration,
    pub psk_file: Option<PathBuf>,
    pub user: Option<String>,
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
