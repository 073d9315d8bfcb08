//! `--rate N` gives N wherever the path gives more.

use std::num::NonZeroU32;
use std::time::Duration;

use ossec_broker::proto::client::Transport;

use crate::plan::{MS, Options, Plan, SECOND};
use crate::world::{Way, World};

/// Datagrams a second that come in, more than any of these paths takes.
const ARRIVING: u64 = 20_000;
/// The time for which datagrams come in.
const SENDING: u64 = 4 * SECOND;

/// Datagrams a second that reach remoted from the first to the last.
fn rate(transport: Transport, round_trip: u64, options: Options) -> f64 {
    let plan = Plan {
        seed: 1,
        clients: 1,
        agents: 1,
        options,
        sending: SENDING,
        rate: ARRIVING,
        sizes: (60, 160),
        round_trip,
        lag: 0,
        duplicated: 0,
        reordered: 0,
        timeout: 200 * MS,
        read: MS / 50,
        transport,
        bandwidth: None,
        settle: Duration::from_millis(300),
        replies: None,
        addresses: 1,
        sockets: 1,
        faults: Vec::new(),
        spool: None,
    };
    let mut world = World::new(&plan, Way::Broker, false);
    world.run();
    assert!(world.ledger.complaints.is_empty(), "{:?}", world.ledger.complaints);
    let sums = world.ledger.sums();
    assert_eq!(sums.lost, 0, "{sums:?}");
    sums.sent as f64 * SECOND as f64 / world.last_read() as f64
}

#[test]
fn a_rate_is_what_comes_out_where_the_path_gives_more() {
    for transport in [Transport::Udp, Transport::Tcp] {
        for round_trip in [MS / 5, 10 * MS] {
            let most = rate(transport, round_trip, Options::Defaults);
            for part in [0.3, 0.6, 0.9] {
                let asked = most * part;
                let limit = NonZeroU32::new(asked as u32).expect("it is more than that");
                let given = rate(transport, round_trip, Options::Rate(limit));
                println!("{transport:?}, {} ms: {given:.0} of {asked:.0}, at most {most:.0}", round_trip as f64 / 1e6);
                assert!(
                    (0.95..1.05).contains(&(given / asked)),
                    "{transport:?}, {round_trip} ns: {given} a second of {asked} asked for and {most} possible"
                );
            }
        }
    }
}
