//! What the broker promises, and whether it kept it.
//!
//! Every datagram that reached the client must be accepted by remoted, unless one of its transmissions was lost in a way that the promise
//! excepts: a single loss that TCP survived, a cut shorter than the lease, a cut of UDP alone, an overflow by others, or the network's own
//! reordering.

use std::collections::VecDeque;

use crate::plan::{Cut, Fault, MS, Timed};

/// How far UDP may lag behind TCP.
const GRACE: u64 = 50 * MS;
use crate::remoted::Datagram;

/// Whether the promise covers a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// It must be made good.
    Covered,
    /// It need not.
    Excused,
}

impl Loss {
    /// Of an outage of the link or of remoted, under the lease that was in force.
    pub(crate) const fn of_outage(cut: &Timed, lease: u64) -> Self {
        let alone = matches!(cut.fault, Fault::Cut(Cut::UdpAlone));
        // A heartbeat begins within the grace after the cut's first victim, and is late a lease after that.
        let short = cut.to - cut.from < lease + lease / 5 + GRACE + 10 * MS;
        if alone || short { Self::Excused } else { Self::Covered }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Fate {
    accepted: u32,
    excused: bool,
    covered: bool,
}

/// The fate of every datagram.
#[derive(Debug)]
pub(crate) struct Ledger {
    fates: Vec<Vec<Fate>>,
    transmissions: Vec<u64>,
    /// The newest transmission of each agent that was accepted in this life of remoted.
    newest: Vec<u64>,
    /// Transmission numbers of what lies in remoted's socket, in its order.
    pub(crate) queued: VecDeque<u64>,
    /// Copies that the network made.
    pub(crate) duplicated: u64,
    /// Datagrams that reached remoted and had been accepted already.
    pub(crate) copies: u64,
    /// Drops at remoted's socket without others.
    pub(crate) overflows: u64,
    /// Datagrams lost in a way that the promise excepts.
    pub(crate) excused: u64,
    pub(crate) complaints: Vec<String>,
}

impl Ledger {
    pub(crate) fn new(agents: usize) -> Self {
        Self {
            fates: vec![Vec::new(); agents],
            transmissions: vec![0; agents],
            newest: vec![0; agents],
            queued: VecDeque::new(),
            duplicated: 0,
            copies: 0,
            overflows: 0,
            excused: 0,
            complaints: Vec::new(),
        }
    }

    pub(crate) fn complain(&mut self, what: String) {
        self.complaints.push(what);
    }

    /// The agent has sent its next datagram to the client.
    pub(crate) fn sent(&mut self, agent: usize) {
        self.fates[agent].push(Fate::default());
    }

    /// Numbers a transmission.
    pub(crate) fn transmitted(&mut self, agent: usize) -> u64 {
        self.transmissions[agent] += 1;
        self.transmissions[agent]
    }

    fn fate(&mut self, datagram: Datagram) -> &mut Fate {
        &mut self.fates[datagram.agent][datagram.counter as usize - 1]
    }

    pub(crate) fn lost(&mut self, datagram: Datagram, loss: Loss) {
        if datagram.agent >= self.fates.len() {
            return;
        }
        match loss {
            Loss::Covered => self.fate(datagram).covered = true,
            Loss::Excused => self.fate(datagram).excused = true,
        }
    }

    /// remoted has forgotten all counters.
    pub(crate) fn forgotten(&mut self) {
        self.newest.fill(0);
    }

    pub(crate) fn read(&mut self, datagram: Datagram, sent: u64, accepted: bool) {
        let newest = self.newest[datagram.agent];
        let fate = self.fate(datagram);
        if accepted {
            if fate.accepted > 0 {
                fate.accepted += 1;
                self.copies += 1;
            } else {
                fate.accepted = 1;
            }
            self.newest[datagram.agent] = newest.max(sent);
        } else if fate.accepted > 0 {
            self.copies += 1;
        } else if sent < newest {
            // Sent before what overtook it: the network's doing.
            fate.excused = true;
        }
    }

    /// What is missing and should not be.
    pub(crate) fn settle(&mut self) {
        for (agent, fates) in self.fates.iter().enumerate() {
            let missing = fates.iter().enumerate().filter(|(_, fate)| fate.accepted == 0);
            let (excused, lost): (Vec<_>, Vec<_>) = missing.partition(|(_, fate)| fate.excused);
            self.excused += excused.len() as u64;
            if let Some((first, fate)) = lost.first() {
                let text = format!("agent {agent}: {} lost, the first is {} ({fate:?})", lost.len(), first + 1);
                self.complaints.push(text);
            }
        }
    }
}
