//! The promise of the broker, and the check whether it kept the promise.
//!
//! remoted must accept every datagram that reached the client. There are two exceptions:
//!
//! * One of its transmissions was lost in a way that the promise excepts. These ways are a single loss that TCP
//!   survived, a cut shorter than the lease, a cut of UDP alone, an overflow by others, and reordering by the network.
//!   Over tcp, the promise excepts only datagrams that were confirmed as doubtful.
//! * The client dropped the datagram on purpose and counted it.

use crate::plan::{Cut, Fault, MS, Timed};
use crate::remoted::Datagram;

/// The longest time by which UDP may lag behind TCP.
const GRACE: u64 = 50 * MS;

/// Whether the promise covers a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// The loss must be made good.
    Covered,
    /// The loss need not be made good.
    Excused,
}

impl Loss {
    /// Judges a loss in an outage of the link or of remoted, under the lease that was in force.
    pub(crate) const fn of_outage(outage: &Timed, lease: u64) -> Self {
        let alone = matches!(outage.fault, Fault::Cut(Cut::UdpAlone));
        // A heartbeat begins within the grace after the first victim, a fifth of the lease later if others are under
        // way. It is late a lease after that.
        let short = outage.to - outage.from < lease + lease / 5 + GRACE + 10 * MS;
        if alone || short { Self::Excused } else { Self::Covered }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Fate {
    accepted: u32,
    excused: bool,
    covered: bool,
}

/// Sums over all agents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) sent: u64,
    /// Datagrams that were never accepted.
    pub(crate) lost: u64,
    /// Lost datagrams that were lost in a way that the promise excepts.
    pub(crate) excused: u64,
    /// Datagrams that reached remoted although they had been accepted already.
    pub(crate) copies: u64,
    /// Datagrams that reached remoted behind a newer one, and were refused for that.
    pub(crate) reordered: u64,
}

impl Sums {
    pub(crate) const fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.lost += other.lost;
        self.excused += other.excused;
        self.copies += other.copies;
        self.reordered += other.reordered;
    }
}

/// The fate of every datagram.
#[derive(Debug)]
pub(crate) struct Ledger {
    fates: Vec<Vec<Fate>>,
    transmissions: Vec<u64>,
    /// The newest transmission of each agent that was accepted in this life of remoted.
    newest: Vec<u64>,
    /// Copies that the network made.
    pub(crate) duplicated: u64,
    /// Datagrams that the broker server sent again.
    pub(crate) repeated: u64,
    copies: u64,
    reordered: u64,
    /// Drops at remoted's socket without others.
    pub(crate) overflows: u64,
    pub(crate) complaints: Vec<String>,
}

impl Ledger {
    pub(crate) fn new(agents: usize) -> Self {
        Self {
            fates: vec![Vec::new(); agents],
            transmissions: vec![0; agents],
            newest: vec![0; agents],
            duplicated: 0,
            repeated: 0,
            copies: 0,
            reordered: 0,
            overflows: 0,
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

    /// Whatever these agents have sent and remoted has not accepted may be lost.
    pub(crate) fn excuse(&mut self, agents: std::ops::Range<usize>) {
        self.fates[agents].iter_mut().flatten().for_each(|fate| fate.excused |= fate.accepted == 0);
    }

    /// remoted has forgotten all counters.
    pub(crate) fn forgotten(&mut self) {
        self.newest.fill(0);
    }

    pub(crate) fn read(&mut self, datagram: Datagram, sent: u64, accepted: bool) {
        let newest = self.newest[datagram.agent];
        let fate = self.fate(datagram);
        if accepted {
            fate.accepted += 1;
            let again = fate.accepted > 1;
            self.copies += u64::from(again);
            self.newest[datagram.agent] = newest.max(sent);
        } else if fate.accepted > 0 {
            self.copies += 1;
        } else {
            // The datagram was sent before the one that overtook it: the network's doing.
            fate.excused |= sent < newest;
            self.reordered += 1;
        }
    }

    /// The fate of all that the agents have sent.
    pub(crate) fn sums(&self) -> Sums {
        let mut sums = Sums { copies: self.copies, reordered: self.reordered, ..Sums::default() };
        for fate in self.fates.iter().flatten() {
            sums.sent += 1;
            sums.lost += u64::from(fate.accepted == 0);
            sums.excused += u64::from(fate.accepted == 0 && fate.excused);
        }
        sums
    }

    /// The number of datagrams that these agents have sent.
    pub(crate) fn sent_by(&self, agents: std::ops::Range<usize>) -> u64 {
        self.fates[agents].iter().map(|fates| fates.len() as u64).sum()
    }

    /// Complains of datagrams of these agents that are missing and should not be. Their client dropped `dropped`
    /// datagrams on purpose.
    pub(crate) fn settle(&mut self, agents: std::ops::Range<usize>, dropped: u64) {
        let mut missing = Vec::new();
        for agent in agents {
            let fates = self.fates[agent].iter().enumerate();
            missing.extend(
                fates.filter(|(_, fate)| fate.accepted == 0 && !fate.excused).map(|(at, fate)| (agent, at, *fate)),
            );
        }
        if missing.len() as u64 > dropped
            && let Some((agent, at, fate)) = missing.first()
        {
            self.complain(format!(
                "{} lost, {dropped} dropped on purpose; the first is {} of agent {agent} ({fate:?})",
                missing.len(),
                at + 1
            ));
        }
    }
}
