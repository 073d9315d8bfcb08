use std::net::Ipv4Addr;

use super::stream::*;
use super::*;
use crate::proto::terms::SessionName;
use crate::proto::terms::{Seq, digest};
use crate::proto::wire::{Ack, DataItem, Resume};

const LIFE: Incarnation = Incarnation(1);
const OTHER_LIFE: Incarnation = Incarnation(2);
const STREAM: StreamId = 77;
const NOW: Time = Time::ZERO;
const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

/// A frame with datagrams of session 0, one for each number. The number is the payload.
fn data(epoch: u32, numbers: std::ops::Range<u64>) -> Data {
    let payloads: Vec<(u64, [u8; 8])> = numbers.map(|number| (number, number.to_be_bytes())).collect();
    let items: Vec<DataItem<'_>> = payloads.iter().map(|(number, bytes)| item(*number, 0, bytes)).collect();
    Data::new(epoch, &items)
}

/// The digest of the datagram whose payload is this number.
fn digest_of(number: u64) -> u64 {
    digest(&number.to_be_bytes())
}

const fn item(number: u64, session: u16, bytes: &[u8]) -> DataItem<'_> {
    DataItem { seq: Seq(number), session, bytes }
}

const fn session(id: u16, generation: u32) -> Session {
    Session { name: SessionName { id, generation }, port: 1_517 }
}

/// Attaches a stream on this connection, with its agent named. Returns where the stream is told to go on.
fn attached(streams: &mut Streams, connection: ConnectionId, stream: StreamId) -> Resume {
    streams.handle_attach(NOW, connection, stream, HOST, false);
    streams.handle_session(connection, session(0, 0)).expect("it is attached");
    let mut resume = None;
    while let Some((to, told)) = streams.poll_frame() {
        if let (true, Frame::Resume(told)) = (to == connection, told) {
            resume = Some(told);
        }
    }
    resume.expect("it is told where to go on")
}

/// The state after remoted was seen and one stream was attached in its first epoch.
fn begun() -> Streams {
    let mut streams = Streams::default();
    streams.handle_sample(LIFE, Reading::default());
    let resume = attached(&mut streams, 1, STREAM);
    assert_eq!((resume.epoch, resume.from, resume.reached), (1, None, Seq(u64::MAX)), "nothing is known of it");
    streams
}

/// Injects all datagrams that fit `room`. Returns the numbers in their payloads.
fn inject(streams: &mut Streams, mut room: u64) -> Vec<u64> {
    let mut injected = Vec::new();
    while let Some(volley) = streams.poll(room, usize::MAX) {
        let payloads = &volley.payloads;
        let count = payloads.len();
        injected.extend(payloads.iter().map(|bytes| u64::from_be_bytes((*bytes).try_into().expect("a number"))));
        room -= 832 * count as u64;
        streams.handle_injected(count);
    }
    injected
}

/// All frames that connections are told.
fn told(streams: &mut Streams) -> Vec<(ConnectionId, Frame)> {
    std::iter::from_fn(|| streams.poll_frame()).collect()
}

/// remoted's queue is seen empty at two looks: only the second counts for datagrams injected before.
fn all_read(streams: &mut Streams, read: u64) {
    streams.handle_sample(LIFE, Reading { read, queue: 0 });
    assert_eq!(told(streams), [], "it may not have been in the socket");
    streams.handle_sample(LIFE, Reading { read, queue: 0 });
}

const fn ack(read: u64) -> Frame {
    Frame::Ack(Ack { read: Seq(read), window: WINDOW_MAX, doubtful: false })
}

#[test]
fn what_was_injected_is_acknowledged_when_it_was_read_and_not_before() {
    let mut streams = begun();
    streams.handle_data(1, data(1, 10..13)).expect("in order");
    assert_eq!(inject(&mut streams, 10_000), [10, 11, 12]);
    assert_eq!(told(&mut streams), []);
    streams.handle_sample(LIFE, Reading::default());
    assert_eq!(told(&mut streams), [], "it is on its way to the socket");
    streams.handle_sample(LIFE, Reading { read: 0, queue: 3 * 832 });
    assert_eq!(told(&mut streams), [], "it lies in the socket");
    streams.handle_sample(LIFE, Reading { read: 832, queue: 2 * 832 });
    assert_eq!(told(&mut streams), []);
    streams.handle_sample(LIFE, Reading { read: 3 * 832, queue: 832 });
    assert_eq!(told(&mut streams), [(1, ack(13))], "so much was read, and something of others waits");
    assert_eq!(streams.unread_cost(), 0);
    streams.handle_data(1, data(1, 13..14)).expect("in order");
    inject(&mut streams, 10_000);
    all_read(&mut streams, 3 * 832);
    assert_eq!(
        told(&mut streams),
        [(1, ack(14))],
        "an empty queue says it too: a fall between two samples is not seen"
    );
}

#[test]
fn another_life_of_remoted_gets_what_the_last_one_had_not_read() {
    let mut streams = begun();
    streams.handle_data(1, data(1, 0..6)).expect("in order");
    assert_eq!(inject(&mut streams, 2 * 832), [0, 1]);
    all_read(&mut streams, 0);
    assert_eq!(told(&mut streams), [(1, ack(2))]);
    assert_eq!(inject(&mut streams, 2 * 832), [2, 3]);
    streams.handle_sample(Incarnation::default(), Reading::default());
    let resume = Resume { epoch: 2, from: Some(Seq(2)), reached: Seq(4), window: WINDOW_MAX, digest: digest_of(1) };
    assert_eq!(told(&mut streams), [(1, Frame::Resume(resume)), (1, ack(2))]);
    streams.handle_data(1, data(1, 6..8)).expect("what was under way counts for nothing");
    assert_eq!(inject(&mut streams, 10_000), [0; 0], "2 has to come first");
    streams.handle_sample(OTHER_LIFE, Reading::default());
    assert_eq!(told(&mut streams), [], "nothing was injected meanwhile");
    streams.handle_session(1, session(0, 0)).expect("named again");
    streams.handle_data(1, data(2, 2..8)).expect("from where it was told");
    assert_eq!(inject(&mut streams, 10_000), [2, 3, 4, 5, 6, 7]);
}

#[test]
fn a_life_that_had_read_everything_ends_without_a_copy() {
    let mut streams = begun();
    streams.handle_data(1, data(1, 0..2)).expect("in order");
    inject(&mut streams, 10_000);
    all_read(&mut streams, 0);
    told(&mut streams);
    streams.handle_data(1, data(1, 2..4)).expect("in order");
    streams.handle_sample(OTHER_LIFE, Reading::default());
    let resume = Resume { epoch: 2, from: Some(Seq(2)), reached: Seq(2), window: WINDOW_MAX, digest: digest_of(1) };
    assert_eq!(told(&mut streams)[0], (1, Frame::Resume(resume)), "its client says what of it is not too old");
    assert_eq!(inject(&mut streams, 10_000), [0; 0]);
}

#[test]
fn what_a_client_has_left_goes_to_the_next_life_of_remoted() {
    let mut streams = begun();
    streams.handle_data(1, data(1, 0..2)).expect("in order");
    streams.handle_gone(NOW, 1);
    streams.handle_sample(OTHER_LIFE, Reading::default());
    assert_eq!(inject(&mut streams, 10_000), [0, 1]);
}

#[test]
fn a_new_connection_goes_on_behind_what_was_injected_and_the_old_one_is_heard_no_more() {
    let mut streams = begun();
    streams.handle_data(1, data(1, 0..8)).expect("in order");
    assert_eq!(inject(&mut streams, 3 * 832), [0, 1, 2]);
    streams.handle_sample(LIFE, Reading { read: 0, queue: 3 * 832 });
    assert_eq!(streams.handle_attach(NOW, 2, STREAM, HOST, false), Some(1));
    assert_eq!(streams.handle_data(1, data(1, 8..9)), Err(Offence::Unattached));
    let resume = Resume { epoch: 2, from: Some(Seq(3)), reached: Seq(3), window: WINDOW_MAX, digest: digest_of(2) };
    assert_eq!(told(&mut streams), [(2, Frame::Resume(resume)), (2, ack(0))]);
    assert_eq!(inject(&mut streams, 10_000), [0; 0], "what the old one still had is discarded");
    streams.handle_session(2, session(0, 0)).expect("named again");
    streams.handle_data(2, data(2, 3..5)).expect("from where it was told");
    assert_eq!(inject(&mut streams, 10_000), [3, 4]);
    streams.handle_gone(NOW, 1);
    streams.handle_sample(LIFE, Reading { read: 3 * 832, queue: 2 * 832 });
    streams.handle_sample(LIFE, Reading { read: 5 * 832, queue: 0 });
    assert_eq!(told(&mut streams), [(2, ack(5))], "also what the old one had brought");
}

#[test]
fn what_a_client_sent_before_it_went_away_is_injected() {
    let mut streams = begun();
    streams.handle_data(1, data(1, 0..4)).expect("in order");
    streams.handle_gone(NOW, 1);
    assert_eq!(inject(&mut streams, 10_000), [0, 1, 2, 3]);
    let left = &streams.by_id[&STREAM];
    assert!(left.sessions.is_empty() && left.named.is_empty(), "nothing but numbers is kept of it");
    streams.handle_sample(LIFE, Reading::default());
    let resume = attached(&mut streams, 2, STREAM);
    assert_eq!((resume.from, resume.reached), (Some(Seq(4)), Seq(4)));
}

#[test]
fn clients_that_come_and_go_leave_no_more_behind_than_all_may_have() {
    for datagrams in [500, 1] {
        let mut streams = Streams::default();
        streams.handle_sample(LIFE, Reading::default());
        for connection in 0..3_000 {
            let resume = attached(&mut streams, connection, u128::from(connection));
            streams.handle_data(connection, data(resume.epoch, 0..datagrams)).expect("in order");
            streams.handle_gone(NOW, connection);
        }
        assert!(streams.waiting_cost() <= WINDOWS_TOTAL + WINDOW_MAX, "{} wait", streams.waiting_cost());
        assert!(streams.schedule.len() <= WAITING_MAX + 1, "{} streams wait", streams.schedule.len());
        // A client that comes back is told to send its datagrams again, whether they were kept or not.
        assert_eq!(attached(&mut streams, 5_000, 2_999).from, Some(Seq(0)));
    }
}

#[test]
fn streams_take_turns_and_no_volley_is_of_two_agents() {
    let mut streams = begun();
    attached(&mut streams, 2, STREAM + 1);
    streams.handle_data(1, data(1, 0..100)).expect("in order");
    streams.handle_data(2, data(1, 1_000..1_003)).expect("in order");
    let injected = inject(&mut streams, 1 << 20);
    let at = injected.iter().position(|&number| number == 1_000).expect("it had its turn");
    assert_eq!(at, schedule::TURN_DATAGRAMS);
    assert_eq!(injected.len(), 103);
    assert!(injected.iter().filter(|&&number| number < 1_000).is_sorted());

    streams.handle_session(1, session(1, 0)).expect("attached");
    let mixed = Data::new(1, &[(100, 0), (101, 1), (102, 1)].map(|(number, session)| item(number, session, b"x")));
    streams.handle_data(1, mixed).expect("in order");
    for expected in [(0, 1), (1, 2)] {
        let volley = streams.poll(1 << 20, usize::MAX).expect("there is more");
        let count = volley.payloads.len();
        assert_eq!((volley.session.name.id, count), expected);
        streams.handle_injected(count);
    }
}

#[test]
fn a_place_that_is_given_to_another_agent_changes_hands_behind_what_waits_for_the_first() {
    let mut streams = begun();
    streams.handle_data(1, data(1, 0..1)).expect("in order");
    streams.handle_session(1, session(0, 1)).expect("attached");
    streams.handle_data(1, data(1, 1..2)).expect("in order");
    for generation in [0, 1] {
        assert_eq!(streams.poll(832, usize::MAX).expect("one each").session.name.generation, generation);
        streams.handle_injected(1);
    }
}

#[test]
fn what_may_have_been_dropped_is_injected_again_before_anything_newer() {
    let mut streams = begun();
    streams.handle_data(1, data(1, 0..9)).expect("in order");
    assert_eq!(inject(&mut streams, 2 * 832), [0, 1]);
    all_read(&mut streams, 0);
    assert_eq!(told(&mut streams), [(1, ack(2))]);
    assert_eq!(inject(&mut streams, 2 * 832), [2, 3]);
    streams.handle_sample(LIFE, Reading { read: 0, queue: 2 * 832 });
    assert_eq!(inject(&mut streams, 2 * 832), [4, 5]);
    assert!(streams.is_unsettled());
    streams.handle_drop(true);
    // This includes the step that one sample has followed: its datagrams may have been on their way then.
    assert_eq!((streams.unread_cost(), streams.waiting_cost()), (0, 7 * 832));
    streams.handle_sample(LIFE, Reading { read: 0, queue: 2 * 832 });
    assert_eq!(told(&mut streams), [], "its client need not know");
    assert_eq!(inject(&mut streams, 3 * 832), [2, 3, 4]);
    streams.handle_drop(true);
    assert_eq!(inject(&mut streams, 5 * 832), [2, 3, 4, 5, 6]);
    assert_eq!(streams.repeated(), 7);
    all_read(&mut streams, 0);
    assert_eq!(told(&mut streams), [(1, ack(7))]);
    streams.handle_drop(true);
    assert_eq!(inject(&mut streams, 5 * 832), [7, 8], "what is known to be in the socket stays there");
}

#[test]
fn what_is_to_come_once_is_doubtful_when_it_may_have_been_dropped() {
    for (once, again) in [(true, true), (false, false)] {
        let mut streams = Streams::default();
        streams.handle_sample(LIFE, Reading::default());
        streams.handle_attach(NOW, 1, STREAM, HOST, once);
        streams.handle_session(1, session(0, 0)).expect("attached");
        told(&mut streams);
        streams.handle_data(1, data(1, 0..4)).expect("in order");
        assert_eq!(inject(&mut streams, 2 * 832), [0, 1]);
        streams.handle_drop(again);
        assert_eq!(inject(&mut streams, 832), [2]);
        all_read(&mut streams, 0);
        let doubtful = |read| Frame::Ack(Ack { read: Seq(read), window: WINDOW_MAX, doubtful: true });
        assert_eq!(told(&mut streams), [(1, doubtful(3))]);
        inject(&mut streams, 832);
        all_read(&mut streams, 0);
        assert_eq!(told(&mut streams), [(1, ack(4))], "nothing was dropped since");
    }
}

#[test]
fn what_may_have_been_dropped_outlives_its_connection_and_comes_before_what_a_new_one_brings() {
    let mut streams = begun();
    streams.handle_data(1, data(1, 0..4)).expect("in order");
    assert_eq!(inject(&mut streams, 2 * 832), [0, 1]);
    streams.handle_gone(NOW, 1);
    assert_eq!(attached(&mut streams, 2, STREAM).from, Some(Seq(2)));
    streams.handle_drop(true);
    streams.handle_data(2, data(2, 2..4)).expect("from where it was told");
    assert_eq!(inject(&mut streams, 10_000), [0, 1, 2, 3]);
    all_read(&mut streams, 0);
    assert_eq!(told(&mut streams), [(2, ack(4))]);
}

#[test]
fn a_client_that_was_started_anew_follows_what_it_has_left_that_may_have_been_dropped() {
    let mut streams = begun();
    streams.handle_data(1, data(1, 0..2)).expect("in order");
    assert_eq!(inject(&mut streams, 10_000), [0, 1]);
    streams.handle_gone(NOW, 1);
    attached(&mut streams, 2, STREAM + 1);
    streams.handle_data(2, data(1, 100..102)).expect("in order");
    assert_eq!(inject(&mut streams, 10_000), [0; 0], "it is not known to be in the socket");
    streams.handle_drop(true);
    assert_eq!(inject(&mut streams, 10_000), [0, 1]);
    streams.handle_sample(LIFE, Reading::default());
    assert_eq!(inject(&mut streams, 10_000), [0; 0]);
    streams.handle_sample(LIFE, Reading::default());
    assert_eq!(inject(&mut streams, 10_000), [100, 101]);
    assert_eq!((streams.waiting_cost(), streams.schedule.len()), (0, 0));
}

#[test]
fn a_stream_that_cannot_be_injected_comes_again_with_what_may_have_been_dropped() {
    let mut streams = begun();
    streams.handle_data(1, data(1, 0..4)).expect("in order");
    assert_eq!(inject(&mut streams, 2 * 832), [0, 1]);
    streams.handle_drop(true);
    assert_eq!(streams.handle_uninjectable(NOW, STREAM), Some(1));
    assert_eq!((streams.waiting_cost(), streams.unread_cost()), (0, 0));
    assert_eq!(attached(&mut streams, 2, STREAM).from, Some(Seq(0)));
}

#[test]
fn what_no_client_of_ours_sends_is_an_offence() {
    let mut streams = begun();
    assert_eq!(streams.handle_data(9, data(1, 0..1)), Err(Offence::Unattached));
    assert_eq!(streams.handle_session(9, session(0, 0)), Err(Offence::Unattached));
    streams.handle_data(1, data(1, 5..7)).expect("in order");
    assert_eq!(streams.handle_data(1, data(1, 6..8)), Err(Offence::Order));
    let unnamed = Data::new(1, &[item(8, 3, b"x")]);
    assert_eq!(streams.handle_data(1, unnamed), Err(Offence::Unnamed));
    let mut next = 10;
    let offence = loop {
        match streams.handle_data(1, data(1, next..next + 500)) {
            Ok(()) => next += 500,
            Err(offence) => break offence,
        }
    };
    assert_eq!(offence, Offence::TooMuch);
    assert!(next * 832 <= WINDOW_MAX + DATAGRAM_COST_MAX, "{next} were taken in");
}

#[test]
fn what_cannot_be_injected_keeps_nobody_waiting_and_comes_again_over_another_connection() {
    let mut streams = begun();
    attached(&mut streams, 2, STREAM + 1);
    streams.handle_data(1, data(1, 10..13)).expect("in order");
    streams.handle_data(2, data(1, 20..22)).expect("in order");
    assert!(streams.poll(10_000, usize::MAX).is_some_and(|volley| volley.stream == STREAM));
    assert_eq!(streams.handle_uninjectable(NOW, STREAM), Some(1));
    assert_eq!(inject(&mut streams, 10_000), [20, 21]);
    assert_eq!((streams.waiting_cost(), streams.carries(1)), (0, false));
    assert_eq!(streams.handle_data(1, data(1, 13..14)), Err(Offence::Unattached));
    let resume = attached(&mut streams, 3, STREAM);
    assert_eq!(resume.from, Some(Seq(10)), "nothing of it was injected");
    streams.handle_data(3, data(resume.epoch, 10..13)).expect("in order");
    assert_eq!(inject(&mut streams, 10_000), [10, 11, 12]);
}

#[test]
fn a_window_is_an_equal_part_of_what_all_may_have() {
    let mut streams = Streams::default();
    let mut last = 0;
    for connection in 0..100 {
        last = attached(&mut streams, connection, u128::from(connection)).window;
    }
    assert_eq!(last, WINDOWS_TOTAL / 100);
}

#[test]
fn a_client_that_was_started_anew_follows_what_it_had_left() {
    let mut streams = begun();
    streams.handle_data(1, data(1, 0..100)).expect("as it should be");
    // The server waits neither for a client from elsewhere nor for one of the same address that comes back.
    streams.handle_gone(NOW, 1);
    attached(&mut streams, 2, STREAM + 1);
    streams.handle_data(2, data(1, 1_000..1_100)).expect("as it should be");
    streams.handle_gone(NOW, 2);
    attached(&mut streams, 3, STREAM + 2);
    streams.handle_data(3, data(1, 2_000..2_100)).expect("as it should be");
    let elsewhere = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
    streams.handle_attach(NOW, 4, STREAM + 3, elsewhere, false);
    streams.handle_session(4, session(0, 0)).expect("it is attached");
    while streams.poll_frame().is_some() {}
    streams.handle_data(4, data(1, 3_000..3_100)).expect("as it should be");
    let mut injected = Vec::new();
    for _ in 0..7 {
        injected.extend(inject(&mut streams, u64::MAX));
        streams.handle_sample(LIFE, Reading::default());
    }
    let (others, own): (Vec<u64>, Vec<u64>) = injected.iter().partition(|&&number| number >= 3_000);
    let expected: Vec<u64> = (0..100).chain(1_000..1_100).chain(2_000..2_100).collect();
    assert_eq!(own, expected, "each life of the client after the one before");
    assert_eq!(others, (3_000..3_100).collect::<Vec<_>>());
    assert!(injected[64] >= 3_000 || injected[32] >= 3_000, "the other host had its turns");
    assert_eq!(streams.waiting_cost(), 0);
}

#[test]
fn who_follows_a_stream_goes_on_when_that_is_discarded_or_comes_back() {
    for comes_back in [false, true] {
        let mut streams = begun();
        streams.handle_data(1, data(1, 0..10)).expect("as it should be");
        streams.handle_gone(NOW, 1);
        attached(&mut streams, 2, STREAM + 1);
        streams.handle_data(2, data(1, 100..110)).expect("as it should be");
        if comes_back {
            attached(&mut streams, 3, STREAM);
        } else {
            streams.handle_uninjectable(NOW, STREAM);
        }
        assert_eq!(inject(&mut streams, u64::MAX), (100..110).collect::<Vec<_>>(), "comes back: {comes_back}");
    }
}
