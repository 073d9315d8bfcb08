//! A translation of addresses whose entry goes stale. Datagrams from one source port lead nowhere, and only the
//! missing replies tell.

use std::time::Duration;

use ossec_broker::proto::client::Transport;

use crate::plan::{Fault, MS, Options, Plan, SECOND, Timed};
use crate::random::Random;
use crate::world::{Way, World};

const SEEDS: u64 = 20;

#[test]
fn behind_a_stale_entry_nothing_is_lost_from_the_moment_that_replies_are_missed() {
    for seed in 0..SEEDS {
        let mut random = Random::new(seed);
        let from = random.range(100, 130) * SECOND;
        let plan = Plan {
            seed,
            clients: 1,
            agents: random.pick(&[1, 2]),
            options: Options::Defaults,
            sending: from + 200 * SECOND,
            rate: random.pick(&[5, 20, 50]),
            sizes: (60, 160),
            round_trip: random.pick(&[MS / 5, MS, 40 * MS]),
            lag: 0,
            duplicated: 0,
            reordered: 0,
            timeout: 200 * MS,
            read: MS / 10,
            transport: Transport::Udp,
            bandwidth: None,
            settle: Duration::from_millis(300),
            replies: Some(random.range(12, 20) * SECOND),
            addresses: 1,
            sockets: 1,
            faults: vec![Timed { fault: Fault::StaleEntry, from, to: from + SECOND }],
            spool: None,
        };
        let mut world = World::new(&plan, Way::Broker, false);
        world.run();
        assert!(world.ledger.complaints.is_empty(), "{plan:#?} {:?}", world.ledger.complaints);
        let sums = world.ledger.sums();
        assert!(sums.lost > 0 && sums.lost == sums.excused, "{sums:?}");
        assert!(sums.lost < sums.sent / 3, "what is sent later arrives: {sums:?}");
    }
}
