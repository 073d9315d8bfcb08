//! Random clients: the bounds hold whatever the clients do, and nobody starves among clients that behave.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Ask { client: u8, wants: bool, length: usize, unconfirmed: u64, lease: u64 },
    Gone(u8),
    Queue(u64),
    Flags { overflows: bool, reads: bool },
    Learn,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let length = prop_oneof![4 => 0usize..1_500, 1 => 0usize..=65_507, 1 => Just(65_507)];
    let lease = prop_oneof![5 => 1u64..500, 1 => 0u64..=10_000];
    let ask = (0u8..20, prop::bool::weighted(0.8), length, prop_oneof![Just(0), 0u64..200_000, Just(1 << 32)], lease);
    prop_oneof![
        12 => ask.prop_map(|(client, wants, length, unconfirmed, lease)| {
            Step::Ask { client, wants, length, unconfirmed, lease }
        }),
        1 => (0u8..20).prop_map(Step::Gone),
        2 => (0u64..400_000).prop_map(Step::Queue),
        1 => any::<(bool, bool)>().prop_map(|(overflows, reads)| Step::Flags { overflows, reads }),
        1 => Just(Step::Learn),
        6 => prop_oneof![4 => 0u64..60, 1 => 0u64..6_000].prop_map(Step::Wait),
    ]
}

/// Three clients at each address.
const fn host(client: u8) -> IpAddr {
    address(client / 3)
}

/// Checks that the sums and lists agree with the clients.
fn check_books(windows: &mut Windows, now: Time) {
    let kept = (windows.booked(now), windows.ledger.said(), windows.ledger.under_way(), windows.active(now));
    assert_eq!(kept, windows.ledger.added_up(now));
    let clients: Vec<&Client> = windows.ledger.iter().map(|(_, client)| client).collect();
    windows.turns.check_books(&clients);
    assert!(clients.iter().all(|client| client.is_bounded()));
}

fn check_grant(windows: &mut Windows, now: Time, demand: &Demand, grant: Grant, capacity: Capacity) {
    let half = capacity.buffer / 2;
    let booked = windows.ledger.iter().map(|(_, client)| client.booked(now));
    let booked: Vec<u64> = booked.filter(|&bytes| bytes > 0).collect();
    // A client that is alone may send a single datagram larger than half the buffer.
    assert!(windows.booked(now) <= half || booked.len() == 1, "{booked:?} granted of {}", capacity.buffer);
    assert!(grant.window <= half.max(demand.next_cost), "{grant:?} for {demand:?}");
    if demand.wants {
        assert!(grant.window == 0 || grant.window >= demand.next_cost, "{grant:?} is of no use for {demand:?}");
        let patience = ASK_AGAIN_MIN..=ASK_AGAIN_MAX;
        assert!(grant.window > 0 || patience.contains(&grant.ask_again), "{grant:?} for {demand:?}");
    }
    if grant.window > 0 {
        assert_eq!(grant.ask_again, Duration::ZERO);
    }
}

proptest! {
    #[test]
    fn whatever_clients_ask_for_the_bounds_hold(
        buffer in prop_oneof![Just(BUFFER), 4_096u64..64_000_000],
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let (mut windows, mut capacity, mut at) = (Windows::default(), Capacity { buffer, ..EMPTY }, 0);
        for step in steps {
            let now = ms(at);
            match step {
                Step::Ask { client, wants, length, unconfirmed, lease } => {
                    let demand = Demand {
                        address: host(client),
                        wants,
                        next_cost: buffer_cost(length),
                        unconfirmed_cost: unconfirmed,
                        lease: Duration::from_millis(lease),
                        ..asks(client)
                    };
                    let grant = windows.handle_request(now, demand, capacity);
                    check_grant(&mut windows, now, &demand, grant, capacity);
                }
                Step::Gone(client) => windows.handle_gone(ConnectionId::from(client)),
                Step::Queue(queue) => capacity.queue = queue,
                Step::Flags { overflows, reads } => (capacity.overflows, capacity.reads) = (overflows, reads),
                Step::Learn => windows.handle_queue(now, capacity.queue, capacity.overflows),
                Step::Wait(millis) => at += millis,
            }
            check_books(&mut windows, now);
            prop_assert!((1.0..=INFLATION_MAX).contains(&windows.inflation));
        }
    }
}

/// A client that always has something to send, and asks as it was told to.
#[derive(Clone, Debug)]
struct Honest {
    length: usize,
    /// The milliseconds until the client comes back for more.
    round_trip: u64,
    /// The client is gone after so many milliseconds: with a farewell (`true`), or without.
    gone: Option<(u64, bool)>,
}

fn honest() -> impl Strategy<Value = Honest> {
    let length = prop_oneof![6 => 0usize..200, 3 => 200usize..1_473, 1 => 1_473usize..7_000];
    let gone = prop_oneof![3 => Just(None), 1 => (0u64..4_000, any::<bool>()).prop_map(Some)];
    (length, 1u64..150, gone).prop_map(|(length, round_trip, gone)| Honest { length, round_trip, gone })
}

/// This is longer than a whole crowd needs for its turns. It is also longer than the wait for a client that vanished
/// in its turn.
const FAIR_AFTER_MILLIS: u64 = 12_000;

/// The moments at which each client of a crowd got a window.
fn serve(crowd: &[Honest], per_address: usize) -> Vec<Vec<u64>> {
    let (mut windows, mut at) = (Windows::default(), 0);
    let mut next = vec![0; crowd.len()];
    let mut granted = vec![Vec::new(); crowd.len()];
    while at < FAIR_AFTER_MILLIS {
        let asking: Vec<usize> = (0..crowd.len()).filter(|&index| next[index] == at).collect();
        for index in asking {
            let Honest { length, round_trip, gone } = crowd[index];
            if let Some((_, told)) = gone.filter(|(millis, _)| *millis <= at) {
                next[index] = u64::MAX;
                if told {
                    windows.handle_gone(index as u64);
                }
                continue;
            }
            let demand = Demand {
                address: address((index / per_address) as u8),
                next_cost: buffer_cost(length),
                lease: LEASE + Duration::from_millis(round_trip),
                ..asks(index as u8)
            };
            let grant = windows.handle_request(ms(at), demand, EMPTY);
            check_grant(&mut windows, ms(at), &demand, grant, EMPTY);
            if grant.window > 0 {
                granted[index].push(at);
            }
            next[index] = at + round_trip.max(grant.ask_again.as_millis() as u64);
        }
        check_books(&mut windows, ms(at));
        at = next.iter().copied().min().unwrap_or(u64::MAX);
    }
    granted
}

#[test]
fn one_whose_turn_is_over_leaves_its_place_to_a_neighbour_who_is_about_to_ask() {
    let honest = |round_trip| Honest { length: 0, round_trip, gone: None };
    let crowd = [1, 1, 1, 1, 133, 97, 47, 130, 31].map(honest);
    for (index, granted) in serve(&crowd, 4).iter().enumerate() {
        assert!(granted.len() > 10, "the one at {index} got a window {} times", granted.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn nobody_who_asks_as_told_starves(crowd in prop::collection::vec(honest(), 1..40), per_address in 1usize..6) {
        let granted = serve(&crowd, per_address);
        for (one, granted) in crowd.iter().zip(granted).filter(|(one, _)| one.gone.is_none()) {
            prop_assert!(granted.iter().any(|&at| at >= FAIR_AFTER_MILLIS / 2), "{one:?} got {granted:?}");
        }
    }
}
