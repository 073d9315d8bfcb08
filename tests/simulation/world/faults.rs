//! The events that the plan makes happen.

use super::{Event, Way, World};
use crate::plan::{Fault, SECOND};
use crate::remoted::Datagram;

impl World<'_> {
    pub(super) fn begins(&mut self, index: usize) {
        let timed = self.plan.faults[index];
        self.say(|| format!("begins: {:?} until {:.3}", timed.fault, timed.to as f64 / SECOND as f64));
        match timed.fault {
            Fault::Stop => self.remoted.stopped = self.remoted.alive,
            Fault::Stall => self.remoted.stalled = true,
            Fault::StallOne(socket) => self.remoted.stall(socket, true),
            Fault::Kill => {
                let stranger = self.stranger();
                let waiting: Vec<Datagram> = self.remoted.waiting().filter(|one| one.agent != stranger).collect();
                for datagram in waiting {
                    let loss = self.loss(&timed, datagram.agent / self.plan.agents);
                    self.ledger.lost(datagram, loss);
                }
                self.ledger.forgotten();
                self.remoted.kill();
            }
            Fault::KillServer => {
                for (client, connection) in self.server.kill().into_iter().enumerate() {
                    if let Some(connection) = connection {
                        self.reset(client, connection);
                    }
                }
            }
            Fault::Reset(client) => {
                if let Some(connection) = self.server.disconnect(self.now, client) {
                    self.reset(client, connection);
                }
            }
            Fault::Flood(rate) => {
                self.flood = timed.to;
                self.at(self.now, Event::Floods(rate));
            }
            Fault::StaleEntry => {
                let ports = self.clients.iter().map(|client| Some(client.batch.ports()));
                self.stale_ports = ports.collect();
            }
            Fault::Ends(client, end) => self.end_client(client, end, timed.to),
            // The world looks these up in the plan when they matter.
            Fault::Disk(..)
            | Fault::StopServer
            | Fault::Suspend(_)
            | Fault::Refuse
            | Fault::LoopbackDrops
            | Fault::Cut(_)
            | Fault::Loss(_)
            | Fault::RoundTrip(_) => {}
        }
    }

    pub(super) fn ends(&mut self, index: usize) {
        let timed = self.plan.faults[index];
        // The last fault of its kind to end sets things right.
        let still = |kind: fn(&Fault) -> bool| {
            self.plan.faults.iter().any(|t| kind(&t.fault) && t.from <= self.now && self.now < t.to)
        };
        match timed.fault {
            Fault::Stop if !still(|fault| matches!(fault, Fault::Stop)) => self.remoted.stopped = false,
            Fault::Stall if !still(|fault| matches!(fault, Fault::Stall)) => self.remoted.stalled = false,
            Fault::StallOne(socket) if !self.plan.stalls(socket, self.now) => self.remoted.stall(socket, false),
            Fault::Kill if !still(|fault| matches!(fault, Fault::Kill)) => self.remoted.start(self.now),
            Fault::KillServer if !still(|fault| matches!(fault, Fault::KillServer)) => self.server.start(self.plan),
            Fault::Ends(client, _) => self.begin_client(client),
            _ => {}
        }
        self.start_reading();
    }

    /// The reset that the client's host gets when a connection is gone at the server's host.
    pub(super) fn reset(&mut self, client: usize, connection: u64) {
        let end = self.now + self.plan.round_trip_at(self.now) / 2;
        if self.way == Way::Broker && self.plan.cut(false, false, self.now, end).is_none() {
            self.at(end, Event::ResetArrives { client, connection });
        }
    }

    pub(super) fn floods(&mut self, rate: u64) {
        if self.now < self.flood {
            self.arrives(Datagram { agent: self.stranger(), counter: self.now, length: 100 }, 0);
            let pause = SECOND / rate;
            let next = self.now + self.random.range(pause / 2, pause * 3 / 2).max(1);
            self.at(next, Event::Floods(rate));
        }
    }
}
