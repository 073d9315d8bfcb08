use std::net::UdpSocket;

use super::*;
use crate::verdict::{Owner, Presence, Sample, Socket};

mod live;
mod tree;
mod trees;

fn wanted(port: u16, names: &[&str]) -> Wanted {
    Wanted { port, names: Names::These(names.iter().map(|&name| name.to_owned()).collect()), required: Vec::new() }
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
