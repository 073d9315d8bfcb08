//! `streams`: clients of transport tcp send anything that they may, in every order, and remoted comes and goes.
//!
//! The plan: one byte after the other says what happens next.
//!
//! * Datagrams of a stream are injected in the order of their numbers, within one life of remoted never twice.
//! * Nothing is acknowledged that was not injected, and no acknowledgement goes back.
//! * The waiting datagrams are bounded.
#![no_main]

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use libfuzzer_sys::fuzz_target;
use ossec_broker::proto::server::streams::Streams;
use ossec_broker::proto::terms::{Incarnation, Reading, Seq, SessionName, StreamId};
use ossec_broker::proto::time::Time;
use ossec_broker::proto::wire::{Data, DataItem, Frame, Session};
use ossec_broker_fuzz::Plan;

const CONNECTIONS: u64 = 6;
const STREAMS: u8 = 3;
const COST: u64 = 832;

/// The state of a stream, as far as it is known from outside.
#[derive(Default)]
struct Known {
    /// The next number that may be injected in this life.
    injected: u64,
    acknowledged: u64,
    epoch: u32,
    next: u64,
}

fuzz_target!(|data: &[u8]| {
    let mut plan = Plan::new(data);
    let mut streams = Streams::default();
    let mut known: HashMap<StreamId, Known> = HashMap::new();
    let mut carried: HashMap<u64, StreamId> = HashMap::new();
    let (mut life, mut read, mut queue) = (1, 0, 0u64);
    streams.handle_sample(Incarnation(life), Reading { read, queue });
    while let Some(step) = plan.pop() {
        let connection = u64::from(plan.byte()) % CONNECTIONS;
        match step % 8 {
            0 => {
                let stream = u128::from(plan.byte() % STREAMS);
                carried.retain(|_, carries| *carries != stream);
                streams.handle_attach(Time::ZERO, connection, stream, IpAddr::V4(Ipv4Addr::LOCALHOST), false);
                carried.insert(connection, stream);
            }
            1 => {
                streams.handle_gone(Time::ZERO, connection);
                carried.remove(&connection);
            }
            2 => {
                let session = Session { name: SessionName { id: 0, generation: 0 }, port: 0 };
                let _ = streams.handle_session(connection, session);
            }
            3 | 4 => {
                let (back, count) = (u64::from(plan.byte() & 3), u64::from(plan.byte() % 40));
                let Some(stream) = carried.get(&connection) else { continue };
                let one = known.entry(*stream).or_default();
                let first = one.next.saturating_sub(if step & 64 == 0 { 0 } else { back });
                let epoch = one.epoch.wrapping_sub(u32::from(step & 128 != 0));
                let data = datagrams(epoch, first..first + count);
                if streams.handle_data(connection, data).is_ok() && epoch == one.epoch {
                    one.next = one.next.max(first + count);
                }
            }
            5 => {
                let room = u64::from(plan.byte()) * COST;
                while let Some(volley) = streams.poll(room, usize::MAX) {
                    let one = known.entry(volley.stream).or_default();
                    for payload in &volley.payloads {
                        let number = u64::from_be_bytes((*payload).try_into().expect("a number"));
                        assert!(number >= one.injected, "{number} after {}", one.injected);
                        one.injected = number + 1;
                        queue += COST;
                    }
                    let count = volley.payloads.len();
                    streams.handle_injected(count);
                    if plan.byte() & 1 == 0 {
                        break;
                    }
                }
            }
            6 => {
                let reads = (u64::from(plan.byte()) * COST).min(queue);
                queue -= reads;
                read += reads;
                streams.handle_sample(Incarnation(life), Reading { read, queue });
            }
            _ if step & 64 == 0 => {
                life += 1;
                queue = 0;
                streams.handle_sample(Incarnation(life), Reading { read, queue });
                for one in known.values_mut() {
                    one.injected = one.acknowledged;
                }
            }
            _ => {
                streams.handle_drop(step & 128 == 0);
                for one in known.values_mut() {
                    one.injected = one.acknowledged;
                }
            }
        }
        while let Some((connection, told)) = streams.poll_frame() {
            let Some(stream) = carried.get(&connection) else { panic!("{connection} carries nothing") };
            let one = known.entry(*stream).or_default();
            match told {
                Frame::Resume(resume) => {
                    one.epoch = resume.epoch;
                    one.next = resume.from.map_or(one.acknowledged, |from| from.0);
                    assert!(one.next >= one.acknowledged, "it goes on before what was acknowledged");
                }
                Frame::Ack(ack) => {
                    assert!(ack.read.0 >= one.acknowledged || ack.read == Seq(0), "an acknowledgement goes back");
                    one.acknowledged = one.acknowledged.max(ack.read.0);
                }
                other => panic!("streams never say {other:?}"),
            }
        }
        assert!(streams.waiting_cost() < u64::from(STREAMS) * (10 << 20), "{} wait", streams.waiting_cost());
    }
});

fn datagrams(epoch: u32, numbers: std::ops::Range<u64>) -> Data {
    // There is at least one number, so that there is something to take.
    let numbers = numbers.start..numbers.end.max(numbers.start + 1);
    let payloads: Vec<(u64, [u8; 8])> = numbers.map(|number| (number, number.to_be_bytes())).collect();
    let items = payloads.iter().map(|(number, bytes)| DataItem { seq: Seq(*number), session: 0, bytes });
    Data::new(epoch, &items.collect::<Vec<_>>())
}
