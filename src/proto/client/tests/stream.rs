//! Transport tcp: the same buffer, another way out.

use super::*;
use crate::proto::client::link::Foreign;
use crate::proto::terms::digest;

fn over_tcp() -> Config {
    Config { transport: Transport::Tcp, ..config() }
}

const fn resume(epoch: u32, from: Option<u64>, reached: u64) -> Resume {
    let from = match from {
        Some(from) => Some(Seq(from)),
        None => None,
    };
    Resume { epoch, from, reached: Seq(reached), window: 100 * SMALL, digest: 0 }
}

const fn ack(read: u64) -> Ack {
    Ack { read: Seq(read), window: 100 * SMALL, doubtful: false }
}

/// A client that is connected, was told to go on from the oldest datagram, and has sent ten.
fn sent(config: Config) -> Bench {
    let mut bench = Bench::connected(config);
    bench.arrive(0..10);
    assert_eq!(bench.release(), [0; 0], "nobody has said where to go on");
    bench.core.handle_resume(&resume(1, None, u64::MAX)).expect("of its own");
    assert_eq!(bench.release(), [0; 0], "nobody has said how remoted is");
    bench.core.handle_notice(Verdict::Up);
    assert_eq!(bench.release(), (0..10).collect::<Vec<_>>());
    bench
}

/// Connects the client again and tells it where to go on.
fn resumed(bench: &mut Bench, resume: &Resume) {
    bench.core.handle_connected(bench.now(), Duration::from_millis(1), SocketAddr::from(TARGET));
    bench.core.handle_resume(resume).expect("of its own");
    bench.core.handle_notice(Verdict::Up);
}

#[test]
fn only_an_acknowledgement_confirms() {
    let mut bench = sent(over_tcp());
    for _ in 0..5 {
        assert_eq!(bench.later_beat(), Outcome::default());
    }
    bench.core.handle_ack(&ack(4)).expect("of its own");
    assert_eq!((bench.counters().confirmed, bench.held()), (4, 6));
    bench.core.handle_ack(&ack(2)).expect("of its own");
    assert_eq!(bench.core.handle_ack(&ack(11)), Err(Foreign), "more than what was sent");
    assert_eq!((bench.counters().confirmed, bench.held()), (4, 6));
    bench.core.handle_ack(&ack(10)).expect("of its own");
    assert_eq!((bench.counters().confirmed, bench.held()), (10, 0));
}

#[test]
fn what_another_process_has_sent_in_the_same_stream_is_not_taken_for_ones_own() {
    // The other process got further than this one ever was, or as far with another datagram.
    let theirs = digest(b"another");
    for foreign in [resume(2, Some(11), 11), Resume { digest: theirs, ..resume(2, Some(6), 6) }] {
        let mut bench = sent(over_tcp());
        bench.core.handle_disconnected(bench.now());
        bench.core.handle_connected(bench.now(), Duration::from_millis(1), SocketAddr::from(TARGET));
        assert_eq!(bench.core.handle_resume(&foreign), Err(Foreign));
        bench.core.handle_notice(Verdict::Up);
        assert_eq!((bench.release(), bench.held()), (vec![], 10), "nothing is confirmed or skipped");
        // The client comes back under another name.
        bench.core.handle_disconnected(bench.now());
        resumed(&mut bench, &resume(1, None, u64::MAX));
        assert_eq!(bench.release(), (0..10).collect::<Vec<_>>());
    }
}

#[test]
fn ones_own_stream_is_known_by_its_last_datagram_and_by_how_far_it_ever_came() {
    let mut bench = sent(over_tcp());
    let ours = bench.core.held.buffer.entry(Seq(5)).map(|entry| digest(entry.bytes)).expect("it is held");
    bench.core.handle_disconnected(bench.now());
    resumed(&mut bench, &Resume { digest: ours, ..resume(2, Some(6), 6) });
    assert_eq!(bench.release(), [6, 7, 8, 9]);
    // The client reaches another server, which knows nothing, and then the first one again.
    bench.core.handle_disconnected(bench.now());
    resumed(&mut bench, &resume(1, None, u64::MAX));
    bench.core.handle_disconnected(bench.now());
    resumed(&mut bench, &resume(3, Some(10), 10));
    bench.core.handle_ack(&ack(10)).expect("of its own");
}

#[test]
fn what_the_server_says_of_remoted_unasked_holds_at_once() {
    let mut bench = sent(over_tcp());
    for verdict in [Verdict::NoSocket(Receives::Nowhere), Verdict::Up] {
        bench.core.handle_notice(verdict);
        let expected = if verdict == Verdict::Up { Standing::Up } else { Standing::Remote(verdict) };
        assert_eq!(bench.core.snapshot(bench.now()).standing, expected);
    }
}

#[test]
fn while_remoted_is_away_everything_stays_within_reach_of_max_age() {
    let mut bench = sent(Config { max_age: Some(Duration::from_secs(5)), ..over_tcp() });
    bench.core.handle_ack(&ack(10)).expect("of its own");
    bench.core.handle_notice(Verdict::NoProcess(Port::Free));
    bench.arrive(10..20);
    assert_eq!(bench.release(), [0; 0]);
    bench.at += 6_000;
    bench.arrive(20..22);
    bench.core.handle_notice(Verdict::Up);
    assert_eq!(bench.release(), [20, 21]);
    assert_eq!(bench.counters().dropped(DropReason::Expired), 10);
}

#[test]
fn a_connection_that_is_silent_counts_for_nothing_until_something_comes() {
    let mut bench = sent(over_tcp());
    bench.core.handle_notice(Verdict::Up);
    bench.core.begin_heartbeat(bench.now()).expect("there is a connection");
    let late = bench.now() + Duration::from_secs(3);
    assert_eq!(bench.core.snapshot(bench.now()).standing, Standing::Up);
    assert_eq!(bench.core.snapshot(late).standing, Standing::Unanswered);
    bench.core.handle_alive(late);
    assert_eq!(bench.core.snapshot(late).standing, Standing::Up);
}

#[test]
fn what_was_injected_is_not_sent_again_and_the_rest_is() {
    let mut bench = sent(over_tcp());
    bench.core.handle_ack(&ack(2)).expect("of its own");
    bench.core.handle_disconnected(bench.now());
    assert_eq!(bench.release(), [0; 0]);
    resumed(&mut bench, &resume(2, Some(6), 6));
    assert_eq!(bench.release(), [6, 7, 8, 9]);
    assert_eq!(bench.counters().copies, 0);
    bench.core.handle_ack(&ack(10)).expect("of its own");
    assert_eq!((bench.counters().confirmed, bench.held()), (10, 0));
}

#[test]
fn a_server_that_knows_nothing_gets_all_that_is_not_acknowledged() {
    let mut bench = sent(over_tcp());
    bench.core.handle_ack(&ack(3)).expect("of its own");
    resumed(&mut bench, &resume(1, None, u64::MAX));
    assert_eq!(bench.release(), [3, 4, 5, 6, 7, 8, 9]);
    assert_eq!((bench.counters().copies, bench.counters().rewinds), (7, 1));
}

#[test]
fn with_resend_never_only_what_never_reached_remoted_is_sent_again() {
    let mut bench = sent(Config { resend: false, ..over_tcp() });
    // remoted died when it had read two datagrams and been given five.
    bench.core.handle_resume(&resume(2, Some(2), 5)).expect("of its own");
    assert_eq!(bench.release(), [5, 6, 7, 8, 9]);
    let counters = bench.counters();
    assert_eq!((counters.dropped(DropReason::NotResent), counters.copies), (3, 0));
    bench.core.handle_ack(&ack(10)).expect("of its own");
    assert_eq!((bench.counters().confirmed, bench.held()), (7, 0));
}

#[test]
fn a_batch_of_an_epoch_that_is_over_goes_nowhere_and_comes_again() {
    let mut bench = sent(over_tcp());
    bench.arrive(10..12);
    let mut batch = Batch::default();
    assert!(bench.core.poll_release(bench.now(), &mut batch));
    assert_eq!(bench.core.stream_epoch(&batch), Some(1));
    bench.core.handle_resume(&resume(2, Some(10), 10)).expect("of its own");
    assert_eq!(bench.core.stream_epoch(&batch), None);
    let sent = bench.counters().sent;
    bench.core.handle_sent(bench.now(), &batch, batch.len());
    assert_eq!((bench.counters().sent, bench.counters().copies), (sent, 0));
    assert_eq!(bench.release(), [10, 11]);
}

#[test]
fn a_window_bounds_what_is_not_acknowledged_and_one_is_always_allowed() {
    let mut bench = Bench::connected(over_tcp());
    bench.arrive(0..10);
    resumed(&mut bench, &Resume { window: 3 * SMALL, ..resume(1, None, 0) });
    assert_eq!(bench.release(), [0, 1, 2]);
    bench.core.handle_ack(&Ack { window: SMALL / 2, ..ack(2) }).expect("of its own");
    assert_eq!(bench.release(), [0; 0], "one is under way");
    bench.core.handle_ack(&Ack { window: SMALL / 2, ..ack(3) }).expect("of its own");
    assert_eq!(bench.release(), [3]);
}

#[test]
fn with_rare_heartbeats_a_dead_connection_is_asked_while_something_is_under_way() {
    let mut config = over_tcp();
    config.link.interval = Duration::from_mins(1);
    let mut bench = sent(config);
    bench.core.begin_heartbeat(bench.now()).expect("one may begin");
    assert_eq!(bench.core.next_heartbeat(bench.now()), Some(bench.now() + config.link.timeout));
    bench.core.handle_ack(&ack(10)).expect("of its own");
    assert_eq!(bench.core.next_heartbeat(bench.now()), Some(bench.now() + config.link.interval));
}

#[test]
fn a_silent_connection_is_one_without_an_answer_and_without_progress_for_the_timeout() {
    let mut bench = sent(over_tcp());
    let (_, _) = bench.core.begin_heartbeat(bench.now()).expect("one may begin");
    bench.at += 2_000;
    assert!(!bench.core.link().is_silent(bench.now()));
    bench.at += 1;
    assert!(bench.core.link().is_silent(bench.now()));
    bench.core.handle_alive(bench.now());
    assert!(!bench.core.link().is_silent(bench.now()), "something reached the other host");
    bench.at += 2_001;
    assert!(bench.core.link().is_silent(bench.now()));
}
