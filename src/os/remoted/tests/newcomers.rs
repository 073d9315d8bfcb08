//! Sockets that come after a search, and sockets on the port that do not count.

use std::net::{IpAddr, Ipv4Addr};

use super::tree::{CONTAINER, Tree, hexadecimal};
use super::*;

const SECOND: (u16, u8, u64, u64, u32) = (PORT, UNCONNECTED, 0, 710, 0);

fn inspected(tree: &Tree, wanted: &Wanted, found: &Found) -> (Sample, bool) {
    let mut inspector = Inspector::reading(tree.root(), wanted.clone());
    let sample = inspector.sample(found);
    (sample, inspector.sees_newcomer())
}

#[test]
fn a_socket_that_a_search_has_not_seen_calls_for_another_one_until_that_knows_whose_it_is() {
    let tree = usual();
    let found = search_in(tree.root(), &ossec());
    assert!(!inspected(&tree, &ossec(), &found).1);

    // A new process has a socket of the other family.
    tree.process(41, "ossec-remoted", &[710]);
    tree.udp("net/udp", &[SECOND]);
    let (sample, newcomer) = inspected(&tree, &ossec(), &found);
    assert!(newcomer && !found.is_outdated_by(&sample));
    assert_eq!(sample.sockets, [SOCKET]);
    let found = search_in(tree.root(), &ossec());
    let (sample, newcomer) = inspected(&tree, &ossec(), &found);
    assert_eq!((sample.sockets.len(), newcomer), (2, false));

    // A stranger has a socket.
    tree.process(42, "socat", &[720]);
    tree.udp("net/udp", &[SECOND, (PORT, UNCONNECTED, 0, 720, 0)]);
    assert!(inspected(&tree, &ossec(), &found).1);
    let found = search_in(tree.root(), &ossec());
    let (sample, newcomer) = inspected(&tree, &ossec(), &found);
    assert_eq!((sample.sockets.len(), newcomer), (2, false));
}

#[test]
fn where_remoted_was_found_in_a_container_alone_one_that_starts_at_home_is_seen() {
    let tree = Tree::new();
    tree.process_in(CONTAINER, 40, "ossec-remoted", &[700]);
    tree.udp("40/net/udp", &[]);
    tree.udp("40/net/udp6", &[ROW]);
    let found = search_in(tree.root(), &ossec());
    assert!(found.qualifies() && !inspected(&tree, &ossec(), &found).1);
    tree.process(41, "ossec-remoted", &[710]);
    tree.udp("net/udp", &[SECOND]);
    assert!(inspected(&tree, &ossec(), &found).1);
    let found = search_in(tree.root(), &ossec());
    assert_eq!(inspected(&tree, &ossec(), &found).0.owners, [owner(41)]);

    // A second socket in the container calls for a search, too.
    tree.remove("41");
    tree.udp("net/udp", &[]);
    let found = search_in(tree.root(), &ossec());
    tree.udp("40/net/udp", &[SECOND]);
    assert!(inspected(&tree, &ossec(), &found).1);
}

#[test]
fn a_crowd_that_no_search_keeps_apart_calls_for_none() {
    let tree = usual();
    let rows: Vec<_> = (1_000..).take(SOCKETS_MAX + 1).map(|inode| (PORT, UNCONNECTED, 0, inode, 0)).collect();
    tree.udp("net/udp", &rows);
    let found = search_in(tree.root(), &ossec());
    assert!(!inspected(&tree, &ossec(), &found).1);
}

/// Two processes with a socket for one address each, as OSSEC up to 4.0 has them with two `<local_ip>`.
fn two_addresses() -> Tree {
    let tree = Tree::new();
    tree.process(20, "ossec-analysisd", &[]);
    tree.process(40, "ossec-remoted", &[700]);
    tree.process(41, "ossec-remoted", &[710]);
    tree.udp_at("net/udp", &hexadecimal(&[10, 99, 0, 2]), &[ROW]);
    tree.udp_at("net/udp6", &hexadecimal(&Ipv4Addr::new(10, 99, 0, 3).to_ipv6_mapped().octets()), &[SECOND]);
    tree
}

fn at(address: [u8; 4]) -> Wanted {
    Wanted { addresses: vec![IpAddr::from(address)], ..ossec() }
}

#[test]
fn with_an_address_only_the_socket_that_receives_there_counts() {
    let tree = two_addresses();
    let (found, sample) = look(&tree, &ossec());
    assert_eq!(sample.owners, [owner(40), owner(41)]);
    assert!([2, 3].iter().all(|last| found.receives_at(IpAddr::from([10, 99, 0, *last])).is_ok()));

    let wanted = at([10, 99, 0, 3]);
    let (found, sample) = look(&tree, &wanted);
    assert_eq!((&sample.owners[..], sample.sockets[0].inode), (&[owner(41)][..], 710));
    let receives = |last| found.receives_at(IpAddr::from([10, 99, 0, last]));
    assert!(receives(3).is_ok());
    assert_eq!(receives(2), Err(Unreachable::At([10, 99, 0, 3].into())), "the other one's is a stranger's");

    // The owner is killed, the other process lives.
    tree.remove("41");
    tree.udp("net/udp6", &[]);
    assert_eq!(again(&tree, &wanted, &found).presence, Presence::Elsewhere);
    assert_eq!(look(&tree, &wanted).1.presence, Presence::Elsewhere);
    assert_eq!(look(&tree, &ossec()).1.owners, [owner(40)]);
}

#[test]
fn with_an_address_the_narrowest_socket_counts_and_with_none_all_do() {
    let tree = two_addresses();
    tree.udp("net/udp6", &[SECOND]);
    // 10.99.0.2 has a socket to itself. All other addresses share the unbound socket.
    assert_eq!(look(&tree, &at([10, 99, 0, 2])).1.owners, [owner(40)]);
    assert_eq!(look(&tree, &at([10, 99, 0, 7])).1.owners, [owner(41)]);
    let any = Wanted { names: Names::Any, ..at([10, 99, 0, 7]) };
    assert_eq!(look(&tree, &any).1.sockets[0].inode, 710);
}

#[test]
fn a_sample_says_where_remoted_receives_and_what_strangers_take() {
    let tree = two_addresses();
    tree.remove("41");
    tree.process(41, "socat", &[710]);
    let (mut found, sample) = look(&tree, &ossec());
    let binding = |last| Binding::One(IpAddr::from([10, 99, 0, last]));
    let expected = Bindings { remoted: vec![binding(2)], strangers: vec![binding(3)] };
    assert_eq!(sample.bindings, Some(expected.clone()));
    assert_eq!(found.bindings, expected);
    // The socket moves; the newest look counts.
    tree.udp("net/udp", &[ROW]);
    found.note_bindings(&again(&tree, &ossec(), &found));
    assert_eq!(found.bindings.remoted, [Binding::AllOfV4]);
}

#[test]
fn without_the_right_process_a_port_that_somebody_has_is_told() {
    let tree = usual();
    tree.process(42, "socat", &[720]);
    let (found, sample) = look(&tree, &wanted(PORT, &["rsyslogd"]));
    assert_eq!(sample.presence, Presence::Taken);
    tree.udp("net/udp6", &[]);
    assert_eq!(again(&tree, &wanted(PORT, &["rsyslogd"]), &found).presence, Presence::NoProcess);
}
