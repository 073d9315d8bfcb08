use std::net::{IpAddr, Ipv6Addr};

use proptest::prelude::*;
use proptest::sample::select;

use super::codec::*;
use super::data::DATA;
use super::frame::*;
use super::*;
use crate::proto::cost::*;
use crate::proto::foreign::shown;
use crate::proto::terms::*;

mod layout;

const VERDICTS: [Verdict; 13] = [
    Verdict::Up,
    Verdict::NoProcess(Port::Free),
    Verdict::NoProcess(Port::Taken),
    Verdict::NoSocket(Receives::Nowhere),
    Verdict::NoSocket(Receives::Elsewhere),
    Verdict::NoSocket(Receives::Ipv4Alone),
    Verdict::NoSocket(Receives::Ipv6Alone),
    Verdict::Stopped,
    Verdict::Stalled,
    Verdict::Starting(Reason::Unknown),
    Verdict::Starting(Reason::Settling),
    Verdict::Starting(Reason::AnalysisGone),
    Verdict::Starting(Reason::RequiredMissing),
];

fn pong() -> Pong {
    Pong {
        number: 7,
        verdict: Verdict::Up,
        incarnation: Incarnation(0xfeed),
        pid: 4711,
        read: 1 << 40,
        queue: 832,
        drops: 3,
        window: 106_496,
        gap_us: 1_000,
        ask_again_ms: 20,
        active: 3,
    }
}

fn ping() -> Ping {
    Ping {
        number: 7,
        oldest: Seq(10),
        next: Seq(12),
        tail: Seq(20),
        held: 10,
        held_bytes: 1_400,
        unsent: 8,
        dropped: 2,
        next_cost: 1_280,
        unconfirmed_cost: 2_560,
        lease_ms: 101,
    }
}

fn frames() -> Vec<Frame> {
    let target = Target { address: Some(IpAddr::from([10, 0, 0, 1])), port: 1_514 };
    let hello = Hello { version: VERSION, features: Features(5), stream: 1 << 100, interval_ms: 1_000, target };
    let mut all = vec![
        Frame::Hello(hello),
        Frame::Hello(Hello { target: Target::NONE, ..hello }),
        Frame::Welcome(Welcome { version: VERSION, features: Features(1) }),
        Frame::Refusal(Refusal { text: "too many connections".into() }),
        Frame::Ping(ping()),
        Frame::Pong(pong()),
    ];
    all.extend(VERDICTS.map(|verdict| Frame::Notice(Notice { verdict })));
    all.extend([
        Frame::Attach(Attach { source: None, once: false }),
        Frame::Attach(Attach { source: Some(IpAddr::from([10, 0, 0, 5])), once: true }),
        Frame::Attach(Attach { source: Some(IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 5])), once: false }),
        Frame::Resume(Resume { epoch: 3, from: Some(Seq(9)), reached: Seq(11), window: 4_096, digest: 77 }),
        Frame::Resume(Resume { epoch: 1, from: None, reached: Seq(u64::MAX), window: 0, digest: 0 }),
        Frame::Ack(Ack { read: Seq(9), window: 4_096, doubtful: true }),
        Frame::Session(Session { name: NAME, port: 1_517 }),
        Frame::Data(data()),
        Frame::Reply(Reply { name: NAME, bytes: b"c".to_vec() }),
    ]);
    all
}

const NAME: SessionName = SessionName { id: 5, generation: 6 };

/// Two datagrams, with a number left out between them; the second is empty.
fn data() -> Data {
    let mut bytes = Vec::new();
    let mut writer = DataWriter::new(&mut bytes, 3);
    writer.push(Seq(9), 5, b"ab");
    writer.push(Seq(12), 7, b"");
    writer.finish();
    let frames = decoded(&bytes, 64);
    let Ok([Frame::Data(data)]) = frames.as_deref() else { panic!("{frames:?}") };
    data.clone()
}

fn encoded(frame: &Frame) -> Vec<u8> {
    let mut out = Vec::new();
    frame.encode(&mut out);
    out
}

/// All frames that can be read from `bytes`, fed in pieces of `step`.
fn decoded(bytes: &[u8], step: usize) -> Result<Vec<Frame>, WireError> {
    let mut assembler = Assembler::default();
    let mut got = Vec::new();
    for piece in bytes.chunks(step) {
        assembler.push(piece);
        while let Some(frame) = assembler.next_frame()? {
            got.push(frame);
        }
    }
    Ok(got)
}

#[test]
fn every_frame_survives_the_way_however_it_is_cut() {
    let all = frames();
    let bytes: Vec<u8> = all.iter().flat_map(encoded).collect();
    for step in [1, 2, 3, 5, 7, 64, bytes.len()] {
        assert_eq!(decoded(&bytes, step).as_ref(), Ok(&all), "cut into pieces of {step}");
    }
}

#[test]
fn an_unknown_kind_is_passed_over_and_an_unknown_verdict_releases_nothing() {
    let mut bytes = vec![0, 0, 0, 3, 200, 1, 2];
    bytes.extend(encoded(&Frame::Ping(ping())));
    assert_eq!(decoded(&bytes, 4), Ok(vec![Frame::Ping(ping())]));
    assert_eq!(Verdict::from_wire(99, 1), Verdict::Starting(Reason::Unknown));
    assert_eq!(Verdict::from_wire(0, 0), Verdict::Starting(Reason::Unknown));
    assert_eq!(Verdict::from_wire(6, 77), Verdict::Starting(Reason::Unknown));
    assert_eq!(Verdict::from_wire(2, 77), Verdict::NoProcess(Port::Free));
    assert_eq!(Verdict::from_wire(3, 77), Verdict::NoSocket(Receives::Nowhere));
}

#[test]
fn datagrams_fill_as_few_frames_as_they_fit_and_the_largest_fits() {
    let mut bytes = Vec::new();
    let mut writer = DataWriter::new(&mut bytes, 1);
    let payloads = [vec![1; DATAGRAM_BYTES_MAX], vec![2; 100], vec![3; 65_000], vec![4; DATAGRAM_BYTES_MAX]];
    for (number, payload) in payloads.iter().enumerate() {
        writer.push(Seq(number as u64), 0, payload);
    }
    writer.finish();
    let frames = decoded(&bytes, 4_096).expect("they are frames");
    let counts: Vec<usize> = frames
        .iter()
        .map(|frame| match frame {
            Frame::Data(data) => data.items().count(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(counts, [2, 1, 1]);
}

#[test]
fn datagrams_that_end_in_the_middle_or_go_back_are_refused() {
    let good = encoded(&Frame::Data(data()));
    let body = &good[5..];
    for length in 5..body.len() {
        // Behind the first datagram the frame may end.
        let whole = length == 4 + 12 + 2;
        let read = decoded(&layout::framed(DATA, &body[..length]), 64);
        assert_eq!(read.is_ok(), whole, "{length} bytes");
    }
    let twice = [body, &body[4..]].concat();
    assert_eq!(decoded(&layout::framed(DATA, &twice), 64), Err(WireError::Datagrams));
}

#[test]
fn what_is_not_this_protocol_is_refused_by_its_first_bytes() {
    for foreign in [&b"GET / HTTP/1.1\r\n"[..], b"ping\n", b"\x16\x03\x01\x02\x00", &[0, 0, 0, 0], &[0, 2, 0, 0]] {
        assert!(matches!(decoded(foreign, 1), Err(WireError::Length(_))), "{foreign:?}");
    }
    assert_eq!(decoded(&[0, 0, 0, 5, 1, b'H', b'T', b'T', b'P'], 3), Err(WireError::Foreign));
}

#[test]
fn a_refusal_cannot_write_control_characters_into_a_log() {
    let bytes = encoded(&Frame::Refusal(Refusal { text: format!("a\nb\x1b[31m{}", "x".repeat(999)) }));
    let Ok([Frame::Refusal(refusal)]) =
        decoded(&bytes, 64).as_deref().map(|f| <[Frame; 1]>::try_from(f.to_vec()).unwrap())
    else {
        panic!("one refusal expected");
    };
    assert!(refusal.text.starts_with("a?b?[31mx"));
    assert_eq!(refusal.text.len(), TEXT_BYTES_MAX);
}

#[test]
fn a_text_is_cut_between_characters_at_both_ends() {
    let cut = |text: String| match decoded(&encoded(&Frame::Refusal(Refusal { text })), 64).as_deref() {
        Ok([Frame::Refusal(refusal)]) => refusal.text.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(cut(format!("{}€", "x".repeat(TEXT_BYTES_MAX - 1))), "x".repeat(TEXT_BYTES_MAX - 1));
    let mut no_text = vec![0, 0, 1, 1, 3];
    no_text.extend([0xff; TEXT_BYTES_MAX]);
    let shown = "\u{fffd}".repeat(TEXT_BYTES_MAX / 3);
    assert_eq!(decoded(&no_text, 64), Ok(vec![Frame::Refusal(Refusal { text: shown.clone() })]));
    assert_eq!(cut(shown.clone()), shown);
}

#[test]
fn the_cost_of_a_datagram_is_never_below_what_the_kernel_was_seen_to_charge() {
    let loopback = [(0, 832), (160, 832), (300, 1_280), (600, 1_280), (1_400, 2_304), (2_000, 4_352), (4_000, 8_448)];
    for (bytes, charged) in
        loopback.into_iter().chain([(5_500, 8_448), (8_000, 16_640), (20_000, 20_832), (65_507, 66_339)])
    {
        assert!(buffer_cost(bytes) >= charged, "{bytes} bytes: {} against {charged}", buffer_cost(bytes));
    }
    // For datagrams in fragments: pairs of a size and the number that a buffer of 212,992 bytes held, one of them
    // beyond the limit.
    for (bytes, held) in [(300, 166), (1_400, 92), (4_570, 27), (6_200, 20)] {
        assert!(buffer_cost(bytes) >= 212_992 / (held + 1), "{bytes} bytes: {}", buffer_cost(bytes));
    }
}

#[test]
fn a_default_buffer_gives_the_places_that_were_measured() {
    let half = 212_992 / 2;
    assert_eq!([half / buffer_cost(140), half / buffer_cost(300), half / buffer_cost(5_500)], [128, 83, 11]);
    assert!(buffer_cost(DATAGRAM_BYTES_MAX) <= half, "the largest fits half of a default buffer");
}

/// Any number; its bounds are more frequent than chance would have it.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![4 => any::<u64>(), 1 => Just(0), 1 => Just(u64::MAX)]
}

fn verdict() -> impl Strategy<Value = Verdict> {
    select(&VERDICTS[..])
}

prop_compose! {
    fn any_ping()(n in prop::array::uniform9(number()), next_cost in any::<u32>(), lease_ms in any::<u32>()) -> Ping {
        let [number, oldest, next, tail, held, held_bytes, unsent, dropped, unconfirmed_cost] = n;
        let (oldest, next, tail) = (Seq(oldest), Seq(next), Seq(tail));
        let next_cost = next_cost.into();
        Ping { number, oldest, next, tail, held, held_bytes, unsent, dropped, next_cost, unconfirmed_cost, lease_ms }
    }
}

prop_compose! {
    fn any_pong()(n in prop::array::uniform6(number()), small in any::<[u32; 4]>(), verdict in verdict()) -> Pong {
        let ([number, incarnation, read, queue, drops, window], [pid, gap_us, ask_again_ms, active]) = (n, small);
        let incarnation = Incarnation(incarnation);
        Pong { number, verdict, incarnation, pid, read, queue, drops, window, gap_us, ask_again_ms, active }
    }
}

/// Any datagrams, in the order of their numbers.
fn any_data() -> impl Strategy<Value = Data> {
    let item = (0u64..9, any::<u16>(), prop::collection::vec(any::<u8>(), 0..40));
    (any::<u32>(), any::<u32>(), prop::collection::vec(item, 0..6)).prop_map(|(epoch, first, items)| {
        let mut bytes = Vec::new();
        let mut next = u64::from(first);
        let mut writer = DataWriter::new(&mut bytes, epoch);
        for (skipped, session, payload) in &items {
            writer.push(Seq(next + skipped), *session, payload);
            next += skipped + 1;
        }
        writer.finish();
        let frame = decoded(&bytes, 4_096).expect("in order").pop();
        match frame {
            Some(Frame::Data(data)) => data,
            _ => data(),
        }
    })
}

/// Any address as it can be read, or none.
fn address() -> impl Strategy<Value = Option<IpAddr>> {
    prop::option::of(any::<IpAddr>()).prop_map(|address| {
        address.map(|address| address.to_canonical()).filter(|address| *address != Ipv6Addr::UNSPECIFIED)
    })
}

/// Any frame as it can be read: a text is safe and short.
fn any_frame() -> impl Strategy<Value = Frame> {
    let hello = (any::<u16>(), any::<u32>(), any::<u128>(), any::<u32>(), address(), any::<u16>());
    let is_shown = |c: &char| shown(c.to_string().as_bytes(), 4) == c.to_string();
    let text = prop::collection::vec(any::<char>().prop_filter("it is hidden", is_shown), 0..TEXT_BYTES_MAX / 4);
    prop_oneof![
        hello.prop_map(|(version, features, stream, interval_ms, address, port)| {
            let target = Target { address, port };
            Frame::Hello(Hello { version, features: Features(features), stream, interval_ms, target })
        }),
        any::<(u16, u32)>()
            .prop_map(|(version, features)| Frame::Welcome(Welcome { version, features: Features(features) })),
        text.prop_map(|text| Frame::Refusal(Refusal { text: text.into_iter().collect() })),
        any_ping().prop_map(Frame::Ping),
        any_pong().prop_map(Frame::Pong),
        verdict().prop_map(|verdict| Frame::Notice(Notice { verdict })),
        (address(), any::<bool>()).prop_map(|(source, once)| Frame::Attach(Attach { source, once })),
        (any::<u32>(), prop::option::of(any::<u64>()), number(), number(), any::<u64>()).prop_map(
            |(epoch, from, reached, window, digest)| {
                Frame::Resume(Resume { epoch, from: from.map(Seq), reached: Seq(reached), window, digest })
            }
        ),
        (number(), number(), any::<bool>()).prop_map(|(read, window, doubtful)| Frame::Ack(Ack {
            read: Seq(read),
            window,
            doubtful
        })),
        (any::<u16>(), any::<u32>(), any::<u16>()).prop_map(|(id, generation, port)| {
            Frame::Session(Session { name: SessionName { id, generation }, port })
        }),
        any_data().prop_map(Frame::Data),
        (any::<u16>(), any::<u32>(), prop::collection::vec(any::<u8>(), 0..80)).prop_map(|(id, generation, bytes)| {
            Frame::Reply(Reply { name: SessionName { id, generation }, bytes })
        }),
    ]
}

proptest! {
    #[test]
    fn any_frames_survive_the_way_however_they_are_cut(
        frames in prop::collection::vec(any_frame(), 0..8),
        step in 1usize..200,
    ) {
        let bytes: Vec<u8> = frames.iter().flat_map(encoded).collect();
        prop_assert_eq!(decoded(&bytes, step), Ok(frames));
    }

    /// Frames lie among the noise, so that more of it is read than a first length.
    #[test]
    fn any_bytes_are_read_alike_however_they_are_cut_and_what_was_read_survives(
        parts in prop::collection::vec(
            prop_oneof![
                any_frame().prop_map(|frame| encoded(&frame)),
                (0u8..14, prop::collection::vec(any::<u8>(), 0..120))
                    .prop_map(|(kind, body)| layout::framed(kind, &body)),
                prop::collection::vec(any::<u8>(), 0..20),
            ],
            0..6,
        ),
        step in 1usize..64,
    ) {
        let bytes = parts.concat();
        let whole = decoded(&bytes, bytes.len().max(1));
        prop_assert_eq!(&decoded(&bytes, step), &whole);
        for frame in whole.into_iter().flatten() {
            prop_assert_eq!(decoded(&encoded(&frame), 64), Ok(vec![frame]));
        }
    }

    #[test]
    fn a_text_of_any_length_arrives_as_far_as_it_is_safe_and_short(
        text in prop::collection::vec(any::<char>(), 0..400),
    ) {
        let text: String = text.into_iter().collect();
        let safe = shown(text.as_bytes(), usize::MAX);
        let got = decoded(&encoded(&Frame::Refusal(Refusal { text: text.clone() })), 64);
        let Ok([Frame::Refusal(refusal)]) = got.as_deref() else { panic!("{got:?}") };
        prop_assert!(safe.starts_with(&refusal.text));
        prop_assert!(refusal.text.len() <= TEXT_BYTES_MAX);
        // A character of several bytes may be shown as one of a single byte.
        let sent = refusal.text.chars().count();
        let bytes: usize = text.chars().take(sent + 1).map(char::len_utf8).sum();
        prop_assert!(refusal.text == safe || bytes > TEXT_BYTES_MAX, "{} bytes would have fitted", bytes);
    }

    #[test]
    fn the_cost_grows_with_the_size(a in 0usize..=DATAGRAM_BYTES_MAX, b in 0usize..=DATAGRAM_BYTES_MAX) {
        let (small, large) = (a.min(b), a.max(b));
        prop_assert!(buffer_cost(small) <= buffer_cost(large));
    }
}
