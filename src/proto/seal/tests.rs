use proptest::prelude::*;

use super::*;
use crate::proto::terms::Verdict;
use crate::proto::wire::Notice;

const KEY: Key = Key([7; 32]);

/// A frame with this text.
fn frame(text: &str) -> Frame {
    Frame::Refusal(Refusal { text: text.into() })
}

fn encoded(frame: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    bytes
}

/// Both ends, and the bytes under way between them.
struct Wire {
    client: Seal,
    server: Seal,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
}

impl Wire {
    fn new(client: Option<&Key>, server: &[Key]) -> Self {
        let mut to_server = Vec::new();
        Self {
            client: Seal::client(client, &mut to_server),
            server: Seal::server(server.into()),
            to_server,
            to_client: vec![],
        }
    }

    /// Two ends that have agreed.
    fn agreed() -> Self {
        let mut wire = Self::new(Some(&KEY), &[KEY]);
        assert_eq!(wire.serve(), Ok(vec![]));
        assert_eq!(wire.hear(), Ok(vec![]));
        assert!(wire.client.is_sealed() && wire.server.is_sealed());
        wire
    }

    fn say(&mut self, frame: &Frame) {
        self.client.seal(&mut encoded(frame), &mut self.to_server);
    }

    /// The server reads the bytes under way. Returns the frames in them.
    fn serve(&mut self) -> Result<Vec<Frame>, SealError> {
        let mut input = Assembler::default();
        self.server.open(&std::mem::take(&mut self.to_server), &mut input, &mut self.to_client)?;
        Ok(frames(&mut input))
    }

    fn hear(&mut self) -> Result<Vec<Frame>, SealError> {
        let mut input = Assembler::default();
        self.client.open(&std::mem::take(&mut self.to_client), &mut input, &mut self.to_server)?;
        Ok(frames(&mut input))
    }
}

fn frames(input: &mut Assembler) -> Vec<Frame> {
    std::iter::from_fn(|| input.next_frame().expect("frames")).collect()
}

#[test]
fn what_is_said_before_the_handshake_is_over_arrives_after_it() {
    let mut wire = Wire::new(Some(&KEY), &[KEY]);
    wire.say(&frame("early"));
    assert_eq!(wire.serve(), Ok(vec![]));
    assert_eq!(wire.hear(), Ok(vec![]));
    wire.say(&frame("late"));
    assert_eq!(wire.serve(), Ok(vec![frame("early"), frame("late")]));
    wire.server.seal(&mut encoded(&frame("back")), &mut wire.to_client);
    assert_eq!(wire.hear(), Ok(vec![frame("back")]));
}

#[test]
fn nothing_of_what_is_said_can_be_read_on_the_way() {
    let mut wire = Wire::agreed();
    let secret = "a text that must not be seen";
    wire.say(&frame(secret));
    let seen = wire.to_server.windows(8).any(|bytes| secret.as_bytes().windows(8).any(|part| part == bytes));
    assert!(!seen);
}

#[test]
fn another_key_gets_nothing_and_is_told_so() {
    let mut wire = Wire::new(Some(&KEY), &[Key([8; 32])]);
    assert_eq!(wire.serve(), Err(SealError::Key));
    let told = SealError::Refused(SealError::Key.to_string());
    assert_eq!(wire.hear(), Err(told));
    wire.say(&frame("lost"));
    assert_eq!(wire.to_server, [0; 0]);
}

#[test]
fn a_key_against_none_is_told_so() {
    let mut wire = Wire::new(Some(&KEY), &[]);
    assert_eq!(wire.serve(), Err(SealError::NoKeyHere));
    assert_eq!(wire.hear(), Err(SealError::Refused(SealError::NoKeyHere.to_string())));
}

#[test]
fn none_against_a_key_is_plain_and_known_to_be() {
    let mut wire = Wire::new(None, &[KEY]);
    wire.say(&frame("plain"));
    assert_eq!(wire.serve(), Ok(vec![frame("plain")]));
    assert!(!wire.server.is_sealed());
}

#[test]
fn the_plain_request_passes_beside_a_key() {
    let mut server = Seal::server([KEY].into());
    let mut input = Assembler::default();
    server.open(b"pin", &mut input, &mut Vec::new()).expect("no record");
    server.open(b"g\n", &mut input, &mut Vec::new()).expect("no record");
    assert_eq!(input.rest(), b"ping\n");
}

#[test]
fn a_record_that_is_repeated_left_out_or_of_another_connection_is_refused() {
    let mut wire = Wire::agreed();
    wire.say(&frame("one"));
    let first = wire.to_server.clone();
    assert_eq!(wire.serve(), Ok(vec![frame("one")]));
    wire.to_server = first.clone();
    assert_eq!(wire.serve(), Err(SealError::Record), "repeated");

    let mut wire = Wire::agreed();
    wire.say(&frame("one"));
    wire.to_server.clear();
    wire.say(&frame("two"));
    assert_eq!(wire.serve(), Err(SealError::Record), "one was left out");

    let mut wire = Wire::agreed();
    wire.to_server = first;
    assert_eq!(wire.serve(), Err(SealError::Record), "of another connection");
}

#[test]
fn frames_longer_than_a_record_arrive_whole() {
    let mut wire = Wire::agreed();
    let mut bytes = Vec::new();
    for _ in 0..1_000 {
        frame(&"x".repeat(200)).encode(&mut bytes);
    }
    wire.client.seal(&mut bytes, &mut wire.to_server);
    assert_eq!(wire.serve().map(|frames| frames.len()), Ok(1_000));
}

#[test]
fn a_key_is_read_as_it_was_written_and_nothing_else_is() {
    let key = Key::new(std::array::from_fn(|at| at as u8 * 7));
    assert_eq!(Key::from_text(&(key.to_text() + "\n")), Ok(key.clone()));
    for wrong in ["", "00", &"g".repeat(64), &"0".repeat(63), &"é".repeat(32)] {
        assert!(Key::from_text(wrong).is_err(), "{wrong:?}");
    }
    assert_eq!(format!("{key:?}"), "Key", "no key stands in a log");
}

proptest! {
    #[test]
    fn a_changed_byte_is_never_taken(at in 0usize..200, change in 1u8..=255) {
        let mut wire = Wire::agreed();
        wire.say(&frame(&"x".repeat(100)));
        wire.say(&Frame::Notice(Notice { verdict: Verdict::Up }));
        let at = at % wire.to_server.len();
        wire.to_server[at] ^= change;
        match wire.serve() {
            // The server waits for the rest of a record whose length became longer. The first record may have come
            // before the change.
            Ok(frames) => prop_assert!(frames.len() < 2),
            Err(error) => prop_assert_eq!(error, SealError::Record),
        }
    }

    #[test]
    fn any_bytes_do_no_harm_to_either_end(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        magic in any::<bool>(),
        step in 1usize..50,
    ) {
        let bytes = if magic { [&MAGIC[..], &bytes].concat() } else { bytes };
        let mut wire = Wire::new(Some(&KEY), &[KEY]);
        for piece in bytes.chunks(step) {
            let mut input = Assembler::default();
            let server = wire.server.open(piece, &mut input, &mut Vec::new());
            prop_assert!(server.is_ok() || server == Err(SealError::Key) || server == Err(SealError::Record));
            let _ = wire.client.open(piece, &mut input, &mut Vec::new());
            prop_assert!(!wire.server.is_sealed() && !wire.client.is_sealed());
        }
    }

    #[test]
    fn it_does_not_matter_how_it_is_cut(step in 1usize..100, texts in prop::collection::vec("[a-z]{0,50}", 1..5)) {
        let mut wire = Wire::agreed();
        for text in &texts {
            wire.say(&frame(text));
        }
        let mut input = Assembler::default();
        for piece in std::mem::take(&mut wire.to_server).chunks(step) {
            wire.server.open(piece, &mut input, &mut Vec::new()).expect("it is whole");
        }
        prop_assert_eq!(frames(&mut input), texts.iter().map(|text| frame(text)).collect::<Vec<_>>());
    }
}

#[test]
fn while_keys_are_exchanged_a_server_accepts_both_and_no_third_one() {
    let keys = [KEY, Key([8; 32])];
    for key in &keys {
        let mut wire = Wire::new(Some(key), &keys);
        assert_eq!((wire.serve(), wire.hear()), (Ok(vec![]), Ok(vec![])));
        wire.say(&frame("hello"));
        assert_eq!(wire.serve(), Ok(vec![frame("hello")]));
    }
    assert_eq!(Wire::new(Some(&Key([9; 32])), &keys).serve(), Err(SealError::Key));
}
