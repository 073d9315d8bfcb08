use super::*;
use crate::proto::server::judge::{Binding, Bindings};
use crate::proto::terms::Receives;

#[test]
fn what_a_client_says_of_itself_is_believed_within_reason() {
    let boast =
        Ping { unsent: 1, next_cost: u64::MAX, unconfirmed_cost: u64::MAX, lease_ms: u32::MAX, ..Ping::default() };
    let demand = demand(1, IpAddr::from([10, 0, 0, 1]), &boast);
    assert!(demand.wants);
    assert_eq!(demand.next_cost, buffer_cost(DATAGRAM_BYTES_MAX));
    assert_eq!((demand.unconfirmed_cost, demand.lease), (CLAIM_BYTES_MAX, LEASE_MAX));
}

#[test]
fn what_the_socket_of_another_life_has_dropped_is_no_overflow_of_this_one() {
    let mut core = ServerCore::new(Duration::ZERO, 500);
    let sample = |inode, drops| Sample {
        presence: Presence::Running,
        sockets: vec![Socket { inode, rx_queue: 0, drops, buffer: None }],
        owners: Vec::new(),
        age: None,
        companion: None,
        missing: None,
        bindings: None,
    };
    let at = Time::from_millis;
    look(&mut core, at(1), &sample(1, 0));
    look(&mut core, at(2), &sample(1, 3));
    assert!(core.overflow.is_in_socket(at(2)));
    look(&mut core, at(3), &sample(2, 0));
    assert!(!core.overflow.is_in_socket(at(3)), "its successor's is another socket");
    look(&mut core, at(20_000), &sample(3, 7));
    assert!(!core.overflow.is_in_socket(at(20_000)), "dropped before it was seen first");
    look(&mut core, at(20_001), &sample(3, 8));
    assert!(core.overflow.is_in_socket(at(20_001)));
}

#[test]
fn a_client_that_remoted_does_not_receive_from_gets_no_window() {
    let mut core = ServerCore::new(Duration::ZERO, 500);
    let sample = Sample {
        presence: Presence::Running,
        sockets: vec![Socket { inode: 1, rx_queue: 0, drops: 0, buffer: None }],
        owners: Vec::new(),
        age: None,
        companion: None,
        missing: None,
        bindings: Some(Bindings { remoted: vec![Binding::AllOfV4], strangers: Vec::new() }),
    };
    look(&mut core, Time::from_millis(1), &sample);
    let ping = Ping { unsent: 1, held: 1, held_bytes: 100, next_cost: 832, lease_ms: 100, ..Ping::default() };
    let mut answer = |client, destination: [u16; 8]| {
        let address = IpAddr::from([10, 0, 0, 1]);
        let to = Delivery::Direct(Some(IpAddr::from(destination).to_canonical()));
        let pong = core.handle_ping(Time::from_millis(1), client, address, to, &ping, Duration::from_millis(1));
        (pong.verdict, pong.window > 0, pong.active)
    };
    let nowhere = Verdict::NoSocket(Receives::Ipv4Alone);
    assert_eq!(answer(1, [0xfd00, 0, 0, 0, 0, 0, 0, 2]), (nowhere, false, 0));
    assert_eq!(answer(2, [0, 0, 0, 0, 0, 0xffff, 0x0a00, 2]), (Verdict::Up, true, 1));
}
