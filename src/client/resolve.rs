//! Names → addresses, off the hot path.
//!
//! Resolving a name can block for half a minute and cannot be interrupted. It has a thread of its own, which nobody waits for: the agent's
//! socket is bound and receives long before a name is known, and a healthy link does not care what its name means by now.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::Config;
use crate::net::{self, HostPort};
use crate::threads::{Doorbell, detach};

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
    /// Where datagrams go to the host that the heartbeats reach, these must be of the family of `--source`: from there the others cannot be sent.
    pub(super) fn reachable_from(mut self, source: Option<IpAddr>) -> Result<Self, String> {
        if let (Some(source), None) = (source, &self.server) {
            self.broker.retain(|address| address.is_ipv4() == source.is_ipv4());
            if self.broker.is_empty() {
                let family = net::family(source);
                return Err(format!("the server has no {family} address, and --source {source} is one"));
            }
        }
        Ok(self)
    }
}

/// The prober's end: ask, and look for answers.
#[derive(Debug)]
pub(super) struct Resolver {
    ask: Option<Sender<()>>,
    answers: Receiver<Result<Addresses, String>>,
}

impl Resolver {
    /// Asks for a fresh answer. Nothing happens where there is nothing to resolve, or when a question is open.
    pub(super) fn ask(&self) {
        if let Some(ask) = &self.ask {
            let _ = ask.try_send(());
        }
    }

    /// The next answer that has come.
    pub(super) fn answer(&self) -> Option<Result<Addresses, String>> {
        self.answers.try_recv().ok()
    }
}

/// Starts to resolve, if there is a name; `bell` is rung with each answer.
pub(super) fn start(config: &Config, bell: Doorbell) -> Result<Resolver, String> {
    let broker = config
        .broker
        .clone()
        .unwrap_or_else(|| HostPort { host: config.server.host.clone(), port: config.broker_port });
    let server = config.broker.is_some().then(|| config.server.clone());
    let (answer, answers) = bounded(1);
    if let (Some(broker), Some(server)) =
        (broker.address(), server.as_ref().map_or(Some(None), |name| name.address().map(Some)))
    {
        let fixed = Addresses { broker: vec![broker], server: server.map(|address| vec![address]) };
        answer.send(Ok(fixed)).map_err(|_| "the resolver's channel is closed".to_string())?;
        bell.ring();
        return Ok(Resolver { ask: None, answers });
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
    Ok(Resolver { ask: Some(ask), answers })
}

fn resolve(broker: &HostPort, server: Option<&HostPort>) -> Result<Addresses, String> {
    let all = |name: &HostPort| name.resolve().map_err(|error| format!("cannot resolve {}: {error}", name.host));
    Ok(Addresses { broker: all(broker)?, server: server.map(all).transpose()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_a_source_only_hosts_of_its_family_are_reached_unless_datagrams_go_elsewhere() {
        let (v4, v6) = (SocketAddr::from(([10, 0, 0, 1], 1_517)), SocketAddr::from(([0; 16], 1_517)));
        let usable = |broker: &[SocketAddr], server: Option<Vec<SocketAddr>>, source: Option<SocketAddr>| {
            let addresses = Addresses { broker: broker.to_vec(), server };
            addresses.reachable_from(source.map(|source| source.ip())).map(|addresses| addresses.broker)
        };
        assert_eq!(usable(&[v6, v4], None, None), Ok(vec![v6, v4]));
        assert_eq!(usable(&[v6, v4], None, Some(v4)), Ok(vec![v4]));
        assert_eq!(usable(&[v6, v4], Some(vec![v4]), Some(v4)), Ok(vec![v6, v4]));
        assert!(usable(&[v6], None, Some(v4)).is_err_and(|why| why.contains("--source 10.0.0.1")));
    }
}
