//! Relay → upstream: the one way out.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use mio::net::UdpSocket;

use super::{Config, Shared};
use crate::net::udp::{SendError, send_batch};
use crate::net::{self};
use crate::relay::{Batch, SessionRef};
use crate::threads::{Doorbell, Stop};

/// The system had no room for a datagram: it is tried again after this.
const BUSY_PAUSE: Duration = Duration::from_millis(2);
/// There was no descriptor for a new socket.
const SHORTAGE_PAUSE: Duration = Duration::from_secs(1);
/// Ports tried from `--source-port` upward.
const PORTS_TRIED_MAX: u16 = 1_024;

/// The socket of a session, on its way to the reply thread.
#[derive(Clone, Debug)]
pub(super) struct Upstream {
    /// Whose it is.
    pub(super) session: SessionRef,
    /// The socket itself.
    pub(super) socket: Arc<UdpSocket>,
    ipv4: bool,
}

/// The forward thread.
#[derive(Debug)]
pub(super) struct Forwarder<'a> {
    shared: Shared,
    config: &'a Config,
    upstreams: Vec<Option<Upstream>>,
    new_upstreams: Sender<Upstream>,
    reply_bell: Doorbell,
    shortage_told: Option<crate::time::Time>,
}

/// What stopped a batch.
enum Halt {
    /// Nothing: it is sent.
    Done,
    /// The lease ended before all was sent.
    Expired,
    /// Wait and try again.
    Pause(Duration),
    /// The datagram after those sent can never be sent.
    Unsendable,
    /// The datagram after those sent, or one before it, was refused.
    Refused,
}

impl<'a> Forwarder<'a> {
    pub(super) const fn new(
        shared: Shared,
        config: &'a Config,
        new_upstreams: Sender<Upstream>,
        reply_bell: Doorbell,
    ) -> Self {
        Self { shared, config, upstreams: Vec::new(), new_upstreams, reply_bell, shortage_told: None }
    }

    /// Sends what may be sent, until the stop.
    pub(super) fn run(mut self, bell: &Receiver<()>, stop: &Stop) -> Result<(), String> {
        let mut batch = Batch::default();
        while !stop.is_set() {
            let now = net::now();
            let mut relay = self.shared.relay.lock();
            if !relay.poll_release(now, &mut batch) {
                relay.handle_forward_waits();
                let wait = relay.next_release(now).map(|at| at.since(now));
                // A lease that ended before everything was sent: a heartbeat has to come first.
                let bells = relay.bells(now);
                drop(relay);
                self.shared.ring(bells);
                stop.wait(bell, wait);
                continue;
            }
            drop(relay);
            if let Some(pause) = self.send(&batch) {
                stop.wait(&crossbeam_channel::never(), Some(pause));
            }
        }
        Ok(())
    }

    /// Sends a batch and says what became of it. How long to pause, if the system asks for that.
    fn send(&mut self, batch: &Batch) -> Option<Duration> {
        let (sent, halt) = self.send_all(batch);
        let now = net::now();
        let bells = {
            let mut relay = self.shared.relay.lock();
            relay.handle_sent(now, batch, sent);
            match halt {
                Halt::Unsendable => relay.handle_unsendable(batch, sent),
                Halt::Refused => relay.handle_refused(now),
                Halt::Done | Halt::Expired | Halt::Pause(_) => {}
            }
            relay.bells(now)
        };
        self.shared.ring(bells);
        log::trace!(target: "ossec_broker::datagram", "sent {sent} of {} to {}", batch.len(), batch.target());
        match halt {
            Halt::Pause(pause) => Some(pause),
            Halt::Done | Halt::Expired | Halt::Unsendable | Halt::Refused => None,
        }
    }

    /// Sends run by run what belongs to one session.
    fn send_all(&mut self, batch: &Batch) -> (usize, Halt) {
        let mut sent = 0;
        while sent < batch.len() {
            let session = batch.session(sent);
            let run = (sent..batch.len()).take_while(|&at| batch.session(at) == session).count();
            let socket = match self.upstream(session, batch.target()) {
                Ok(socket) => socket,
                Err(error) if net::is_shortage(&error) => {
                    self.tell_shortage(&error);
                    return (sent, Halt::Pause(SHORTAGE_PAUSE));
                }
                Err(error) => {
                    log::debug!("cannot bind a socket towards {}: {error}", batch.target());
                    return (sent, Halt::Refused);
                }
            };
            let payloads: Vec<&[u8]> = (sent..sent + run).map(|at| batch.payload(at)).collect();
            // As late as possible: what is sent after the lease may overtake what an outage has swallowed.
            if net::now() >= batch.until() {
                return (sent, Halt::Expired);
            }
            let (done, outcome) = send_batch(&*socket, batch.target(), &payloads);
            sent += done;
            match outcome {
                Ok(()) => {}
                Err(SendError::Busy) => return (sent, Halt::Pause(BUSY_PAUSE)),
                Err(SendError::Unsendable(error)) => {
                    log::debug!("cannot send {} bytes: {error}", batch.payload(sent).len());
                    return (sent, Halt::Unsendable);
                }
                Err(SendError::Refused(error)) => {
                    log::debug!("{} refuses: {error}", batch.target());
                    return (sent, Halt::Refused);
                }
            }
        }
        (sent, Halt::Done)
    }

    /// The session's socket, made if need be.
    fn upstream(&mut self, session: SessionRef, target: SocketAddr) -> io::Result<Arc<UdpSocket>> {
        let at = usize::from(session.id);
        if self.upstreams.len() <= at {
            self.upstreams.resize(at + 1, None);
        }
        if let Some(upstream) = &self.upstreams[at]
            && upstream.session == session
            && upstream.ipv4 == target.is_ipv4()
        {
            return Ok(Arc::clone(&upstream.socket));
        }
        self.upstreams[at] = None;
        let socket = Arc::new(self.bind(target)?);
        if let Ok(own) = socket.local_addr() {
            log::debug!("session {} sends from {own}", session.id);
        }
        let upstream = Upstream { session, socket: Arc::clone(&socket), ipv4: target.is_ipv4() };
        self.upstreams[at] = Some(upstream.clone());
        // Fails only when the reply thread has ended, and then this one is about to be told so.
        let _ = self.new_upstreams.send(upstream);
        self.reply_bell.ring();
        Ok(socket)
    }

    /// The first free port from `--source-port` upward: a restarted client finds the ports that remoted replies to.
    fn bind(&self, target: SocketAddr) -> io::Result<UdpSocket> {
        let any = if target.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
        let ip = self.config.source.unwrap_or(any);
        if ip.is_ipv4() != target.is_ipv4() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "--source and the server are of different address families",
            ));
        }
        let first = self.config.source_port;
        let mut last_error = None;
        for port in first..=first.saturating_add(PORTS_TRIED_MAX) {
            match net::bind_upstream(SocketAddr::new(ip, port)) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => last_error = Some(error),
                outcome => return outcome,
            }
        }
        Err(last_error.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
    }

    fn tell_shortage(&mut self, error: &io::Error) {
        let now = net::now();
        if self.shortage_told.is_none_or(|told| now.since(told) >= Duration::from_mins(1)) {
            self.shortage_told = Some(now);
            log::warn!("cannot open a socket for a session: {error}; holding");
        }
    }
}
