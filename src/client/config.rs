//! The settings of this role, and their defaults.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::os::net::HostPort;
use crate::proto;
use crate::proto::client::SyncPolicy;
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
    /// Only say whether this program could go on where the client of this version is.
    pub accept_handover: Option<String>,
    pub spool: Option<SpoolConfig>,
    pub core: proto::client::Config,
}

/// Bound of a spool that was given none, in bytes: days of an agent that sends a few events a second.
pub const SPOOL_BYTES: u64 = 1 << 30;

/// The settings of the spool.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the flags say it")]
pub struct SpoolConfig {
    pub path: PathBuf,
    pub bytes: u64,
    pub sync: SyncPolicy,
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
            accept_handover: None,
            spool: None,
            core: proto::client::Config::default(),
        }
    }
}
