//! The figures of `docs/reliability.md`: one outage in each run, the same outages for each way.

use std::time::Duration;

use ossec_broker::proto::client::Transport;

use crate::plan::{Cut, Fault, MS, Options, Plan, SECOND, Timed};
use crate::promise::Sums;
use crate::random::Random;
use crate::world::{Way, World};

/// Outages for each figure.
const OUTAGES: u64 = 1_000;

const WAYS: [(Way, Transport, &str); 4] = [
    (Way::Bare, Transport::Udp, "OSSEC alone"),
    (Way::Rival, Transport::Udp, "the broker of 2015"),
    (Way::Broker, Transport::Udp, "ossec-broker"),
    (Way::Broker, Transport::Tcp, "ossec-broker, transport tcp"),
];

/// The part that goes away.
#[derive(Clone, Copy, Debug)]
enum Kind {
    ReceiverKilled,
    ReceiverStopped,
    HostGone,
    BlackHole,
    OneWay(Cut),
    ServerKilled,
}

impl Kind {
    fn faults(self) -> Vec<Fault> {
        match self {
            Self::ReceiverKilled => vec![Fault::Kill],
            Self::ReceiverStopped => vec![Fault::Stop],
            Self::HostGone => vec![Fault::Cut(Cut::Both), Fault::Kill, Fault::KillServer],
            Self::BlackHole => vec![Fault::Cut(Cut::Both)],
            Self::OneWay(cut) => vec![Fault::Cut(cut)],
            Self::ServerKilled => vec![Fault::KillServer],
        }
    }
}

/// Datagrams a second that the broker of 2015 can follow on each of these paths. It asks about each datagram, and
/// waits for the answer.
const CALM: u64 = 10;
/// More datagrams a second than that.
const BUSY: u64 = 200;

/// One outage of `span` nanoseconds on an otherwise good path, under so many datagrams a second.
fn outage(seed: u64, kind: Kind, span: u64, rate: u64) -> Plan {
    let mut random = Random::new(seed ^ 0x0f16);
    let from = random.range(SECOND, 2 * SECOND);
    let to = from + span;
    Plan {
        seed,
        clients: 1,
        agents: 1,
        options: Options::Defaults,
        sending: to + 5 * SECOND,
        rate,
        sizes: (60, 160),
        round_trip: random.pick(&[MS / 5, MS, 10 * MS, 40 * MS]),
        lag: 0,
        duplicated: 0,
        reordered: 0,
        timeout: 200 * MS,
        read: MS / 10,
        transport: Transport::Udp,
        bandwidth: None,
        replies: None,
        addresses: 1,
        sockets: 1,
        settle: Duration::from_secs(3),
        faults: kind.faults().into_iter().map(|fault| Timed { fault, from, to }).collect(),
        spool: None,
    }
}

/// A random span from `low` to `high`: short ones are as frequent as long ones.
fn span(random: &mut Random, low: u64, high: u64) -> u64 {
    let share = random.range(0, 1_000_000) as f64 / 1e6;
    (low as f64 * (high as f64 / low as f64).powf(share)) as u64
}

/// Sums over random outages between these lengths.
fn losses(way: Way, transport: Transport, low: u64, high: u64, rate: u64) -> Sums {
    let kinds = [
        Kind::ReceiverKilled,
        Kind::ReceiverStopped,
        Kind::HostGone,
        Kind::BlackHole,
        Kind::OneWay(Cut::TowardsServer),
        Kind::OneWay(Cut::TowardsClient),
        Kind::ServerKilled,
    ];
    let mut sums = Sums::default();
    for seed in 0..OUTAGES {
        let mut random = Random::new(seed);
        let kind = random.pick(&kinds);
        let plan = Plan { transport, ..outage(seed, kind, span(&mut random, low, high), rate) };
        let mut world = World::new(&plan, way, false);
        world.run();
        if way == Way::Broker {
            assert!(world.ledger.complaints.is_empty(), "{plan:#?} {:?}", world.ledger.complaints);
        }
        sums.add(world.ledger.sums());
    }
    sums
}

#[test]
fn this_broker_loses_nothing_where_others_do() {
    for (title, low, high) in [("0.3 to 30 s", 300 * MS, 30 * SECOND), ("10 to 100 ms", 10 * MS, 100 * MS)] {
        // The harness has begun a line of its own.
        println!("\n| {OUTAGES} outages of {title} | datagrams/s | sent | lost | copies | refused for their order |");
        println!("|---|---|---|---|---|---|");
        for rate in [CALM, BUSY] {
            for (way, transport, name) in WAYS.into_iter().filter(|(way, ..)| *way != Way::Rival || rate == CALM) {
                let sums = losses(way, transport, low, high, rate);
                println!("| {name} | {rate} | {} | {} | {} | {} |", sums.sent, sums.lost, sums.copies, sums.reordered);
                let promised = way == Way::Broker && (low >= 300 * MS || transport == Transport::Tcp);
                assert_eq!(sums.lost == 0, promised, "{name}, {title}: {sums:?}");
                assert!(way != Way::Broker || sums.lost == sums.excused, "{sums:?}");
            }
        }
        println!();
    }
}

/// Two limits in milliseconds: half of the values are no larger than the first, and 99 of 100 no larger than the
/// second.
fn quantiles(mut values: Vec<u64>) -> (u64, u64) {
    values.sort_unstable();
    let at = |per_cent: usize| values[(values.len() * per_cent / 100).min(values.len() - 1)] / MS;
    (at(50), at(99))
}

#[test]
fn an_outage_is_noticed_and_its_end_is_too() {
    let kinds = [
        ("receiver killed", Kind::ReceiverKilled),
        ("receiver stopped", Kind::ReceiverStopped),
        ("host gone", Kind::HostGone),
        ("black hole", Kind::BlackHole),
    ];
    println!(
        "\n| {OUTAGES} outages of 3 to 30 s each | noticed after (median, 99 %) | recovered after (median, 99 %) |"
    );
    println!("|---|---|---|");
    for (name, kind) in kinds {
        let (mut noticed, mut recovered) = (Vec::new(), Vec::new());
        for seed in 0..OUTAGES {
            let span = span(&mut Random::new(seed), 3 * SECOND, 30 * SECOND);
            let plan = outage(seed, kind, span, BUSY);
            let mut world = World::new(&plan, Way::Broker, false);
            world.run();
            let (after, again) = world.noticed(0);
            assert!(after < span, "{name}: the outage of {} ms went unnoticed", span / MS);
            noticed.push(after);
            recovered.push(again.expect("it recovers"));
        }
        let (noticed, recovered) = (quantiles(noticed), quantiles(recovered));
        println!("| {name} | {} ms, {} ms | {} ms, {} ms |", noticed.0, noticed.1, recovered.0, recovered.1);
    }
}
