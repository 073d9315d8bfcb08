//! The loop around all clients.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mio::{Events, Poll};
use ossec_broker::os::net::udp::Inbox;
use ossec_broker::os::net::{self};
use ossec_broker::proto::client::{Batch, Counters, Transport};
use ossec_broker::proto::seal::Key;
use ossec_broker::proto::time::Time;

use crate::client::{Client, Ground, SLOTS};
use crate::tally::{Tally, spread};
use crate::timers::Timers;
use crate::traffic::Load;

/// Events taken at once.
const EVENTS_MAX: usize = 1_024;

pub(crate) struct Swarm {
    ground: Ground,
    clients: Vec<Client>,
    timers: Timers,
    /// Clients that something has happened to, each once.
    touched: Vec<usize>,
    is_touched: Vec<bool>,
    /// The clients that have nothing left, and their number.
    drained: (Vec<bool>, usize),
}

impl Swarm {
    /// The swarm runs over transport tcp with a key, and over udp without one.
    pub(crate) fn new(remoted: SocketAddr, broker: SocketAddr, key: Option<Key>) -> Result<Self, String> {
        let poll = Poll::new().map_err(|error| format!("cannot wait for sockets: {error}"))?;
        let tally = Tally::new(net::now());
        let transport = if key.is_some() { Transport::Tcp } else { Transport::Udp };
        let (batch, inbox) = (Batch::default(), Inbox::default());
        let ground = Ground { poll, batch, inbox, remoted, broker, transport, key, tally };
        Ok(Self {
            ground,
            clients: Vec::new(),
            timers: Timers::default(),
            touched: Vec::new(),
            is_touched: Vec::new(),
            drained: (Vec::new(), 0),
        })
    }

    /// Adds one more client, with the datagrams that it holds at the start.
    pub(crate) fn add(&mut self, source: Option<IpAddr>, load: &Load) -> Result<(), String> {
        let (now, index) = (net::now(), self.clients.len());
        self.clients.push(Client::new(now, index, source, *load, &mut self.ground)?);
        self.timers.add();
        self.timers.arm(index, now);
        self.is_touched.push(false);
        self.drained.0.push(false);
        Ok(())
    }

    /// Runs until nothing is held any more, for `seconds` at most. Returns whether all was delivered.
    pub(crate) fn run(&mut self, seconds: u64) -> Result<bool, String> {
        let give_up = net::now() + Duration::from_secs(seconds);
        let mut events = Events::with_capacity(EVENTS_MAX);
        while self.drained.1 < self.clients.len() {
            let now = net::now();
            if now >= give_up {
                return Ok(false);
            }
            let wait = self.timers.next().unwrap_or(give_up).min(give_up).since(now);
            match self.ground.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() != std::io::ErrorKind::Interrupted => {
                    return Err(format!("cannot wait for sockets: {error}"));
                }
                Ok(()) | Err(_) => {}
            }
            for event in &events {
                let index = event.token().0 / SLOTS;
                self.clients[index].attend(event.token(), &mut self.ground);
                self.touch(index);
            }
            let now = net::now();
            while let Some(index) = self.timers.take_due(now) {
                self.touch(index);
            }
            self.act();
        }
        Ok(true)
    }

    pub(crate) fn summary(&self) -> String {
        let now = net::now();
        let counters: Vec<Counters> = self.clients.iter().map(|client| client.counters(now)).collect();
        let waits = self.clients.iter().map(|client| client.longest_wait(now, &self.ground.tally));
        let most_unsent = self.clients.iter().map(Client::most_unsent).max().unwrap_or(0);
        self.ground.tally.line(now, &counters, waits.max().unwrap_or_default(), most_unsent)
    }

    fn touch(&mut self, index: usize) {
        if !self.is_touched[index] {
            self.is_touched[index] = true;
            self.touched.push(index);
        }
    }

    /// Lets all clients that something has happened to do everything that is due.
    fn act(&mut self) {
        for index in std::mem::take(&mut self.touched) {
            self.is_touched[index] = false;
            let next = self.clients[index].act(&mut self.ground);
            if let Some(at) = next {
                self.timers.arm(index, at);
            }
            let now = net::now();
            let drained = self.clients[index].is_drained(now);
            let before = std::mem::replace(&mut self.drained.0[index], drained);
            self.drained.1 = self.drained.1 + usize::from(drained) - usize::from(before);
            if self.ground.tally.wants_half() {
                self.note_half(now);
            }
        }
    }

    fn note_half(&mut self, now: Time) {
        let confirmed: Vec<u64> = self.clients.iter().map(|client| client.counters(now).confirmed).collect();
        self.ground.tally.handle_half(now, spread(confirmed.into_iter()));
    }
}
