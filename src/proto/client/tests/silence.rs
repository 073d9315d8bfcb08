//! Replies that stop while heartbeats are good.

use super::*;

const SESSION: SessionName = SessionName { id: 0, generation: 0 };

/// Lets so many seconds pass. In each of them the agent sends one datagram and heartbeats are good. With `replies`,
/// remoted answers every 10 s.
fn live(bench: &mut Bench, seconds: u64, replies: bool) {
    for _ in 0..seconds {
        let begun = bench.at;
        bench.core.handle_time(bench.now());
        bench.beat();
        bench.arrive(0..1);
        bench.release();
        if replies && (begun / 1_000).is_multiple_of(10) {
            bench.core.handle_reply(bench.now(), SESSION, SocketAddr::from(TARGET));
        }
        bench.later_beat();
        bench.later_beat();
        bench.at = begun + 1_000;
    }
}

/// The ports that the next datagram would go out from.
fn ports(bench: &mut Bench) -> u32 {
    bench.beat();
    bench.arrive(0..1);
    let mut batch = Batch::default();
    assert!(bench.core.poll_release(bench.now(), &mut batch));
    batch.ports()
}

#[test]
fn where_replies_have_stopped_other_ports_are_taken_and_nothing_is_confirmed_until_one_comes() {
    let mut bench = Bench::connected(config());
    live(&mut bench, 41, true);
    assert_eq!((bench.counters().confirmed, bench.held(), ports(&mut bench)), (41, 0, 0));
    live(&mut bench, 35, false);
    let counters = bench.counters();
    assert_eq!((counters.doubtful, ports(&mut bench)), (0, 1), "one change of ports");
    assert!(bench.held() > 3 && counters.confirmed < 76, "{counters:?}");
    assert_eq!(bench.core.snapshot(bench.now()).replies_missing, 1);
    bench.core.handle_reply(bench.now(), SESSION, SocketAddr::from(TARGET));
    live(&mut bench, 5, true);
    assert_eq!((bench.counters().doubtful, bench.held(), ports(&mut bench)), (0, 0, 1));
    assert_eq!(bench.core.snapshot(bench.now()).replies_missing, 0);
}

#[test]
fn where_no_replies_come_for_good_data_flow_and_are_doubtful() {
    let mut bench = Bench::connected(config());
    live(&mut bench, 41, true);
    live(&mut bench, 400, false);
    let counters = bench.counters();
    assert_eq!((bench.held(), ports(&mut bench)), (0, 3));
    assert!(counters.confirmed == 441 && counters.doubtful > 300, "{counters:?}");
}

#[test]
fn an_agent_that_never_had_replies_and_replies_over_the_connection_raise_no_suspicion() {
    let mut bench = Bench::connected(config());
    live(&mut bench, 400, false);
    assert_eq!((bench.counters().doubtful, bench.held(), ports(&mut bench)), (0, 0, 0));
    let mut bench = Bench::connected(config());
    live(&mut bench, 41, true);
    bench.core.handle_carried_reply(bench.now(), SESSION);
    live(&mut bench, 100, false);
    assert_eq!(bench.core.snapshot(bench.now()).replies_missing, 0);
}

#[test]
fn after_a_long_outage_nobody_misses_the_replies_that_could_not_come() {
    let mut bench = Bench::connected(config());
    live(&mut bench, 41, true);
    bench.core.handle_disconnected(bench.now());
    bench.arrive(0..20);
    bench.at += 9_000_000;
    bench.core.handle_time(bench.now());
    bench.core.handle_connected(bench.now(), Duration::from_millis(1), SocketAddr::from(TARGET));
    live(&mut bench, 5, false);
    assert_eq!(bench.core.snapshot(bench.now()).replies_missing, 0);
    assert_eq!(ports(&mut bench), 0);
}
