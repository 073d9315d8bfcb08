use proptest::prelude::*;

use super::*;
use crate::proto::terms::{Incarnation, Verdict};
use crate::proto::wire::{Features, Notice, Target};

const fn ms(n: u64) -> Time {
    Time::from_millis(1_000_000 + n)
}

const fn hello(version: u16, interval_ms: u32) -> Frame {
    Frame::Hello(Hello { version, features: Features::NONE, stream: 5, interval_ms, target: Target::NONE })
}

fn ping(number: u64) -> Frame {
    Frame::Ping(Ping { number, ..Ping::default() })
}

fn pong(number: u64) -> Pong {
    Pong {
        number,
        verdict: Verdict::Up,
        incarnation: Incarnation(1),
        pid: 0,
        read: 0,
        queue: 0,
        drops: 0,
        window: 0,
        gap_us: 0,
        ask_again_ms: 0,
        active: 0,
    }
}

fn bytes(frames: &[Frame]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for frame in frames {
        frame.encode(&mut bytes);
    }
    bytes
}

fn frames(bytes: &[u8]) -> Vec<Frame> {
    let mut assembler = Assembler::default();
    assembler.push(bytes);
    std::iter::from_fn(|| assembler.next_frame().expect("frames")).collect()
}

/// A conversation with the two ends of its connection.
struct Bench {
    conversation: Conversation,
    input: Assembler,
    output: Vec<u8>,
}

impl Bench {
    fn new() -> Self {
        Self { conversation: Conversation::new(ms(0)), input: Assembler::default(), output: Vec::new() }
    }

    fn hear(&mut self, at: u64, bytes: &[u8]) -> Result<Vec<Request>, Garbage> {
        self.input.push(bytes);
        self.conversation.handle_input(ms(at), Access::Features(Features::NONE), &mut self.input, &mut self.output)
    }
}

#[test]
fn a_client_is_welcomed_and_its_heartbeats_are_requests() {
    let mut bench = Bench::new();
    let requests = bench.hear(1, &bytes(&[hello(VERSION, 1_000), ping(1), ping(2)])).expect("a client");
    let numbers: Vec<u64> = requests.iter().map(numbered).collect();
    assert_eq!(numbers, [1, 2]);
    assert!(bench.conversation.is_client());
    bench.conversation.answer(pong(1), &mut bench.output);
    let welcome = Frame::Welcome(Welcome { version: VERSION, features: Features::NONE });
    assert_eq!(frames(&bench.output), [welcome, Frame::Pong(pong(1))]);
}

fn numbered(request: &Request) -> u64 {
    match request {
        Request::Answer(Question::Ping(ping)) => ping.number,
        other => panic!("{other:?} is no heartbeat"),
    }
}

#[test]
fn what_no_client_says_is_garbage() {
    let refusal = Frame::Refusal(Refusal { text: "no".into() });
    let notice = Frame::Notice(Notice { verdict: Verdict::Up });
    let welcome = Frame::Welcome(Welcome { version: VERSION, features: Features::NONE });
    let hello = hello(VERSION, 1_000);
    let table = [
        (vec![ping(1)], Garbage::Ungreeted),
        (vec![notice.clone()], Garbage::Ungreeted),
        (vec![welcome.clone()], Garbage::Ungreeted),
        (vec![hello.clone(), hello.clone()], Garbage::NotOfClients),
        (vec![hello.clone(), refusal], Garbage::NotOfClients),
        (vec![hello.clone(), notice], Garbage::NotOfClients),
        (vec![hello.clone(), welcome], Garbage::NotOfClients),
        (vec![hello.clone(), Frame::Pong(pong(1))], Garbage::NotOfClients),
    ];
    for (said, garbage) in table {
        assert_eq!(Bench::new().hear(1, &bytes(&said)), Err(garbage), "{said:?}");
    }
    for foreign in [&b"GET / HTTP/1.1"[..], b"pong", b"ping?", b"ping\n\n", b"\x16\x03\x01\x02"] {
        assert!(matches!(Bench::new().hear(1, foreign), Err(Garbage::Wire(WireError::Length(_)))), "{foreign:?}");
    }
}

#[test]
fn another_version_is_told_why_it_is_cut_off() {
    let mut bench = Bench::new();
    assert_eq!(bench.hear(1, &bytes(&[hello(VERSION + 1, 1_000)])), Err(Garbage::Version(VERSION + 1)));
    let text = "this server speaks version 1 of the protocol, not 2".to_string();
    assert_eq!(frames(&bench.output), [Frame::Refusal(Refusal { text })]);
}

#[test]
fn a_client_that_is_refused_is_told_why_and_nothing_more_is_taken_from_it() {
    let mut bench = Bench::new();
    bench.hear(1, &bytes(&[hello(VERSION, 1_000)])).expect("a client");
    bench.output.clear();
    bench.conversation.refuse(ms(2), "no".into(), &mut bench.output);
    assert_eq!(frames(&bench.output), [Frame::Refusal(Refusal { text: "no".into() })]);
    assert_eq!(bench.hear(3, &bytes(&[ping(1)])), Ok(vec![]));
    assert_eq!((bench.conversation.is_client(), bench.conversation.deadline()), (false, ms(2) + CLOSING_MAX));
}

#[test]
fn more_heartbeats_than_any_client_sends_are_garbage_and_answered_ones_do_not_count() {
    let mut bench = Bench::new();
    bench.hear(0, &bytes(&[hello(VERSION, 1_000)])).expect("a client");
    for number in 0..100 {
        assert_eq!(bench.hear(number, &bytes(&[ping(number)])).map(|requests| requests.len()), Ok(1));
        bench.conversation.answer(pong(number), &mut bench.output);
    }
    for number in 0..UNANSWERED_MAX as u64 {
        bench.hear(100, &bytes(&[ping(number)])).expect("so many may wait");
    }
    assert_eq!(bench.hear(100, &bytes(&[ping(0)])), Err(Garbage::TooMany));
}

#[test]
fn only_what_is_asked_for_keeps_a_connection() {
    let mut bench = Bench::new();
    assert_eq!(bench.conversation.deadline(), ms(0) + GREETING_MAX);
    bench.hear(1_000, &bytes(&[hello(VERSION, 1_000)])).expect("a client");
    assert_eq!(bench.conversation.deadline(), ms(1_000) + SILENCE_MIN);
    bench.hear(2_000, &[0, 0, 0, 1, 99, 0, 0]).expect("an unknown frame and the beginning of another");
    assert_eq!(bench.conversation.deadline(), ms(1_000) + SILENCE_MIN, "it has said nothing");
    bench.hear(3_000, &[0, 1, 99]).expect("the rest");
    bench.hear(3_000, &bytes(&[ping(1)])).expect("a heartbeat");
    assert_eq!(bench.conversation.deadline(), ms(3_000) + SILENCE_MIN);
    for (interval_ms, silence) in [(20_000, Duration::from_mins(1)), (u32::MAX, SILENCE_MAX)] {
        let mut bench = Bench::new();
        bench.hear(7, &bytes(&[hello(VERSION, interval_ms)])).expect("a client");
        assert_eq!(bench.conversation.deadline(), ms(7) + silence);
    }
}

#[test]
fn a_plain_request_is_answered_with_its_own_line_end_and_nothing_of_what_follows_is_kept() {
    for end in ["", "\n", "\r\n"] {
        for (up, word) in [(true, "pong"), (false, "ossec_not_found")] {
            let mut bench = Bench::new();
            assert_eq!(bench.hear(1, format!("ping{end}").as_bytes()), Ok(vec![Request::Answer(Question::Plain)]));
            assert!(bench.conversation.awaits_last_answer() && !bench.conversation.is_client());
            assert_eq!(bench.hear(2, &[b'x'; 9_000]), Ok(vec![]));
            bench.conversation.answer_plain(ms(3), up, &mut bench.output);
            assert_eq!(bench.output, format!("{word}{end}").into_bytes());
            assert_eq!(bench.conversation.deadline(), ms(3) + CLOSING_MAX);
            assert!(!bench.conversation.awaits_last_answer());
            assert_eq!(bench.hear(4, b"ping\n"), Ok(vec![]), "it has had its answer");
            assert_eq!(bench.input.rest(), b"");
        }
    }
}

#[test]
fn the_plain_request_is_known_with_and_without_a_line_end_and_in_pieces() {
    assert_eq!(plain(b"ping"), Plain::Whole(b""));
    assert_eq!(plain(b"ping\n"), Plain::Whole(b"\n"));
    assert_eq!(plain(b"ping\r\n"), Plain::Whole(b"\r\n"));
    for begun in [&b""[..], b"p", b"pin", b"ping\r"] {
        assert_eq!(plain(begun), Plain::Begun, "{begun:?}");
    }
    for other in [&b"pang"[..], b"pingping", b"ping\r\r", b"ping\n\n", &[0, 0]] {
        assert_eq!(plain(other), Plain::No, "{other:?}");
    }
}

#[test]
fn a_plain_request_comes_first_or_not_at_all() {
    let unknown = [0, 0, 0, 2, 99, 0];
    for cut in [0, 3, 6] {
        let mut bench = Bench::new();
        let bytes = [&unknown[..], b"ping\n"].concat();
        let outcome = bench.hear(1, &bytes[..cut]).and_then(|_| bench.hear(2, &bytes[cut..]));
        assert!(matches!(outcome, Err(Garbage::Wire(WireError::Length(_)))), "cut at {cut}: {outcome:?}");
    }
}

proptest! {
    #[test]
    fn a_client_is_understood_however_its_bytes_are_cut(
        pings in 0..UNANSWERED_MAX as u64,
        cuts in prop::collection::vec(1usize..40, 1..20),
    ) {
        let said: Vec<Frame> = std::iter::once(hello(VERSION, 1_000)).chain((0..pings).map(ping)).collect();
        let (mut bench, mut heard) = (Bench::new(), Vec::new());
        let bytes = bytes(&said);
        let mut rest = &bytes[..];
        for cut in cuts.iter().cycle() {
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            heard.extend(bench.hear(1, piece).expect("a client"));
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(heard.iter().map(numbered).collect::<Vec<_>>(), (0..pings).collect::<Vec<_>>());
        prop_assert_eq!(bench.input.rest(), b"");
    }
}
