//! What happens in a run, drawn from its seed before it begins.

use ossec_broker::wire::buffer_cost;

use crate::random::Random;
use crate::remoted::BUFFER;

/// Nanoseconds.
pub(crate) const MS: u64 = 1_000_000;
pub(crate) const SECOND: u64 = 1_000 * MS;

/// Agents send until then; faults end some time before.
pub(crate) const SENDING: u64 = 10 * SECOND;
/// No fault lasts beyond this moment.
pub(crate) const LAST_FAULT: u64 = 9 * SECOND;

/// Which packets a cut swallows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    Both,
    TowardsServer,
    TowardsClient,
    /// A filtered port: the heartbeats do not notice.
    UdpAlone,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    Cut(Cut),
    /// So many packets in a thousand are lost.
    Loss(u64),
    /// Another path: its round trip in nanoseconds.
    RoundTrip(u64),
    /// remoted is stopped (SIGSTOP).
    Stop,
    /// remoted runs and does not read.
    Stall,
    /// remoted is killed, and started again at the end.
    Kill,
    /// The broker server is killed, and started again at the end.
    KillServer,
    /// The connection of this client is reset.
    Reset(usize),
    /// A sender without a broker, so many datagrams a second.
    Flood(u64),
    /// This client's host is suspended.
    Suspend(usize),
}

/// A fault with its time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timed {
    pub(crate) fault: Fault,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// A whole run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) clients: usize,
    /// Datagrams a second of each agent.
    pub(crate) rate: u64,
    /// Length of a datagram, from and to.
    pub(crate) sizes: (u64, u64),
    /// Round trip at the start.
    pub(crate) round_trip: u64,
    /// UDP comes up to so much later than TCP.
    pub(crate) lag: u64,
    /// UDP packets in a thousand that arrive twice, and that are overtaken.
    pub(crate) duplicated: u64,
    pub(crate) reordered: u64,
    /// How long remoted takes for a datagram.
    pub(crate) read: u64,
    pub(crate) faults: Vec<Timed>,
}

impl Plan {
    pub(crate) fn of(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let clients = random.pick(&[1, 1, 1, 2, 3, 12]);
        let rate = random.pick(&[5, 20, 50, 100, 300]) / if clients > 3 { 5 } else { 1 };
        let rate = if random.per_mille(50) { 1_000 } else { rate.max(2) };
        let sizes = random.pick(&[(20, 160), (20, 160), (100, 600), (20, 1_400)]);
        let round_trip = random.pick(&[MS / 10, MS / 10, MS, 10 * MS, 40 * MS, 100 * MS, 300 * MS]);
        let lag = if random.per_mille(500) { 0 } else { random.range(1, 50) * MS };
        let duplicated = if random.per_mille(300) { 20 } else { 0 };
        let reordered = if lag == 0 && random.per_mille(400) { 10 } else { 0 };
        let read = random.range(20, 400) * MS / 1_000;
        let mut faults = Vec::new();
        for _ in 0..random.range(3, 8) {
            faults.push(Self::fault(&mut random, clients));
        }
        faults.sort_by_key(|timed| timed.from);
        Self { seed, clients, rate, sizes, round_trip, lag, duplicated, reordered, read, faults }
    }

    fn fault(random: &mut Random, clients: usize) -> Timed {
        let client = random.range(0, clients as u64) as usize;
        let (fault, longest) = match random.range(0, 16) {
            0..=3 => (Fault::Cut(Cut::Both), 3_000),
            4 => (Fault::Cut(Cut::TowardsServer), 2_000),
            5 => (Fault::Cut(Cut::TowardsClient), 2_000),
            6 => (Fault::Cut(Cut::UdpAlone), 500),
            7 => (Fault::Loss(random.pick(&[10, 50, 200])), 1_500),
            8 => (Fault::RoundTrip(random.pick(&[MS / 10, 5 * MS, 50 * MS, 300 * MS])), 1),
            9 => (Fault::Stop, 3_000),
            10 => (Fault::Stall, 3_000),
            11 | 12 => (Fault::Kill, 2_000),
            13 => (Fault::KillServer, 2_000),
            14 => {
                if random.per_mille(500) {
                    (Fault::Reset(client), 1)
                } else {
                    (Fault::Suspend(client), 4_000)
                }
            }
            _ => (Fault::Flood(random.pick(&[2_000, 20_000])), 700),
        };
        // Short and long outages alike, short ones more often.
        let span =
            if random.per_mille(600) { random.range(1, 600.min(longest + 1)) } else { random.range(1, longest + 1) }
                * MS;
        let from = random.range(500 * MS, LAST_FAULT - span);
        Timed { fault, from, to: from + span }
    }

    /// Whether a packet under way from `from` to `to` is swallowed, and by what.
    pub(crate) fn cut(&self, udp: bool, towards_server: bool, from: u64, to: u64) -> Option<&Timed> {
        self.faults.iter().find(|timed| {
            let swallows = match timed.fault {
                Fault::Cut(Cut::Both) => true,
                Fault::Cut(Cut::TowardsServer) => towards_server,
                Fault::Cut(Cut::TowardsClient) => !towards_server,
                Fault::Cut(Cut::UdpAlone) => udp,
                _ => false,
            };
            swallows && from < timed.to && timed.from <= to
        })
    }

    /// Packets in a thousand that are lost at this moment.
    pub(crate) fn loss(&self, at: u64) -> u64 {
        let active = self.faults.iter().filter(|timed| timed.from <= at && at < timed.to);
        active.filter_map(|timed| if let Fault::Loss(chance) = timed.fault { Some(chance) } else { None }).sum()
    }

    /// How long after the last datagram everything must have been delivered: twenty seconds, and what the windows take for all of it over the slowest
    /// path of this run: half a default buffer in two round trips and the grace.
    pub(crate) fn drained_within(&self) -> u64 {
        let slowest = self.faults.iter().map(|timed| if let Fault::RoundTrip(span) = timed.fault { span } else { 0 });
        let slowest = slowest.max().unwrap_or(0).max(self.round_trip);
        let datagrams = self.rate * self.clients as u64 * SENDING / SECOND;
        let windows = datagrams * u64::from(buffer_cost(self.sizes.1 as usize)) / (BUFFER / 2) + 1;
        20 * SECOND + windows * (2 * slowest + 150 * MS)
    }

    /// The round trip at this moment.
    pub(crate) fn round_trip_at(&self, at: u64) -> u64 {
        let jumps = self.faults.iter().filter(|timed| timed.from <= at);
        let last = jumps
            .filter_map(|timed| if let Fault::RoundTrip(span) = timed.fault { Some(span) } else { None })
            .next_back();
        last.unwrap_or(self.round_trip)
    }
}
