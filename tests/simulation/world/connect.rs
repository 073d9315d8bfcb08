//! The client's way to a connection: attempts to the addresses of the server's host, as the real core says.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ossec_broker::proto::client::Transport;
use ossec_broker::proto::client::routes::Route;
use ossec_broker::proto::server::delivery::Delivery;
use ossec_broker::proto::server::judge::{Binding, Bindings};
use ossec_broker::proto::terms::Verdict;
use ossec_broker::proto::time::Time;

use super::client::Client;
use super::{Event, World, time};
use crate::plan::{Plan, SECOND};

/// The longest wait for an attempt to connect: the client's `--timeout`.
const ATTEMPT: u64 = 2 * SECOND;

#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    id: u64,
    route: Route,
    begun: u64,
    round_trip: u64,
    /// The moment when the attempt is given up.
    pub(super) until: u64,
}

/// An address of the server's host.
fn address(number: usize) -> IpAddr {
    [10, 9, 9, number as u8 + 1].into()
}

/// The addresses of the server's host, as a client resolves them.
pub(super) fn routes(plan: &Plan) -> Vec<Route> {
    let route = |number| {
        let ip = address(number);
        Route { broker: SocketAddr::new(ip, 1_517), target: SocketAddr::new(ip, 1_514) }
    };
    (0..plan.addresses).map(route).collect()
}

/// The target of a sender that knows where remoted receives.
pub(super) fn last(plan: &Plan) -> SocketAddr {
    SocketAddr::new(address(plan.addresses - 1), 1_514)
}

/// The places where remoted receives: the last of several addresses alone.
pub(super) fn places(plan: &Plan) -> Bindings {
    let place = if plan.addresses > 1 { Binding::One(address(plan.addresses - 1)) } else { Binding::All };
    Bindings { remoted: vec![place; plan.sockets], strangers: vec![] }
}

impl Client {
    /// The moment when the next attempt may start.
    pub(super) fn next_start(&self) -> Option<Time> {
        Some(self.dialer.next_start(self.attempts.len())?.max(self.routes.free_from()?))
    }

    /// The connection in use answers.
    pub(super) fn handle_answering(&mut self, now: Time, verdict: Verdict) {
        let Some(route) = self.route else {
            return;
        };
        self.routes.handle_answering(now, route, verdict, false);
        if self.routes.is_worth_leaving(now) {
            self.dialer.handle_outage(now);
        } else {
            self.dialer.handle_link();
            self.attempts.clear();
            self.answered = None;
        }
    }
}

impl World<'_> {
    pub(super) fn dial(&mut self, client: usize) {
        let now = time(self.now);
        let round_trip = self.plan.round_trip_at(self.now);
        let one = &mut self.clients[client];
        for attempt in one.attempts.extract_if(.., |attempt| attempt.until <= self.now) {
            one.routes.handle_failed(now, attempt.route.broker, time(attempt.begun));
        }
        if one.next_start().is_none_or(|at| at > now) {
            return;
        }
        one.dialer.handle_start(now);
        let answering = one.connection.is_some() && !one.core.link().is_silent(now);
        let Some(route) = one.routes.handle_attempt(now, answering) else {
            return;
        };
        self.connections += 1;
        let (id, until) = (self.connections, self.now + ATTEMPT);
        self.clients[client].attempts.push(Attempt { id, route, begun: self.now, round_trip, until });
        // An attempt takes SYN and its answer, greeting and welcome. A lost SYN goes again after a second.
        for start in [self.now, self.now + SECOND] {
            let end = start + 2 * round_trip;
            let lost = self.plan.cut(false, true, start, end).is_some()
                || self.plan.cut(false, false, start, end).is_some()
                || self.random.per_mille(4 * self.plan.loss(start));
            if !lost {
                self.at(end, Event::Connects { client, attempt: id });
                return;
            }
        }
    }

    pub(super) fn connects(&mut self, client: usize, attempt: u64) {
        let Some(at) = self.clients[client].attempts.iter().position(|one| one.id == attempt) else {
            return;
        };
        if let Some(until) = self.server_stopped() {
            // The kernel has taken the connection; the greeting waits.
            return self.at(until, Event::Connects { client, attempt });
        }
        let attempt = self.clients[client].attempts.remove(at);
        let (now, one) = (time(self.now), &mut self.clients[client]);
        if !self.server.alive {
            one.routes.handle_failed(now, attempt.route.broker, time(attempt.begun));
        } else if one.routes.handle_answered(now, attempt.route, Duration::from_nanos(self.now - attempt.begun)) {
            return self.take(client, attempt);
        } else {
            self.say(|| format!("client {client}: {} answers, and waits", attempt.route.broker));
            let one = &mut self.clients[client];
            one.answered = Some(attempt);
            one.attempts.clear();
            one.dialer.handle_chance(now);
        }
        self.act(client);
    }

    /// An attempt that was answered need not wait any more.
    pub(super) fn take_answered(&mut self, client: usize) {
        let one = &mut self.clients[client];
        if one.answered.is_some()
            && one.routes.is_taking(time(self.now))
            && let Some(attempt) = one.answered.take()
            && self.server.alive
        {
            self.take(client, attempt);
        }
    }

    /// The link goes over this connection.
    fn take(&mut self, client: usize, attempt: Attempt) {
        self.say(|| format!("client {client}: connected to {}", attempt.route.broker));
        let delivery = match self.plan.transport {
            Transport::Udp => Delivery::Direct(Some(attempt.route.target.ip())),
            Transport::Tcp => Delivery::Injected,
        };
        self.server.connect(client, attempt.id, delivery);
        let one = &mut self.clients[client];
        one.attempts.clear();
        one.answered = None;
        one.probes.clear();
        (one.connection, one.route) = (Some(attempt.id), Some(attempt.route));
        (one.last_ping, one.last_pong) = (self.now, self.now);
        one.dialer.handle_link();
        one.routes.handle_taken(attempt.route);
        let round_trip = Duration::from_nanos(attempt.round_trip);
        one.core.handle_connected(time(self.now), round_trip, attempt.route.target);
        if self.plan.transport == Transport::Tcp {
            self.attach(client);
        }
        self.act(client);
    }
}
