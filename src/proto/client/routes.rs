//! Which address to try next, and whether to take the one that answers.
//!
//! A name may have several addresses, of both families. remoted knows an agent by the source address of its datagrams,
//! and may receive at only some addresses of its host. So the client stays with the route that worked, and leaves it
//! for another only when it has failed.
//!
//! ```text
//!   no link ── an attempt each: home until it has failed, then those without a fault, then all in turn
//!      │
//!      ├── home is answered ──────────────────────► taken
//!      └── another is answered: the network is back ──► home gets one more attempt
//!                                                          ├── answered ──► home is taken
//!                                                          └── failed ────► the other is taken: it is home
//! ```
//!
//! *Home* is the route of the last link. A fault is forgotten after a minute, since a route that failed may work by
//! then. A server may refuse, or say that remoted does not receive there. Then the client leaves the route for another
//! without a fault while there is one.

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::Duration;

use crate::proto::terms::{Receives, Verdict};
use crate::proto::time::Time;

/// Most routes that are tried; of a name with more addresses the first ones are tried.
pub const ROUTES_MAX: usize = 16;

/// Time for which a fault counts.
const FAULT: Duration = Duration::from_mins(1);
/// Least time for which an answered route waits for home: the default time of an attempt. On a long path the wait is
/// twice the time that the answer took.
const HOME_PATIENCE_MIN: Duration = Duration::from_secs(2);
/// Most connections in a row that may end without a word, as when a server is just being stopped. After one more,
/// something else counts as listening there.
const FRUITLESS_MAX: u32 = 2;

/// The addresses for heartbeats and for the datagrams that go with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The broker server.
    pub broker: SocketAddr,
    /// remoted.
    pub target: SocketAddr,
}

/// The routes, and their history. Holds no connection.
#[derive(Debug, Default)]
pub struct Routes {
    known: Vec<Known>,
    home: Option<Route>,
    current: Option<Route>,
    wait: Option<Wait>,
    attempts: u64,
}

#[derive(Debug)]
struct Known {
    route: Route,
    /// Number of the newest attempt; 0 before the first.
    tried: u64,
    /// The last moment at which an attempt got no answer.
    failed: Option<Time>,
    /// The last moment at which the server refused, or said that remoted does not receive there.
    misfit: Option<Time>,
    /// Connections in a row that were made and got no answer.
    fruitless: u32,
    rests: Time,
}

#[derive(Clone, Copy, Debug)]
struct Wait {
    began: Time,
    until: Time,
}

impl Known {
    const fn new(route: Route) -> Self {
        Self { route, tried: 0, failed: None, misfit: None, fruitless: 0, rests: Time::ZERO }
    }

    fn is_faulty(&self, now: Time) -> bool {
        self.is_misfit(now) || self.failed.is_some_and(|at| now.since(at) < FAULT)
    }

    fn is_misfit(&self, now: Time) -> bool {
        self.misfit.is_some_and(|at| now.since(at) < FAULT)
    }
}

impl Routes {
    /// The names have these routes at this moment. Knowledge of a route that stays is kept, and home stays home
    /// while it is among them. Returns whether anything has changed.
    pub fn handle_routes(&mut self, routes: &[Route]) -> bool {
        let mut changed = self.known.len() != routes.len().min(ROUTES_MAX);
        let mut before = std::mem::take(&mut self.known);
        for &route in routes.iter().take(ROUTES_MAX) {
            if self.known.iter().all(|known| known.route != route) {
                let at = before.iter().position(|known| known.route == route);
                changed |= at.is_none();
                self.known.push(at.map_or_else(|| Known::new(route), |at| before.swap_remove(at)));
            }
        }
        self.home = self.home.filter(|home| self.known.iter().any(|known| known.route == *home));
        changed
    }

    /// There was one attempt so far.
    pub const fn is_first_attempt(&self) -> bool {
        self.attempts == 1
    }

    /// Begins the next attempt, and returns its route. `answering`: the route in use answers, and only a better one is
    /// of use.
    pub fn handle_attempt(&mut self, now: Time, answering: bool) -> Option<Route> {
        let (home, waits, current) = (self.home, self.wait.is_some(), self.current);
        let rank = |known: &Known| {
            let (is_home, faulty) = (home == Some(known.route), known.is_faulty(now));
            match (is_home, faulty) {
                (true, _) if waits => Some(0),
                _ if waits && home.is_some() => None,
                _ if answering && (known.is_misfit(now) || current == Some(known.route)) => None,
                (true, false) => Some(0),
                (false, false) => Some(1),
                (_, true) => Some(2),
            }
        };
        let free = self.known.iter_mut().filter(|known| known.rests <= now);
        let next =
            free.filter_map(|known| Some((rank(known)?, known))).min_by_key(|(rank, known)| (*rank, known.tried));
        let (_, known) = next?;
        self.attempts += 1;
        known.tried = self.attempts;
        Some(known.route)
    }

    /// The earliest moment for an attempt; `None` without a route.
    pub fn free_from(&self) -> Option<Time> {
        self.known.iter().map(|known| known.rests).min()
    }

    /// An attempt that began at `begun` got no connection, or no answer.
    pub fn handle_failed(&mut self, now: Time, broker: SocketAddr, begun: Time) {
        for known in self.known.iter_mut().filter(|known| known.route.broker == broker) {
            known.failed = Some(now);
        }
        let last_chance = self.wait.is_some_and(|wait| begun >= wait.began);
        if last_chance && self.home.is_some_and(|home| home.broker == broker) {
            self.home = None;
        }
    }

    /// A connection was made, and ended or stayed without a word. If that goes on, the listener there is no broker
    /// server, and the client lets it alone for the length of `pause`.
    pub fn handle_fruitless(&mut self, now: Time, route: Route, pause: Duration) {
        if let Some(known) = self.known(route) {
            known.fruitless += 1;
            if known.fruitless > FRUITLESS_MAX {
                known.rests = now + pause;
            }
        }
    }

    /// A server refuses, or is not this client's server. It will say the same next time, until somebody changes its
    /// settings or the client's.
    pub fn handle_refused(&mut self, now: Time, route: Route, pause: Duration) {
        self.handle_misfit(now, route);
        if let Some(known) = self.known(route) {
            known.rests = now + pause;
        }
    }

    /// The route in use is answered, and its server gives this verdict on remoted. `refused`: datagrams are refused
    /// there.
    pub fn handle_answering(&mut self, now: Time, route: Route, verdict: Verdict, refused: bool) {
        let elsewhere =
            matches!(verdict, Verdict::NoSocket(Receives::Elsewhere | Receives::Ipv4Alone | Receives::Ipv6Alone));
        if elsewhere || refused {
            self.handle_misfit(now, route);
        } else {
            self.handle_fit(route);
        }
    }

    /// The server says that remoted does not receive at the target of this route.
    pub fn handle_misfit(&mut self, now: Time, route: Route) {
        if let Some(known) = self.known(route) {
            known.misfit = Some(now);
        }
        self.home = self.home.filter(|home| *home != route);
    }

    /// The server gives any other verdict on remoted.
    pub fn handle_fit(&mut self, route: Route) {
        if let Some(known) = self.known(route) {
            known.misfit = None;
            self.home = Some(route);
        }
    }

    /// A route was answered after an attempt of this length. Returns whether to take it at once; if not, home gets
    /// another chance.
    pub fn handle_answered(&mut self, now: Time, route: Route, took: Duration) -> bool {
        if self.home.is_none_or(|home| home == route) {
            return true;
        }
        let until = now + (2 * took).max(HOME_PATIENCE_MIN);
        self.wait.get_or_insert(Wait { began: now, until });
        self.is_taking(now)
    }

    /// An answered route need not wait for home any more.
    pub fn is_taking(&self, now: Time) -> bool {
        self.home.is_none() || self.wait.is_none_or(|wait| now >= wait.until)
    }

    /// The moment until which an answered route waits for home.
    pub fn waits_until(&self) -> Option<Time> {
        self.wait.map(|wait| wait.until)
    }

    /// The link goes over this route.
    pub fn handle_taken(&mut self, route: Route) {
        (self.current, self.wait) = (Some(route), None);
        if let Some(known) = self.known(route) {
            (known.failed, known.fruitless, known.rests) = (None, 0, Time::ZERO);
            if known.misfit.is_none() {
                self.home = Some(route);
            }
        }
    }

    /// There is no connection any more.
    pub const fn handle_lost(&mut self) {
        self.current = None;
    }

    /// remoted does not receive over the route in use, and another route may be better. Even a route where an attempt
    /// has just failed counts: an outage may have been the reason, and trying costs nothing.
    pub fn is_worth_leaving(&self, now: Time) -> bool {
        let Some(current) = self.current else {
            return false;
        };
        let misfit = self.known.iter().any(|known| known.route == current && known.misfit.is_some());
        let may_fit = |known: &Known| known.route != current && !known.is_misfit(now) && known.rests <= now;
        misfit && self.known.iter().any(may_fit)
    }

    fn known(&mut self, route: Route) -> Option<&mut Known> {
        self.known.iter_mut().find(|known| known.route == route)
    }
}
