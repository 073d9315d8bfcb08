//! A remoted in a container, and a remoted with descriptors that may not be read.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt;

use super::tree::{CONTAINER, Tree, hexadecimal};
use super::*;

#[test]
fn a_remoted_in_a_container_is_seen_through_its_own_tables() {
    let tree = Tree::new();
    tree.process_in(CONTAINER, 40, "wazuh-remoted", &[700]);
    tree.udp("40/net/udp", &[]);
    tree.udp("40/net/udp6", &[ROW]);
    let (found, sample) = look(&tree, &ossec());
    assert_eq!(sample.presence, Presence::Running);
    assert_eq!(sample.sockets, [SOCKET]);
    tree.remove("40");
    let sample = again(&tree, &ossec(), &found);
    assert_eq!(sample.presence, Presence::NoProcess);
}

#[test]
fn our_own_network_namespace_goes_first() {
    let tree = usual();
    tree.process_in(CONTAINER, 30, "wazuh-remoted", &[710]);
    tree.udp("30/net/udp6", &[(PORT, UNCONNECTED, 0, 710, 0)]);
    let (_, sample) = look(&tree, &ossec());
    assert_eq!((&sample.owners[..], &sample.sockets[..]), (&[owner(40)][..], &[SOCKET][..]));
    assert_eq!(sample.companion, Some(true));
    tree.remove("40");
    let (_, sample) = look(&tree, &ossec());
    assert_eq!((sample.owners, sample.companion), (vec![owner(30)], Some(false)));
}

#[test]
fn where_remoted_was_seen_at_home_one_in_a_container_is_anothers() {
    let tree = usual();
    tree.process_in(CONTAINER, 30, "wazuh-remoted", &[710]);
    tree.udp("30/net/udp6", &[(PORT, UNCONNECTED, 0, 710, 0)]);
    let at_home = search_in(tree.root(), &ossec());
    assert!(at_home.is_at_home());
    assert_eq!(again(&tree, &ossec(), &at_home.at_home()).owners, [owner(40)]);
    tree.remove("40");
    tree.udp("net/udp6", &[]);
    let elsewhere = search_in(tree.root(), &ossec());
    assert!(elsewhere.qualifies() && !elsewhere.is_at_home());
    let left = elsewhere.at_home();
    assert!(!left.qualifies());
    assert_eq!(again(&tree, &ossec(), &left).presence, Presence::NoProcess);
}

#[test]
fn two_remoteds_in_one_container_see_each_socket_once() {
    let tree = Tree::new();
    for (pid, inode) in [(40, 700), (41, 710)] {
        tree.process_in(CONTAINER, pid, "ossec-remoted", &[inode]);
        tree.udp(&format!("{pid}/net/udp6"), &[ROW, (PORT, UNCONNECTED, 0, 710, 0)]);
    }
    let (_, sample) = look(&tree, &ossec());
    assert_eq!(sample.owners, [owner(40), owner(41)]);
    assert_eq!(sample.sockets.len(), 2);
}

#[test]
fn remoteds_in_two_containers_count_together() {
    let tree = Tree::new();
    for (network, pid, inode) in [(CONTAINER, 40, 700), ("net:[4026532575]", 41, 710)] {
        tree.process_in(network, pid, "ossec-remoted", &[inode]);
        tree.udp(&format!("{pid}/net/udp6"), &[(PORT, UNCONNECTED, 0, inode, 0)]);
    }
    let (_, sample) = look(&tree, &ossec());
    assert_eq!(sample.owners, [owner(40), owner(41)]);
    assert_eq!(sample.sockets.len(), 2);
}

#[test]
fn a_socket_of_ours_counts_though_its_owner_moved_into_a_container() {
    let tree = Tree::new();
    tree.process_in(CONTAINER, 40, "ossec-remoted", &[700]);
    tree.udp("40/net/udp", &[]);
    tree.udp("net/udp", &[ROW]);
    assert_eq!(look(&tree, &ossec()).1.sockets, [SOCKET]);
}

#[test]
fn where_the_namespace_may_not_be_read_the_tables_of_the_process_are_tried() {
    let tree = Tree::new();
    tree.process_in(CONTAINER, 40, "ossec-remoted", &[700]);
    tree.remove("40/ns/net");
    tree.udp("40/net/udp6", &[ROW]);
    assert_eq!(look(&tree, &ossec()).1.sockets, [SOCKET]);
}

#[test]
fn what_may_not_be_read_does_not_count() {
    let tree = usual();
    let descriptors = tree.root().join("40/fd");
    fs::set_permissions(&descriptors, fs::Permissions::from_mode(0o000)).expect("it is ours");
    // Root may read the directory all the same.
    let readable = fs::read_dir(&descriptors).is_ok();
    let (found, sample) = look(&tree, &ossec());
    fs::set_permissions(&descriptors, fs::Permissions::from_mode(0o700)).expect("it is ours");
    let expected =
        if readable { (Presence::Running, vec![]) } else { (Presence::Taken, vec![(40, Doubt::Unreadable)]) };
    assert_eq!((sample.presence, found.doubts), expected);
}

#[test]
fn where_remoted_receives_depends_on_what_its_socket_is_bound_to() {
    let (any4, any6, one4, one6, mapped) = (
        "00000000".to_owned(),
        "0".repeat(32),
        hexadecimal(&[10, 0, 0, 1]),
        hexadecimal(&Ipv6Addr::LOCALHOST.octets()),
        hexadecimal(&Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped().octets()),
    );
    let targets: [IpAddr; 4] = [
        Ipv4Addr::LOCALHOST.into(),
        Ipv4Addr::new(10, 0, 0, 1).into(),
        Ipv6Addr::LOCALHOST.into(),
        "fd00::1".parse().expect("is an address"),
    ];
    for (path, bound, expected) in [
        ("net/udp", any4, [true, true, false, false]),
        ("net/udp6", any6, [true; 4]),
        ("net/udp", one4, [false, true, false, false]),
        ("net/udp6", one6, [false, false, true, false]),
        ("net/udp6", mapped, [false, true, false, false]),
    ] {
        let tree = Tree::new();
        tree.process(40, "ossec-remoted", &[700]);
        tree.udp_at(path, &bound, &[ROW]);
        let found = search_in(tree.root(), &ossec());
        assert_eq!(targets.map(|target| found.receives_at(target).is_ok()), expected, "{path}: {bound}");
    }
}

#[test]
fn a_remoted_in_a_container_receives_nothing_from_here() {
    let tree = Tree::new();
    tree.process_in(CONTAINER, 40, "ossec-remoted", &[700]);
    tree.udp("40/net/udp", &[ROW]);
    tree.udp("40/net/udp6", &[]);
    let found = search_in(tree.root(), &ossec());
    assert!(found.qualifies());
    assert_eq!(found.receives_at(Ipv4Addr::LOCALHOST.into()), Err(Unreachable::Container));
}
