//! `seal`: the handshake and the records, at both ends.
//!
//! The plan: the fault (none, noise towards either end, a change on the way), lengths of pieces, then texts or noise.
//!
//! * Noise never makes a sealed connection, and never panics.
//! * Sealed bytes arrive as they were, however they are cut. Nothing behind a changed byte arrives.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ossec_broker::proto::seal::{Key, Seal};
use ossec_broker::proto::wire::{Assembler, Frame, Refusal};
use ossec_broker_fuzz::Plan;

const TEXT_BYTES_MAX: usize = 256;

fuzz_target!(|data: &[u8]| {
    let mut plan = Plan::new(data);
    let what = plan.byte();
    let pieces: Vec<usize> = plan.take(4).iter().map(|&length| 1 + usize::from(length)).collect();
    match what % 4 {
        0 => noise_to_server(plan.rest(), &pieces, what & 4 != 0),
        1 => noise_to_client(plan.rest(), &pieces),
        _ => texts(plan, &pieces, what % 4 == 3),
    }
});

fn key() -> Key {
    Key::new([7; 32])
}

/// Feeds `bytes` in pieces of these lengths. Returns whether all of it was taken.
fn feed(seal: &mut Seal, bytes: &[u8], pieces: &[usize], input: &mut Assembler, out: &mut Vec<u8>) -> bool {
    let (mut rest, mut lengths) = (bytes, pieces.iter().cycle());
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(lengths.next().map_or(1, |&length| length.min(rest.len())));
        rest = after;
        if seal.open(piece, input, out).is_err() {
            return false;
        }
    }
    true
}

fn noise_to_server(noise: &[u8], pieces: &[usize], magic: bool) {
    let mut server = Seal::server([key()].into());
    let noise = if magic { [b"OSBN", noise].concat() } else { noise.to_vec() };
    let (mut input, mut out) = (Assembler::default(), Vec::new());
    feed(&mut server, &noise, pieces, &mut input, &mut out);
    assert!(!server.is_sealed(), "a handshake without the key");
    assert!(out.len() <= 4 + 1 + TEXT_BYTES_MAX, "an answer that is no refusal");
}

fn noise_to_client(noise: &[u8], pieces: &[usize]) {
    let (mut input, mut out) = (Assembler::default(), Vec::new());
    let mut client = Seal::client(Some(&key()), &mut out);
    out.clear();
    feed(&mut client, noise, pieces, &mut input, &mut out);
    assert!(!client.is_sealed(), "a handshake without the key");
    assert!(input.rest().is_empty() && out.is_empty(), "noise was taken for an answer");
}

fn texts(mut plan: Plan<'_>, pieces: &[usize], change: bool) {
    let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
    let mut client = Seal::client(Some(&key()), &mut to_server);
    let mut server = Seal::server([key()].into());
    let mut none = Assembler::default();
    assert!(feed(&mut server, &std::mem::take(&mut to_server), pieces, &mut none, &mut to_client));
    assert!(feed(&mut client, &to_client, pieces, &mut none, &mut to_server));
    assert!(client.is_sealed() && server.is_sealed());
    let (at, flip) = (usize::from(plan.byte()), plan.byte() | 1);
    let mut sent = Vec::new();
    while let Some(length) = plan.pop() {
        let text = String::from_utf8_lossy(plan.take(usize::from(length))).replace(char::is_control, "?");
        let text = text[..text.floor_char_boundary(TEXT_BYTES_MAX)].to_owned();
        let frame = Frame::Refusal(Refusal { text });
        let mut plain = Vec::new();
        frame.encode(&mut plain);
        client.seal(&mut plain, &mut to_server);
        sent.push(frame);
    }
    let changed = change && !to_server.is_empty();
    if changed {
        let at = at % to_server.len();
        to_server[at] ^= flip;
    }
    let (mut input, mut out) = (Assembler::default(), Vec::new());
    feed(&mut server, &to_server, pieces, &mut input, &mut out);
    let mut got = Vec::new();
    while let Ok(Some(frame)) = input.next_frame() {
        got.push(frame);
    }
    assert!(sent.starts_with(&got), "something else arrived");
    assert_eq!(got.len() < sent.len(), changed, "{} of {} arrived", got.len(), sent.len());
}
