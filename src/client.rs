//! The role beside the agent: its threads and what they share.
//!
//! ```text
//!  agent ──UDP──► receive ──► ┌────────┐ ──► forward ──UDP──► remoted
//!                             │  core  │                         │
//!                 probe ◄───► └────────┘                         │
//!                   │              ▲                             │
//!                   │TCP           └──── reply ◄──────UDP────────┘
//!                   ▼                      └──UDP──► agent
//!             broker server
//! ```
//!
//! Each thread waits for one thing, takes the lock around the core briefly, and does one kind of input or output
//! without the lock. A thread that has made work for another rings its bell (`shared`).

mod config;
mod forward;
mod listen;
mod probe;
mod receive;
mod reply;
mod report;
mod resolve;
mod shared;
mod shutdown;
mod stream;
mod upstreams;

use std::io;
use std::time::SystemTime;

use crossbeam_channel::{Receiver, bounded};
use thiserror::Error;

use crate::os::keyfile::{self, KeyError};
use crate::os::net::{self, udp::kernel_drops};
use crate::os::privileges::{self, Right, UserError};
use crate::os::threads::{Crew, Ended, Stopper, Wait, scope};
use crate::proto::client::{ClientCore, Transport};
pub use config::Config;
use listen::{ListenError, listen};
use probe::Prober;
use report::Report;
use shared::Shared;
use shutdown::Shutdown;
use stream::Streamer;
use upstreams::Upstreams;

/// Threads of this role, without the resolver.
const THREADS: usize = 4;
/// Ports below need a right to be bound.
const PORTS_FREE_FROM: u16 = 1_024;
/// Descriptors for everything but the sockets of sessions: polls and bells, the agents' socket, connections and
/// attempts, the resolver's files.
const DESCRIPTORS_KEPT: u64 = 32;
/// Sockets that a thread is told of at once.
const EVENTS_MAX: usize = 128;
/// Changed upstream sockets on their way to the reply thread; more wait at the sender for a moment.
const CHANGES_MAX: usize = 64;

/// Why a client does not start, or ends without being asked to.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the texts say it")]
pub enum Error {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    User(#[from] UserError),
    #[error("cannot set up the wait for sockets: {0}")]
    Wait(#[source] io::Error),
    #[error("cannot start a thread: {0}")]
    Start(#[source] io::Error),
    #[error(transparent)]
    Thread(#[from] Ended),
}

/// Runs until `signals` says stop.
pub fn run(config: &Config, signals: &Receiver<()>) -> Result<(), Error> {
    let key = config.psk_file.as_deref().map(keyfile::load).transpose()?;
    let agents = listen(config)?;
    if config.core.transport == Transport::Tcp {
        log::info!("datagrams go over tcp, {}", if key.is_some() { "with a key" } else { "without a key" });
    }
    let sockets_max = raise_descriptors(config);
    become_user(config)?;

    let (receive_wait, receive_bell) = Wait::new("the agent's socket", EVENTS_MAX).map_err(Error::Wait)?;
    let (probe_wait, probe_bell) = Wait::new("the server", EVENTS_MAX).map_err(Error::Wait)?;
    let (reply_wait, reply_bell) = Wait::new("replies", EVENTS_MAX).map_err(Error::Wait)?;
    let (shared, rung) = Shared::new(ClientCore::new(config.core), agents, probe_bell.clone());
    let (changes, changed) = bounded(CHANGES_MAX);
    let (outgoing, outgoings) = bounded(1);
    let (stop_receive, receive_stop) = Stopper::new(vec![receive_bell]);
    let (stop_rest, rest_stop) = Stopper::new(vec![probe_bell.clone(), reply_bell.clone()]);
    let resolver = resolve::start(config, probe_bell.clone()).map_err(Error::Start)?;
    let upstreams = Upstreams::new(config, sockets_max, changes, reply_bell);

    let mut report = Report::new(net::now());
    let prober = Prober::new(&shared, config, key, resolver, outgoings, &mut report);
    let outcome = scope(|scope| {
        let (crew, ended) = Crew::new(scope, THREADS);
        let start = || {
            crew.spawn("receive", || receive::run(&shared, receive_wait, &receive_stop))?;
            crew.spawn("probe", || prober.run(probe_wait, &rest_stop))?;
            crew.spawn("forward", || match config.core.transport {
                Transport::Udp => forward::run(&shared, upstreams, &rung.forward, &rest_stop),
                Transport::Tcp => {
                    Streamer::new(&shared, upstreams, outgoing, probe_bell).run(&rung.forward, &rest_stop)
                }
            })?;
            crew.spawn("reply", || reply::run(&shared, reply_wait, &changed, &rest_stop))
        };
        start().map_err(Error::Start)?;
        let drained = &rung.drained;
        let shutdown = Shutdown { shared: &shared, drain: config.drain, signals, ended: &ended, drained };
        Ok(shutdown.conduct(stop_receive, stop_rest)?)
    });
    say_farewell(&shared, &mut report);
    outcome
}

/// Raises the limit of descriptors as far as needed and allowed, and says how many sessions can have a socket.
fn raise_descriptors(config: &Config) -> usize {
    let descriptors = net::raise_descriptor_limit(u64::from(config.core.sessions_max) + DESCRIPTORS_KEPT);
    usize::try_from(descriptors.saturating_sub(DESCRIPTORS_KEPT)).unwrap_or(usize::MAX).max(1)
}

fn become_user(config: &Config) -> Result<(), UserError> {
    // The sockets of sessions are bound as agents come.
    let kept: &[Right] = if config.source_port < PORTS_FREE_FROM { &[Right::CAP_NET_BIND_SERVICE] } else { &[] };
    config.user.as_ref().map_or(Ok(()), |user| privileges::become_user(user, kept))
}

fn say_farewell(shared: &Shared, report: &mut Report) {
    if let Some(drops) = kernel_drops(&shared.agents) {
        report.handle_kernel_drops(drops);
    }
    let now = net::now();
    let snapshot = shared.read(|core| core.snapshot(now));
    for line in report.farewell(now, SystemTime::now(), &snapshot) {
        log::log!(line.level, "{}", line.text);
    }
}
