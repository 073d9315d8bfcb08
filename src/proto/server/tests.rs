mod heartbeats;

use super::*;
use crate::proto::server::judge::{Presence, Process, Socket};
use crate::proto::terms::{Seq, SessionName};
use crate::proto::wire::{Ack, DataItem};

const BUFFER: u64 = 212_992;
const SMALL: u64 = 832;

fn ms(n: u64) -> Time {
    Time::from_millis(n)
}

fn sample(queue: u64, drops: u32) -> Sample {
    Sample {
        presence: Presence::Running,
        sockets: vec![Socket { inode: 1, rx_queue: queue, drops, buffer: Some(BUFFER) }],
        owners: vec![Process { pid: 7, start_ticks: 1 }],
        age: Some(Duration::from_hours(1)),
        companion: None,
        missing: None,
        bindings: None,
    }
}

fn data(epoch: u32, numbers: std::ops::Range<u64>) -> Data {
    let item = |number| DataItem { seq: Seq(number), session: 0, bytes: b"x" };
    Data::new(epoch, &numbers.map(item).collect::<Vec<_>>())
}

fn look(core: &mut ServerCore, now: Time, sample: &Sample) {
    core.handle_sample(now, sample, None, false);
}

const fn way(dropped: u64, longest: usize) -> OnTheWay {
    OnTheWay { dropped, longest }
}

/// A core with remoted up and one client that has sent so many datagrams.
fn core(datagrams: u64) -> ServerCore {
    let mut core = ServerCore::new(Duration::ZERO, 500);
    look(&mut core, ms(0), &sample(0, 0));
    begin(&mut core, datagrams);
    core
}

/// Attaches a client that has sent so many datagrams.
fn begin(core: &mut ServerCore, datagrams: u64) {
    core.handle_attach(ms(0), 1, 77, IpAddr::from([10, 0, 0, 1]), false);
    core.handle_session(1, Session { name: SessionName { id: 0, generation: 0 }, port: 0 }).expect("attached");
    while core.poll_frame().is_some() {}
    if datagrams > 0 {
        core.handle_data(1, data(1, 0..datagrams)).expect("in order");
    }
}

/// Injects all datagrams that may follow the newest sample. Returns how many.
fn inject(core: &mut ServerCore, now: Time) -> u64 {
    let mut injected = 0;
    while let Some(volley) = core.poll(now) {
        let count = volley.payloads.len();
        core.handle_injected(count);
        injected += count as u64;
    }
    core.end_step();
    injected
}

/// All frames that connections are told.
fn told(core: &mut ServerCore) -> Vec<Frame> {
    std::iter::from_fn(|| core.poll_frame()).map(|(_, told)| told).collect()
}

fn ack(read: u64, doubtful: bool) -> Frame {
    Frame::Ack(Ack { read: Seq(read), window: 4 << 20, doubtful })
}

#[test]
fn nothing_is_injected_but_behind_a_sample() {
    let mut core = core(200);
    assert_eq!(inject(&mut core, ms(0)), 128, "half of the buffer");
    look(&mut core, ms(1), &sample(0, 0));
    look(&mut core, ms(2), &sample(0, 0));
    assert_eq!(inject(&mut core, ms(2)), 72);
    core.handle_data(1, data(1, 200..201)).expect("in order");
    assert_eq!(inject(&mut core, ms(3)), 0, "remoted may have died since");
    assert_eq!(core.next_look(), Some(ms(3)), "so it is looked at soon");
}

#[test]
fn nothing_is_injected_where_remoted_is_not_as_it_was_found() {
    let mut core = core(5);
    // One of its sockets is gone, say.
    core.handle_sample(ms(1), &sample(0, 0), None, true);
    assert_eq!(inject(&mut core, ms(1)), 0);
    core.handle_sample(ms(2), &sample(0, 0), None, false);
    assert_eq!(inject(&mut core, ms(2)), 5);
}

#[test]
fn a_step_is_no_longer_than_what_the_system_takes_in_a_row() {
    let mut core = ServerCore::new(Duration::ZERO, 100);
    let large = |queue| {
        let mut sample = sample(queue, 0);
        sample.sockets[0].buffer = Some(8 << 20);
        sample
    };
    look(&mut core, ms(0), &large(0));
    begin(&mut core, 1_000);
    for at in 1..=10 {
        look(&mut core, ms(at), &large(0));
        assert_eq!(inject(&mut core, ms(at)), 100);
    }
}

#[test]
fn what_has_not_come_to_a_socket_takes_its_place_in_the_next_step() {
    let mut core = core(120);
    let mut injected_at = |at, longest| {
        core.handle_sample(ms(at), &sample(0, 0), Some(way(0, longest)), false);
        inject(&mut core, ms(at))
    };
    assert_eq!(injected_at(1, 480), 20);
    assert_eq!((2..1_004).map(|at| injected_at(at, 500)).sum::<u64>(), 0);
    assert_eq!(injected_at(1_004, 500), 1, "nobody can stop the streams for ever");
    assert_eq!(injected_at(1_005, 0), 99);
}

#[test]
fn what_the_system_drops_on_its_way_to_the_socket_is_injected_again() {
    let mut core = core(0);
    // Datagrams that were dropped before this sample are others'.
    core.handle_sample(ms(1), &sample(0, 0), Some(way(700, 0)), false);
    core.handle_data(1, data(1, 0..5)).expect("in order");
    assert_eq!(inject(&mut core, ms(1)), 5);
    core.handle_sample(ms(2), &sample(3 * SMALL, 0), Some(way(702, 0)), false);
    assert_eq!(inject(&mut core, ms(2)), 0, "not while something drops");
    core.handle_sample(ms(3), &sample(0, 0), Some(way(702, 0)), false);
    assert_eq!(inject(&mut core, ms(3)), 5);
    core.handle_sample(ms(4), &sample(0, 0), Some(way(702, 0)), false);
    core.handle_sample(ms(5), &sample(0, 0), Some(way(702, 0)), false);
    assert_eq!((told(&mut core), core.streams().repeated()), (vec![ack(5, false)], 5));
}

#[test]
fn a_drop_while_nothing_of_ours_is_under_way_does_not_excuse_the_next_one() {
    let mut core = core(0);
    look(&mut core, ms(1), &sample(0, 1));
    core.handle_data(1, data(1, 0..5)).expect("in order");
    look(&mut core, ms(20_000), &sample(0, 1));
    assert_eq!(inject(&mut core, ms(20_000)), 5);
    look(&mut core, ms(20_001), &sample(2 * SMALL, 4));
    look(&mut core, ms(20_002), &sample(2 * SMALL, 4));
    assert_eq!(inject(&mut core, ms(20_002)), 5, "three of ours may have been dropped");
}

#[test]
fn a_drop_of_the_last_life_is_none_of_the_next() {
    let mut core = core(0);
    look(&mut core, ms(1), &sample(0, 9));
    let mut next = sample(0, 0);
    next.sockets[0].inode = 2;
    look(&mut core, ms(2), &next);
    core.handle_data(1, data(1, 0..200)).expect("in order");
    look(&mut core, ms(3), &next);
    assert_eq!(inject(&mut core, ms(3)), 128, "with no care");
}

#[test]
fn while_others_overflow_the_socket_a_step_takes_a_quarter_of_the_room_and_waits_for_what_became_of_the_last() {
    let mut core = core(500);
    look(&mut core, ms(1), &sample(BUFFER, 10));
    assert_eq!(inject(&mut core, ms(1)), 0, "it overflows at this moment");
    look(&mut core, ms(2), &sample(BUFFER / 4, 10));
    let (usable, quarter) = (BUFFER * 70 / 100, 4);
    assert_eq!(inject(&mut core, ms(2)), (usable - BUFFER / 4) / quarter / SMALL);
    look(&mut core, ms(3), &sample(0, 10));
    assert_eq!(inject(&mut core, ms(3)), 0, "it may still be on its way");
    look(&mut core, ms(4), &sample(0, 10));
    assert_eq!(inject(&mut core, ms(4)), usable / quarter / SMALL);
    look(&mut core, ms(5), &sample(0, 10));
    look(&mut core, ms(6), &sample(0, 10));
    look(&mut core, ms(50), &sample(BUFFER * 3 / 4, 10));
    assert_eq!(inject(&mut core, ms(50)), 1, "where there is no room two could be parted");
    // After that the overflow is over.
    for at in [10_001, 10_002] {
        look(&mut core, ms(at), &sample(0, 10));
    }
    assert_eq!(inject(&mut core, ms(10_002)), 128);
}

#[test]
fn what_is_followed_by_a_drop_is_injected_again_for_a_second_and_no_longer() {
    let mut core = core(3);
    let (mut drops, mut injected, mut first_ack) = (0, 0, None);
    for at in 1..3_000 {
        // Each second look shows more drops.
        drops += (at % 2) as u32;
        look(&mut core, ms(at), &sample(if at % 2 == 0 { 0 } else { BUFFER }, drops));
        injected += inject(&mut core, ms(at));
        let acks = told(&mut core);
        if first_ack.is_none() && !acks.is_empty() {
            assert!(acks.iter().all(|told| matches!(told, Frame::Ack(ack) if ack.doubtful)), "{acks:?}");
            first_ack = Some(at);
        }
    }
    let first_ack = first_ack.expect("nothing stops a stream for ever");
    assert!((1_000..1_100).contains(&first_ack), "after {first_ack} ms");
    assert!(injected > 100, "it was tried {injected} times");
}

#[test]
fn no_more_is_injected_than_remoteds_buffer_takes_until_some_is_read() {
    let mut core = core(1_000);
    let first = inject(&mut core, ms(0));
    assert!((100..=BUFFER / 2 / SMALL).contains(&first), "{first} at once");
    look(&mut core, ms(1), &sample(first * SMALL, 0));
    assert_eq!(inject(&mut core, ms(1)), 0, "it has read nothing");
    look(&mut core, ms(2), &sample(first / 2 * SMALL, 0));
    assert_eq!(inject(&mut core, ms(2)), 0, "what was read is known when all of the step was");
    look(&mut core, ms(3), &sample(0, 0));
    assert_eq!(inject(&mut core, ms(3)), first);
}

#[test]
fn nothing_is_injected_while_remoted_is_not_up() {
    let mut core = core(5);
    look(&mut core, ms(1), &Sample { presence: Presence::Stopped, ..sample(0, 0) });
    assert_eq!(inject(&mut core, ms(1)), 0);
    look(&mut core, ms(2), &sample(0, 0));
    assert_eq!(inject(&mut core, ms(2)), 5);
}

#[test]
fn a_client_whose_stream_has_not_begun_keeps_no_room_from_it() {
    let ping = Ping {
        unsent: 12_000,
        held: 12_000,
        held_bytes: 1_800_000,
        next_cost: 832,
        lease_ms: 2_000,
        ..Ping::default()
    };
    let asked = |delivery| {
        let mut core = core(0);
        let pong = core.handle_ping(ms(0), 1, IpAddr::from([10, 0, 0, 1]), delivery, &ping, Duration::ZERO);
        assert_eq!(pong.verdict, Verdict::Up);
        core.handle_data(1, data(1, 0..100)).expect("in order");
        look(&mut core, ms(1), &sample(0, 0));
        inject(&mut core, ms(1))
    };
    assert_eq!(asked(Delivery::Direct(None)), 0, "all that there is to give is the client's");
    assert_eq!(asked(Delivery::Injected), 100);
}

#[test]
fn remoted_is_looked_at_soon_while_it_reads_and_seldom_while_it_does_not() {
    let mut core = core(5);
    inject(&mut core, ms(0));
    let mut at = ms(0);
    let mut gaps = Vec::new();
    for _ in 0..8 {
        let next = core.next_look().expect("something is not read");
        gaps.push(next.since(at).as_millis());
        at = next;
        look(&mut core, at, &sample(5 * SMALL, 0));
    }
    assert_eq!(gaps, [1, 1, 2, 4, 8, 16, 32, 50]);
    look(&mut core, at, &sample(0, 0));
    assert_eq!(core.next_look(), None);
}
