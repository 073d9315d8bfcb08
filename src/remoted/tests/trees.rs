//! Searches and samples of imitated systems.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;

use super::super::sample::age;
use super::super::search::{Sighting, claimed};
use super::tree::{CONTAINER, Tree};
use super::*;

const PORT: u16 = 1_514;
const UNCONNECTED: u8 = 7;

/// What stands alone on remoted's port.
const SOCKET: Socket = Socket { inode: 700, rx_queue: 0x1_0000, drops: 3, buffer: Some(425_984) };
const ROW: (u16, u8, u64, u64, u32) = (PORT, UNCONNECTED, 0x1_0000, 700, 3);

fn ossec() -> Wanted {
    Wanted { port: PORT, names: Names::default(), required: Vec::new() }
}

fn look(tree: &Tree, wanted: &Wanted) -> (Found, Sample) {
    let found = search_in(tree.root(), wanted);
    let sample = again(tree, wanted, &found);
    (found, sample)
}

fn again(tree: &Tree, wanted: &Wanted, found: &Found) -> Sample {
    Inspector::reading(tree.root(), wanted.clone()).sample(found)
}

/// A system with ossec-analysisd as process 20 and ossec-remoted as process 40, its socket in `udp6`.
fn usual() -> Tree {
    let tree = Tree::new();
    tree.process(1, "systemd", &[]);
    tree.process(20, "ossec-analysisd", &[]);
    tree.process(40, "ossec-remoted", &[600, 700]);
    tree.udp("net/udp6", &[(53, UNCONNECTED, 0, 600, 0), ROW]);
    tree
}

fn owner(pid: u32) -> Owner {
    Owner { pid, start_ticks: u64::from(pid) }
}

#[test]
fn a_remoted_with_its_socket_is_running() {
    let (found, sample) = look(&usual(), &ossec());
    assert!(found.qualifies());
    assert!(!found.fd_unreadable());
    assert_eq!(sample.presence, Presence::Running);
    assert_eq!(sample.sockets, [SOCKET]);
    assert_eq!(sample.owners, [owner(40)]);
}

#[test]
fn nothing_is_there_before_the_first_search() {
    let tree = usual();
    let wanted = Wanted { required: vec!["systemd".into()], ..ossec() };
    let sample = again(&tree, &wanted, &Found::default());
    let expected = Sample {
        presence: Presence::NoProcess,
        sockets: vec![],
        owners: vec![],
        age: None,
        companion: None,
        missing: Some("systemd".into()),
    };
    assert_eq!(sample, expected);
    assert!(!Found::default().qualifies());
    assert!(Found::default().is_outdated_by(&sample));
}

#[test]
fn an_empty_proc_has_nobody_and_does_no_harm() {
    let tree = Tree::new();
    tree.remove("net");
    tree.remove("self");
    let (found, sample) = look(&tree, &ossec());
    assert!(!found.qualifies());
    assert_eq!(sample.presence, Presence::NoProcess);
}

#[test]
fn another_program_on_the_port_is_not_remoted() {
    let tree = Tree::new();
    tree.process(50, "socat", &[700]);
    tree.udp("net/udp", &[ROW]);
    assert_eq!(look(&tree, &ossec()).1.presence, Presence::NoProcess);
    tree.process(40, "ossec-remoted", &[600]);
    let (found, sample) = look(&tree, &ossec());
    assert!(!found.qualifies());
    assert_eq!(sample.presence, Presence::NoSocket);
    assert!(sample.sockets.is_empty());
}

#[test]
fn a_name_in_the_arguments_does_not_count() {
    let tree = Tree::new();
    tree.process(40, "vi", &[700]);
    tree.udp("net/udp", &[ROW]);
    assert_eq!(look(&tree, &ossec()).1.presence, Presence::NoProcess);
}

#[test]
fn a_remoted_without_a_socket_is_told_from_none() {
    let tree = Tree::new();
    tree.process(40, "ossec-remoted", &[]);
    let (found, sample) = look(&tree, &ossec());
    assert_eq!(sample.presence, Presence::NoSocket);
    tree.remove("40");
    assert_eq!(again(&tree, &ossec(), &found).presence, Presence::NoProcess);
}

#[test]
fn the_dead_do_not_count() {
    for state in ['Z', 'X', 'x'] {
        let tree = usual();
        let before = search_in(tree.root(), &ossec());
        tree.state(40, "ossec-remoted", state, 40);
        assert_eq!(again(&tree, &ossec(), &before).presence, Presence::NoProcess);
        assert_eq!(look(&tree, &ossec()).1.presence, Presence::NoProcess);
    }
}

#[test]
fn a_stopped_remoted_is_seen_with_its_queue() {
    for state in ['T', 't'] {
        let tree = usual();
        let found = search_in(tree.root(), &ossec());
        tree.state(40, "ossec-remoted", state, 40);
        let sample = again(&tree, &ossec(), &found);
        assert_eq!(sample.presence, Presence::Stopped);
        assert_eq!(sample.sockets, [SOCKET]);
        assert!(!found.is_outdated_by(&sample));
    }
}

#[test]
fn a_process_id_that_was_given_to_another_process_is_not_remoted() {
    let tree = usual();
    let found = search_in(tree.root(), &ossec());
    tree.state(40, "ossec-remoted", 'S', 41);
    let sample = again(&tree, &ossec(), &found);
    assert_eq!(sample.presence, Presence::NoProcess);
    assert!(found.is_outdated_by(&sample));
    assert_eq!(look(&tree, &ossec()).1.owners, [Owner { pid: 40, start_ticks: 41 }]);
}

#[test]
fn a_closed_socket_is_no_socket() {
    let tree = usual();
    let found = search_in(tree.root(), &ossec());
    // What is on the port is another socket, which a search has to look at first.
    tree.udp("net/udp6", &[(PORT, UNCONNECTED, 0, 701, 0)]);
    let sample = again(&tree, &ossec(), &found);
    assert_eq!(sample.presence, Presence::NoSocket);
    assert!(found.is_outdated_by(&sample));
}

#[test]
fn connected_sockets_and_other_ports_do_not_count() {
    let tree = Tree::new();
    tree.process(40, "ossec-remoted", &[700, 701]);
    tree.udp("net/udp", &[(PORT, 1, 0, 700, 0), (PORT + 1, UNCONNECTED, 0, 701, 0)]);
    assert_eq!(look(&tree, &ossec()).1.presence, Presence::NoSocket);
}

#[test]
fn a_socket_that_gets_connected_does_not_count_any_more() {
    let tree = usual();
    let found = search_in(tree.root(), &ossec());
    tree.udp("net/udp6", &[(PORT, 1, 0, 700, 0)]);
    assert_eq!(again(&tree, &ossec(), &found).presence, Presence::NoSocket);
}

#[test]
fn a_system_without_ipv6_has_one_table() {
    let tree = usual();
    tree.remove("net/udp6");
    tree.udp("net/udp", &[ROW]);
    assert_eq!(look(&tree, &ossec()).1.sockets, [SOCKET]);
}

#[test]
fn a_long_name_is_compared_as_far_as_the_kernel_keeps_it() {
    let tree = Tree::new();
    tree.process(40, "netflow-collect", &[700]);
    tree.udp("net/udp", &[ROW]);
    assert_eq!(look(&tree, &wanted(PORT, &["netflow-collector"])).1.owners, [owner(40)]);
    assert_eq!(look(&tree, &wanted(PORT, &["netflow-collec"])).1.presence, Presence::NoProcess);
}

#[test]
fn several_processes_and_sockets_count_together() {
    let tree = usual();
    tree.process(30, "ossec-remoted", &[710]);
    tree.process(50, "ossec-remoted", &[]);
    tree.udp("net/udp", &[(PORT, UNCONNECTED, 0, 710, 0)]);
    let (found, sample) = look(&tree, &ossec());
    assert_eq!(sample.owners, [owner(30), owner(40)]);
    assert_eq!(sample.sockets.iter().map(|socket| socket.inode).collect::<Vec<_>>(), [700, 710]);
    assert!(!found.is_outdated_by(&sample));

    tree.state(30, "ossec-remoted", 'T', 30);
    assert_eq!(again(&tree, &ossec(), &found).presence, Presence::Stopped);

    tree.remove("30");
    tree.udp("net/udp", &[]);
    let sample = again(&tree, &ossec(), &found);
    assert_eq!((sample.presence, &sample.owners[..]), (Presence::Running, &[owner(40)][..]));
    assert!(found.is_outdated_by(&sample));

    tree.remove("40");
    assert_eq!(again(&tree, &ossec(), &found).presence, Presence::NoSocket);
    tree.remove("50");
    assert_eq!(again(&tree, &ossec(), &found).presence, Presence::NoProcess);
}

#[test]
fn a_socket_that_two_processes_share_is_counted_once() {
    let tree = usual();
    tree.process(41, "ossec-remoted", &[700]);
    let (_, sample) = look(&tree, &ossec());
    assert_eq!(sample.owners, [owner(40), owner(41)]);
    assert_eq!(sample.sockets, [SOCKET]);
}

#[test]
fn the_age_is_that_of_the_youngest_owner() {
    let tree = usual();
    tree.process(41, "ossec-remoted", &[700]);
    let (found, _) = look(&tree, &ossec());
    let before = age(41);
    let sample = again(&tree, &ossec(), &found);
    assert!(before <= sample.age && sample.age <= age(41));
    assert!(before.is_some());
}

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
    tree.process_in(CONTAINER, 30, "ossec-remoted", &[710]);
    tree.udp("30/net/udp6", &[(PORT, UNCONNECTED, 0, 710, 0)]);
    let (_, sample) = look(&tree, &ossec());
    assert_eq!(sample.owners, [owner(40)]);
    assert_eq!(sample.sockets, [SOCKET]);
    tree.remove("40");
    assert_eq!(look(&tree, &ossec()).1.owners, [owner(30)]);
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
fn a_socket_of_ours_counts_though_its_owner_moved_into_a_container() {
    let tree = Tree::new();
    tree.process_in(CONTAINER, 40, "ossec-remoted", &[700]);
    tree.udp("net/udp", &[ROW]);
    assert_eq!(look(&tree, &ossec()).1.sockets, [SOCKET]);
}

#[test]
fn where_the_namespace_may_not_be_read_the_tables_of_the_process_are_tried() {
    let tree = Tree::new();
    tree.process_in(CONTAINER, 40, "ossec-remoted", &[700]);
    tree.remove("40/ns");
    tree.udp("40/net/udp6", &[ROW]);
    assert_eq!(look(&tree, &ossec()).1.sockets, [SOCKET]);
}

#[test]
fn where_descriptors_may_not_be_read_name_and_port_must_do() {
    let socket = |view, inode| Sighting { view, family: Family::V4, inode };
    let ours = socket(View::Own, 700);
    let its = socket(View::Of(40), 710);
    let denied = || Err(io::Error::from(ErrorKind::PermissionDenied));
    // In our own network namespace, and in a container: a stranger's socket outside of it is not its own.
    assert_eq!(claimed(&[ours], &[ours], denied()), (vec![ours], false));
    assert_eq!(claimed(&[ours, its], &[its], denied()), (vec![its], false));
    assert_eq!(claimed(&[ours, its], &[its], Ok(vec![700])), (vec![ours], true));
    assert_eq!(claimed(&[ours], &[ours], Ok(vec![])), (vec![], true));
    assert_eq!(claimed(&[ours], &[ours], Err(ErrorKind::NotFound.into())), (vec![], true));
}

#[test]
fn an_owner_that_is_only_assumed_is_watched_but_not_named() {
    let tree = usual();
    let descriptors = tree.root().join("40/fd");
    fs::set_permissions(&descriptors, fs::Permissions::from_mode(0o000)).expect("it is ours");
    // Root may read it all the same.
    let readable = fs::read_dir(&descriptors).is_ok();
    let (found, sample) = look(&tree, &ossec());
    fs::set_permissions(&descriptors, fs::Permissions::from_mode(0o700)).expect("it is ours");
    assert_eq!(found.fd_unreadable(), !readable);
    assert_eq!(sample.owners.is_empty(), !readable);
    assert_eq!((sample.presence, &sample.sockets[..]), (Presence::Running, &[SOCKET][..]));
    assert!(sample.age.is_some());
    tree.state(40, "ossec-remoted", 'Z', 40);
    assert_eq!(again(&tree, &ossec(), &found).presence, Presence::NoProcess);
}

#[test]
fn the_companion_comes_and_goes() {
    let tree = usual();
    let (found, sample) = look(&tree, &ossec());
    assert_eq!(sample.companion, Some(true));
    assert!(!found.is_outdated_by(&sample));

    // Another process got its id.
    tree.state(20, "ossec-analysisd", 'S', 21);
    let sample = again(&tree, &ossec(), &found);
    assert_eq!(sample.companion, Some(false));
    assert!(found.is_outdated_by(&sample));

    // That of Wazuh does not help.
    tree.remove("20");
    tree.process(21, "wazuh-analysisd", &[]);
    assert_eq!(look(&tree, &ossec()).1.companion, Some(false));
}

#[test]
fn a_process_of_another_name_has_no_companion() {
    let tree = Tree::new();
    tree.process(40, "rsyslogd", &[700]);
    tree.process(41, "ossec-analysisd", &[]);
    tree.udp("net/udp", &[ROW]);
    assert_eq!(look(&tree, &wanted(PORT, &["rsyslogd"])).1.companion, None);
}

#[test]
fn the_first_required_process_that_is_not_there_is_missing() {
    let tree = usual();
    tree.process(30, "ossec-logcollec", &[]);
    let required = ["systemd", "ossec-logcollector", "ossec-db"].map(str::to_owned).to_vec();
    let wanted = Wanted { required, ..ossec() };
    let (found, sample) = look(&tree, &wanted);
    assert_eq!(sample.missing.as_deref(), Some("ossec-db"));
    assert!(found.is_outdated_by(&sample));
    tree.process(31, "ossec-db", &[]);
    let (found, sample) = look(&tree, &wanted);
    assert_eq!(sample.missing, None);
    tree.remove("30");
    assert_eq!(again(&tree, &wanted, &found).missing.as_deref(), Some("ossec-logcollector"));
}

#[test]
fn with_any_name_the_port_alone_counts() {
    let tree = usual();
    let wanted = Wanted { names: Names::Any, ..ossec() };
    let (found, sample) = look(&tree, &wanted);
    let expected = Sample {
        presence: Presence::Running,
        sockets: vec![SOCKET],
        owners: vec![],
        age: None,
        companion: None,
        missing: None,
    };
    assert_eq!(sample, expected);
    assert!(!found.is_outdated_by(&sample));
    tree.udp("net/udp6", &[]);
    assert_eq!(again(&tree, &wanted, &found).presence, Presence::NoSocket);
    assert_eq!(look(&tree, &wanted).1.presence, Presence::NoSocket);
}

#[test]
fn a_crowd_is_looked_at_as_far_as_the_limits() {
    let tree = Tree::new();
    let inodes: Vec<u64> = (700..).take(SOCKETS_MAX + 1).collect();
    let rows: Vec<_> = inodes.iter().map(|&inode| (PORT, UNCONNECTED, 0, inode, 0)).collect();
    tree.udp("net/udp", &rows);
    tree.process(100, "ossec-remoted", &inodes);
    for pid in (101..).take(PROCESSES_MAX) {
        tree.process(pid, "ossec-remoted", &[700]);
    }
    let (_, sample) = look(&tree, &ossec());
    assert_eq!(sample.sockets.len(), SOCKETS_MAX);
    assert_eq!(sample.owners.len(), PROCESSES_MAX);
}
