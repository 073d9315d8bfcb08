//! Imitated systems that show which process and which socket count.

use super::super::sample::age;
use super::tree::Tree;
use super::*;

#[test]
fn a_remoted_with_its_socket_is_running() {
    let (found, sample) = look(&usual(), &ossec());
    assert!(found.qualifies());
    assert!(found.doubts.is_empty());
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
        bindings: None,
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
    assert_eq!(look(&tree, &ossec()).1.presence, Presence::Taken);
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
    assert_eq!(look(&tree, &ossec()).1.presence, Presence::Taken);
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
        tree.udp("net/udp6", &[]);
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
    assert_eq!(look(&tree, &ossec()).1.owners, [Process { pid: 40, start_ticks: 41 }]);
}

#[test]
fn a_closed_socket_is_no_socket() {
    let tree = usual();
    let found = search_in(tree.root(), &ossec());
    // Another socket is on the port. A search has to look at it first.
    let mut inspector = Inspector::reading(tree.root(), ossec());
    assert_eq!(inspector.sample(&found).presence, Presence::Running);
    tree.udp("net/udp6", &[(PORT, UNCONNECTED, 0, 701, 0)]);
    let sample = inspector.sample(&found);
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
fn a_long_name_is_compared_as_a_whole() {
    let tree = Tree::new();
    tree.process(40, "netflow-collector", &[700]);
    tree.udp("net/udp", &[ROW]);
    assert_eq!(look(&tree, &wanted(PORT, &["netflow-collector"])).1.owners, [owner(40)]);
    assert_eq!(look(&tree, &wanted(PORT, &["netflow-collect"])).1.presence, Presence::Taken);
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
fn to_lose_one_of_several_calls_for_another_search() {
    let tree = usual();
    tree.process(41, "ossec-remoted", &[700, 710]);
    let both = [ROW, (PORT, UNCONNECTED, 0, 710, 0)];
    tree.udp("net/udp6", &both);
    let (found, sample) = look(&tree, &ossec());
    assert!(!found.is_outdated_by(&sample));
    tree.udp("net/udp6", &both[..1]);
    assert!(found.is_outdated_by(&again(&tree, &ossec(), &found)));
    tree.udp("net/udp6", &both);
    tree.remove("40");
    assert!(found.is_outdated_by(&again(&tree, &ossec(), &found)));
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
