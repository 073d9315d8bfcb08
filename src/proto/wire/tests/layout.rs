use super::*;

const LENGTH_BYTES: usize = 4;

/// The widths of a frame's fields, as in docs/protocol.md. A text has none.
const fn widths(frame: &Frame) -> &'static [usize] {
    match frame {
        Frame::Hello(_) => &[4, 2, 4, 16, 4, 16, 2],
        Frame::Welcome(_) | Frame::Reply(_) => &[2, 4],
        Frame::Refusal(_) => &[],
        Frame::Attach(_) => &[16, 1],
        Frame::Ping(_) => &[8, 8, 8, 8, 8, 8, 8, 8, 4, 8, 4],
        Frame::Pong(_) => &[8, 1, 1, 8, 4, 8, 8, 8, 8, 4, 4, 4],
        Frame::Notice(_) => &[1, 1],
        Frame::Resume(_) => &[4, 1, 8, 8, 8, 8],
        Frame::Ack(_) => &[8, 8, 1],
        Frame::Session(_) => &[2, 4, 2],
        Frame::Data(_) => &[4],
    }
}

/// Whether bytes follow the fields up to the end of the frame.
const fn is_open(frame: &Frame) -> bool {
    matches!(frame, Frame::Refusal(_) | Frame::Data(_) | Frame::Reply(_))
}

/// A frame of this kind and body.
pub(super) fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = 1 + body.len() as u32;
    [&length.to_be_bytes()[..], &[kind], body].concat()
}

fn kind_and_body(frame: &Frame) -> (u8, Vec<u8>) {
    let bytes = encoded(frame);
    (bytes[LENGTH_BYTES], bytes[LENGTH_BYTES + 1..].to_vec())
}

/// Both ends of one version agree on any layout. Only a layout that is written out holds between versions.
#[test]
fn every_field_lies_where_the_protocol_says() {
    let wide = |number: u64| number.to_be_bytes().to_vec();
    let narrow = |number: u32| number.to_be_bytes().to_vec();
    let target = Target { address: Some(IpAddr::from([10, 0, 0, 1])), port: 1_514 };
    let hello = Hello { version: 1, features: Features(5), stream: 7, interval_ms: 1_000, target };
    let target = [wide(0), narrow(0xffff), vec![10, 0, 0, 1, 0x05, 0xea]].concat();
    let elsewhere = Verdict::NoSocket(Receives::Elsewhere);
    let starting = Verdict::Starting(Reason::AnalysisGone);
    let table = [
        (Frame::Hello(hello), 1, vec![b"OSBK\0\x01".to_vec(), narrow(5), wide(0), wide(7), narrow(1_000), target]),
        (Frame::Welcome(Welcome { version: 1, features: Features(2) }), 2, vec![vec![0, 1], narrow(2)]),
        (Frame::Refusal(Refusal { text: "no".into() }), 3, vec![b"no".to_vec()]),
        (
            Frame::Ping(ping()),
            4,
            [7, 10, 12, 20, 10, 1_400, 8, 2]
                .map(wide)
                .into_iter()
                .chain([narrow(1_280), wide(2_560), narrow(101)])
                .collect(),
        ),
        (
            Frame::Pong(Pong { verdict: starting, ..pong() }),
            5,
            [wide(7), vec![6, 2], wide(0xfeed), narrow(4_711)]
                .into_iter()
                .chain([1 << 40, 832, 3, 106_496].map(wide))
                .chain([1_000, 20, 3].map(narrow))
                .collect(),
        ),
        (Frame::Notice(Notice { verdict: starting }), 6, vec![vec![6, 2]]),
        (Frame::Notice(Notice { verdict: elsewhere }), 6, vec![vec![3, 1]]),
        (Frame::Attach(Attach { source: None, once: true }), 7, vec![wide(0), wide(0), vec![1]]),
        (
            Frame::Attach(Attach { source: Some(IpAddr::from([10, 0, 0, 5])), once: false }),
            7,
            vec![wide(0), narrow(0xffff), vec![10, 0, 0, 5], vec![0]],
        ),
        (
            Frame::Resume(Resume { epoch: 3, from: Some(Seq(9)), reached: Seq(11), window: 4_096, digest: 77 }),
            8,
            vec![narrow(3), vec![1], wide(9), wide(11), wide(4_096), wide(77)],
        ),
        (Frame::Ack(Ack { read: Seq(9), window: 4_096, doubtful: true }), 9, vec![wide(9), wide(4_096), vec![1]]),
        (Frame::Session(Session { name: NAME, port: 1_517 }), 10, vec![vec![0, 5], narrow(6), vec![0x05, 0xed]]),
        (
            Frame::Data(data()),
            11,
            vec![narrow(3), wide(9), vec![0, 5, 0, 2], b"ab".to_vec(), wide(12), vec![0, 7, 0, 0]],
        ),
        (Frame::Reply(Reply { name: NAME, bytes: b"c".to_vec() }), 12, vec![vec![0, 5], narrow(6), b"c".to_vec()]),
    ];
    for (frame, kind, fields) in table {
        assert_eq!(encoded(&frame), framed(kind, &fields.concat()), "{frame:?}");
    }
}

#[test]
fn nothing_is_read_before_a_frame_is_whole() {
    for frame in frames() {
        let bytes = encoded(&frame);
        for length in 0..bytes.len() {
            assert_eq!(decoded(&bytes[..length], 16), Ok(vec![]), "{length} bytes of {frame:?}");
        }
    }
}

#[test]
fn fields_that_an_older_peer_does_not_send_are_zero() {
    for frame in frames().iter().filter(|frame| !is_open(frame)) {
        let (kind, body) = kind_and_body(frame);
        assert_eq!(widths(frame).iter().sum::<usize>(), body.len(), "{frame:?}");
        for length in 0..body.len() {
            let whole_fields = widths(frame).iter().scan(0, |end, width| {
                *end += width;
                (*end <= length).then_some(*end)
            });
            let mut zeroed = body.clone();
            zeroed[whole_fields.last().unwrap_or(0)..].fill(0);
            let expected = decoded(&framed(kind, &zeroed), 64);
            assert_eq!(decoded(&framed(kind, &body[..length]), 64), expected, "{length} bytes of {frame:?}");
        }
    }
}

#[test]
fn fields_that_a_newer_peer_adds_are_ignored() {
    for frame in frames().iter().filter(|frame| !is_open(frame)) {
        let (kind, body) = kind_and_body(frame);
        for more in [1, 4, 64, FRAME_BYTES_MAX - 1 - body.len()] {
            let longer = [&body[..], &vec![0xa5; more]].concat();
            assert_eq!(decoded(&framed(kind, &longer), 4_096), Ok(vec![frame.clone()]), "{more} bytes more");
        }
    }
}

#[test]
fn a_flipped_bit_of_a_length_is_refused_or_waited_for() {
    for frame in frames() {
        let bytes = encoded(&frame);
        for bit in 0..8 * LENGTH_BYTES {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 0x80 >> (bit % 8);
            let length = u32::from_be_bytes(*flipped.first_chunk().expect("four bytes"));
            let got = decoded(&flipped, 16);
            if length == 0 || length as usize > FRAME_BYTES_MAX {
                assert_eq!(got, Err(WireError::Length(length)));
            } else if length as usize > bytes.len() - LENGTH_BYTES {
                assert_eq!(got, Ok(vec![]), "it is not whole");
            }
        }
    }
}

#[test]
fn a_flipped_bit_of_a_kind_makes_it_another_frame_or_none() {
    for frame in frames() {
        let (kind, body) = kind_and_body(&frame);
        for bit in 0..8 {
            match decoded(&framed(kind ^ (1 << bit), &body), 64) {
                Ok(got) => assert!(got.len() <= 1 && got.first() != Some(&frame), "{got:?}"),
                Err(error) => assert!(matches!(error, WireError::Foreign | WireError::Datagrams), "{error}"),
            }
        }
    }
}

#[test]
fn a_flipped_bit_of_a_body_is_read_as_it_stands() {
    for frame in frames() {
        let (kind, body) = kind_and_body(&frame);
        for bit in 0..8 * body.len() {
            let mut flipped = body.clone();
            flipped[bit / 8] ^= 0x80 >> (bit % 8);
            match (&frame, decoded(&framed(kind, &flipped), 64).as_deref()) {
                (Frame::Hello(_), Err(error)) => assert!(*error == WireError::Foreign && bit < 32, "{error}"),
                // An unknown verdict or reason counts as one that is known.
                (Frame::Pong(_), Ok([Frame::Pong(got)])) if (64..80).contains(&bit) => {
                    assert_eq!(Pong { verdict: pong().verdict, ..*got }, pong());
                }
                (Frame::Notice(_), Ok([Frame::Notice(_)])) => {}
                // Any byte except zero means yes. Where that byte says that a number is unknown, the number says
                // nothing.
                (Frame::Ack(_), Ok([Frame::Ack(_)])) | (Frame::Attach(_), Ok([Frame::Attach(_)])) if bit >= 128 => {}
                (Frame::Resume(_), Ok([Frame::Resume(_)])) if (32..104).contains(&bit) => {}
                // Bits behind the epoch make numbers that go back, or a length beyond the end.
                (Frame::Data(_), Err(error)) => assert!(*error == WireError::Datagrams && bit >= 32, "{error}"),
                (Frame::Refusal(_), Ok([Frame::Refusal(refusal)])) => assert!(refusal.text.len() <= TEXT_BYTES_MAX),
                (_, Ok([got])) => assert_eq!(kind_and_body(got), (kind, flipped)),
                (_, got) => panic!("bit {bit} of {frame:?}: {got:?}"),
            }
        }
    }
}
