//! Packets on their way: delayed, lost, duplicated or overtaken.

use std::net::SocketAddr;

use ossec_broker::proto::client::Transport;

use super::{Event, Way, World};
use crate::plan::{Fault, MS, SECOND, Timed};
use crate::promise::Loss;
use crate::remoted::Datagram;

/// This moment is after the end of every run.
const NEVER: u64 = u64::MAX;
/// A rival has no lease; its losses are only counted.
const NO_LEASE: u64 = 0;

impl World<'_> {
    /// The moment when a segment that is sent now arrives. It is retransmitted until it passes, and never arrives
    /// before its predecessors. The result is [`NEVER`] if those never arrive.
    pub(super) fn tcp(&mut self, last: u64, towards_server: bool) -> u64 {
        let round_trip = self.plan.round_trip_at(self.now);
        let mut start = self.now;
        // The first retransmission is a tail loss probe, or it follows the first timeout.
        let mut pause =
            if self.random.per_mille(300) { 2 * round_trip + 10 * MS } else { round_trip + self.plan.timeout };
        for _ in 0..8 {
            let end = start + round_trip / 2;
            let loss = self.plan.loss(start);
            if self.plan.cut(false, towards_server, start, end).is_none() && !self.random.per_mille(loss) {
                return end.max(last);
            }
            start += pause;
            pause = pause.max(self.plan.timeout) * 2;
        }
        NEVER
    }

    /// A datagram goes out to this address of remoted's host.
    pub(super) fn transmit(&mut self, client: usize, datagram: Datagram, target: SocketAddr) {
        self.note_release(client);
        if target != super::connect::last(self.plan) {
            // A firewall drops it without a word.
            return self.ledger.lost(datagram, Loss::Covered);
        }
        if self.stale_ports[client] == Some(self.clients[client].batch.ports()) {
            let loss = if self.now < self.unsuspected_until() { Loss::Excused } else { Loss::Covered };
            return self.ledger.lost(datagram, loss);
        }
        let copies = if self.random.per_mille(self.plan.duplicated) { 2 } else { 1 };
        self.ledger.duplicated += copies - 1;
        let sent = self.ledger.transmitted(datagram.agent);
        for _ in 0..copies {
            let lag = if self.plan.lag > 0 { self.random.range(0, self.plan.lag) } else { 0 };
            let mut end = self.now + self.plan.round_trip_at(self.now) / 2 + lag;
            let overtaken = self.random.per_mille(self.plan.reordered);
            if overtaken {
                end += self.random.range(0, 5 * MS);
            } else {
                end = end.max(self.last_udp[client]);
                self.last_udp[client] = end;
            }
            if let Some(cut) = self.plan.cut(true, true, self.now, end) {
                // An overtaken datagram is lost by the doing of the datagrams behind it.
                self.ledger.lost(datagram, if overtaken { Loss::Excused } else { self.loss(cut, client) });
            } else if self.random.per_mille(self.plan.loss(self.now)) {
                self.ledger.lost(datagram, Loss::Excused);
            } else {
                self.at(end, Event::Arrives { datagram, sent });
            }
        }
    }

    pub(super) fn arrives(&mut self, datagram: Datagram, sent: u64) {
        if !self.remoted.alive {
            return self.arrives_nowhere(datagram);
        }
        let socket = self.socket_of(datagram.agent);
        if !self.remoted.arrive(socket, datagram, sent) && datagram.agent != self.stranger() {
            let of_others = self.remoted.waiting().any(|waiting| waiting.agent == self.stranger());
            let others = of_others || (self.flood > 0 && self.now < self.flood + SECOND);
            if !others {
                self.ledger.overflows += 1;
            }
            // The broker server stands beside the socket and sees it.
            let covered = !others || self.plan.transport == Transport::Tcp;
            self.ledger.lost(datagram, if covered { Loss::Covered } else { Loss::Excused });
        }
        self.start_reading();
    }

    /// remoted is dead, its host is not.
    fn arrives_nowhere(&mut self, datagram: Datagram) {
        if datagram.agent == self.stranger() {
            return;
        }
        let client = datagram.agent / self.plan.agents;
        let mut kills = self.plan.faults.iter().filter(|timed| matches!(timed.fault, Fault::Kill));
        let long = kills
            .any(|timed| timed.from <= self.now && self.now < timed.to && self.loss(timed, client) == Loss::Covered);
        self.ledger.lost(datagram, if long { Loss::Covered } else { Loss::Excused });
        self.refuse(client);
    }

    /// The moment until which a stale entry need not be noticed. It is three of the times from reply to reply, counted
    /// from the first missing reply. Datagrams under way then are sent again.
    fn unsuspected_until(&self) -> u64 {
        let begun = self.plan.faults.iter().find(|timed| matches!(timed.fault, Fault::StaleEntry));
        begun.map_or(0, |timed| timed.from) + 4 * self.plan.replies.unwrap_or(0)
    }

    /// remoted answers an agent, if it is time to: as it answers the agent's control messages.
    pub(super) fn reply(&mut self, agent: usize) {
        if let Some(period) = self.plan.replies
            && self.now >= self.replies_due[agent]
        {
            self.replies_due[agent] = self.now + period;
            let end = self.now + self.plan.round_trip_at(self.now) / 2;
            self.at(end, Event::ReplyArrives(agent));
        }
    }

    pub(super) fn reply_arrives(&mut self, agent: usize) {
        let client = agent / self.plan.agents;
        self.say(|| format!("client {client}: a reply to agent {agent}"));
        self.clients[client].handle_reply(self.now, agent);
        self.act(client);
    }

    /// The word of the promise on a datagram of this client that an outage swallowed.
    pub(super) fn loss(&self, outage: &Timed, client: usize) -> Loss {
        if self.plan.transport == Transport::Tcp {
            return Loss::Covered;
        }
        let lease = match self.way {
            // This is the lease of the newest heartbeat or of the next one, or the lease on the longest path of this
            // outage. Where the path grows longer meanwhile, released datagrams may arrive when the outage is over.
            // Then they are ahead of datagrams that are sent again.
            Way::Broker => self.clients[client].lease().max(self.plan.lease_during(outage)),
            Way::Rival | Way::Bare => NO_LEASE,
        };
        Loss::of_outage(outage, lease)
    }

    /// The server's host answers with ICMP: six at once, then one a second.
    fn refuse(&mut self, client: usize) {
        let (tokens, since) = self.refusals;
        let grown = (self.now - since) / SECOND;
        let tokens = (tokens + grown).min(6);
        let since = since + grown * SECOND;
        self.refusals = (tokens, since);
        let round_trip = self.plan.round_trip_at(self.now);
        let end = self.now + round_trip / 2;
        if tokens > 0 && self.plan.cut(true, false, self.now, end).is_none() {
            self.refusals.0 -= 1;
            self.at(end, Event::RefusalArrives(client));
        }
    }
}
