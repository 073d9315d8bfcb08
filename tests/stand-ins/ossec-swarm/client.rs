//! One whole client: the real core, its connection and its socket, without a thread of its own.
//!
//! It does the work of the threads `probe`, `forward` and `reply` of the real client (`src/client/`), in the same
//! order and by the same rules. This happens each time that something happens to it: first [`Client::attend`] for its
//! ready sockets, then [`Client::act`] for everything that is due.

mod connect;

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use mio::net::UdpSocket;
use mio::{Poll, Token};
use ossec_broker::os::net::udp::{Inbox, SendError, send_run, take_refusal, watch};
use ossec_broker::os::net::{self};
use ossec_broker::proto::client::dial::{ATTEMPTS_MAX, Dialer};
use ossec_broker::proto::client::link::{Probe, Settings};
use ossec_broker::proto::client::{Batch, ClientCore, Config, Counters, Origin, Transport};
use ossec_broker::proto::seal::Key;
use ossec_broker::proto::terms::SessionName;
use ossec_broker::proto::time::Time;
use ossec_broker::proto::wire::{DataWriter, Features, Frame, Session};

use crate::peer::Peer;
use crate::tally::Tally;
use crate::traffic::{Load, Traffic};

/// Tokens of a client: its UDP socket, the connection in use, the attempts at a better one.
pub(crate) const SLOTS: usize = 2 + ATTEMPTS_MAX;

/// The pause before another try when the system had no room for a datagram.
const BUSY_PAUSE: Duration = Duration::from_millis(2);

/// The things that all clients share: clients are looked at one at a time.
pub(crate) struct Ground {
    pub(crate) poll: Poll,
    pub(crate) batch: Batch,
    pub(crate) inbox: Inbox,
    pub(crate) remoted: SocketAddr,
    pub(crate) broker: SocketAddr,
    pub(crate) transport: Transport,
    pub(crate) key: Option<Key>,
    pub(crate) tally: Tally,
}

#[derive(Debug)]
pub(crate) struct Client {
    /// The first of its tokens.
    token: usize,
    source: Option<IpAddr>,
    core: ClientCore,
    traffic: Traffic,
    upstream: UdpSocket,
    dialer: Dialer,
    peers: Vec<Peer>,
    /// The connection in use.
    chosen: Option<Token>,
    probes: VecDeque<Probe>,
    stream: u128,
    /// Transport tcp: the epoch in which the connection knows the agent.
    named: Option<u64>,
    busy_until: Time,
    /// The moment since which the client has had something to send and has released nothing.
    waits: Option<Time>,
    longest_wait: Duration,
    /// The most datagrams that were unsent at a time, from the first release of any client on.
    most_unsent: u64,
    counted: u64,
}

impl Client {
    pub(crate) fn new(
        now: Time,
        index: usize,
        source: Option<IpAddr>,
        load: Load,
        ground: &mut Ground,
    ) -> Result<Self, String> {
        let any: IpAddr =
            if ground.remoted.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let own = SocketAddr::new(source.unwrap_or(any), 0);
        let token = index * SLOTS;
        let upstream = net::bind_upstream(own).and_then(|socket| {
            watch(&ground.poll, &socket, Token(token))?;
            Ok(socket)
        });
        let upstream = upstream.map_err(|error| format!("cannot bind {own}: {}", net::explain(&error)))?;
        let core = Config { sessions_max: 1, transport: ground.transport, ..Config::default() };
        let stream = net::random();
        let phase = f64::from(stream as u32) / f64::from(u32::MAX);
        let traffic = Traffic::new(now, format!("{:04}", index + 1), load, phase);
        ground.tally.total += traffic.total();
        let mut client = Self {
            token,
            source,
            core: ClientCore::new(core, 1),
            traffic,
            upstream,
            dialer: Dialer::new(now, stream as u64),
            peers: Vec::new(),
            chosen: None,
            probes: VecDeque::new(),
            stream,
            named: None,
            busy_until: Time::ZERO,
            waits: None,
            longest_wait: Duration::ZERO,
            most_unsent: 0,
            counted: 0,
        };
        client.take_traffic(now);
        Ok(client)
    }

    /// All datagrams have come, and nothing is held.
    pub(crate) fn is_drained(&self, now: Time) -> bool {
        self.traffic.next_arrival().is_none() && self.core.snapshot(now).held.datagrams == 0
    }

    pub(crate) fn counters(&self, now: Time) -> Counters {
        self.core.snapshot(now).counters
    }

    /// The longest time without a release while there was something to send.
    pub(crate) fn longest_wait(&self, now: Time, tally: &Tally) -> Duration {
        self.longest_wait.max(wait(self.waits, now, tally))
    }

    pub(crate) const fn most_unsent(&self) -> u64 {
        self.most_unsent
    }

    /// Does what the socket with that token is ready for.
    pub(crate) fn attend(&mut self, token: Token, ground: &mut Ground) {
        if token.0 == self.token {
            self.take_replies(&mut ground.inbox);
            return;
        }
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.token == token) else {
            return;
        };
        let features = if ground.transport == Transport::Tcp { Features::STREAM } else { Features::NONE };
        match peer.attend(features, self.stream, Settings::default().interval) {
            Ok(frames) => frames.iter().for_each(|frame| self.take_frame(token, frame, ground)),
            Err(_) => self.drop_peer(token),
        }
    }

    /// Does everything that is due at this moment. Returns when there is more to do without an event.
    pub(crate) fn act(&mut self, ground: &mut Ground) -> Option<Time> {
        let now = net::now();
        self.take_traffic(now);
        self.dial(now, ground);
        self.core.handle_time(now);
        if self.core.link().is_silent(now) {
            self.dialer.handle_outage(now);
        }
        if ground.transport == Transport::Udp {
            self.release(now, ground);
        }
        self.begin_heartbeat(ground);
        if ground.transport == Transport::Tcp {
            self.write_stream(ground);
        }
        self.watch_progress(now, ground);
        self.next_deadline(net::now())
    }

    fn next_deadline(&mut self, now: Time) -> Option<Time> {
        let busy = (self.busy_until > now).then_some(self.busy_until);
        let core = [self.core.next_heartbeat(now), self.core.link().next_deadline(now), self.core.next_release(now)];
        core.into_iter().chain([busy, self.next_dial(), self.traffic.next_arrival()]).flatten().min()
    }

    fn take_traffic(&mut self, now: Time) {
        let origin = Origin { agent: SocketAddr::from(([127, 0, 0, 1], 1_024)), local: None };
        while let Some(datagram) = self.traffic.take_due(now) {
            self.core.handle_datagram(now, origin, &datagram);
        }
    }

    /// Sends the datagrams that may be sent.
    fn release(&mut self, now: Time, ground: &mut Ground) {
        if now < self.busy_until {
            return;
        }
        let batch = &mut ground.batch;
        while self.core.poll_release(net::now(), batch) {
            let payloads: Vec<&[u8]> = (0..batch.len()).map(|at| batch.payload(at)).collect();
            // This check is as late as possible. A datagram that is sent after the lease may overtake datagrams that
            // an outage has swallowed.
            if net::now() >= batch.until() {
                return;
            }
            let (sent, outcome) = send_run(&self.upstream, batch.target(), &payloads);
            let after = net::now();
            self.core.handle_sent(after, batch, sent);
            if sent > 0 {
                self.longest_wait = self.longest_wait.max(wait(self.waits, after, &ground.tally));
                self.waits = None;
                ground.tally.handle_release(after);
            }
            match outcome {
                Ok(()) => {}
                Err(SendError::Busy) => {
                    self.busy_until = after + BUSY_PAUSE;
                    return;
                }
                Err(SendError::Unsendable(_)) => self.core.handle_unsendable(batch, sent),
                Err(SendError::Refused(_)) => self.core.handle_refused(after),
            }
        }
    }

    /// Transport tcp: writes the datagrams that may be sent, as far as the connection takes them.
    fn write_stream(&mut self, ground: &mut Ground) {
        let port = self.upstream.local_addr().map_or(0, |own| own.port());
        let batch = &mut ground.batch;
        loop {
            let chosen = self.chosen;
            let peer = self.peers.iter_mut().find(|peer| Some(peer.token) == chosen);
            let Some(peer) = peer.filter(|peer| !peer.framed.is_congested()) else {
                return;
            };
            let now = net::now();
            let epoch = if self.core.poll_release(now, batch) { self.core.stream_epoch(batch) } else { None };
            let Some(epoch) = epoch else {
                return;
            };
            let mut bytes = Vec::new();
            if self.named.replace(batch.epoch()) != Some(batch.epoch()) {
                let session = batch.session(0);
                let name = SessionName { id: session.id, generation: session.generation };
                Frame::Session(Session { name, port }).encode(&mut bytes);
            }
            let mut writer = DataWriter::new(&mut bytes, epoch);
            for at in 0..batch.len() {
                writer.push(batch.seq(at), batch.session(at).id, batch.payload(at));
            }
            writer.finish();
            self.core.handle_sent(now, batch, batch.len());
            self.longest_wait = self.longest_wait.max(wait(self.waits, now, &ground.tally));
            self.waits = None;
            ground.tally.handle_release(now);
            if peer.framed.send_bytes(&bytes).is_err() {
                let token = peer.token;
                return self.drop_peer(token);
            }
        }
    }

    fn begin_heartbeat(&mut self, ground: &mut Ground) {
        let now = net::now();
        if self.core.next_heartbeat(now).is_none_or(|at| at > now) {
            return;
        }
        let Some((probe, ping)) = self.core.begin_heartbeat(now) else {
            return;
        };
        ground.tally.heartbeats += 1;
        self.probes.push_back(probe);
        let chosen = self.chosen;
        let peer = self.peers.iter_mut().find(|peer| Some(peer.token) == chosen);
        if let Some(peer) = peer
            && peer.framed.send(&Frame::Ping(ping)).is_err()
        {
            let token = peer.token;
            self.drop_peer(token);
        }
    }

    /// Takes in the network's reports of refused datagrams. remoted's answers are not looked at.
    fn take_replies(&mut self, inbox: &mut Inbox) {
        while take_refusal(&self.upstream).is_some() {
            self.core.handle_refused(net::now());
        }
        while inbox.receive(&self.upstream).is_ok_and(|read| read > 0) {}
    }

    /// Adds the progress of the client's datagrams to the sums.
    fn watch_progress(&mut self, now: Time, ground: &mut Ground) {
        let snapshot = self.core.snapshot(now);
        ground.tally.confirmed += snapshot.counters.confirmed - self.counted;
        self.counted = snapshot.counters.confirmed;
        if ground.tally.first_release().is_some() {
            self.most_unsent = self.most_unsent.max(snapshot.unsent.datagrams);
        }
        if snapshot.unsent.datagrams == 0 {
            self.waits = None;
        } else {
            self.waits.get_or_insert(now);
        }
    }
}

/// The time that a client has waited which began to wait at `since`. Only the time after the first release of all
/// counts.
fn wait(since: Option<Time>, now: Time, tally: &Tally) -> Duration {
    let first = tally.first_release();
    since.zip(first).map_or(Duration::ZERO, |(since, first)| now.since(since.max(first)))
}
