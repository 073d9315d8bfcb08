//! The role beside remoted: answers over TCP whether remoted is alive, and how much it can take.
//!
//! One thread serves all connections: it waits for their sockets, looks at remoted when somebody asks, and answers. Another walks `/proc`
//! when remoted has to be found, because that takes milliseconds on a busy host. Nothing of OSSEC's is touched.

mod complaints;
mod conn;
mod inject;
mod news;
mod search;
mod serve;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded, select};
use ipnet::IpNet;
use mio::Poll;
use mio::net::TcpListener;

use crate::os::keyfile;
use crate::os::net::{self, HostPort};
use crate::os::privileges::{self, Right};
use crate::os::remoted::{Names, Wanted};
use crate::os::threads::{Crew, Doorbell, Stopper, scope};
use crate::proto::terms::{BROKER_PORT, REMOTED_PORT};
use crate::proto::wire::Features;

pub use inject::Inject;
use inject::{Injector, Means};

/// Descriptors kept for everything but connections: sockets, `/proc` files, the log. Without them remoted could not be looked at, and a server
/// without descriptors would call it dead.
const DESCRIPTORS_BESIDES: u64 = 24;
/// With `--inject local`: sockets for agents of transport tcp, whose replies come back over the connection.
const SOCKETS_MAX: usize = 4_096;
/// The same without a key: only clients of this host may inject.
const SOCKETS_MAX_PLAIN: usize = 256;
const THREADS: usize = 2;
/// Kept when another user is to be: to see which sockets remoted owns. Raw sockets are open by then, and to use them takes no right.
const RIGHTS: [Right; 2] = [Right::CAP_SYS_PTRACE, Right::CAP_DAC_READ_SEARCH];

/// What the command line says of this role.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients connect to; `None`: every address, IPv6 too where there is IPv6.
    pub listen: Option<HostPort>,
    /// The port in that case.
    pub default_port: u16,
    /// remoted: its port is the one looked for, and where transport tcp's datagrams go.
    pub remoted: HostPort,
    /// Whose address remoted sees in them.
    pub inject: Inject,
    /// Addresses that remoted may see besides, where a client asks for one of them.
    pub allowed_sources: Vec<IpNet>,
    /// The user to become.
    pub user: Option<String>,
    /// Accepted process names; `None`: any.
    pub names: Option<Vec<String>>,
    /// Processes that must be running too.
    pub required: Vec<String>,
    /// The file with the key of all connections.
    pub psk_file: Option<PathBuf>,
    /// How long remoted must have been there.
    pub settle: Duration,
    /// Connections at a time.
    pub connections_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: None,
            default_port: BROKER_PORT,
            remoted: HostPort { host: "127.0.0.1".into(), port: REMOTED_PORT },
            inject: Inject::Spoof,
            allowed_sources: Vec::new(),
            user: None,
            names: Some(vec!["ossec-remoted".into(), "wazuh-remoted".into()]),
            required: Vec::new(),
            psk_file: None,
            settle: Duration::from_secs(3),
            connections_max: 4_096,
        }
    }
}

/// Runs until `signals` says stop, or until something is beyond repair. The error says what was attempted and why it failed.
pub fn run(config: &Config, signals: &Receiver<()>) -> Result<(), String> {
    let key = config.psk_file.as_deref().map(keyfile::load).transpose().map_err(|error| error.to_string())?;
    let listener = listen(config)?;
    match (&key, config.inject) {
        (None, _) => log::warn!(
            "no key (--psk-file): heartbeats are plain, and clients on other hosts cannot use --transport tcp"
        ),
        (Some(_), Inject::Spoof) => log::info!("with a key; transport tcp: remoted sees the clients' addresses"),
        (Some(_), Inject::Local) => log::info!("with a key; transport tcp: remoted sees an address of this host"),
    }
    let sockets_max = config.sockets_max(key.is_some());
    let wanted_descriptors = (config.connections_max + sockets_max) as u64 + DESCRIPTORS_BESIDES;
    let descriptors = net::raise_descriptor_limit(wanted_descriptors);
    if descriptors < wanted_descriptors {
        log::warn!(
            "{descriptors} descriptors allowed: not enough for {} connections; raise the limit",
            config.connections_max
        );
    }
    let remoted = remoted_addresses(&config.remoted)?;
    let wanted = Wanted {
        port: config.remoted.port,
        addresses: narrowing(&remoted),
        names: config.names.clone().map_or(Names::Any, Names::These),
        required: config.required.clone(),
    };
    let who = config.names.as_ref().map_or_else(|| "any process".into(), |names| names.join(" or "));
    let addresses: Vec<String> = wanted.addresses.iter().map(ToString::to_string).collect();
    let at = if addresses.is_empty() { String::new() } else { format!(" of {}", addresses.join(" and ")) };
    log::info!("looking for {who} on UDP port {}{at}", config.remoted.port);
    for path in config.names.iter().flatten().filter(|name| name.contains('/')) {
        if let Err(error) = std::fs::metadata(path) {
            log::warn!("--process {path}: {error}; looking for it again each time");
        }
    }
    let spare = usize::try_from(descriptors.saturating_sub(DESCRIPTORS_BESIDES)).unwrap_or(usize::MAX);
    let sockets = sockets_max.min(spare / 2);
    let places = spare.saturating_sub(sockets).max(1);
    let injector = open_injector(config, key.is_some(), remoted, sockets)?;
    if let Some(user) = &config.user {
        privileges::become_user(user, &RIGHTS).map_err(|error| error.to_string())?;
    }

    let failed = |error: io::Error| format!("cannot set up the wait for sockets: {error}");
    let poll = Poll::new().map_err(failed)?;
    let bell = Doorbell::new(&poll).map_err(failed)?;
    let (ask, asked) = bounded(1);
    let (found, founds) = bounded(1);
    let (stopper, stop) = Stopper::new(vec![bell.clone()]);
    scope(|scope| {
        let (crew, ended) = Crew::new(scope, THREADS);
        let spawned = (|| {
            let (target, stop_search) = (wanted.clone(), stop.clone());
            crew.spawn("search", move || search::run(target, &asked, &found, &bell, &stop_search))?;
            let parts = serve::Parts { key, places, injector, wanted, listener, poll, ask_search: ask, founds };
            let serving = move || serve::Server::new(config, parts)?.run(&stop);
            crew.spawn("serve", serving)
        })();
        if let Err(error) = spawned {
            return Err(format!("cannot start a thread: {error}"));
        }
        let outcome = select! {
            recv(signals) -> _ => { log::info!("stopping"); Ok(()) },
            recv(ended) -> report => match report {
                Ok(ended) => Err(ended.to_string()),
                Err(_) => Err("a thread ended unexpectedly".into()),
            },
        };
        drop(stopper);
        outcome
    })
}

fn listen(config: &Config) -> Result<TcpListener, String> {
    let bound = if let Some(name) = &config.listen {
        let cannot = |error: io::Error| format!("cannot bind {name}: {}", explain(&error));
        let addresses = name.resolve().map_err(cannot)?;
        net::listen(addresses[0]).map_err(|error| format!("cannot bind {}: {}", addresses[0], explain(&error)))?
    } else {
        let v6 = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), config.default_port);
        let v4 = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), config.default_port);
        match net::listen(v6) {
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => net::listen(v4),
            outcome => outcome,
        }
        .map_err(|error| format!("cannot bind port {}: {}", config.default_port, explain(&error)))?
    };
    if let Ok(address) = bound.local_addr() {
        log::info!("listening on {address}");
    }
    Ok(bound)
}

impl Config {
    /// Optional behaviour of this server.
    fn offers(&self) -> Features {
        // Nothing has to be opened for replies that come back over the connection.
        let empty = self.is_ossec() && self.inject == Inject::Spoof;
        Features::STREAM.with(if empty { Features::EMPTY_DATAGRAMS } else { Features::NONE })
    }

    /// remoted is OSSEC's or Wazuh's.
    fn is_ossec(&self) -> bool {
        self.names.as_ref().is_some_and(|names| names.iter().all(|name| name.ends_with("-remoted")))
    }

    /// Sockets for agents that there may be. With raw sockets there are none.
    const fn sockets_max(&self, keyed: bool) -> usize {
        match (self.inject, keyed) {
            (Inject::Spoof, true) => 0,
            (Inject::Local, true) => SOCKETS_MAX,
            (_, false) => SOCKETS_MAX_PLAIN,
        }
    }
}

/// The way of transport tcp's datagrams into remoted, with at most so many sockets for agents.
fn open_injector(
    config: &Config,
    keyed: bool,
    remoted: Vec<SocketAddr>,
    sockets_max: usize,
) -> Result<Injector, String> {
    let (inject, ossec) = (config.inject, config.is_ossec());
    Injector::open(Means { inject, keyed, ossec, remoted, sockets_max }).map_err(|error| {
        format!(
            "cannot inject with the clients' addresses: {error}: run as root, with CAP_NET_RAW, or with --inject local"
        )
    })
}

/// Where remoted receives: of this host, both loopback addresses.
fn remoted_addresses(remoted: &HostPort) -> Result<Vec<SocketAddr>, String> {
    let mut addresses = remoted.resolve().map_err(|error| format!("cannot resolve {remoted}: {error}"))?;
    if addresses.iter().all(|address| address.ip() == Ipv4Addr::LOCALHOST) {
        addresses.push(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), remoted.port));
    }
    Ok(addresses)
}

/// The addresses that a named remoted must receive at; none for one of the loopback, the default, which means that of this host wherever it does.
fn narrowing(remoted: &[SocketAddr]) -> Vec<IpAddr> {
    let addresses: Vec<IpAddr> = remoted.iter().map(|address| address.ip().to_canonical()).collect();
    let anywhere = addresses.iter().any(|address| address.is_loopback() || address.is_unspecified());
    if anywhere { Vec::new() } else { addresses }
}

/// The likely cause, where there is one.
fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "address in use (another ossec-broker server?)".into(),
        _ => net::explain(error),
    }
}
