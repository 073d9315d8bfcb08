//! The events of a run, drawn from its seed before it begins.

use std::num::NonZeroU32;
use std::time::Duration;

use ossec_broker::proto::client::link::Settings;
use ossec_broker::proto::client::{Config, FullPolicy, SyncPolicy, Transport};
use ossec_broker::proto::cost::buffer_cost;

use crate::disk;
use crate::random::Random;
use crate::remoted::BUFFER;

/// Nanoseconds.
pub(crate) const MS: u64 = 1_000_000;
pub(crate) const SECOND: u64 = 1_000 * MS;

/// Agents of a random run send until this moment.
const SENDING: u64 = 10 * SECOND;
/// No fault of a random run lasts beyond this moment.
const LAST_FAULT: u64 = 9 * SECOND;
/// Bits a second of a narrow link.
const NARROW: u64 = 1_000_000;
/// The clients' `--lease`.
const LEASE: u64 = 100 * MS;

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
    /// remoted does not read one of its sockets.
    StallOne(usize),
    /// A translation of addresses has an entry that leads nowhere. Datagrams from the source ports of this moment are
    /// swallowed, however long they go on.
    StaleEntry,
    /// The server's host drops datagrams that are sent over loopback before they come to a socket, and counts them.
    LoopbackDrops,
    /// The clients' hosts have no route for UDP: each send fails at once.
    Refuse,
    /// remoted is killed, and started again at the end.
    Kill,
    /// The broker server is killed, and started again at the end.
    KillServer,
    /// The broker server is stopped (SIGSTOP): its connections stay, and nothing comes back over them.
    StopServer,
    /// The connection of this client is reset.
    Reset(usize),
    /// A sender without a broker, so many datagrams a second.
    Flood(u64),
    /// This client's host is suspended: its clock jumps.
    Suspend(usize),
    /// The process of this client ends, and is started again at the end.
    Ends(usize, End),
    /// The disk under this client's spool.
    Disk(usize, disk::Fault),
}

/// How the process of a client ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It is asked to. `keeps_socket`: the agents' socket stays meanwhile, and takes what comes in.
    Stop { keeps_socket: bool },
    /// It is killed.
    Kill,
    /// Its host loses power.
    PowerCut,
}

/// A client's spool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spool {
    pub(crate) bytes: u64,
    /// Memory of the buffer in bytes, unless an option says another.
    pub(crate) memory: usize,
    pub(crate) sync: SyncPolicy,
    /// The time that the disk takes for a thing, from and to.
    pub(crate) takes: (u64, u64),
}

/// A fault with its time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timed {
    pub(crate) fault: Fault,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// Differences from the client's defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Options {
    Defaults,
    SmallBuffer(usize, FullPolicy),
    MaxAge(Duration),
    Rate(NonZeroU32),
    ResendNever,
}

/// A whole run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) clients: usize,
    /// Agents behind each client.
    pub(crate) agents: usize,
    pub(crate) options: Options,
    /// Agents send until this moment.
    pub(crate) sending: u64,
    /// Datagrams a second of each client's agents together.
    pub(crate) rate: u64,
    /// Length of a datagram, from and to.
    pub(crate) sizes: (u64, u64),
    /// Round trip at the start.
    pub(crate) round_trip: u64,
    /// UDP arrives up to so much later than TCP.
    pub(crate) lag: u64,
    /// UDP packets in a thousand that arrive twice, and UDP packets in a thousand that are overtaken.
    pub(crate) duplicated: u64,
    pub(crate) reordered: u64,
    /// TCP's least timeout before it sends again: 200 ms on most systems, and a route may say less.
    pub(crate) timeout: u64,
    /// The time that remoted takes for a datagram.
    pub(crate) read: u64,
    /// The way in which datagrams travel.
    pub(crate) transport: Transport,
    /// Bits a second of each client's link; `None` if that does not matter.
    pub(crate) bandwidth: Option<u64>,
    /// The server's `--settle`.
    pub(crate) settle: Duration,
    /// The time from one answer of remoted to an agent to the next; `None` if it does not answer at all.
    pub(crate) replies: Option<u64>,
    /// The number of addresses that the server's host has. remoted receives at the last one alone.
    pub(crate) addresses: usize,
    /// The number of sockets that remoted has.
    pub(crate) sockets: usize,
    pub(crate) faults: Vec<Timed>,
    /// The clients have a spool.
    pub(crate) spool: Option<Spool>,
}

impl Plan {
    /// Three to seven faults within ten seconds.
    pub(crate) fn of(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let clients = random.pick(&[1, 1, 1, 2, 3, 12]);
        let agents = random.pick(&[1, 1, 2]);
        let rate = match random.range(0, 1_000) {
            0 => 1_000,
            1..50 => 1_000 / clients as u64,
            _ => (random.pick(&[5, 20, 50, 100, 300]) / if clients > 3 { 5 } else { 1 }).max(2),
        };
        let sizes = random.pick(&[(20, 160), (20, 160), (100, 600), (20, 1_400)]);
        let round_trip = random.pick(&[MS / 10, MS / 10, MS, 10 * MS, 40 * MS, 100 * MS, 300 * MS]);
        let lag = if random.per_mille(500) { 0 } else { random.range(1, 50) * MS };
        let duplicated = if random.per_mille(300) { 20 } else { 0 };
        let reordered = if lag == 0 && random.per_mille(400) { 10 } else { 0 };
        let timeout = random.pick(&[200 * MS, 200 * MS, 20 * MS]);
        let read = random.range(20, 400) * MS / 1_000;
        let options = Options::drawn(&mut random);
        let mut faults: Vec<Timed> = (0..random.range(3, 8)).map(|_| Timed::drawn(&mut random, clients)).collect();
        let sockets = if random.per_mille(250) { 2 } else { 1 };
        let addresses = if random.per_mille(250) { 2 } else { 1 };
        if random.per_mille(250) {
            faults.push(Timed::of_the_edges(&mut random, sockets));
        }
        faults.sort_by_key(|timed| timed.from);
        // The time is shorter than the default, so that several restarts fit.
        let settle = Duration::from_millis(300);
        let sending = SENDING;
        Self {
            seed,
            clients,
            agents,
            options,
            sending,
            rate,
            sizes,
            round_trip,
            lag,
            duplicated,
            reordered,
            timeout,
            read,
            transport: Transport::Udp,
            bandwidth: None,
            settle,
            replies: None,
            addresses,
            sockets,
            faults,
            spool: None,
        }
    }

    /// The same plan with a spool at each client, and with clients that end.
    pub(crate) fn with_spool(mut self) -> Self {
        let mut random = Random::new(self.seed ^ 0x5b001);
        self.spool = Some(Spool {
            bytes: random.pick(&[64 << 10, 256 << 10, 4 << 20]),
            memory: random.pick(&[64 << 10, 64 << 10, 256 << 10, 16 << 20]),
            sync: random.pick(&[SyncPolicy::Never, SyncPolicy::Interval, SyncPolicy::Always]),
            takes: random.pick(&[(MS / 50, MS / 5), (MS / 50, MS / 5), (MS / 2, 3 * MS), (20 * MS, 150 * MS)]),
        });
        if random.per_mille(150) {
            self.options = Options::MaxAge(Duration::from_millis(random.range(300, 2_000)));
        }
        if random.per_mille(200) {
            // Long enough for every promise of the spool to have fallen due.
            self.faults.push(Timed { fault: Fault::Cut(Cut::Both), from: SECOND, to: random.range(5, 8) * SECOND });
        }
        for _ in 0..random.range(1, 5) {
            let client = random.range(0, self.clients as u64) as usize;
            let end = match random.range(0, 4) {
                0 => End::Stop { keeps_socket: false },
                1 => End::Stop { keeps_socket: true },
                2 => End::Kill,
                _ => End::PowerCut,
            };
            self.faults.push(Timed::placed(&mut random, Fault::Ends(client, end), 1_500));
        }
        for _ in 0..random.range(0, 3) {
            let client = random.range(0, self.clients as u64) as usize;
            let fault = random.pick(&[disk::Fault::ReadOnly, disk::Fault::Full, disk::Fault::Sync, disk::Fault::Dead]);
            self.faults.push(Timed::placed(&mut random, Fault::Disk(client, fault), 3_000));
        }
        if random.per_mille(250) {
            // A process that cannot write from its beginning to its end.
            let from = random.range(2, 6) * SECOND;
            let mut add = |fault, after: u64, until: u64| {
                self.faults.push(Timed { fault, from: from + after * MS, to: from + until * MS });
            };
            add(Fault::Ends(0, End::Stop { keeps_socket: false }), 0, 200);
            add(Fault::Disk(0, disk::Fault::Full), 100, 1_000);
            add(Fault::Ends(0, End::PowerCut), 700, 900);
        }
        self.faults.sort_by_key(|timed| timed.from);
        self
    }

    /// The same plan over transport tcp, every now and then over a narrow link.
    pub(crate) fn over_tcp(self) -> Self {
        let narrow = self.seed.is_multiple_of(5) && self.rate * self.sizes.1 * 8 < NARROW / 2;
        Self { transport: Transport::Tcp, bandwidth: narrow.then_some(NARROW), ..self }
    }

    /// The configuration that the client's command line gives.
    pub(crate) fn config(&self) -> Config {
        let link = Settings { lease: Duration::from_nanos(LEASE), ..Settings::default() };
        let buffer_bytes = self.spool.map_or(16 << 20, |spool| spool.memory);
        // A power cut may leave datagrams of unknown agents, which have places of their own.
        let sessions_max = if self.spool.is_some() { 16 } else { 4 };
        let mut config = Config { buffer_bytes, sessions_max, transport: self.transport, link, ..Config::default() };
        match self.options {
            Options::Defaults => {}
            Options::SmallBuffer(bytes, full) => (config.buffer_bytes, config.full) = (bytes, full),
            Options::MaxAge(max_age) => config.max_age = Some(max_age),
            Options::Rate(rate) => config.rate = Some(rate),
            Options::ResendNever => config.resend = false,
        }
        config
    }

    /// The fault that swallows a packet under way from `from` to `to`, if there is one.
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

    /// Whether one of remoted's sockets is not read at this moment.
    pub(crate) fn stalls(&self, socket: usize, at: u64) -> bool {
        self.is_active(at, |fault| matches!(fault, Fault::StallOne(one) if one == socket))
    }

    /// What is wrong with the disk of this client at this moment.
    pub(crate) fn disk_fault(&self, client: usize, at: u64) -> Option<disk::Fault> {
        let active = self.faults.iter().filter(|timed| timed.from <= at && at < timed.to);
        active
            .filter_map(|timed| if let Fault::Disk(one, fault) = timed.fault { Some((one, fault)) } else { None })
            .find(|(one, _)| *one == client)
            .map(|(_, fault)| fault)
    }

    /// Whether this client's disk fails or its host is suspended after the moment `from`, up to the moment `to`.
    pub(crate) fn has_disk_fault(&self, client: usize, from: u64, to: u64) -> bool {
        let here = |timed: &Timed| matches!(timed.fault, Fault::Disk(one, _) | Fault::Suspend(one) if one == client);
        self.faults.iter().any(|timed| here(timed) && timed.from <= to && from < timed.to)
    }

    /// Whether the clients' hosts refuse to send UDP at this moment.
    pub(crate) fn refuses(&self, at: u64) -> bool {
        self.is_active(at, |fault| matches!(fault, Fault::Refuse))
    }

    /// Whether the server's host drops datagrams that are sent over loopback.
    pub(crate) fn drops_over_loopback(&self, at: u64) -> bool {
        self.is_active(at, |fault| matches!(fault, Fault::LoopbackDrops))
    }

    fn is_active(&self, at: u64, kind: impl Fn(Fault) -> bool) -> bool {
        self.faults.iter().any(|timed| kind(timed.fault) && timed.from <= at && at < timed.to)
    }

    /// Packets in a thousand that are lost at this moment.
    pub(crate) fn loss(&self, at: u64) -> u64 {
        let active = self.faults.iter().filter(|timed| timed.from <= at && at < timed.to);
        active.filter_map(|timed| if let Fault::Loss(chance) = timed.fault { Some(chance) } else { None }).sum()
    }

    /// The round trip at this moment.
    pub(crate) fn round_trip_at(&self, at: u64) -> u64 {
        self.round_trips().take_while(|(from, _)| *from <= at).last().map_or(self.round_trip, |(_, span)| span)
    }

    /// A lease on the longest path of an outage.
    pub(crate) fn lease_during(&self, outage: &Timed) -> u64 {
        let meanwhile = self.round_trips().filter(|&(from, _)| outage.from < from && from < outage.to);
        LEASE + meanwhile.map(|(_, span)| span).fold(self.round_trip_at(outage.from), u64::max)
    }

    /// The moments when the path changes, each with the new round trip.
    fn round_trips(&self) -> impl Iterator<Item = (u64, u64)> {
        let jump =
            |timed: &Timed| if let Fault::RoundTrip(span) = timed.fault { Some((timed.from, span)) } else { None };
        self.faults.iter().filter_map(jump)
    }

    /// The moment when the last fault is over.
    pub(crate) fn quiet_from(&self) -> u64 {
        self.faults.iter().map(|timed| timed.to).max().unwrap_or(0)
    }

    /// The time after the last datagram within which everything must have been delivered. It is the sum of:
    ///
    /// * twenty seconds;
    /// * the time that the windows take for all datagrams over the slowest path of this run: half a default buffer in
    ///   two round trips and the grace;
    /// * the time that `--rate` takes;
    /// * the time that a buffer with a spool takes, which releases a quarter of its memory at a time.
    pub(crate) fn drained_within(&self) -> u64 {
        let datagrams = self.rate * self.clients as u64 * self.sending / SECOND;
        let windows = datagrams * buffer_cost(self.sizes.1 as usize) / (BUFFER / 2) + 1;
        let limited =
            if let Options::Rate(rate) = self.options { self.rate * self.sending / u64::from(rate.get()) } else { 0 };
        let spooled = self.spool.map_or(0, |spool| {
            let turns = datagrams * self.sizes.1 / (spool.memory as u64 / 8) + 1;
            turns * (2 * self.slowest() + 4 * spool.takes.1)
        });
        20 * SECOND + windows * (2 * self.slowest() + 150 * MS) + limited + spooled
    }

    /// The time after the last fault for which a client with something to send may send nothing. All other clients
    /// take a turn of the windows first. Each of their turns may begin with a heartbeat that asks too late.
    pub(crate) fn starved_after(&self) -> u64 {
        9 * SECOND + self.clients as u64 * (4 * self.slowest() + 300 * MS)
    }

    fn slowest(&self) -> u64 {
        self.round_trips().map(|(_, span)| span).max().unwrap_or(0).max(self.round_trip)
    }
}

impl Options {
    fn drawn(random: &mut Random) -> Self {
        match random.range(0, 100) {
            0..5 => Self::SmallBuffer(64 << 10, FullPolicy::DropOldest),
            5..10 => Self::SmallBuffer(64 << 10, FullPolicy::DropNewest),
            10..15 => Self::MaxAge(Duration::from_millis(random.range(300, 2_000))),
            15..20 => Self::Rate(NonZeroU32::new(random.range(50, 500) as u32).expect("50 or more")),
            20..27 => Self::ResendNever,
            _ => Self::Defaults,
        }
    }
}

impl Timed {
    fn drawn(random: &mut Random, clients: usize) -> Self {
        let client = random.range(0, clients as u64) as usize;
        let (fault, longest) = match random.range(0, 17) {
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
            14 if random.per_mille(500) => (Fault::Reset(client), 1),
            14 => (Fault::Suspend(client), 4_000),
            15 => (Fault::StopServer, 2_000),
            _ => (Fault::Flood(random.pick(&[2_000, 20_000])), 700),
        };
        Self::placed(random, fault, longest)
    }

    /// A fault at the edges: on the last hop, or on one of several ways.
    fn of_the_edges(random: &mut Random, sockets: usize) -> Self {
        let (fault, longest) = match random.range(0, 3) {
            0 => (Fault::Refuse, 2_000),
            // The server gives up after a second in a row: no client may be stopped for ever.
            1 => (Fault::LoopbackDrops, 800),
            _ => (Fault::StallOne(random.range(0, sockets as u64) as usize), 3_000),
        };
        Self::placed(random, fault, longest)
    }

    /// A fault at some time; `longest` is in milliseconds.
    fn placed(random: &mut Random, fault: Fault, longest: u64) -> Self {
        // Short faults are more frequent. Many last about as long as it takes to notice a fault.
        let (least, most) = random.pick(&[(1, longest), (1, longest), (1, 600), (150, 300), (150, 300)]);
        let span = random.range(least.min(longest), most.min(longest) + 1) * MS;
        let from = random.range(500 * MS, LAST_FAULT - span);
        Self { fault, from, to: from + span }
    }
}
