//! A UDP socket for each session, towards remoted: what it answers finds back by them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;
use mio::net::UdpSocket;

use super::Config;
use crate::net;
use crate::relay::SessionRef;
use crate::threads::Doorbell;

/// There was no descriptor for a new socket.
pub(super) const SHORTAGE_PAUSE: Duration = Duration::from_secs(1);
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

/// Those of all sessions.
#[derive(Debug)]
pub(super) struct Upstreams<'a> {
    config: &'a Config,
    sockets: Vec<Option<Upstream>>,
    fresh: Sender<Upstream>,
    reply_bell: Doorbell,
    shortage_told: Option<crate::time::Time>,
}

impl<'a> Upstreams<'a> {
    pub(super) const fn new(config: &'a Config, fresh: Sender<Upstream>, reply_bell: Doorbell) -> Self {
        Self { config, sockets: Vec::new(), fresh, reply_bell, shortage_told: None }
    }

    /// The session's socket, made if need be.
    pub(super) fn get(&mut self, session: SessionRef, target: SocketAddr) -> io::Result<Arc<UdpSocket>> {
        let at = usize::from(session.id);
        if self.sockets.len() <= at {
            self.sockets.resize(at + 1, None);
        }
        if let Some(upstream) = &self.sockets[at]
            && upstream.session == session
            && upstream.ipv4 == target.is_ipv4()
        {
            return Ok(Arc::clone(&upstream.socket));
        }
        self.sockets[at] = None;
        let socket = Arc::new(self.bind(target)?);
        if let Ok(own) = socket.local_addr() {
            log::debug!("session {} sends from {own}", session.id);
        }
        let upstream = Upstream { session, socket: Arc::clone(&socket), ipv4: target.is_ipv4() };
        self.sockets[at] = Some(upstream.clone());
        // Fails only when the reply thread has ended, and then this one is about to be told so.
        let _ = self.fresh.send(upstream);
        self.reply_bell.ring();
        Ok(socket)
    }

    /// All there are.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Upstream> {
        self.sockets.iter().flatten()
    }

    /// Says that there can be no other at the moment, and what comes of it, once a minute.
    pub(super) fn tell_shortage(&mut self, error: &io::Error, so: &str) {
        let now = net::now();
        if self.shortage_told.is_none_or(|told| now.since(told) >= Duration::from_mins(1)) {
            self.shortage_told = Some(now);
            log::warn!("cannot open a socket for a session: {error}; {so}");
        }
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
}
