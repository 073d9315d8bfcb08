//! Names → addresses, off the hot path.
//!
//! Resolving a name can block for half a minute and cannot be interrupted, so a thread does it that is never joined.
//! The agent's socket is bound and receives long before a name is known, and a healthy link does not depend on what
//! its name means by now.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use std::{io, iter};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use thiserror::Error;

use super::config::Config;
use crate::os::net::{self, HostPort};
use crate::os::threads::{Doorbell, detach};
use crate::proto::{client::routes::Route, terms::BROKER_PORT, time::Time};

/// A name is not asked for again before this is over.
const PAUSE: Duration = Duration::from_secs(2);
/// Names are resolved again after this, for the next outage.
const REFRESH: Duration = Duration::from_mins(5);

#[derive(Debug, Error)]
pub(super) enum ResolveError {
    #[error("cannot resolve {0}: {1}")]
    Name(String, #[source] io::Error),
    #[error("the server has no {family} address, and --source {0} is one", family = net::family(*.0))]
    Family(IpAddr),
}

/// The addresses of the names. None of the lists is ever empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) broker: Vec<SocketAddr>,
    /// remoted; `None`: on the host that the heartbeats reach.
    pub(super) server: Option<Vec<SocketAddr>>,
}

impl Addresses {
    /// Datagrams go to the very host that the heartbeats reach, at `port`, unless the broker server is said to stand
    /// elsewhere. From `source` nothing can be sent to an address of the other family.
    pub(super) fn routes(&self, source: Option<IpAddr>, port: u16) -> Result<Vec<Route>, ResolveError> {
        // A link-local address keeps its scope.
        let beside = |broker: SocketAddr| {
            let mut target = broker;
            target.set_port(port);
            Route { broker, target }
        };
        let mut routes: Vec<Route> = match &self.server {
            None => self.broker.iter().map(|&broker| beside(broker)).collect(),
            Some(targets) => {
                let to = |&target| self.broker.iter().map(move |&broker| Route { broker, target });
                targets.iter().flat_map(to).collect()
            }
        };
        routes.retain(|route| source.is_none_or(|source| source.is_ipv4() == route.target.is_ipv4()));
        match source {
            Some(source) if routes.is_empty() => Err(ResolveError::Family(source)),
            _ => Ok(routes),
        }
    }
}

/// The prober's end: questions and answers.
#[derive(Debug)]
pub(super) struct Resolver {
    /// `None`: there is nothing to resolve.
    ask: Option<Sender<()>>,
    pub(super) answers: Receiver<Result<Addresses, ResolveError>>,
    asked: Time,
}

impl Resolver {
    /// Asks for a fresh answer, unless a question was asked a moment ago or is still open.
    pub(super) fn ask(&mut self, now: Time) {
        if now < self.next_question() {
            return;
        }
        self.asked = now;
        if let Some(ask) = &self.ask {
            let _ = ask.try_send(());
        }
    }

    pub(super) fn next_question(&self) -> Time {
        self.asked + PAUSE
    }
}

/// Starts to resolve, if there is a name. `bell` is rung with each answer. Fails if the system starts no more threads.
pub(super) fn start(config: &Config, bell: Doorbell) -> io::Result<Resolver> {
    let beside = || HostPort { host: config.server.host.clone(), port: BROKER_PORT };
    let broker = config.broker.clone().unwrap_or_else(beside);
    let server = config.broker.is_some().then(|| config.server.clone());
    let (answer, answers) = bounded(1);
    let (ask, asked) = bounded(1);
    let mut resolver = Resolver { ask: None, answers, asked: net::now() };
    if iter::once(&broker).chain(&server).all(|name| name.address().is_some()) {
        // The channel has a place, and its receiver is here.
        let _ = answer.send(resolve(&broker, server.as_ref()));
        bell.ring();
        return Ok(resolver);
    }
    resolver.ask = Some(ask);
    detach("resolve", move || {
        while answer.send(resolve(&broker, server.as_ref())).is_ok() {
            bell.ring();
            if asked.recv_timeout(REFRESH) == Err(RecvTimeoutError::Disconnected) {
                return;
            }
        }
    })?;
    Ok(resolver)
}

fn resolve(broker: &HostPort, server: Option<&HostPort>) -> Result<Addresses, ResolveError> {
    let all = |name: &HostPort| name.resolve().map_err(|error| ResolveError::Name(name.host.clone(), error));
    Ok(Addresses { broker: all(broker)?, server: server.map(all).transpose()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: u16 = 1_514;

    #[test]
    fn datagrams_go_where_heartbeats_go_and_from_a_source_only_to_its_family() {
        let (v4, v6) = (SocketAddr::from(([10, 0, 0, 1], 1_517)), SocketAddr::from(([0; 16], 1_517)));
        let routes = |broker: &[SocketAddr], server: Option<&[SocketAddr]>, source: Option<SocketAddr>| {
            let addresses = Addresses { broker: broker.to_vec(), server: server.map(<[_]>::to_vec) };
            let routes = addresses.routes(source.map(|source| source.ip()), PORT);
            Some(routes.ok()?.iter().map(|route| (route.broker, route.target)).collect::<Vec<_>>())
        };
        let beside = |address: SocketAddr| (address, SocketAddr::new(address.ip(), PORT));
        assert_eq!(routes(&[v6, v4], None, None), Some(vec![beside(v6), beside(v4)]));
        assert_eq!(routes(&[v6, v4], None, Some(v4)), Some(vec![beside(v4)]));
        assert_eq!(routes(&[v6, v4], Some(&[v4]), Some(v4)), Some(vec![(v6, v4), (v4, v4)]));
        assert_eq!(routes(&[v4], Some(&[v6, v4]), None), Some(vec![(v4, v6), (v4, v4)]), "each is tried");
        assert_eq!(routes(&[v4], Some(&[v6, v4]), Some(v4)), Some(vec![(v4, v4)]));
        let apart = Addresses { broker: vec![v6], server: None }.routes(Some(v4.ip()), PORT);
        assert!(apart.is_err_and(|why| why.to_string().contains("--source 10.0.0.1")));
    }
}
