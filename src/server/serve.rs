//! Serving all connections with one thread.
//!
//! Each pass of the loop reads what has come in, and then answers all connections that ask, from one look at remoted.
//! The look begins after the questions were read: between an older look and its answer remoted may have died. For the
//! same reason something is injected only right behind a look.

mod complaints;
mod connection;
mod connections;
mod exchange;
mod news;
mod parting;
mod strangers;
mod watch;

use std::io;
use std::time::Duration;

use crate::os::net;
use crate::os::threads::{Stop, Wait, WaitError};
use crate::proto::time::Time;
use crate::server::config::Config;
use crate::server::inject::{Injection, Way};
use exchange::Exchange;

pub(super) use connections::Connections;
pub(super) use watch::Watch;

/// How long a stop waits for remoted to read what was injected.
const FINISH_MAX: Duration = Duration::from_secs(1);
/// How often a stop looks whether that is done.
const FINISH_GAP: Duration = Duration::from_millis(10);

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Connections(#[from] WaitError),
    #[error("cannot wait for what arrives at remoted: {0}")]
    Arrivals(#[source] io::Error),
}

pub(super) fn run(
    config: &Config,
    connections: Connections,
    watch: Watch,
    way: Way,
    mut wait: Wait,
    stop: &Stop,
) -> Result<(), Error> {
    let injection = Injection::new(config.inject, way, wait.poll()).map_err(Error::Arrivals)?;
    let mut exchange = Exchange::new(config, connections, watch, injection);
    exchange.watch.search(net::now());
    while !stop.is_set() {
        wait.wait(exchange.next_deadline().map(|at| at.since(net::now())))?;
        let now = net::now();
        exchange.handle_unread(now);
        for token in wait.ready() {
            exchange.handle_ready(now, token, wait.poll());
        }
        exchange.handle_time(net::now(), wait.poll());
    }
    finish(&mut exchange, &mut wait);
    Ok(())
}

/// At a stop: what was injected is acknowledged if remoted reads it soon, so that it does not come again.
fn finish(exchange: &mut Exchange<'_>, wait: &mut Wait) {
    let until = net::now() + FINISH_MAX;
    // Nothing is injected any more.
    exchange.injection.paused_until = Some(Time::FAR);
    while exchange.core.streams().unread_cost() > 0 && net::now() < until {
        exchange.look(net::now(), wait.poll());
        exchange.tell_streams(net::now());
        if wait.wait(Some(FINISH_GAP)).is_err() {
            break;
        }
    }
    exchange.complaints.log_rest();
    // To close a connection with something unread would reset it, and the client would not hear its last frames.
    exchange.connections.end(|id| exchange.core.streams().carries(id));
    while exchange.connections.discard_input() && net::now() < until {
        if wait.wait(Some(FINISH_GAP)).is_err() {
            return;
        }
    }
}
