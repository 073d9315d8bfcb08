//! Companion, required processes, the port alone, and crowds.

use super::tree::{CONTAINER, OUR_NETWORK, Tree};
use super::*;

#[test]
fn the_companion_comes_and_goes() {
    let tree = usual();
    let (found, sample) = look(&tree, &ossec());
    assert_eq!(sample.companion, Some(true));
    assert!(!found.is_outdated_by(&sample));

    // A zombie may have the same name.
    tree.process(19, "ossec-analysisd", &[]);
    tree.state(19, "ossec-analysisd", 'Z', 19);
    assert_eq!(look(&tree, &ossec()).1.companion, Some(true));

    // Another process got the id of the daemon.
    tree.state(20, "ossec-analysisd", 'S', 21);
    let sample = again(&tree, &ossec(), &found);
    assert_eq!(sample.companion, Some(false));
    assert!(found.is_outdated_by(&sample));

    // Wazuh's analysis daemon does not help.
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
    tree.process(30, "ossec-logcollector", &[]);
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
        bindings: Some(Bindings { remoted: vec![Binding::All], strangers: vec![] }),
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
    tree.udp("net/udp", &rows[..100]);
    tree.udp("net/udp6", &rows[100..]);
    tree.process(100, "ossec-remoted", &inodes);
    assert_eq!(look(&tree, &ossec()).1.sockets.len(), SOCKETS_MAX);
    // The system chooses the processes that are seen, so all are alike.
    let tree = usual();
    for pid in (101..).take(PROCESSES_MAX) {
        tree.process(pid, "ossec-remoted", &[700]);
    }
    assert_eq!(look(&tree, &ossec()).1.owners.len(), PROCESSES_MAX);
}

/// Another OSSEC on the same system, with an analysis daemon that comes first.
fn with_neighbour(network: &str, pids: &str, root: &str) -> Tree {
    let tree = usual();
    tree.lives_in(20, "pid:[1]", "/var/ossec");
    tree.lives_in(40, "pid:[1]", "/var/ossec");
    tree.process_in(network, 10, "ossec-analysisd", &[]);
    tree.process_in(network, 11, "ossec-db", &[]);
    tree.lives_in(10, pids, root);
    tree.lives_in(11, pids, root);
    tree
}

#[test]
fn the_companion_and_the_required_are_those_of_the_same_ossec() {
    let wanted = Wanted { required: vec!["ossec-db".into()], ..ossec() };
    for (network, pids, root, is_beside) in [
        (OUR_NETWORK, "pid:[1]", "/var/ossec", true),
        // The neighbour has kept the system's root: some processes of OSSEC do.
        (OUR_NETWORK, "pid:[1]", "/", true),
        (CONTAINER, "pid:[1]", "/var/ossec", false),
        (OUR_NETWORK, "pid:[2]", "/var/ossec", false),
        (OUR_NETWORK, "pid:[1]", "/opt/ossec", false),
    ] {
        let tree = with_neighbour(network, pids, root);
        let what = format!("{network} {pids} {root}");
        let (found, sample) = look(&tree, &wanted);
        assert_eq!((sample.companion, sample.missing.is_none()), (Some(true), is_beside), "{what}");
        // The neighbour's daemon is stopped.
        tree.remove("10");
        let sample = again(&tree, &wanted, &found);
        // The system chooses which of two daemons of one OSSEC is seen.
        assert!(is_beside || sample.companion == Some(true), "{what}");
        // Our daemon is stopped.
        let tree = with_neighbour(network, pids, root);
        tree.remove("20");
        assert_eq!(look(&tree, &wanted).1.companion, Some(is_beside), "{what}");
    }
}

#[test]
fn what_may_not_be_read_of_a_process_parts_it_from_nobody() {
    let tree = with_neighbour(CONTAINER, "pid:[2]", "/opt/ossec");
    tree.remove("20");
    for part in ["ns/net", "ns/pid", "root"] {
        tree.remove(&format!("10/{part}"));
    }
    assert_eq!(look(&tree, &ossec()).1.companion, Some(true));
}

#[test]
fn a_path_names_the_process_that_executes_that_very_file() {
    let tree = Tree::new();
    let files = ["here", "there"].map(|name| tree.root().join(format!("{name}/ossec-remoted")));
    for (file, (pid, inode)) in files.iter().zip([(40, 700), (41, 710)]) {
        tree.write(file.strip_prefix(tree.root()).expect("below it").to_str().expect("text"), "a program");
        let network = format!("net:[{pid}]");
        tree.process_in(&network, pid, "ossec-remoted", &[inode]);
        tree.udp(&format!("{pid}/net/udp6"), &[(PORT, UNCONNECTED, 0, inode, 0)]);
        tree.link(&format!("{pid}/exe"), file);
    }
    let (found, sample) = look(&tree, &ossec());
    assert_eq!((sample.owners, found.scattered()), (vec![owner(40), owner(41)], vec![40, 41]));

    let path = files[1].to_str().expect("text");
    let (found, sample) = look(&tree, &wanted(PORT, &[path]));
    assert_eq!((sample.owners, found.scattered()), (vec![owner(41)], vec![]));
    assert_eq!(sample.companion, Some(false), "its name is remoted's");
    // Only the other remoted is left.
    tree.remove("41");
    assert_eq!(look(&tree, &wanted(PORT, &[path])).1.presence, Presence::NoProcess);
    assert_eq!(look(&tree, &wanted(PORT, &["/no/such/file"])).1.presence, Presence::NoProcess);
}

#[test]
fn a_program_that_was_replaced_under_its_path_is_the_one_that_was_named() {
    let tree = usual();
    tree.link("self/ns/pid", "pid:[1]");
    tree.lives_in(40, "pid:[1]", "/var/ossec");
    tree.link("40/exe", "/no/such/bin/ossec-remoted (deleted)");
    let named = wanted(PORT, &["/no/such/bin/ossec-remoted"]);
    assert_eq!(look(&tree, &named).1.owners, [owner(40)]);
    // In a container the path means another file.
    tree.remove("40/ns/pid");
    tree.link("40/ns/pid", "pid:[2]");
    assert_eq!(look(&tree, &named).1.presence, Presence::Taken);
}

#[test]
fn remoteds_that_cannot_be_of_one_ossec_are_told_apart() {
    for (pids, root, scattered) in [
        ("pid:[1]", "/var/ossec", vec![]),
        ("pid:[2]", "/var/ossec", vec![40, 41]),
        ("pid:[1]", "/opt/ossec", vec![40, 41]),
    ] {
        let tree = usual();
        tree.lives_in(40, "pid:[1]", "/var/ossec");
        tree.process(41, "ossec-remoted", &[710]);
        tree.lives_in(41, pids, root);
        tree.udp("net/udp", &[(PORT, UNCONNECTED, 0, 710, 0)]);
        assert_eq!(look(&tree, &ossec()).0.scattered(), scattered, "{pids} {root}");
    }
}
