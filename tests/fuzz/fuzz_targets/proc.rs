//! `remoted`: the parsers of the kernel's words about processes and sockets.
//!
//! The first byte of the plan chooses a parser, the rest is its text. No parser panics, and:
//!
//! * the other lines of a table do not change whether a line counts;
//! * a process may have any name;
//! * the inode of a link is the number that stands there;
//! * an answer of `NETLINK_SOCK_DIAG` gives no more sockets than fit in it.
#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use libfuzzer_sys::fuzz_target;
use ossec_broker::os::remoted::diag::collect;
use ossec_broker::os::remoted::proc::{Row, RunState, rows, socket_link, stat};
use ossec_broker_fuzz::Plan;

const ROW: &[u8] =
    b"14405: 0100007F:05EA 00000000:0000 07 00000000:00034000 00:00000000 00000000     0        0 10791 2 \
00000000b85f6373 44        ";
const PORT: u16 = 0x05ea;

/// The part of `/proc/PID/stat` behind the name.
const STAT_REST: &[u8] = b") R 4008 4008 3310 0 -1 4194304 101 0 0 0 0 0 0 0 20 0 1 0 91034 3133440 393\n";

/// The sequence number of the request that is being answered.
const SEQUENCE: u32 = 7;
/// The lengths of `struct nlmsghdr` and `struct inet_diag_msg`.
const MESSAGE_BYTES_MIN: usize = 16 + 72;

fuzz_target!(|data: &[u8]| {
    let mut plan = Plan::new(data);
    match plan.byte() % 4 {
        0 => table(plan.rest()),
        1 => process(plan.rest()),
        2 => link(plan.rest()),
        _ => answer(plan.rest()),
    }
});

fn table(text: &[u8]) {
    let all: Vec<Row> = rows(text).collect();
    let one_by_one: Vec<Row> = text.split(|&byte| byte == b'\n').flat_map(rows).collect();
    assert_eq!(all, one_by_one);
    let good = rows(ROW).next().expect("a row of a real table");
    assert!(good.receives_on(PORT));
    let followed = [text, b"\n", ROW, b"\n"].concat();
    assert!(rows(&followed).eq(all.into_iter().chain([good])), "a real line after whatever lines");
}

fn process(text: &[u8]) {
    let _ = stat(text);
    let named = stat(&[b"4024 (", text, STAT_REST].concat()).expect("any name will do");
    assert_eq!(named.run_state, RunState::Running);
    assert_eq!(Some(named), stat(&[b"4024 (cat", STAT_REST].concat()));
}

fn link(target: &[u8]) {
    if let Some(inode) = socket_link(OsStr::from_bytes(target)) {
        assert_eq!(socket_link(OsStr::new(&format!("socket:[{inode}]"))), Some(inode));
    }
}

fn answer(datagram: &[u8]) {
    let mut sights = Vec::new();
    let _ = collect(datagram, SEQUENCE, &mut sights);
    assert!(
        sights.len() <= datagram.len() / MESSAGE_BYTES_MIN,
        "{} sockets in {} bytes",
        sights.len(),
        datagram.len()
    );
}
