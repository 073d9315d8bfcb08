//! What the command line says of this role.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::os::net::HostPort;
use crate::os::remoted::{Names, Wanted};
use crate::proto::terms::{BROKER_PORT, REMOTED_PORT};
use crate::proto::wire::Features;

/// With `--inject local`: sockets for agents of transport tcp, whose replies come back over the connection.
const SOCKETS_MAX: usize = 4_096;
/// The same without a key: only clients of this host may inject.
const SOCKETS_MAX_PLAIN: usize = 256;

/// The address that remoted sees in injected datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Inject {
    /// The client's address.
    #[default]
    Spoof,
    /// An address of the server's host.
    Local,
}

/// The settings of a server.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the flags say it")]
pub struct Config {
    pub listen: Option<HostPort>,
    /// Where `listen` is not given.
    pub default_port: u16,
    pub remoted: HostPort,
    pub inject: Inject,
    pub allowed_sources: Vec<IpNet>,
    pub user: Option<String>,
    pub names: Names,
    pub required: Vec<String>,
    pub psk_file: Option<PathBuf>,
    pub settle: Duration,
    pub connections_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: None,
            default_port: BROKER_PORT,
            remoted: HostPort { host: "127.0.0.1".into(), port: REMOTED_PORT },
            inject: Inject::default(),
            allowed_sources: Vec::new(),
            user: None,
            names: Names::default(),
            required: Vec::new(),
            psk_file: None,
            settle: Duration::from_secs(3),
            connections_max: 4_096,
        }
    }
}

impl Config {
    pub(super) fn offers(&self) -> Features {
        // Nothing has to be opened for replies that come back over the connection.
        let empty = self.is_ossec() && self.inject == Inject::Spoof;
        Features::STREAM.with(if empty { Features::EMPTY_DATAGRAMS } else { Features::NONE })
    }

    /// remoted is OSSEC's or Wazuh's.
    pub(super) fn is_ossec(&self) -> bool {
        matches!(&self.names, Names::These(names) if names.iter().all(|name| name.ends_with("-remoted")))
    }

    /// Most sockets for agents. With raw sockets there are none.
    pub(super) const fn sockets_max(&self, is_keyed: bool) -> usize {
        match (self.inject, is_keyed) {
            (Inject::Spoof, true) => 0,
            (Inject::Local, true) => SOCKETS_MAX,
            (_, false) => SOCKETS_MAX_PLAIN,
        }
    }

    /// Whether a client that connects from `address` may have datagrams injected in the name of `source`.
    pub(super) fn allows(&self, source: IpAddr, address: IpAddr) -> bool {
        source == address || self.allowed_sources.iter().any(|allowed| allowed.contains(&source))
    }

    /// What counts as remoted, where only sockets count that receive at one of `addresses`, if there are any.
    pub(super) fn wanted(&self, addresses: Vec<IpAddr>) -> Wanted {
        Wanted { port: self.remoted.port, addresses, names: self.names.clone(), required: self.required.clone() }
    }
}
