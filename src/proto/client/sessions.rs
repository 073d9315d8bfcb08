//! The agents behind this client.
//!
//! An agent is its IP address. Where its key is `any` or CIDR, the `!id!` in front of each of its datagrams belongs to
//! it, too. Its port changes at each of its reconnects; replies go to the newest. Each session has an upstream socket
//! of its own, so that remoted's replies find back.
//!
//! The table is bounded. When it is full, a session with nothing held gives way, the longest silent one first. If
//! every session has a datagram held, the newcomer is refused.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use hashlink::LinkedHashMap;

use super::replies::Replies;
use super::spool::record::Agent;
use crate::proto::client::buffer::SessionId;
use crate::proto::terms::{AgentId, SessionName, agent_id};
use crate::proto::time::Time;

/// The source of a datagram, to which its replies go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Address and port of the agent.
    pub agent: SocketAddr,
    /// The address of this host that the agent sent to, where the socket listens on several.
    pub local: Option<IpAddr>,
}

#[derive(Debug)]
pub(super) struct Sessions {
    max: SessionId,
    table: Vec<Session>,
    /// The places of all sessions, the longest silent one first.
    ids: LinkedHashMap<Key, SessionId>,
    /// Number of sessions with nothing held.
    idle: usize,
    /// Sessions whose replies were found missing, and have not come since.
    silent: HashSet<SessionId>,
    newest_reply: Option<Time>,
}

type Key = (IpAddr, Option<AgentId>);

#[derive(Debug)]
struct Session {
    key: Key,
    generation: u32,
    origin: Origin,
    held: u64,
    replies: Replies,
    /// The UDP port that remoted knows the agent by; 0 until there is one.
    port: u16,
}

impl Session {
    fn new(key: Key, origin: Origin) -> Self {
        Self { key, generation: 0, origin, held: 0, replies: Replies::default(), port: 0 }
    }
}

impl Sessions {
    pub(super) fn new(max: SessionId) -> Self {
        Self { max, table: Vec::new(), ids: LinkedHashMap::new(), idle: 0, silent: HashSet::new(), newest_reply: None }
    }

    /// The session of a datagram, made if need be. `None` when the session at every place has datagrams held.
    pub(super) fn admit(&mut self, origin: Origin, bytes: &[u8]) -> Option<SessionId> {
        let key = (origin.agent.ip().to_canonical(), agent_id(bytes));
        if let Some(&mut id) = self.ids.to_back(&key) {
            self.table[usize::from(id)].origin = origin;
            return Some(id);
        }
        let fresh = Session::new(key, origin);
        let id = if self.table.len() < usize::from(self.max) {
            self.table.push(fresh);
            self.idle += 1;
            (self.table.len() - 1) as SessionId
        } else {
            let id = self.longest_silent()?;
            let place = &mut self.table[usize::from(id)];
            self.ids.remove(&place.key);
            *place = Session { generation: place.generation + 1, ..fresh };
            self.silent.remove(&id);
            id
        };
        self.ids.insert(key, id);
        Some(id)
    }

    /// Takes over the agents of an earlier process, with the number of their held datagrams: the newest last.
    pub(super) fn restore(&mut self, agents: &[(Agent, u64)]) {
        let places = agents.iter().map(|(agent, _)| agent.session + 1).max().unwrap_or(0);
        let unknown = (0..places).map(|place| session_of(&Agent::unknown(place), 0));
        self.table = unknown.collect();
        for (agent, held) in agents {
            self.table[usize::from(agent.session)] = session_of(agent, *held);
        }
        self.idle = self.table.iter().filter(|session| session.held == 0).count();
        let known: HashSet<SessionId> = agents.iter().map(|(agent, _)| agent.session).collect();
        let order = (0..places).filter(|place| !known.contains(place)).chain(agents.iter().map(|(a, _)| a.session));
        for place in order {
            let key = self.table[usize::from(place)].key;
            if let Some(before) = self.ids.insert(key, place) {
                // The agent is in its newest place.
                let unknown = session_of(&Agent::unknown(before), 0).key;
                self.table[usize::from(before)].key = unknown;
                self.ids.insert(unknown, before);
            }
        }
    }

    /// The agent of a session, for the spool.
    pub(super) fn agent(&self, id: SessionId) -> Agent {
        let Session { key: (_, agent_id), generation, origin, port, .. } = self.table[usize::from(id)];
        let Origin { agent: address, local } = origin;
        Agent { session: id, generation, address, local, id: agent_id.unwrap_or_default(), port }
    }

    /// The agent of a session, unless the session has given way to another.
    pub(super) fn current(&self, session: SessionName) -> Option<Agent> {
        let place = self.table.get(usize::from(session.id))?;
        (place.generation == session.generation).then(|| self.agent(session.id))
    }

    /// A session, unless it has given way to another.
    fn current_mut(&mut self, session: SessionName) -> Option<&mut Session> {
        self.table.get_mut(usize::from(session.id)).filter(|found| found.generation == session.generation)
    }

    /// All agents that have a port, the longest silent one first.
    pub(super) fn agents(&self) -> impl Iterator<Item = Agent> {
        self.ids.values().map(|&id| self.agent(id)).filter(|agent| agent.port != 0)
    }

    /// The session sends from this port.
    pub(super) fn handle_port(&mut self, session: SessionName, port: u16) {
        if let Some(found) = self.current_mut(session) {
            found.port = port;
        }
    }

    /// Counts the held datagrams of each session anew.
    pub(super) fn recount(&mut self, held: impl Iterator<Item = SessionId>) {
        self.table.iter_mut().for_each(|session| session.held = 0);
        held.for_each(|id| self.table[usize::from(id)].held += 1);
        self.idle = self.table.iter().filter(|session| session.held == 0).count();
    }

    /// The session that gives way to a newcomer. In an outage every session may have a datagram held, and each
    /// datagram of further agents comes here: it must not walk through them in vain.
    fn longest_silent(&self) -> Option<SessionId> {
        let mut idle = self.ids.values().filter(|id| self.table[usize::from(**id)].held == 0);
        if self.idle > 0 { idle.next().copied() } else { None }
    }

    pub(super) fn reference(&self, id: SessionId) -> SessionName {
        SessionName { id, generation: self.table[usize::from(id)].generation }
    }

    pub(super) fn handle_held(&mut self, id: SessionId) {
        let held = &mut self.table[usize::from(id)].held;
        self.idle -= usize::from(*held == 0);
        *held += 1;
    }

    pub(super) fn handle_settled(&mut self, id: SessionId) {
        let held = &mut self.table[usize::from(id)].held;
        *held -= 1;
        self.idle += usize::from(*held == 0);
    }

    pub(super) fn handle_released(&mut self, now: Time, id: SessionId, up_since: Time) {
        let replies = &mut self.table[usize::from(id)].replies;
        replies.handle_released(now, up_since);
        if replies.are_missing(now) {
            self.silent.insert(id);
        }
    }

    /// A reply came. Returns the agent that it goes to.
    pub(super) fn handle_reply(&mut self, now: Time, session: SessionName, up_since: Option<Time>) -> Option<Origin> {
        let found = self.current_mut(session)?;
        found.replies.handle_reply(now, up_since);
        let origin = found.origin;
        self.newest_reply = Some(now);
        self.silent.remove(&session.id);
        Some(origin)
    }

    /// Number of sessions that used to get replies and get none any more, although they go on sending.
    pub(super) fn silent(&self, now: Time) -> usize {
        self.missing(now).count()
    }

    /// Some session misses its replies, and in the last of its control periods no other session has got any.
    pub(super) fn all_silent(&self, now: Time) -> bool {
        let quiet = self.newest_reply.map(|newest| now.since(newest));
        self.missing(now).any(|replies| quiet.is_some_and(|quiet| quiet > replies.period()))
    }

    fn missing(&self, now: Time) -> impl Iterator<Item = &Replies> {
        let replies = self.silent.iter().map(|&id| &self.table[usize::from(id)].replies);
        replies.filter(move |replies| replies.are_missing(now))
    }
}

/// The session of an agent that an earlier process knew.
fn session_of(agent: &Agent, held: u64) -> Session {
    let id = Some(agent.id).filter(|id| *id != AgentId::default());
    let origin = Origin { agent: agent.address, local: agent.local };
    let fresh = Session::new((agent.address.ip().to_canonical(), id), origin);
    Session { generation: agent.generation, held, port: agent.port, ..fresh }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(host: u8, port: u16) -> Origin {
        Origin { agent: SocketAddr::from(([10, 0, 0, host], port)), local: None }
    }

    #[test]
    fn an_agent_is_its_address_and_its_id_and_not_its_port() {
        let mut sessions = Sessions::new(8);
        let mut admit = |host, port, bytes: &[u8]| sessions.admit(origin(host, port), bytes);
        assert_eq!(admit(1, 1000, b"x"), Some(0));
        assert_eq!(admit(1, 2000, b"x"), Some(0));
        assert_eq!(admit(2, 1000, b"x"), Some(1));
        assert_eq!(admit(1, 1000, b"!017!x"), Some(2));
        assert_eq!(admit(1, 3000, b"!017!y"), Some(2));
        assert_eq!(admit(1, 1000, b"!018!x"), Some(3));
        for odd in [&b"!x1!"[..], b"!!", b"!123456789!", b"!12", b""] {
            assert_eq!(admit(1, 1000, odd), Some(0), "{odd:?} is no id");
        }
    }

    #[test]
    fn replies_go_to_the_newest_port_of_the_tenant_that_was_meant() {
        let mut sessions = Sessions::new(1);
        sessions.admit(origin(1, 1000), b"x");
        sessions.admit(origin(1, 2000), b"x");
        let first = sessions.reference(0);
        assert_eq!(sessions.handle_reply(Time::ZERO, first, None), Some(origin(1, 2000)));
        assert_eq!(sessions.admit(origin(2, 1), b"x"), Some(0));
        assert_eq!(sessions.handle_reply(Time::ZERO, first, None), None, "the first agent has given way");
        assert_eq!(sessions.handle_reply(Time::ZERO, sessions.reference(0), None), Some(origin(2, 1)));
    }

    #[test]
    fn only_a_session_with_nothing_held_gives_way_the_longest_silent_first() {
        let mut sessions = Sessions::new(2);
        sessions.admit(origin(1, 1), b"x");
        sessions.admit(origin(2, 1), b"x");
        sessions.handle_held(0);
        assert_eq!(sessions.admit(origin(3, 1), b"x"), Some(1));
        sessions.handle_held(1);
        assert_eq!(sessions.admit(origin(4, 1), b"x"), None);
        sessions.handle_settled(0);
        assert_eq!(sessions.admit(origin(4, 1), b"x"), Some(0));
    }

    #[test]
    fn each_session_has_a_silence_of_its_own() {
        let second = |at: u64| Time::from_millis(at * 1_000);
        let mut sessions = Sessions::new(3);
        for host in 1..=3 {
            sessions.admit(origin(host, 1), b"x");
        }
        // The first agent stops after a while. The second gets no more replies, and the third still gets them.
        for at in 0..=100 {
            for id in 0..3 {
                if id > 0 || at <= 30 {
                    sessions.handle_released(second(at), id, Time::ZERO);
                }
                if at % 10 == 0 && (at <= 20 || id == 2) {
                    sessions.handle_reply(second(at), sessions.reference(id), Some(Time::ZERO));
                }
            }
        }
        assert_eq!(sessions.silent(second(100)), 1);
        assert!(!sessions.all_silent(second(100)), "the path is good: another gets its replies");
        for at in 101..=111 {
            sessions.handle_released(second(at), 1, Time::ZERO);
        }
        assert!(sessions.all_silent(second(111)), "nobody does");
        sessions.handle_reply(second(112), sessions.reference(1), Some(Time::ZERO));
        assert_eq!(sessions.silent(second(112)), 0);
        assert!(!sessions.all_silent(second(112)));
    }
}
