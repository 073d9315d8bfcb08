//! Companion, required processes, the port alone, and crowds.

use super::tree::Tree;
use super::*;

#[test]
fn the_companion_comes_and_goes() {
    let tree = usual();
    let (found, sample) = look(&tree, &ossec());
    assert_eq!(sample.companion, Some(true));
    assert!(!found.is_outdated_by(&sample));

    // One that nobody waited for, with the same name.
    tree.process(19, "ossec-analysisd", &[]);
    tree.state(19, "ossec-analysisd", 'Z', 19);
    assert_eq!(look(&tree, &ossec()).1.companion, Some(true));

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
        places: None,
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
    // Which of them are seen is up to the system, so all are alike.
    let tree = usual();
    for pid in (101..).take(PROCESSES_MAX) {
        tree.process(pid, "ossec-remoted", &[700]);
    }
    assert_eq!(look(&tree, &ossec()).1.owners.len(), PROCESSES_MAX);
}
