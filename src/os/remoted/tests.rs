use std::path::Path;

use super::search::candidates::PROCESSES_MAX;
use super::socket::{Namespace, SOCKETS_MAX};
use super::wanted::{companion_of, is_named};
use super::*;
use crate::proto::server::judge::{Binding, Bindings, Presence, Process, Sample, Socket};

mod company;
pub(super) mod garbled;
mod live;
mod namespaces;
mod newcomers;
mod owners;
mod tree;
mod vouch;

use tree::Tree;

const PORT: u16 = 1_514;
const UNCONNECTED: u8 = 7;

/// The only socket on remoted's port.
const SOCKET: Socket = Socket { inode: 700, rx_queue: 0x1_0000, drops: 3, buffer: Some(425_984) };
const ROW: (u16, u8, u64, u64, u32) = (PORT, UNCONNECTED, 0x1_0000, 700, 3);

fn ossec() -> Wanted {
    Wanted { port: PORT, addresses: Vec::new(), names: Names::default(), required: Vec::new() }
}

fn search(wanted: &Wanted) -> Found {
    Searcher::new(wanted.clone()).search()
}

fn search_in(root: &Path, wanted: &Wanted) -> Found {
    search::search_in(&proc::Proc::imitated(root), wanted, &[])
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

fn owner(pid: u32) -> Process {
    Process { pid, start_ticks: u64::from(pid) }
}

fn wanted(port: u16, names: &[&str]) -> Wanted {
    let names = Names::These(names.iter().map(|&name| name.to_owned()).collect());
    Wanted { port, addresses: Vec::new(), names, required: Vec::new() }
}

#[test]
fn names_are_compared_as_the_kernel_cuts_them() {
    assert!(is_named(b"ossec-remoted", "ossec-remoted"));
    assert!(is_named(b"a-name-of-fifte", "a-name-of-fifteen-bytes-and-more"));
    assert!(!is_named(b"ossec-remote", "ossec-remoted"));
    assert!(!is_named(b"ossec-remoted2", "ossec-remoted"));
    assert!(!is_named(b"", "ossec-remoted"));
}

#[test]
fn each_remoted_has_its_own_companion() {
    assert_eq!(companion_of(b"ossec-remoted"), Some("ossec-analysisd"));
    assert_eq!(companion_of(b"wazuh-remoted"), Some("wazuh-analysisd"));
    assert_eq!(companion_of(b"rsyslogd"), None);
    assert_eq!(Names::default(), wanted(0, &["ossec-remoted", "wazuh-remoted"]).names);
}
