//! Names → addresses, off the hot path.
//!
//! Resolving a name can block for half a minute and cannot be interrupted. It has a thread of its own, which nobody
//! waits for: the agent's socket is bound and receives long before a name is known, and a healthy link does not care
//! what its name means by now.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::config::Config;
use crate::os::net::{self, HostPort};
use crate::os::threads::{Doorbell, detach};
use crate::proto::client::routes::Route;
use crate::proto::terms::BROKER_PORT;
use crate::proto::time::Time;

/// A name is not asked for again before this is over.
const PAUSE: Duration = Duration::from_secs(2);
/// Names are resolved again after this, for the next outage.
const REFRESH: Duration = Duration::from_mins(5);

/// What the names mean. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Addresses {
    /// The broker server.
    pub(super) broker: Vec<SocketAddr>,
    /// remoted; `None`: on the host that the heartbeats reach.
    pub(super) server: Option<Vec<SocketAddr>>,
}

impl Addresses {
    /// What goes together of them. Datagrams go to the very host that the heartbeats reach, at `port`, unless the
    /// broker server is said to stand elsewhere. From `source` nothing can be sent to an address of the other family.
    pub(super) fn routes(&self, source: Option<IpAddr>, port: u16) -> Result<Vec<Route>, String> {
        let fits = |target: SocketAddr| source.is_none_or(|source| source.is_ipv4() == target.is_ipv4());
        // With its scope, where it is a link-local address.
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
        routes.retain(|route| fits(route.target));
        match source {
            Some(source) if routes.is_empty() => {
                let family = net::family(source);
                Err(format!("the server has no {family} address, and --source {source} is one"))
            }
            _ => Ok(routes),
        }
    }
}

/// The prober's end: ask, and look for answers.
#[derive(Debug)]
pub(super) struct Resolver {
    ask: Option<Sender<()>>,
    answers: Receiver<Result<Addresses, String>>,
    asked: Time,
}

impl Resolver {
    /// Asks for a fresh answer, unless that was done a moment ago. Nothing happens where there is nothing to resolve,
    /// or when a question is open.
    pub(super) fn ask(&mut self, now: Time) {
        if now < self.next_question() {
            return;
        }
        self.asked = now;
        if let Some(ask) = &self.ask {
            let _ = ask.try_send(());
        }
    }

    /// When it may be asked again.
    pub(super) fn next_question(&self) -> Time {
        self.asked + PAUSE
    }

    /// The next answer that has come.
    pub(super) fn answer(&self) -> Option<Result<Addresses, String>> {
        self.answers.try_recv().ok()
    }
}

/// Starts to resolve, if there is a name; `bell` is rung with each answer.
pub(super) fn start(config: &Config, bell: Doorbell) -> Result<Resolver, String> {
    let broker =
        config.broker.clone().unwrap_or_else(|| HostPort { host: config.server.host.clone(), port: BROKER_PORT });
    let server = config.broker.is_some().then(|| config.server.clone());
    let (answer, answers) = bounded(1);
    if let (Some(broker), Some(server)) =
        (broker.address(), server.as_ref().map_or(Some(None), |name| name.address().map(Some)))
    {
        let fixed = Addresses { broker: vec![broker], server: server.map(|address| vec![address]) };
        answer.send(Ok(fixed)).map_err(|_| "the resolver's channel is closed".to_string())?;
        bell.ring();
        return Ok(Resolver { ask: None, answers, asked: net::now() });
    }
    let (ask, asked) = bounded(1);
    let body = move || {
        loop {
            if answer.send(resolve(&broker, server.as_ref())).is_err() {
                return;
            }
            bell.ring();
            if asked.recv_timeout(REFRESH) == Err(RecvTimeoutError::Disconnected) {
                return;
            }
        }
    };
    detach("resolve", body).map_err(|error| format!("cannot start a thread: {error}"))?;
    Ok(Resolver { ask: Some(ask), answers, asked: net::now() })
}

fn resolve(broker: &HostPort, server: Option<&HostPort>) -> Result<Addresses, String> {
    let all = |name: &HostPort| name.resolve().map_err(|error| format!("cannot resolve {}: {error}", name.host));
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
            routes.map(|routes| routes.iter().map(|route| (route.broker, route.target)).collect::<Vec<_>>())
        };
        let beside = |address: SocketAddr| (address, SocketAddr::new(address.ip(), PORT));
        assert_eq!(routes(&[v6, v4], None, None), Ok(vec![beside(v6), beside(v4)]));
        assert_eq!(routes(&[v6, v4], None, Some(v4)), Ok(vec![beside(v4)]));
        assert_eq!(routes(&[v6, v4], Some(&[v4]), Some(v4)), Ok(vec![(v6, v4), (v4, v4)]));
        assert_eq!(routes(&[v4], Some(&[v6, v4]), None), Ok(vec![(v4, v6), (v4, v4)]), "each is tried");
        assert_eq!(routes(&[v4], Some(&[v6, v4]), Some(v4)), Ok(vec![(v4, v4)]));
        assert!(routes(&[v6], None, Some(v4)).is_err_and(|why| why.contains("--source 10.0.0.1")));
    }
}
