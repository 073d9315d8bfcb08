//! The role beside the agent: its threads and what they share.
//!
//! ```text
//!  agent ──UDP──► receive ──► ┌────────┐ ──► forward ──UDP──► remoted
//!                             │ core  │                         │
//!                 probe ◄───► └────────┘                         │
//!                   │              ▲                             │
//!                   │TCP           └──── reply ◄──────UDP────────┘
//!                   ▼                      └──UDP──► agent
//!             broker server
//! ```
//!
//! Each thread waits for one thing, takes the lock around the core briefly, and does one kind of input or output without it. Who has made
//! work for another rings its bell.
//!
//! **Shutdown** is a cascade: what is held is drained for a while if the link is up, and `receive` goes on meanwhile; then it turns agents away,
//! reads its socket empty and ends; what it read last is drained too; then the others end. What is left is said.

mod config;
mod forward;
mod probe;
mod receive;
mod reply;
mod report;
mod resolve;
mod stream;
mod upstreams;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use mio::net::UdpSocket;
use mio::{Events, Poll};
use parking_lot::Mutex;

use crate::os::keyfile;
use crate::os::net;
use crate::os::net::udp::{kernel_drops, send_from};
use crate::os::privileges::{self, Right};
use crate::os::threads::{Crew, Doorbell, Ended, Ending, Stopper, ThreadError, scope};
use crate::proto::client::link::Standing;
use crate::proto::client::{Bells, ClientCore, Origin, Transport};
use crate::proto::time::Time;
pub use config::Config;
use report::Report;

/// Threads of this role, the resolver not counted.
const THREADS: usize = 4;
/// Ports below need a right to be bound.
const PORTS_FREE_FROM: u16 = 1_024;
/// Descriptors for everything but the sockets of sessions: polls and bells, the agents' socket, connections and
/// attempts, the resolver's files.
const DESCRIPTORS_KEPT: u64 = 32;
/// New upstream sockets on their way to the reply thread; more wait at the sender for a moment.
const NEW_UPSTREAMS_MAX: usize = 64;

/// What the threads share.
#[derive(Clone, Debug)]
struct Shared {
    core: Arc<Mutex<ClientCore>>,
    /// The socket that agents send to, and get their replies from.
    agents: Arc<UdpSocket>,
    forward: Sender<()>,
    probe: Doorbell,
    drained: Sender<()>,
    /// remoted ignores empty datagrams, says the broker server.
    takes_empty: Arc<AtomicBool>,
}

impl Shared {
    /// Passes on what remoted answered to an agent.
    fn pass_on(&self, origin: Origin, reply: &[u8]) {
        log::trace!(target: "ossec_broker::datagram", "reply of {} bytes to {}", reply.len(), origin.agent);
        if let Err(error) = send_from(&*self.agents, origin.local, origin.agent, reply) {
            log::debug!("cannot pass a reply on to {}: {error}", origin.agent);
        }
    }

    /// Rings for whoever has something to do. Not to be called with the lock held.
    fn ring(&self, bells: Bells) {
        // A bell that is rung already is enough.
        if bells.forward {
            let _ = self.forward.try_send(());
        }
        if bells.probe {
            self.probe.ring();
        }
        if bells.drained {
            let _ = self.drained.try_send(());
        }
    }
}

/// Runs until `signals` says stop, or until something is beyond repair. The error says what was attempted and why it failed.
pub fn run(config: &Config, signals: &Receiver<()>) -> Result<(), String> {
    let key = config.psk_file.as_deref().map(keyfile::load).transpose().map_err(|error| error.to_string())?;
    let agents = Arc::new(bind(config)?);
    if let (Some(server), Ok(bound)) = (config.server.address(), agents.local_addr())
        && net::comes_back(bound, server)
    {
        return Err(format!("what is sent to {server} comes back to {bound}, --listen: give it another port"));
    }
    if config.core.transport == Transport::Tcp {
        log::info!("datagrams go over tcp, {}", if key.is_some() { "with a key" } else { "without a key" });
    }
    let descriptors = net::raise_descriptor_limit(u64::from(config.core.sessions_max) + DESCRIPTORS_KEPT);
    let sockets_max = usize::try_from(descriptors.saturating_sub(DESCRIPTORS_KEPT)).unwrap_or(usize::MAX).max(1);
    if let Some(user) = &config.user {
        // The sockets of sessions are bound as agents come.
        let kept: &[Right] = if config.source_port < PORTS_FREE_FROM { &[Right::CAP_NET_BIND_SERVICE] } else { &[] };
        privileges::become_user(user, kept).map_err(|error| error.to_string())?;
    }

    let failed = |error: std::io::Error| format!("cannot set up the wait for sockets: {error}");
    let (receive_poll, probe_poll, reply_poll) =
        (Poll::new().map_err(failed)?, Poll::new().map_err(failed)?, Poll::new().map_err(failed)?);
    let receive_bell = Doorbell::new(&receive_poll).map_err(failed)?;
    let probe_bell = Doorbell::new(&probe_poll).map_err(failed)?;
    let reply_bell = Doorbell::new(&reply_poll).map_err(failed)?;
    let (forward_bell, forward_rung) = bounded(1);
    let (drained_bell, drained) = bounded(1);
    let (upstreams, new_upstreams) = bounded(NEW_UPSTREAMS_MAX);
    let core = Arc::new(Mutex::new(ClientCore::new(config.core)));
    let takes_empty = Arc::new(AtomicBool::new(false));
    let shared =
        Shared { core, agents, forward: forward_bell, probe: probe_bell.clone(), drained: drained_bell, takes_empty };
    let (outgoing, outgoings) = bounded(1);
    let (stop_receive, receive_stop) = Stopper::new(vec![receive_bell]);
    let (stop_rest, rest_stop) = Stopper::new(vec![probe_bell.clone(), reply_bell.clone()]);
    let addresses = resolve::start(config, probe_bell)?;

    let mut report = Report::new(net::now());
    let told = &mut report;
    let outcome = scope(|scope| {
        let (crew, ended) = Crew::new(scope, THREADS);
        let spawned = (|| {
            let (own, stop) = (shared.clone(), receive_stop.clone());
            crew.spawn("receive", move || receive::run(&own, receive_poll, &stop))?;
            let (own, stop) = (shared.clone(), rest_stop.clone());
            crew.spawn("probe", move || {
                probe::Prober::new(own, config, key, addresses, probe_poll, outgoings, told).run(&stop)
            })?;
            let (own, stop) = (shared.clone(), rest_stop.clone());
            let upstreams = upstreams::Upstreams::new(config, sockets_max, upstreams, reply_bell);
            crew.spawn("forward", move || match config.core.transport {
                Transport::Udp => forward::Forwarder::new(own, upstreams).run(&forward_rung, &stop),
                Transport::Tcp => stream::Streamer::new(own, upstreams, outgoing).run(&forward_rung, &stop),
            })?;
            let (own, stop) = (shared.clone(), rest_stop.clone());
            crew.spawn("reply", move || reply::run(&own, reply_poll, &new_upstreams, &stop))
        })();
        if let Err(error) = spawned {
            return Err(format!("cannot start a thread: {error}"));
        }
        conduct(&shared, config.drain, signals, &ended, &drained, stop_receive, stop_rest)
    });
    say_farewell(&shared, &mut report);
    outcome
}

/// All threads have ended: what they left to say.
fn say_farewell(shared: &Shared, report: &mut Report) {
    if let Some(drops) = kernel_drops(&shared.agents) {
        report.handle_kernel_drops(drops);
    }
    let now = net::now();
    let snapshot = shared.core.lock().snapshot(now);
    for line in report.farewell(now, SystemTime::now(), &snapshot) {
        log::log!(line.level, "{}", line.text);
    }
}

/// Waits for the end, and brings it about in order.
fn conduct(
    shared: &Shared,
    drain: Duration,
    signals: &Receiver<()>,
    ended: &Receiver<Ended>,
    drained: &Receiver<()>,
    stop_receive: Stopper,
    stop_rest: Stopper,
) -> Result<(), String> {
    select! {
        recv(signals) -> _ => log::info!("stopping"),
        recv(ended) -> report => return Err(failure(report.ok())),
    }
    let until = net::now() + drain;
    let mut in_time = drain_held(shared, until, signals, ended, drained)?;
    drop(stop_receive);
    // `receive` reads its socket empty first. Any other thread that ends here has failed.
    select! {
        recv(ended) -> report => match report {
            Ok(Ended { ending: Ending::Stopped, .. }) => {}
            report => return Err(failure(report.ok())),
        },
        recv(signals) -> _ => in_time = false,
    }
    if in_time {
        drain_held(shared, until, signals, ended, drained)?;
    }
    drop(stop_rest);
    Ok(())
}

/// Waits until what is held at this moment is confirmed, if the link is up. Whether that was before `until` and before another signal.
fn drain_held(
    shared: &Shared,
    until: Time,
    signals: &Receiver<()>,
    ended: &Receiver<Ended>,
    drained: &Receiver<()>,
) -> Result<bool, String> {
    let now = net::now();
    let (standing, bells) = {
        let mut core = shared.core.lock();
        core.handle_drain();
        (core.snapshot(now).standing, core.bells(now))
    };
    shared.ring(bells);
    // A connection that has not answered yet may do so in time.
    if !bells.drained && !matches!(standing, Standing::Up | Standing::Unanswered) {
        return Ok(false);
    }
    select! {
        recv(drained) -> _ => Ok(true),
        recv(signals) -> _ => Ok(false),
        recv(ended) -> report => Err(failure(report.ok())),
        default(until.since(now)) => { Ok(false) }
    }
}

fn failure(report: Option<Ended>) -> String {
    report.map_or_else(|| "a thread ended unexpectedly".into(), |ended| ThreadError::from(ended).to_string())
}

fn bind(config: &Config) -> Result<UdpSocket, String> {
    let cannot = |error: &std::io::Error| format!("cannot bind {}: {}", config.listen, explain(error));
    let addresses = config.listen.resolve().map_err(|error| cannot(&error))?;
    let address: SocketAddr = addresses[0];
    let socket = net::bind_agent(address, config.receive_buffer_bytes).map_err(|error| cannot(&error))?;
    let got = net::receive_buffer(&socket).unwrap_or(0);
    let size = report::text::size(got as u64);
    if got < config.receive_buffer_bytes {
        let asked = report::text::size(config.receive_buffer_bytes as u64);
        log::warn!(
            "listening on {address}, receive buffer {size} of {asked}: raise net.core.rmem_max or run as root for more"
        );
    } else {
        log::info!("listening on {address}, receive buffer {size}");
    }
    Ok(socket)
}

/// The likely cause, where there is one.
fn explain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "address in use (another ossec-broker client, or remoted on this host?)".into()
        }
        _ => net::explain(error),
    }
}

/// A place for the events of one thread's wait.
fn events() -> Events {
    Events::with_capacity(128)
}
