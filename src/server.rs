//! The role beside remoted: answers over TCP whether remoted is alive, and how much it can take.
//!
//! One thread serves all connections: it waits for their sockets, looks at remoted when somebody asks, and answers. Another walks `/proc`
//! when remoted has to be found, because that takes milliseconds on a busy host. Nothing of OSSEC's is touched.

mod complaints;
mod conn;
// Public for `fuzz/` alone.
#[doc(hidden)]
pub mod conversation;
mod search;
mod serve;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded, select};
use mio::Poll;
use mio::net::TcpListener;

use crate::net::{self, HostPort};
use crate::remoted::{Names, Wanted};
use crate::threads::{Crew, Doorbell, Outcome, Stopper, scope};

/// Descriptors kept for everything but connections: sockets, `/proc` files, the log. Without them remoted could not be looked at, and a server
/// without descriptors would call it dead.
const DESCRIPTORS_BESIDES: u64 = 24;
const THREADS: usize = 2;

/// What the command line says of this role.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients connect to; `None`: every address, IPv6 too where there is IPv6.
    pub listen: Option<HostPort>,
    /// The port in that case.
    pub default_port: u16,
    /// remoted's UDP port.
    pub port: u16,
    /// Accepted process names; `None`: any.
    pub names: Option<Vec<String>>,
    /// Processes that must be running too.
    pub required: Vec<String>,
    /// How long remoted must have been there.
    pub settle: Duration,
    /// Connections at a time.
    pub connections_max: usize,
}

/// Runs until `signals` says stop, or until something is beyond repair. The error says what was attempted and why it failed.
pub fn run(config: &Config, signals: &Receiver<()>) -> Result<(), String> {
    let listener = listen(config)?;
    let wanted_descriptors = config.connections_max as u64 + DESCRIPTORS_BESIDES;
    let descriptors = net::raise_descriptor_limit(wanted_descriptors);
    if descriptors < wanted_descriptors {
        log::warn!(
            "{descriptors} descriptors allowed: not enough for {} connections; raise the limit",
            config.connections_max
        );
    }
    let wanted = Wanted {
        port: config.port,
        names: config.names.clone().map_or(Names::Any, Names::These),
        required: config.required.clone(),
    };
    match &config.names {
        Some(names) => log::info!("looking for {} on UDP port {}", names.join(" or "), config.port),
        None => log::info!("looking for any process on UDP port {}", config.port),
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
            crew.spawn("search", move || search::run(&target, &asked, &found, &bell, &stop_search))?;
            let places = usize::try_from(descriptors.saturating_sub(DESCRIPTORS_BESIDES)).unwrap_or(usize::MAX).max(1);
            let serving = move || serve::Server::new(config, places, wanted, listener, poll, ask, founds)?.run(&stop);
            crew.spawn("serve", serving)
        })();
        if let Err(error) = spawned {
            return Err(format!("cannot start a thread: {error}"));
        }
        let outcome = select! {
            recv(signals) -> _ => { log::info!("stopping"); Ok(()) },
            recv(ended) -> report => match report {
                Ok(report) => match report.outcome {
                    Outcome::Failed(why) => Err(format!("{}: {why}", report.name)),
                    Outcome::Stopped | Outcome::Panicked => Err(format!("the thread {} ended unexpectedly", report.name)),
                },
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

/// The likely cause, where there is one.
fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "address in use (another ossec-broker server?)".into(),
        _ => net::explain(error),
    }
}
