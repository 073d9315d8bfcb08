//! A UDP socket for each session, towards remoted: by its socket a reply finds its session.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;
use hashlink::LinkedHashMap;
use mio::net::UdpSocket;

use super::config::Config;
use super::shared::Shared;
use crate::os::{net, net::udp::discard, threads::Doorbell};
use crate::proto::client::spool::record::Agent;
use crate::proto::{terms::SessionName, time::Time};

/// A session for whose socket there was no descriptor tries again after this.
pub(super) const SHORTAGE_PAUSE: Duration = Duration::from_secs(1);
/// Ports tried from `--source-port` upward.
const PORTS_TRIED_MAX: u16 = 1_024;
/// After a search that found no port free, the system chooses the ports for so long.
const CROWDED_PAUSE: Duration = Duration::from_mins(1);

/// The socket of a session, on its way to the reply thread.
#[derive(Clone, Debug)]
pub(super) struct Upstream {
    pub(super) session: SessionName,
    pub(super) socket: Arc<UdpSocket>,
    ipv4: bool,
    port: u16,
}

/// News for the reply thread.
#[derive(Debug)]
pub(super) enum Change {
    Open(Upstream),
    /// The socket in this session's place belongs to this session from here on.
    Pass(SessionName),
    /// The session has no socket any more: the reply thread lets go of it, too.
    Close(SessionName),
}

/// Where there are more sessions than descriptors, the session that sent longest ago gives up its socket. No session
/// waits then, and replies that came before the end of a session's turn are not lost.
#[derive(Debug)]
pub(super) struct Upstreams<'a> {
    shared: &'a Shared,
    config: &'a Config,
    /// By the ids of their sessions; the socket whose last use is longest ago comes first.
    sockets: LinkedHashMap<u16, Upstream>,
    sockets_max: usize,
    changes: Sender<Change>,
    reply_bell: Doorbell,
    shortage_told: Option<Time>,
    turns_told: bool,
    crowded_until: Time,
    crowded_told: bool,
    /// How often all sockets have got other ports.
    ports: u32,
    /// The ports before that, which are not taken again.
    left: HashSet<u16>,
}

impl<'a> Upstreams<'a> {
    pub(super) fn new(
        shared: &'a Shared,
        config: &'a Config,
        sockets_max: usize,
        changes: Sender<Change>,
        reply_bell: Doorbell,
    ) -> Self {
        Self {
            shared,
            config,
            sockets: LinkedHashMap::new(),
            sockets_max,
            changes,
            reply_bell,
            shortage_told: None,
            turns_told: false,
            crowded_until: Time::ZERO,
            crowded_told: false,
            ports: 0,
            left: HashSet::new(),
        }
    }

    /// Takes over the sockets that the process before this one has left, each with its agent.
    pub(super) fn take_over(&mut self, inherited: Vec<(Agent, std::net::UdpSocket)>) {
        for (agent, socket) in inherited {
            let session = SessionName { id: agent.session, generation: agent.generation };
            // The agent may be another one's place now, if the spool was lost.
            if self.shared.read(|core| core.agent(session)) == Some(agent)
                && let Ok(socket) = net::take_upstream(socket)
                && let Ok(local) = socket.local_addr()
            {
                let upstream =
                    Upstream { session, socket: Arc::new(socket), ipv4: local.is_ipv4(), port: local.port() };
                self.sockets.insert(session.id, upstream.clone());
                self.tell(Change::Open(upstream));
            }
        }
    }

    /// Leaves the sockets to the next process, each with its agent.
    pub(super) fn leave(&self) -> Vec<(Agent, OwnedFd)> {
        let left = |upstream: &Upstream| {
            let agent = self.shared.read(|core| core.agent(upstream.session))?;
            Some((agent, net::duplicate(&upstream.socket).ok()?))
        };
        // The longest unused come first: if not all have room, these can do without.
        self.sockets.values().rev().filter_map(left).collect()
    }

    /// The session's socket, made if need be. The error [`io::ErrorKind::WouldBlock`] means that there will be a
    /// socket when the reply thread has let go of another.
    pub(super) fn get(&mut self, session: SessionName, target: SocketAddr) -> io::Result<Arc<UdpSocket>> {
        if let Some(upstream) = self.sockets.to_back(&session.id)
            && upstream.ipv4 == target.is_ipv4()
        {
            let socket = Arc::clone(&upstream.socket);
            // Where agents give way to one another all the time, a new socket for each would cost more than all else.
            if std::mem::replace(&mut upstream.session, session) != session {
                // Replies to the agent before are not for this agent.
                discard(&socket);
                self.tell(Change::Pass(session));
            }
            return Ok(socket);
        }
        self.close(session.id);
        self.open(session, target)
    }

    fn open(&mut self, session: SessionName, target: SocketAddr) -> io::Result<Arc<UdpSocket>> {
        if self.sockets.len() >= self.sockets_max {
            self.give_way();
        }
        let former = self.shared.read(|core| core.agent(session)).map_or(0, |agent| agent.port);
        let socket = match self.bind(target, former) {
            Err(error) if net::is_shortage(&error) && self.give_way() => return Err(io::ErrorKind::WouldBlock.into()),
            outcome => Arc::new(outcome?),
        };
        let port = socket.local_addr().map_or(0, |local| local.port());
        log::debug!("session {} sends from port {port}", session.id);
        self.shared.with_core(net::now(), |core| core.handle_port(session, port));
        let upstream = Upstream { session, socket: Arc::clone(&socket), ipv4: target.is_ipv4(), port };
        self.sockets.insert(session.id, upstream.clone());
        self.tell(Change::Open(upstream));
        Ok(socket)
    }

    /// Gives every session another port, if `ports` is another number than before.
    pub(super) fn change_ports(&mut self, ports: u32) {
        if std::mem::replace(&mut self.ports, ports) == ports {
            return;
        }
        log::warn!("remoted's replies have stopped: sending from other UDP ports, and again what is not confirmed");
        self.left = self.iter().map(|upstream| upstream.port).collect();
        while let Some((&id, _)) = self.sockets.front() {
            self.close(id);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Upstream> {
        self.sockets.values()
    }

    /// The session that sent longest ago gives up its socket; whether there was one.
    fn give_way(&mut self) -> bool {
        let Some((&id, _)) = self.sockets.front() else {
            return false;
        };
        if !std::mem::replace(&mut self.turns_told, true) {
            log::warn!(
                "no descriptors for more than {} sockets (ulimit -n): agents take turns, and some replies are lost",
                self.sockets.len()
            );
        }
        self.close(id);
        true
    }

    fn close(&mut self, id: u16) {
        if let Some(Upstream { session, socket, .. }) = self.sockets.remove(&id) {
            // Before the reply thread hears of it, which is the last to hold the socket then.
            drop(socket);
            self.tell(Change::Close(session));
        }
    }

    fn tell(&self, change: Change) {
        // Fails only when the reply thread has ended, and then this thread is about to be stopped.
        let _ = self.changes.send(change);
        self.reply_bell.ring();
    }

    /// Says once a minute that a session gets no socket at the moment, and what follows.
    pub(super) fn tell_shortage(&mut self, error: &io::Error, so: &str) {
        let now = net::now();
        if self.shortage_told.is_none_or(|told| now.since(told) >= Duration::from_mins(1)) {
            self.shortage_told = Some(now);
            log::warn!("cannot open a socket for a session: {error}; {so}");
        }
    }

    /// Takes the session's `former` port, to which remoted replies; else the first free one from `--source-port`
    /// upward, so that also without a spool a restarted client finds its ports; where there is none, any port.
    fn bind(&mut self, target: SocketAddr, former: u16) -> io::Result<UdpSocket> {
        let any = if target.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
        let ip = self.config.source.unwrap_or(any);
        if ip.is_ipv4() != target.is_ipv4() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "--source and the server are of different address families",
            ));
        }
        if former != 0
            && !self.left.contains(&former)
            && let Ok(socket) = net::bind_upstream(SocketAddr::new(ip, former))
        {
            return Ok(socket);
        }
        let now = net::now();
        if now >= self.crowded_until {
            match self.bind_wanted(ip) {
                // Taken, or to be bound only with a right.
                Err(error) if matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied) => {
                    self.crowded_until = now + CROWDED_PAUSE;
                    if !std::mem::replace(&mut self.crowded_told, true) {
                        let first = self.config.source_port;
                        log::warn!("no UDP port from {first} upward for a session: {error}; taking any others");
                    }
                }
                outcome => return outcome,
            }
        }
        net::bind_upstream(SocketAddr::new(ip, 0))
    }

    fn bind_wanted(&self, ip: IpAddr) -> io::Result<UdpSocket> {
        let first = self.config.source_port;
        let taken: HashSet<u16> = self.iter().map(|upstream| upstream.port).collect();
        let mut last_error = io::ErrorKind::AddrInUse.into();
        for port in (first..=first.saturating_add(PORTS_TRIED_MAX))
            .filter(|port| !taken.contains(port) && !self.left.contains(port))
        {
            match net::bind_upstream(SocketAddr::new(ip, port)) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => last_error = error,
                outcome => return outcome,
            }
        }
        Err(last_error)
    }
}
