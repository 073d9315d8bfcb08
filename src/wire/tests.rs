use proptest::prelude::*;

use super::*;

const VERDICTS: [Verdict; 9] = [
    Verdict::Up,
    Verdict::NoProcess,
    Verdict::NoSocket,
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
    let hello = Hello { version: VERSION, features: 5, stream: 1 << 100, interval_ms: 1_000 };
    let mut all = vec![
        Frame::Hello(hello),
        Frame::Welcome(Welcome { version: VERSION, features: 1 }),
        Frame::Refusal(Refusal { text: "too many connections".into() }),
        Frame::Ping(ping()),
        Frame::Pong(pong()),
    ];
    all.extend(VERDICTS.map(|verdict| Frame::Notice(Notice { verdict })));
    all
}

fn encoded(frame: &Frame) -> Vec<u8> {
    let mut out = Vec::new();
    frame.encode(&mut out);
    out
}

/// Everything that can be read from `bytes`, fed in pieces of `step`.
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
fn fields_added_by_a_newer_peer_are_ignored_and_those_of_an_older_one_are_zero() {
    let mut longer = encoded(&Frame::Pong(pong()));
    longer.extend_from_slice(b"later");
    let length = (longer.len() - 4) as u32;
    longer[..4].copy_from_slice(&length.to_be_bytes());
    assert_eq!(decoded(&longer, 64), Ok(vec![Frame::Pong(pong())]));

    let mut shorter = encoded(&Frame::Pong(pong()));
    shorter.truncate(shorter.len() - 4);
    let length = (shorter.len() - 4) as u32;
    shorter[..4].copy_from_slice(&length.to_be_bytes());
    assert_eq!(decoded(&shorter, 64), Ok(vec![Frame::Pong(Pong { active: 0, ..pong() })]));
}

#[test]
fn an_unknown_kind_is_passed_over_and_an_unknown_verdict_releases_nothing() {
    let mut bytes = vec![0, 0, 0, 3, 200, 1, 2];
    bytes.extend(encoded(&Frame::Ping(ping())));
    assert_eq!(decoded(&bytes, 4), Ok(vec![Frame::Ping(ping())]));
    assert_eq!(Verdict::from_wire(99, 1), Verdict::Starting(Reason::Unknown));
    assert_eq!(Verdict::from_wire(0, 0), Verdict::Starting(Reason::Unknown));
    assert_eq!(Verdict::from_wire(6, 77), Verdict::Starting(Reason::Unknown));
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
    // In fragments: how many of a size a buffer of 212,992 bytes held, one of them beyond the limit.
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

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), step in 1usize..64) {
        let _ = decoded(&bytes, step);
    }

    #[test]
    fn a_flipped_bit_is_an_error_another_frame_or_a_longer_wait_and_never_a_panic(which in 0usize..14, bit in 0usize..2048) {
        let mut bytes = encoded(&frames()[which]);
        let bit = bit % (bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        let _ = decoded(&bytes, 16);
    }

    #[test]
    fn the_cost_grows_with_the_size(a in 0usize..=DATAGRAM_BYTES_MAX, b in 0usize..=DATAGRAM_BYTES_MAX) {
        let (small, large) = (a.min(b), a.max(b));
        prop_assert!(buffer_cost(small) <= buffer_cost(large));
    }
}
