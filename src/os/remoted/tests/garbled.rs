//! Garbled files of the system.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

#[derive(Clone, Debug)]
enum Change {
    Overwrite(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    /// So many bytes come twice.
    Repeat(Index, usize),
    Cut(Index),
}

fn change() -> impl Strategy<Value = Change> {
    // Bytes that mean something to some parser.
    let byte = || prop_oneof![3 => any::<u8>(), 2 => prop::sample::select(&b"\0\n )(:[]-+ 0179aF"[..])];
    let at = || any::<Index>();
    prop_oneof![
        6 => (at(), byte()).prop_map(|(at, byte)| Change::Overwrite(at, byte)),
        2 => (at(), prop::collection::vec(byte(), 1..12)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        2 => (at(), 1usize..60).prop_map(|(at, length)| Change::Remove(at, length)),
        1 => (at(), 1usize..200).prop_map(|(at, length)| Change::Repeat(at, length)),
        1 => at().prop_map(Change::Cut),
    ]
}

impl Change {
    fn apply(self, bytes: &mut Vec<u8>) {
        use Change::{Cut, Insert, Overwrite, Remove, Repeat};
        let (Overwrite(at, _) | Insert(at, _) | Remove(at, _) | Repeat(at, _) | Cut(at)) = &self;
        let at = at.index(bytes.len() + 1);
        let end = |length: usize| (at + length).min(bytes.len());
        match self {
            Self::Overwrite(_, byte) => bytes.iter_mut().skip(at).take(1).for_each(|old| *old = byte),
            Self::Insert(_, more) => drop(bytes.splice(at..at, more)),
            Self::Remove(_, length) => drop(bytes.drain(at..end(length))),
            Self::Repeat(_, length) => bytes.extend_from_within(at..end(length)),
            Self::Cut(_) => bytes.truncate(at),
        }
    }
}

/// A real text or message with some changes. It gets past the first checks of a parser; random bytes hardly ever do.
pub(in crate::os::remoted) fn garbled(real: impl Into<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let real = real.into();
    prop::collection::vec(change(), 0..8).prop_map(move |changes| {
        let mut bytes = real.clone();
        for change in changes {
            change.apply(&mut bytes);
        }
        bytes
    })
}

/// The parts of an imitated system that can be garbled.
const STAT: &str = "30 (cat) R 1 1 1 0 -1 4194560 101 0 0 0 0 0 0 0 20 0 1 0 30 3133440 393\n";
const LINE: &str = "   1: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 600 2 \
                    00000000b85f6373 0\n";
const LINE_OF_REMOTED: &[u8] =
    b"\n   0: 00000000:05EA 00000000:0000 07 00000000:00010000 00:00000000 00000000     0        0 \
                                 700 2 00000000b85f6373 3\n";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_garbled_neighbour_hides_nobody(
        stat in garbled(STAT),
        comm in garbled("ossec-analysisd\n"),
        link in garbled("socket:[600]").prop_filter("no link", |link| !link.is_empty() && !link.contains(&0)),
        lines in garbled(LINE.repeat(2)),
    ) {
        let tree = usual();
        tree.process(30, "cat", &[]);
        tree.write("30/stat", stat);
        tree.write("30/comm", comm);
        tree.link("30/fd/9", OsStr::from_bytes(&link));
        tree.write("net/udp6", [&b"heading\n"[..], &lines, LINE_OF_REMOTED].concat());
        let (found, sample) = look(&tree, &ossec());
        prop_assert!(found.qualifies());
        prop_assert_eq!(sample.presence, Presence::Running);
        prop_assert!(sample.sockets.contains(&SOCKET), "{:?}", sample);
        prop_assert!(sample.owners.contains(&owner(40)), "{:?}", sample);
    }

    #[test]
    fn a_garbled_remoted_is_there_or_not_and_never_a_panic(
        stat in garbled(STAT.replace("30 (cat)", "40 (ossec-remoted)")),
        comm in garbled("ossec-remoted\n"),
        link in garbled("socket:[700]").prop_filter("no link", |link| !link.is_empty() && !link.contains(&0)),
        table in garbled(LINE_OF_REMOTED),
        rmem_default in garbled("212992\n"),
    ) {
        let tree = usual();
        tree.remove("40/fd/4");
        tree.link("40/fd/4", OsStr::from_bytes(&link));
        tree.write("40/stat", stat);
        tree.write("40/comm", comm);
        tree.write("net/udp6", table);
        tree.write("sys/net/core/rmem_default", rmem_default);
        let (found, sample) = look(&tree, &ossec());
        let there = matches!(sample.presence, Presence::Running | Presence::Stopped);
        prop_assert_eq!(there, !sample.sockets.is_empty(), "{:?}", sample);
        prop_assert!(!there || found.qualifies());
        prop_assert!(sample.sockets.is_sorted_by(|a, b| a.inode < b.inode), "{:?}", sample);
        prop_assert!(sample.owners.iter().all(|owner| owner.pid == 40), "{:?}", sample);
    }
}
