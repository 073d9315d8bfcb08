//! Names → addresses, off the hot path.
//!
//! Resolving a name can block for half a minute and cannot be interrupted. It has a thread of its own, which nobody waits for: the agent's
//! socket is bound and receives long before a name is known, and a healthy link does not care what its name means by now.

use std::net::SocketAddr;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::Config;
use crate::net::HostPort;
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
