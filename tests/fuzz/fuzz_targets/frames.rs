//! `wire`: a stream of bytes, cut into frames.
//!
//! The plan: how often the stream comes, four lengths of pieces, the stream.
//!
//! * The frames, and the error at the end, are the same however the stream is cut.
//! * Less than one frame of a stream is kept.
//! * A frame that was read is the same when it is written and read again. This holds also with fields behind it that a
//!   newer peer would add.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ossec_broker::proto::wire::{Assembler, FRAME_BYTES_MAX, Frame, WireError};
use ossec_broker_fuzz::Plan;

const LENGTH_BYTES: usize = 4;
/// The number of frames that are looked at more closely: a long stream of equal frames says nothing new.
const CLOSER_LOOKS: usize = 32;

fuzz_target!(|data: &[u8]| {
    let mut plan = Plan::new(data);
    // The stream comes up to 32 times, so that a frame of the largest length becomes whole.
    let times = 1 + usize::from(plan.byte() >> 3);
    let pieces: Vec<usize> = plan.take(4).iter().map(|&length| 1 + usize::from(length) * 16).collect();
    let stream = plan.rest().repeat(times);
    let whole = read(&stream, &[stream.len().max(1)]);
    assert_eq!(read(&stream, &pieces), whole, "cut into pieces of {pieces:?}");
    if times == 1 {
        assert_eq!(read(&stream, &[1]), whole, "byte by byte");
    }
    for frame in whole.0.iter().take(CLOSER_LOOKS) {
        look_at(frame);
    }
});

/// The frames of a stream that comes in pieces of these lengths, and the error that ends it early.
fn read(stream: &[u8], pieces: &[usize]) -> (Vec<Frame>, Option<WireError>) {
    let (mut assembler, mut frames) = (Assembler::default(), Vec::new());
    let (mut rest, mut lengths) = (stream, pieces.iter().cycle());
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(lengths.next().map_or(1, |&length| length.min(rest.len())));
        rest = after;
        assembler.push(piece);
        loop {
            match assembler.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
        assert!(assembler.rest().len() < LENGTH_BYTES + FRAME_BYTES_MAX, "a whole frame is left behind");
    }
    (frames, None)
}

fn look_at(frame: &Frame) {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    assert!(bytes.len() <= LENGTH_BYTES + FRAME_BYTES_MAX);
    let again = (vec![frame.clone()], None);
    assert_eq!(read(&bytes, &[bytes.len()]), again);
    // In some frames the last field reaches to the end of the body, so nothing can be added to them.
    if !matches!(frame, Frame::Refusal(_) | Frame::Data(_) | Frame::Reply(_)) {
        bytes.extend_from_slice(b"later");
        let length = u32::try_from(bytes.len() - LENGTH_BYTES).expect("it is short");
        bytes[..LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
        assert_eq!(read(&bytes, &[bytes.len()]), again, "with later fields");
    }
}
