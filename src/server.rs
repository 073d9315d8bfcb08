//! The role beside remoted: answers over TCP whether remoted is alive, and how much it can take.
//!
//! One thread serves all connections: it waits for their sockets, looks at remoted when a client asks, and answers.
//! Another one walks `/proc` when remoted has to be found, because that takes milliseconds on a busy host. Nothing of
//! OSSEC's is touched.

mod config;
mod inject;
mod search;
mod serve;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crossbeam_channel::{Receiver, bounded, select};
use mio::net::TcpListener;
use thiserror::Error;

use crate::os::keyfile::{self, KeyError};
use crate::os::net::{self, HostPort};
use crate::os::privileges::{self, Right, UserError};
use crate::os::remoted::{Names, Wanted};
use crate::os::threads::{Crew, Ended, Stopper, Wait, scope};
use crate::proto::seal::Keys;
use inject::Way;
use serve::{Connections, Watch};

pub use config::{Config, Inject};

/// Descriptors kept for everything but connections: sockets, `/proc` files, the log. Without them remoted could not be
/// looked at, and a server without descriptors would call it dead.
const DESCRIPTORS_BESIDES: u64 = 24;
const THREADS: usize = 2;
/// Sockets that the serving thread is told of at once, to be answered from one look.
const EVENTS_MAX: usize = 1_024;
/// Kept when another user is to be: to see which sockets remoted owns. Raw sockets are open by then, and to use them
/// takes no right.
const RIGHTS: [Right; 2] = [Right::CAP_SYS_PTRACE, Right::CAP_DAC_READ_SEARCH];

/// Why a server does not start, or ends without being asked to.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the texts say it")]
pub enum Error {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("cannot bind {0}: {why}", why = explain(.1))]
    Bind(String, #[source] io::Error),
    #[error("cannot resolve {0}: {1}")]
    Resolve(HostPort, #[source] io::Error),
    #[error("cannot inject with the clients' addresses: {0}: run as root, with CAP_NET_RAW, or with --inject local")]
    RawSockets(#[source] io::Error),
    #[error(transparent)]
    User(#[from] UserError),
    #[error("cannot set up the wait for sockets: {0}")]
    Wait(#[source] io::Error),
    #[error("cannot start a thread: {0}")]
    Spawn(#[source] io::Error),
    #[error(transparent)]
    Thread(#[from] Ended),
}

/// Runs until `signals` says stop, or until something is beyond repair.
pub fn run(config: &Config, signals: &Receiver<()>) -> Result<(), Error> {
    let keys = config.psk_file.as_deref().map(keyfile::load).transpose()?.unwrap_or_else(|| Keys::from([]));
    let is_keyed = !keys.is_empty();
    let listener = listen(config)?;
    match (is_keyed, config.inject) {
        (false, _) => log::warn!(
            "no key (--psk-file): heartbeats are plain, and clients on other hosts cannot use --transport tcp"
        ),
        (true, Inject::Spoof) => log::info!("with a key; transport tcp: remoted sees the clients' addresses"),
        (true, Inject::Local) => log::info!("with a key; transport tcp: remoted sees an address of this host"),
    }
    let (capacity, sockets_max) = share_descriptors(config, is_keyed);
    let addresses = remoted_addresses(&config.remoted)?;
    let wanted = config.wanted(narrowing(&addresses));
    announce_search(&wanted);
    let way = Way::open(config, is_keyed, addresses, sockets_max).map_err(Error::RawSockets)?;
    if let Some(user) = &config.user {
        privileges::become_user(user, &RIGHTS)?;
    }
    let (wait, bell) = Wait::new("connections", EVENTS_MAX).map_err(Error::Wait)?;
    let (ask_search, asked) = bounded(1);
    let (found, founds) = bounded(1);
    let (stopper, stop) = Stopper::new(vec![bell.clone()]);
    let target = wanted.clone();
    let watch = Watch::new(wanted, ask_search, founds);
    let connections = Connections::new(config, keys, capacity, listener, wait.poll()).map_err(Error::Wait)?;
    scope(|scope| {
        let (crew, ended) = Crew::new(scope, THREADS);
        let stop_search = stop.clone();
        let searching = move || search::run(target, &asked, &found, &bell, &stop_search);
        let serving = move || serve::run(config, connections, watch, way, wait, &stop);
        crew.spawn("search", searching).and_then(|()| crew.spawn("serve", serving)).map_err(Error::Spawn)?;
        let outcome = select! {
            recv(signals) -> _ => { log::info!("stopping"); Ok(()) },
            recv(ended) -> report => Err(Error::Thread(report.expect("the crew is there, and could report"))),
        };
        drop(stopper);
        outcome
    })
}

fn listen(config: &Config) -> Result<TcpListener, Error> {
    let bound = if let Some(name) = &config.listen {
        let cannot_resolve = |source| Error::Bind(name.to_string(), source);
        let address = name.resolve().map_err(cannot_resolve)?[0];
        net::listen(address).map_err(|source| Error::Bind(address.to_string(), source))?
    } else {
        let at = |unspecified: IpAddr| SocketAddr::new(unspecified, config.default_port);
        match net::listen(at(Ipv6Addr::UNSPECIFIED.into())) {
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => net::listen(at(Ipv4Addr::UNSPECIFIED.into())),
            outcome => outcome,
        }
        .map_err(|source| Error::Bind(format!("port {}", config.default_port), source))?
    };
    if let Ok(address) = bound.local_addr() {
        log::info!("listening on {address}");
    }
    Ok(bound)
}

fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "address in use (another ossec-broker server?)".into(),
        _ => net::explain(error),
    }
}

/// Raises the limit of descriptors. How many connections there may be, and how many sockets for agents.
fn share_descriptors(config: &Config, is_keyed: bool) -> (usize, usize) {
    let sockets_max = config.sockets_max(is_keyed);
    let wanted = (config.connections_max + sockets_max) as u64 + DESCRIPTORS_BESIDES;
    let descriptors = net::raise_descriptor_limit(wanted);
    if descriptors < wanted {
        let connections_max = config.connections_max;
        log::warn!("{descriptors} descriptors allowed: not enough for {connections_max} connections; raise the limit");
    }
    let spare = usize::try_from(descriptors.saturating_sub(DESCRIPTORS_BESIDES)).unwrap_or(usize::MAX);
    let sockets = sockets_max.min(spare / 2);
    (spare.saturating_sub(sockets).max(1), sockets)
}

fn announce_search(wanted: &Wanted) {
    let who = match &wanted.names {
        Names::Any => "any process".into(),
        Names::These(names) => names.join(" or "),
    };
    let addresses: Vec<String> = wanted.addresses.iter().map(ToString::to_string).collect();
    let at = if addresses.is_empty() { String::new() } else { format!(" of {}", addresses.join(" and ")) };
    log::info!("looking for {who} on UDP port {}{at}", wanted.port);
    for path in wanted.names.list().iter().filter(|name| name.contains('/')) {
        if let Err(error) = std::fs::metadata(path) {
            log::warn!("--process {path}: {error}; looking for it again each time");
        }
    }
}

/// Where remoted receives: of this host, both loopback addresses.
fn remoted_addresses(remoted: &HostPort) -> Result<Vec<SocketAddr>, Error> {
    let cannot = |source| Error::Resolve(remoted.clone(), source);
    let mut addresses = remoted.resolve().map_err(cannot)?;
    if addresses.iter().all(|address| address.ip() == Ipv4Addr::LOCALHOST) {
        addresses.push(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), remoted.port));
    }
    Ok(addresses)
}

/// The addresses that a named remoted must receive at. There are none where it is named by a loopback address, the
/// default: that means the remoted of this host, wherever it receives.
fn narrowing(remoted: &[SocketAddr]) -> Vec<IpAddr> {
    let addresses: Vec<IpAddr> = remoted.iter().map(|address| address.ip().to_canonical()).collect();
    let anywhere = addresses.iter().any(|address| address.is_loopback() || address.is_unspecified());
    if anywhere { Vec::new() } else { addresses }
}
