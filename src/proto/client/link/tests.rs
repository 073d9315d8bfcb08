use super::lag::GRACE;
use super::*;
use crate::proto::terms::{Incarnation, Port, Reason, Receives};

const SETTINGS: Settings =
    Settings { interval: Duration::from_secs(1), lease: Duration::from_millis(100), timeout: Duration::from_secs(2) };
const INCARNATION: Incarnation = Incarnation(1);
const WINDOW: u64 = 100_000;

const fn ms(n: u64) -> Time {
    Time::from_millis(1_000 + n)
}

const fn flight(oldest: u64, next: u64) -> Flight {
    Flight { oldest: Seq(oldest), next: Seq(next), furthest: Seq(next) }
}

/// A flight with nothing under way.
const IDLE: Flight = flight(0, 0);

fn good() -> Pong {
    Pong {
        number: 0,
        verdict: Verdict::Up,
        incarnation: INCARNATION,
        pid: 1,
        read: 0,
        queue: 0,
        drops: 0,
        window: WINDOW,
        gap_us: 1_000,
        ask_again_ms: 0,
        active: 1,
    }
}

/// A link with a connection that has answered nothing yet, on a path of 1 ms.
fn connected() -> Link {
    let mut link = Link::new(Transport::Udp, SETTINGS);
    assert_eq!(link.handle_connected(ms(0), Duration::from_millis(1), IDLE), None);
    for _ in 0..50 {
        link.beats.rtt.handle_sample(Duration::from_millis(1), Duration::MAX);
    }
    link
}

fn lease(link: &Link) -> &Lease {
    match &link.policy {
        Policy::Lease(lease) => lease,
        Policy::Acks(_) => panic!("a link over udp"),
    }
}

/// A heartbeat that begins at `at` and is answered a millisecond later.
fn beat(link: &mut Link, at: u64, flight: Flight, pong: Pong) -> Outcome {
    let probe = link.begin(ms(at), flight).expect("a heartbeat may begin");
    link.handle_pong(ms(at + 1), probe, &pong, flight)
}

fn up() -> Link {
    let mut link = connected();
    assert_eq!(beat(&mut link, 0, IDLE, good()), Outcome::default());
    link
}

#[test]
fn nothing_is_released_without_a_good_heartbeat_nor_after_its_lease() {
    let mut link = Link::new(Transport::Udp, SETTINGS);
    assert_eq!(link.permit(ms(0)), None);
    link.handle_connected(ms(0), Duration::from_millis(1), IDLE);
    assert_eq!(link.permit(ms(0)), None, "a connection alone says nothing of remoted");
    let mut link = up();
    link.handle_released(ms(2), 832, true);
    let permit = link.permit(ms(2)).expect("the heartbeat was good");
    assert_eq!((permit.window, permit.single), (WINDOW, false));
    let lease = permit.until.since(ms(0));
    assert!(
        lease >= SETTINGS.lease && lease < SETTINGS.lease + Duration::from_millis(5),
        "{lease:?} from the beginning of the heartbeat"
    );
    assert_eq!(link.permit(permit.until), None);
    assert_eq!(link.standing(ms(0)), Standing::Up, "an idle link is up without a lease");
    assert!(link.handle_disconnected(ms(5), IDLE).is_some());
    assert_eq!((link.permit(ms(5)), link.standing(ms(0))), (None, Standing::Unreachable));
}

#[test]
fn after_a_pause_a_heartbeat_must_come_back_before_anything_is_released() {
    let mut link = up();
    let fifth = link.lease() / 5;
    assert!(link.permit(ms(19)).is_some());
    assert_eq!(link.permit(ms(0) + fifth), None, "its lease is not over, and nothing follows it");
    link.handle_released(ms(5), 832, true);
    assert!(link.permit(ms(0) + fifth).is_some(), "one is to begin when that has landed");
    let probe = link.begin(ms(55), flight(0, 1)).expect("a heartbeat may begin");
    assert!(link.permit(ms(60)).is_some(), "it has followed closely");
    link.handle_pong(ms(61), probe, &good(), flight(0, 1));
    let probe = link.begin(ms(130), flight(0, 1)).expect("a heartbeat may begin");
    assert!(
        link.lease() + Duration::from_millis(55) > Duration::from_millis(131),
        "the lease of the one before is not over"
    );
    assert_eq!(link.permit(ms(131)), None, "it comes after a pause, and has not come back");
    link.handle_pong(ms(132), probe, &good(), flight(0, 1));
    assert!(link.permit(ms(132)).is_some());
}

#[test]
fn only_two_good_heartbeats_begun_after_a_release_confirm_it() {
    let mut link = up();
    // 0 to 4 are released after the first heartbeat; the second begins after that.
    assert_eq!(
        beat(&mut link, 100, flight(0, 5), good()).confirm,
        None,
        "it may still be on its way when the answer is given"
    );
    assert_eq!(
        beat(&mut link, 200, flight(0, 9), good()).confirm,
        Some(Seq(5)),
        "5 to 8 came after the second heartbeat"
    );
    assert_eq!(beat(&mut link, 300, flight(5, 9), good()).confirm, Some(Seq(9)));
    assert_eq!(beat(&mut link, 400, flight(9, 9), good()).confirm, None, "there is nothing left to confirm");
}

#[test]
fn what_waits_in_the_socket_is_confirmed_when_as_much_has_been_read() {
    let mut link = up();
    beat(&mut link, 100, flight(0, 5), Pong { read: 1_000, queue: 4_160, ..good() });
    let queued = Pong { read: 1_500, queue: 3_660, ..good() };
    assert_eq!(beat(&mut link, 200, flight(0, 9), queued).confirm, None, "5,160 must have been read");
    assert_eq!(beat(&mut link, 300, flight(0, 9), Pong { read: 5_159, queue: 9_000, ..good() }).confirm, None);
    assert_eq!(beat(&mut link, 400, flight(0, 9), Pong { read: 5_160, queue: 9_000, ..good() }).confirm, Some(Seq(5)));
}

#[test]
fn a_late_heartbeat_rewinds_once_and_ends_the_lease() {
    let mut link = up();
    let probe = link.begin(ms(10), flight(0, 5)).expect("a heartbeat may begin");
    let late = link.next_deadline(ms(10)).expect("it may become late");
    assert_eq!(link.handle_time(ms(100), flight(0, 5)), None);
    assert_eq!(link.handle_time(late, flight(0, 5)), Some(Rewind::Late));
    assert_eq!(link.handle_time(late, flight(0, 0)), None, "told once");
    assert_eq!((link.permit(late), link.standing(ms(0))), (None, Standing::Unanswered));
    let before = link.lease();
    let outcome = link.handle_pong(ms(400), probe, &good(), flight(0, 0));
    assert_eq!(
        outcome,
        Outcome::default(),
        "its answer allows and confirms nothing, and it is not late a second time"
    );
    assert!(link.lease() > before + Duration::from_millis(200), "but it feeds the estimate: {:?}", link.lease());
}

#[test]
fn an_answer_after_the_lease_rewinds_even_if_nobody_looked_at_the_clock() {
    let mut link = up();
    let probe = link.begin(ms(10), flight(0, 5)).expect("a heartbeat may begin");
    assert_eq!(link.handle_pong(ms(300), probe, &good(), flight(0, 5)).rewind, Some(Rewind::Late));
    assert_eq!(link.permit(ms(300)), None);
}

#[test]
fn a_heartbeat_begun_before_a_rewind_proves_nothing_after_it() {
    let mut link = up();
    let late = link.begin(ms(10), flight(0, 5)).expect("a heartbeat may begin");
    let old = link.begin(ms(60), flight(0, 5)).expect("a heartbeat may begin");
    assert_eq!(link.handle_pong(ms(120), late, &good(), flight(0, 5)).rewind, Some(Rewind::Late));
    assert_eq!(link.handle_pong(ms(121), old, &good(), flight(0, 0)), Outcome::default());
    assert_eq!(link.permit(ms(122)), None, "what is on its way must have landed");
    assert_eq!(beat(&mut link, 500, IDLE, good()).confirm, None, "the first of the new epoch");
    assert!(link.permit(ms(502)).is_some(), "the path is good: what was rewound may go again");
    assert_eq!(beat(&mut link, 600, flight(0, 5), good()).confirm, None);
    assert_eq!(beat(&mut link, 700, flight(0, 5), good()).confirm, Some(Seq(5)));
}

#[test]
fn a_heartbeat_of_an_earlier_connection_is_ignored() {
    let mut link = up();
    let old = link.begin(ms(10), flight(0, 5)).expect("a heartbeat may begin");
    assert_eq!(link.handle_connected(ms(20), Duration::from_millis(1), flight(0, 5)), Some(Rewind::Disconnected));
    assert_eq!(link.handle_pong(ms(21), old, &good(), flight(0, 0)), Outcome::default());
    assert_eq!(link.permit(ms(21)), None);
    beat(&mut link, 100, flight(0, 5), good());
    assert_eq!(beat(&mut link, 200, flight(0, 5), good()).confirm, Some(Seq(5)));
}

#[test]
fn what_each_verdict_does_in_the_same_and_in_another_incarnation() {
    let other = Incarnation(2);
    let starting = Verdict::Starting(Reason::Settling);
    let (gone, changed) = (Some(Rewind::Gone), Some(Rewind::Incarnation));
    let table = [
        (Verdict::Up, INCARNATION, None, true),
        (Verdict::Up, other, changed, false),
        (Verdict::Stopped, INCARNATION, None, false),
        (Verdict::Stopped, other, changed, false),
        (Verdict::Stalled, INCARNATION, None, false),
        (Verdict::Stalled, other, changed, false),
        (starting, INCARNATION, None, false),
        (starting, other, changed, false),
        (Verdict::NoProcess(Port::Free), Incarnation::default(), gone, false),
        (Verdict::NoSocket(Receives::Nowhere), Incarnation::default(), gone, false),
    ];
    for (verdict, incarnation, rewind, released) in table {
        let mut link = up();
        let outcome = beat(&mut link, 10, flight(0, 5), Pong { verdict, incarnation, ..good() });
        assert_eq!(outcome, Outcome { rewind, ..Outcome::default() }, "{verdict} in {incarnation:?}");
        link.handle_released(ms(12), 832, true);
        assert_eq!(link.permit(ms(80)).is_some(), released, "{verdict} in {incarnation:?}");
        let standing = if verdict == Verdict::Up { Standing::Up } else { Standing::Remote(verdict) };
        assert_eq!(link.standing(ms(0)), standing);
    }
}

#[test]
fn a_stopped_remoted_keeps_its_queue_and_confirms_it_afterwards() {
    let mut link = up();
    beat(&mut link, 10, flight(0, 5), Pong { read: 0, queue: 4_160, ..good() });
    let stopped = Pong { verdict: Verdict::Stopped, queue: 4_160, ..good() };
    assert_eq!(beat(&mut link, 20, flight(0, 5), stopped), Outcome::default());
    assert_eq!(beat(&mut link, 4_000, flight(0, 5), Pong { queue: 4_160, ..good() }), Outcome::default());
    let read = Pong { read: 4_160, ..good() };
    assert_eq!(beat(&mut link, 4_010, flight(0, 5), read), Outcome { confirm: Some(Seq(5)), ..Outcome::default() });
}

#[test]
fn a_remoted_that_stops_is_asked_once_more_when_what_was_on_its_way_has_landed() {
    let mut link = up();
    link.handle_released(ms(5), 832, true);
    beat(&mut link, 10, flight(0, 1), Pong { verdict: Verdict::Stopped, ..good() });
    assert_eq!(link.next_heartbeat(Work::default()), Some(ms(5) + GRACE));
    let landed = 5 + GRACE.as_millis() as u64;
    beat(&mut link, landed, flight(0, 1), Pong { verdict: Verdict::Stopped, queue: 832, ..good() });
    assert_eq!(link.next_heartbeat(Work::default()), Some(ms(landed) + SETTINGS.interval));
}

#[test]
fn a_client_that_stood_still_when_something_had_to_be_covered_takes_nothing_for_granted() {
    let mut link = up();
    link.handle_released(ms(5), 832, true);
    let landed = ms(5) + GRACE;
    assert_eq!(link.handle_time(landed + SETTINGS.lease, flight(0, 1)), None);
    assert_eq!(link.handle_time(landed + 2 * SETTINGS.lease, flight(0, 1)), Some(Rewind::Late));
    assert_eq!(link.handle_time(landed + 2 * SETTINGS.lease, flight(0, 0)), None, "told once");
}

#[test]
fn one_that_is_told_to_ask_later_still_covers_what_it_has_released() {
    let mut link = up();
    link.handle_released(ms(5), 832, true);
    beat(&mut link, 10, flight(0, 1), Pong { window: 0, ask_again_ms: 500, ..good() });
    let unsent = Work { unsent: Some(Time::ZERO), hurry: None, under_way: false };
    assert_eq!(link.next_heartbeat(unsent), Some(ms(5) + GRACE));
    beat(&mut link, 5 + GRACE.as_millis() as u64, flight(0, 1), Pong { window: 0, ask_again_ms: 500, ..good() });
    assert_eq!(link.next_heartbeat(unsent), Some(ms(5) + GRACE + Duration::from_millis(501)));
}

#[test]
fn what_is_sent_again_waits_for_a_window_that_knows_of_what_has_landed() {
    let mut link = up();
    link.handle_released(ms(2), 832, true);
    let _late = link.begin(ms(10), flight(0, 1)).expect("a heartbeat may begin");
    let next = link.begin(ms(100), flight(0, 1)).expect("a heartbeat may begin");
    assert_eq!(link.handle_time(ms(120), flight(0, 1)), Some(Rewind::Late));
    link.handle_pong(ms(121), next, &good(), flight(0, 0));
    assert_eq!(link.permit(ms(190)), None, "its window was granted before");
    beat(&mut link, 190, flight(0, 0), good());
    assert!(link.permit(ms(192)).is_some());
}

#[test]
fn so_does_what_is_sent_again_over_another_connection() {
    let mut link = up();
    link.handle_released(ms(2), 832, true);
    link.handle_connected(ms(20), Duration::from_millis(1), flight(0, 1));
    beat(&mut link, 21, flight(0, 0), good());
    assert_eq!(link.permit(ms(22)), None, "what was released may be on its way");
    let unsent = Work { unsent: Some(Time::ZERO), hurry: None, under_way: false };
    let next = link.next_heartbeat(unsent).expect("one is due");
    assert!(next >= ms(20) + GRACE);
    let probe = link.begin(next, flight(0, 0)).expect("a heartbeat may begin");
    let pong = next + Duration::from_millis(1);
    link.handle_pong(pong, probe, &good(), flight(0, 0));
    assert!(link.permit(pong).is_some());
}

#[test]
fn a_socket_that_others_overflow_proves_no_path_to_be_prompt() {
    let mut link = up();
    beat(&mut link, 2, IDLE, good());
    link.handle_released(ms(4), 20 * 832, true);
    beat(&mut link, 5, flight(0, 20), Pong { number: 9, queue: 20 * 832, ..good() });
    assert!(link.grace(ms(7)) < GRACE, "a burst was seen in the socket at once");
    beat(&mut link, 8, IDLE, Pong { drops: 9, ..good() });
    assert_eq!(link.grace(ms(10)), GRACE);
}

#[test]
fn what_was_proven_of_a_path_ends_with_its_connection() {
    let mut link = up();
    beat(&mut link, 2, IDLE, good());
    link.handle_released(ms(4), 20 * 832, true);
    beat(&mut link, 5, flight(0, 20), Pong { number: 9, queue: 20 * 832, ..good() });
    assert!(link.grace(ms(7)) < GRACE, "a burst was seen in the socket at once");
    link.handle_connected(ms(8), Duration::from_millis(1), flight(0, 20));
    assert_eq!(link.grace(ms(9)), GRACE, "another connection may have come by another path");
}

#[test]
fn the_first_growth_of_the_drop_counter_halves_the_window_and_rewinds() {
    let mut link = up();
    let outcome = beat(&mut link, 10, flight(0, 5), Pong { drops: 3, ..good() });
    assert_eq!(outcome, Outcome { rewind: Some(Rewind::Drops), ..Outcome::default() });
    beat(&mut link, 100, flight(0, 5), Pong { drops: 3, ..good() });
    assert_eq!(link.permit(ms(102)).map(|permit| permit.window), Some(WINDOW / 2));
    let outcome = beat(&mut link, 200, flight(0, 5), Pong { drops: 3, ..good() });
    assert_eq!(outcome, Outcome { confirm: Some(Seq(5)), ..Outcome::default() }, "confirmed, and not doubtful");
    let outcome = beat(&mut link, 300, flight(5, 9), Pong { drops: 4, ..good() });
    assert_eq!(outcome.rewind, Some(Rewind::Drops), "the next growth may be ours again");
    beat(&mut link, 370, flight(5, 9), Pong { drops: 4, ..good() });
    assert_eq!(link.permit(ms(372)).map(|permit| permit.window), Some(WINDOW / 4));
    beat(&mut link, 11_000, IDLE, Pong { drops: 4, ..good() });
    assert_eq!(link.permit(ms(11_002)).map(|permit| permit.window), Some(WINDOW / 2), "a halving heals");
}

#[test]
fn a_drop_counter_that_goes_on_growing_is_others_and_does_not_rewind_for_ever() {
    let mut link = up();
    beat(&mut link, 10, flight(0, 5), Pong { drops: 3, ..good() });
    let outcome = beat(&mut link, 100, flight(0, 5), Pong { drops: 10, ..good() });
    assert_eq!(outcome, Outcome { others_drops: 7, doubtful: true, ..Outcome::default() });
    assert_eq!(
        link.permit(ms(102)).map(|permit| permit.window),
        Some(WINDOW),
        "half the window did not help: it is not us"
    );
    let outcome = beat(&mut link, 200, flight(0, 5), Pong { drops: 20, ..good() });
    assert_eq!(outcome, Outcome { confirm: Some(Seq(5)), others_drops: 10, doubtful: true, ..Outcome::default() });
    let calm = beat(&mut link, 10_300, flight(5, 5), Pong { drops: 20, ..good() });
    assert_eq!(calm, Outcome::default(), "it has stood still for long enough");
}

#[test]
fn the_rest_of_a_burst_of_drops_that_overlapping_heartbeats_show_is_not_others() {
    let mut link = up();
    let first = link.begin(ms(10), flight(0, 5)).expect("a heartbeat may begin");
    let second = link.begin(ms(30), flight(0, 5)).expect("a heartbeat may begin");
    let third = link.begin(ms(50), flight(0, 5)).expect("a heartbeat may begin");
    let dropped = |drops| Pong { drops, ..good() };
    assert_eq!(link.handle_pong(ms(60), first, &dropped(5), flight(0, 5)).rewind, Some(Rewind::Drops));
    assert_eq!(link.handle_pong(ms(80), second, &dropped(9), flight(0, 0)), Outcome::default());
    assert_eq!(link.handle_pong(ms(100), third, &dropped(9), flight(0, 0)), Outcome::default());
    assert_eq!(lease(&link).drops.narrowed(WINDOW), WINDOW / 2, "the window stays halved");
    let outcome = beat(&mut link, 150, flight(0, 3), dropped(12));
    assert_eq!(
        outcome,
        Outcome { others_drops: 3, doubtful: true, ..Outcome::default() },
        "with half the window it goes on"
    );
}

#[test]
fn drops_while_nothing_of_ours_is_under_way_are_others() {
    let mut link = up();
    let outcome = beat(&mut link, 10, flight(5, 5), Pong { drops: 3, ..good() });
    assert_eq!(outcome, Outcome { others_drops: 3, doubtful: true, ..Outcome::default() });
}

#[test]
fn what_another_connection_or_incarnation_had_dropped_is_no_growth() {
    let mut link = connected();
    assert_eq!(beat(&mut link, 0, flight(0, 5), Pong { drops: 999, ..good() }).rewind, None);
    let other = Pong { drops: 5_000, incarnation: Incarnation(2), ..good() };
    assert_eq!(beat(&mut link, 10, flight(0, 5), other).rewind, Some(Rewind::Incarnation));
    assert_eq!(
        beat(&mut link, 20, flight(0, 5), Pong { drops: 5_000, incarnation: Incarnation(2), ..good() }).rewind,
        None
    );
}

#[test]
fn rewinds_without_a_confirmation_between_them_wait_ever_longer() {
    let mut link = up();
    let mut incarnation = 10;
    let mut at = 10;
    let mut pauses = Vec::new();
    for _ in 0..9 {
        incarnation += 1;
        let changed = Pong { incarnation: Incarnation(incarnation), ..good() };
        assert_eq!(beat(&mut link, at, flight(0, 5), changed).rewind, Some(Rewind::Incarnation));
        pauses.push(lease(&link).backoff.until.since(ms(at + 1)).as_millis());
        at += 10_000;
    }
    assert_eq!(pauses, [51, 100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
    assert_eq!(link.permit(ms(at - 10_000 + 5)), None, "the lease is good, the pause is not over");
    let same = Pong { incarnation: Incarnation(incarnation), ..good() };
    beat(&mut link, at, flight(0, 5), same);
    assert_eq!(beat(&mut link, at + 100, flight(0, 5), same).confirm, Some(Seq(5)));
    assert_eq!(lease(&link).backoff.rewinds, 0, "a confirmation ends the series");
}

#[test]
fn a_refusal_rewinds_and_lets_one_datagram_at_a_time_test_the_path() {
    let mut link = up();
    assert_eq!(link.handle_refused(ms(5), flight(0, 5)), Some(Rewind::Refused));
    assert_eq!(link.permit(ms(6)), None, "a new good heartbeat comes first");
    beat(&mut link, 10, IDLE, good());
    assert_eq!(link.permit(ms(12)), None, "the test waits until a refusal would be answered");
    beat(&mut link, 1_300, IDLE, good());
    assert_eq!(link.permit(ms(1_302)).map(|permit| permit.single), Some(true));
    beat(&mut link, 1_400, flight(0, 1), good());
    assert_eq!(beat(&mut link, 1_500, flight(0, 1), good()).confirm, Some(Seq(1)));
    assert_eq!(link.permit(ms(1_502)).map(|permit| permit.single), Some(false), "what is confirmed was not refused");
}

#[test]
fn three_refusals_under_good_heartbeats_are_a_state_of_their_own() {
    let mut link = up();
    for (count, at) in [(1, 10), (2, 2_000), (3, 4_000)] {
        beat(&mut link, at, IDLE, good());
        link.handle_refused(ms(at + 2), flight(0, 1));
        beat(&mut link, at + 10, IDLE, good());
        let standing = if count < 3 { Standing::Up } else { Standing::Refused };
        assert_eq!(link.standing(ms(0)), standing, "after {count}");
    }
    let again = Pong { incarnation: Incarnation(2), ..good() };
    beat(&mut link, 6_000, IDLE, again);
    assert_eq!(link.standing(ms(0)), Standing::Up, "another remoted is another path");
}

#[test]
fn the_reports_of_one_refused_batch_count_once() {
    let mut link = up();
    for _ in 0..10 {
        link.handle_refused(ms(5), flight(0, 5));
    }
    beat(&mut link, 10, IDLE, good());
    assert_eq!(link.standing(ms(0)), Standing::Up);
}

#[test]
fn an_idle_link_beats_once_an_interval_and_a_busy_one_when_the_last_came_back() {
    const NOTHING: Work = Work { unsent: None, hurry: None, under_way: false };
    const UNSENT: Work = Work { unsent: Some(Time::ZERO), hurry: None, under_way: false };
    let mut link = Link::new(Transport::Udp, SETTINGS);
    assert_eq!(link.next_heartbeat(UNSENT), None, "no connection");
    link = connected();
    assert_eq!(link.next_heartbeat(NOTHING), Some(ms(0)), "the first at once");
    let probe = link.begin(ms(0), IDLE).expect("a heartbeat may begin");
    assert_eq!(link.next_heartbeat(NOTHING), Some(ms(1_000)));
    let fifth = link.next_heartbeat(UNSENT).expect("it is busy").since(ms(0));
    assert_eq!(fifth, link.lease() / 5, "one is under way");
    link.handle_pong(ms(1), probe, &good(), IDLE);
    assert_eq!(link.next_heartbeat(UNSENT), Some(ms(1)), "it came back, and a millisecond has passed since it began");
    assert_eq!(link.next_heartbeat(NOTHING), Some(ms(1_000)));
    link.handle_released(ms(1), 832, true);
    assert_eq!(link.next_heartbeat(NOTHING), Some(ms(51)), "what was released must be covered when it has landed");
    assert_eq!(link.next_heartbeat(UNSENT), Some(ms(1)), "more waits for it");
    let probe = link.begin(ms(51), flight(0, 1)).expect("a heartbeat may begin");
    link.handle_pong(ms(52), probe, &good(), flight(0, 1));
    assert_eq!(link.next_heartbeat(NOTHING), Some(ms(1_051)), "it is covered: its confirmation can wait");
    assert_eq!(
        link.next_heartbeat(Work { unsent: None, hurry: Some(Time::ZERO), under_way: false }),
        Some(ms(52)),
        "unless somebody waits for it"
    );
}

#[test]
fn the_server_may_slow_heartbeats_down_and_ask_for_one() {
    const UNSENT: Work = Work { unsent: Some(Time::ZERO), hurry: None, under_way: false };
    let mut link = connected();
    beat(&mut link, 0, IDLE, Pong { gap_us: 50_000, ..good() });
    assert_eq!(link.next_heartbeat(UNSENT), Some(ms(50)), "the gap it asked for");
    beat(&mut link, 50, IDLE, Pong { window: 0, ask_again_ms: 300, ..good() });
    assert_eq!(link.permit(ms(52)), None, "no window");
    assert_eq!(link.next_heartbeat(UNSENT), Some(ms(351)), "when it said to ask again");
    beat(&mut link, 351, IDLE, Pong { verdict: Verdict::NoProcess(Port::Free), ..good() });
    assert_eq!(link.next_heartbeat(UNSENT), Some(ms(1_351)), "remoted is away: one an interval");
    link.handle_notice(Verdict::Up);
    assert_eq!(link.next_heartbeat(UNSENT), Some(ms(352)), "the server says that this has changed");
    beat(&mut link, 352, IDLE, Pong { gap_us: u32::MAX, ..good() });
    assert_eq!(link.next_heartbeat(UNSENT), Some(ms(1_352)), "no server can slow them below the interval");
}

#[test]
fn a_slower_path_is_learnt_and_an_outage_is_not_taken_for_one() {
    let mut link = up();
    let probes: Vec<_> = (10..18).filter_map(|at| link.begin(ms(at), IDLE)).collect();
    for probe in probes {
        link.handle_pong(ms(4_000), probe, &good(), IDLE);
    }
    assert!(link.lease() < 8 * SETTINGS.lease, "{:?} after an outage of four seconds", link.lease());
    for start in (5_000..20_000).step_by(1_500) {
        let probe = link.begin(ms(start), IDLE).expect("a heartbeat may begin");
        link.handle_pong(ms(start + 1_500), probe, &good(), IDLE);
    }
    assert!(link.lease() > Duration::from_millis(1_500), "{:?} on a path of 1.5 s", link.lease());
}

#[test]
fn no_more_than_eight_heartbeats_are_under_way() {
    let mut link = connected();
    let probes: Vec<_> = (0..20).filter_map(|at| link.begin(ms(at), IDLE)).collect();
    assert_eq!(probes.len(), HEARTBEATS_MAX);
    assert_eq!(link.next_heartbeat(Work { unsent: Some(Time::ZERO), hurry: None, under_way: false }), None);
    let last = probes.into_iter().next_back().expect("there are eight");
    link.handle_pong(ms(21), last, &good(), IDLE);
    let probes: Vec<_> = (21..40).filter_map(|at| link.begin(ms(at), IDLE)).collect();
    assert_eq!(probes.len(), HEARTBEATS_MAX, "those before an answered one are not waited for");
}

#[test]
fn a_connection_is_silent_after_twice_the_lease_without_an_answer() {
    let mut link = up();
    assert!(!link.is_silent(ms(100_000)), "nothing is due");
    let probe = link.begin(ms(10), IDLE).expect("a heartbeat may begin");
    let twice = ms(10) + 2 * link.lease();
    assert!(!link.is_silent(twice) && link.is_silent(twice + Duration::from_millis(1)));
    let silent = twice + Duration::from_millis(1);
    link.handle_time(silent, IDLE);
    assert_eq!(link.next_deadline(silent), None, "both are known: nobody is to be woken for them again");
    link.handle_pong(ms(900), probe, &good(), IDLE);
    assert!(!link.is_silent(ms(100_000)), "it came back, late as it is");
}

#[test]
fn a_suspended_host_begins_with_a_heartbeat() {
    let mut link = up();
    assert!(link.permit(ms(2)).is_some());
    let awake = 3_600_000;
    assert_eq!(link.permit(ms(awake)), None);
    assert!(
        link.next_heartbeat(Work { unsent: Some(Time::ZERO), hurry: None, under_way: false })
            .is_some_and(|at| at <= ms(awake))
    );
    beat(&mut link, awake, IDLE, good());
    assert!(link.permit(ms(awake + 2)).is_some());
}

#[test]
fn the_lease_follows_the_round_trip_up_to_the_timeout_and_a_longer_path_beyond_it() {
    let mut link = connected();
    let mut take = |millis, count| {
        for _ in 0..count {
            link.beats.rtt.handle_sample(Duration::from_millis(millis), Duration::MAX);
        }
        link.lease()
    };
    assert!((400..=410).contains(&take(300, 50).as_millis()));
    take(10_000, 8);
    assert_eq!(take(300, 1), SETTINGS.timeout, "some were late");
    assert!((1_500..=1_600).contains(&take(1_400, 50).as_millis()), "a path that takes less than --timeout");
    assert!((2_600..=2_700).contains(&take(2_500, 50).as_millis()), "... and one that takes more");
    assert_eq!(take(60_000, 50), crate::proto::terms::LEASE_MAX);
}
