//! Which agents have a dedicated socket, where replies come back over the connection. Pure.
//!
//! The number of sockets is limited. When all are taken, an agent takes the socket of another agent in either of two
//! cases:
//!
//! * the other agent has not sent for `IDLE_MIN`;
//! * the agent's client has fewer sockets than an equal part. Then the client with the most sockets gives up its least
//!   recently used one.
//!
//! Any other agent uses the shared socket, whose replies cannot be told apart and are lost. So a client with more
//! agents than there are sockets costs no other client its replies. Nor is a socket opened for each datagram, because
//! each socket that changes hands brings the clients nearer to equal parts.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use hashlink::LinkedHashMap;

use crate::proto::terms::{SessionName, StreamId};
use crate::proto::time::Time;

/// An agent that sent nothing for this long gives way: remoted answers within a second.
const IDLE_MIN: Duration = Duration::from_mins(1);

/// An agent behind a client, and the address that remoted sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Agent {
    /// The stream of its client.
    pub stream: StreamId,
    /// Its place in that stream.
    pub name: SessionName,
    /// The address that remoted sees.
    pub address: IpAddr,
}

/// The socket that sends an agent's datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seat {
    /// The agent has the socket with this token.
    Taken(usize),
    /// The agent gets a new socket with this token. The other socket is to be closed before.
    New(usize, Option<usize>),
    /// The agent uses the socket of all agents without a dedicated one.
    Shared,
}

/// All agents with a dedicated socket.
#[derive(Debug)]
pub struct Allotment {
    seats_max: usize,
    tokens_from: usize,
    tokens: usize,
    /// The least recently used one first.
    by_agent: LinkedHashMap<Agent, Use>,
    counts: HashMap<StreamId, usize>,
}

#[derive(Clone, Copy, Debug)]
struct Use {
    token: usize,
    at: Time,
}

impl Allotment {
    /// An allotment of at most `seats_max` sockets, with tokens from `tokens_from` on.
    pub fn new(seats_max: usize, tokens_from: usize) -> Self {
        Self { seats_max, tokens_from, tokens: 0, by_agent: LinkedHashMap::new(), counts: HashMap::new() }
    }

    /// An agent has something to send.
    pub fn seat(&mut self, now: Time, agent: Agent) -> Seat {
        if let Some(used) = self.by_agent.to_back(&agent) {
            used.at = now;
            return Seat::Taken(used.token);
        }
        let mut instead_of = None;
        if self.by_agent.len() >= self.seats_max {
            match self.to_give_way(now, agent.stream) {
                Some(other) => instead_of = self.give_up(other),
                None => return Seat::Shared,
            }
        }
        let token = self.tokens_from + self.tokens;
        // When the tokens come round, an agent with the same token has long given way.
        self.tokens = (self.tokens + 1) % (self.tokens_from / 2);
        self.by_agent.insert(agent, Use { token, at: now });
        *self.counts.entry(agent.stream).or_default() += 1;
        Seat::New(token, instead_of)
    }

    /// An agent gives up its socket. Returns the socket's token.
    pub fn give_up(&mut self, agent: Agent) -> Option<usize> {
        let used = self.by_agent.remove(&agent)?;
        if let Some(count) = self.counts.get_mut(&agent.stream) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&agent.stream);
            }
        }
        Some(used.token)
    }

    fn to_give_way(&self, now: Time, stream: StreamId) -> Option<Agent> {
        let (&oldest, used) = self.by_agent.front()?;
        if used.at + IDLE_MIN <= now {
            return Some(oldest);
        }
        let has = self.counts.get(&stream).copied().unwrap_or(0);
        let clients = self.counts.len() + usize::from(has == 0);
        if has >= self.seats_max / clients.max(1) {
            return None;
        }
        let (&most, _) = self.counts.iter().max_by_key(|(_, count)| **count)?;
        self.by_agent.keys().find(|agent| agent.stream == most).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEATS_MAX: usize = 12;
    const FROM: usize = 1_000;

    fn allotment() -> Allotment {
        Allotment::new(SEATS_MAX, FROM)
    }

    fn agent(stream: StreamId, id: u16) -> Agent {
        Agent { stream, name: SessionName { id, generation: 0 }, address: IpAddr::from([10, 0, 0, 1]) }
    }

    /// The number of sockets that are opened for datagrams of these agents.
    fn opened(allotment: &mut Allotment, now: Time, agents: impl IntoIterator<Item = Agent>) -> usize {
        agents.into_iter().filter(|&agent| matches!(allotment.seat(now, agent), Seat::New(..))).count()
    }

    #[test]
    fn an_agent_keeps_its_socket_and_another_tenant_of_its_place_gets_another() {
        let mut allotment = allotment();
        let now = Time::from_millis(5);
        assert_eq!(allotment.seat(now, agent(1, 1)), Seat::New(FROM, None));
        assert_eq!(allotment.seat(now, agent(1, 1)), Seat::Taken(FROM));
        let next = Agent { name: SessionName { id: 1, generation: 1 }, ..agent(1, 1) };
        assert_eq!(allotment.seat(now, next), Seat::New(FROM + 1, None));
        let elsewhere = Agent { address: IpAddr::from([10, 0, 0, 2]), ..agent(1, 1) };
        assert_eq!(allotment.seat(now, elsewhere), Seat::New(FROM + 2, None));
        assert_eq!(allotment.give_up(agent(1, 1)), Some(FROM));
        assert_eq!(allotment.give_up(agent(1, 1)), None);
        assert_eq!(allotment.seat(now, agent(1, 1)), Seat::New(FROM + 3, None));
    }

    #[test]
    fn a_client_with_more_agents_than_there_are_sockets_opens_none_for_each_datagram() {
        let mut allotment = allotment();
        let now = Time::from_millis(5);
        let all = || (0..100).map(|id| agent(1, id));
        assert_eq!(opened(&mut allotment, now, all()), SEATS_MAX);
        for _ in 0..10 {
            assert_eq!(opened(&mut allotment, now, all()), 0, "those that have none share one");
        }
        assert_eq!(allotment.seat(now, agent(1, 99)), Seat::Shared);
        // A client with few agents gets the sockets that it needs, at the cost of the client with most agents. Nobody
        // loses a socket again.
        assert_eq!(opened(&mut allotment, now, (0..3).map(|id| agent(2, id))), 3);
        assert_eq!(allotment.by_agent.len(), SEATS_MAX);
        for _ in 0..10 {
            assert_eq!(opened(&mut allotment, now, all().chain((0..3).map(|id| agent(2, id)))), 0);
        }
    }

    #[test]
    fn two_clients_with_too_many_agents_end_with_equal_parts() {
        let mut allotment = allotment();
        let now = Time::from_millis(5);
        let all = || (0..50).flat_map(|id| [agent(1, id), agent(2, id), agent(3, id)]);
        opened(&mut allotment, now, (0..50).map(|id| agent(1, id)));
        opened(&mut allotment, now, all());
        assert_eq!(opened(&mut allotment, now, all()), 0);
        assert!(allotment.counts.values().all(|&count| count == SEATS_MAX / 3), "{:?}", allotment.counts);
    }

    #[test]
    fn agents_that_are_silent_give_way_the_longest_first() {
        let mut allotment = allotment();
        let start = Time::from_millis(5);
        opened(&mut allotment, start, (0..SEATS_MAX as u16).map(|id| agent(1, id)));
        let later = start + IDLE_MIN;
        assert_eq!(allotment.seat(later, agent(1, 0)), Seat::Taken(FROM), "it sends again");
        // The client was started anew: its stream is another, its agents are the same.
        let next = |id: u16| Seat::New(FROM + SEATS_MAX + usize::from(id), Some(FROM + 1 + usize::from(id)));
        for id in 0..SEATS_MAX as u16 - 1 {
            assert_eq!(allotment.seat(later, agent(2, id)), next(id));
        }
        assert_eq!(allotment.seat(later, agent(2, 99)), Seat::Shared, "the others sent a moment ago");
    }
}
