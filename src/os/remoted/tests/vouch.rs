//! Processes that only call themselves remoted, or its analysis daemon.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use nix::unistd::geteuid;

use super::tree::Tree;
use super::*;

/// What a search says of process 40 with its socket, and of its doubt.
fn outcome(tree: &Tree, wanted: &Wanted) -> (Presence, Vec<(u32, Doubt)>) {
    let (found, sample) = look(tree, wanted);
    (sample.presence, found.doubts)
}

#[test]
fn a_process_that_calls_itself_remoted_and_runs_another_program_is_a_stranger() {
    let tree = usual();
    tree.executes(40, "bin/socat");
    assert_eq!(outcome(&tree, &ossec()), (Presence::Taken, vec![]));
    tree.executes(40, "bin/ossec-remoted2");
    assert_eq!(outcome(&tree, &ossec()), (Presence::Taken, vec![]));
}

#[test]
fn an_executable_that_others_may_change_is_not_believed() {
    for (path, mode) in [("bin/ossec-remoted", 0o775), ("bin/ossec-remoted", 0o757), ("bin", 0o775), ("bin", 0o1777)] {
        let tree = usual();
        tree.remove("20");
        fs::set_permissions(tree.root().join(path), Permissions::from_mode(mode)).expect("it is ours");
        let doubted = (Presence::Taken, vec![(40, Doubt::Changeable)]);
        assert_eq!(outcome(&tree, &ossec()), doubted, "{path} {mode:o}");
    }
    if !geteuid().is_root() {
        return;
    }
    // Only root can give a file away.
    for path in ["bin/ossec-remoted", "bin"] {
        let tree = usual();
        tree.remove("20");
        std::os::unix::fs::chown(tree.root().join(path), Some(4_711), None).expect("root may");
        assert_eq!(outcome(&tree, &ossec()), (Presence::Taken, vec![(40, Doubt::Changeable)]), "{path}");
    }
}

#[test]
fn another_users_process_counts_only_in_a_root_folder_of_its_own() {
    let tree = usual();
    tree.belongs_to(40, 4_711);
    assert_eq!(outcome(&tree, &ossec()), (Presence::Taken, vec![(40, Doubt::User(4_711))]));
    tree.link("40/root", "/var/ossec");
    assert_eq!(outcome(&tree, &ossec()), (Presence::Running, vec![]));
    tree.link("40/ns/user", "user:[2]");
    assert_eq!(outcome(&tree, &ossec()), (Presence::Taken, vec![(40, Doubt::Elsewhere)]), "anybody can do that there");
}

#[test]
fn an_executable_in_a_container_has_to_be_named_by_its_path() {
    let tree = usual();
    let there = tree.root().join("bin/ossec-remoted");
    // The path leads to another file here.
    fs::rename(&there, tree.root().join("container")).expect("it is there");
    tree.write("bin/ossec-remoted", "another program");
    tree.link("40/exe", tree.root().join("container"));
    assert_eq!(outcome(&tree, &ossec()), (Presence::Taken, vec![]), "its name is another one here");
    let container = tree.root().join("container");
    assert_eq!(outcome(&tree, &wanted(PORT, &[container.to_str().expect("text")])), (Presence::Running, vec![]));
}

#[test]
fn an_upgraded_executable_counts_as_long_as_its_folder_does() {
    let tree = usual();
    tree.link("self/ns/pid", "pid:[1]");
    tree.lives_in(40, "pid:[1]", "/var/ossec");
    // The system appends this to the path of a file that is gone. The test's link has to lead to a file.
    tree.write("bin/ossec-remoted (deleted)", "the old program");
    tree.link("40/exe", tree.root().join("bin/ossec-remoted (deleted)"));
    assert_eq!(outcome(&tree, &ossec()), (Presence::Running, vec![]));
    tree.lives_in(40, "pid:[2]", "/var/ossec");
    assert_eq!(outcome(&tree, &ossec()), (Presence::Taken, vec![(40, Doubt::Elsewhere)]));
}

#[test]
fn a_crowd_of_namesakes_hides_nobody_and_is_told_once() {
    let tree = usual();
    for pid in 100..100 + 2 * PROCESSES_MAX as u32 {
        tree.process(pid, "ossec-remoted", &[]);
        tree.belongs_to(pid, 4_711);
    }
    let (found, sample) = look(&tree, &ossec());
    assert_eq!((sample.owners, found.doubts.len()), (vec![owner(40)], 1));
}

#[test]
fn an_analysis_daemon_that_only_calls_itself_so_is_none() {
    let tree = usual();
    tree.remove("20");
    tree.process(19, "ossec-analysisd", &[]);
    tree.belongs_to(19, 4_711);
    let (found, sample) = look(&tree, &ossec());
    assert_eq!((sample.companion, found.doubts), (Some(false), vec![(19, Doubt::User(4_711))]));
    let required = Wanted { required: vec!["ossec-analysisd".into()], ..ossec() };
    assert_eq!(look(&tree, &required).1.missing.as_deref(), Some("ossec-analysisd"));
}

#[test]
fn the_analysis_daemon_of_a_container_is_the_one_in_remoteds_folder() {
    let tree = usual();
    for pid in [20, 40] {
        tree.link(&format!("{pid}/ns/user"), "user:[2]");
        tree.link(&format!("{pid}/ns/mnt"), "mnt:[2]");
    }
    let path = tree.root().join("bin/ossec-remoted");
    let named = wanted(PORT, &[path.to_str().expect("text")]);
    tree.link("self/ns/mnt", "mnt:[1]");
    assert_eq!(look(&tree, &named).1.companion, Some(true));
    tree.link("20/ns/mnt", "mnt:[3]");
    assert_eq!(look(&tree, &named).1.companion, Some(false));
    for pid in [20, 40] {
        tree.link(&format!("{pid}/ns/mnt"), "mnt:[1]");
    }
    assert_eq!(look(&tree, &named).1.companion, Some(false), "whom we share files with may be anybody");
}
