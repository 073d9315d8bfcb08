//! The shape of the house: which room may look into which, and what no room may do.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms from the roof down. A room may look into those of lower floors alone.
const FLOORS: [&[&str]; 8] = [
    &["cli"],
    &["client", "server", "check", "logging"],
    &["keyfile"],
    &["net", "remoted", "threads", "signals", "privileges"],
    &["relay", "gate"],
    &["buffer", "link", "verdict", "streams", "seal"],
    &["wire"],
    &["time"],
];

/// Rooms without sockets, clocks and threads.
const PURE: [&str; 9] = ["relay", "gate", "seal", "buffer", "link", "verdict", "streams", "wire", "time"];

/// Files without them in other rooms.
const PURE_FILES: [&str; 6] = [
    "server/conversation.rs",
    "server/inject/passages.rs",
    "server/inject/allotment.rs",
    "net/packet.rs",
    "cli/values.rs",
    "cli/values/host.rs",
];

/// What a pure room does not use.
const OUTSIDE: [&str; 9] =
    ["std::net::Udp", "std::net::Tcp", "std::thread", "std::fs", "std::io", "Instant", "SystemTime", "mio::", "nix::"];

/// Every source file with the room that it belongs to.
fn files() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("src can be read") {
            let path = entry.expect("src can be read").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let inside = path.strip_prefix(&root).expect("below src");
            let first = inside.components().next().expect("a name").as_os_str().to_string_lossy().into_owned();
            let room = first.trim_end_matches(".rs").to_string();
            let text = fs::read_to_string(&path).expect("it is text");
            files.push((room, path, text));
        }
    }
    files
}

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&room))
}

/// The rooms that a file names with `crate::`.
fn looks_into(text: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let names = match rest.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap_or("").split(',').map(str::trim).collect(),
            None => vec![rest],
        };
        for name in names {
            let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(name.len());
            rooms.push(name[..end].to_string());
        }
    }
    rooms
}

#[test]
fn imports_point_down_never_up_or_sideways() {
    for (room, path, text) in files() {
        let Some(own) = floor(&room) else {
            assert!(
                ["lib", "main"].contains(&room.as_str()),
                "{room} has no floor: add it to this test and to docs/architecture.md"
            );
            continue;
        };
        for other in looks_into(&text).into_iter().filter(|other| *other != room && !other.is_empty()) {
            let below = floor(&other).unwrap_or_else(|| panic!("{}: what is crate::{other}?", path.display()));
            assert!(below > own, "{}: {room} looks into {other}", path.display());
        }
    }
}

#[test]
fn the_ground_floor_is_pure() {
    let files = files();
    for name in PURE_FILES {
        assert!(files.iter().any(|(_, path, _)| path.ends_with(name)), "{name} is not there");
    }
    let pure = |room: &str, path: &Path| PURE.contains(&room) || PURE_FILES.iter().any(|name| path.ends_with(name));
    for (_, path, text) in files.iter().filter(|(room, path, _)| pure(room, path)) {
        for outside in OUTSIDE {
            assert!(!text.contains(outside), "{} is pure and must not use {outside}", path.display());
        }
    }
}

#[test]
fn nothing_unwraps_outside_of_tests_and_every_file_says_what_it_is_for() {
    let mut unwraps = BTreeMap::new();
    for (_, path, text) in files() {
        let test = path.file_name().is_some_and(|name| name == "tests.rs")
            || path.components().any(|part| part.as_os_str() == "tests");
        if !test {
            assert!(text.starts_with("//!"), "{} has no header", path.display());
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or("");
            let count = code.matches(".unwrap()").count();
            if count > 0 {
                unwraps.insert(path, count);
            }
        }
    }
    assert!(unwraps.is_empty(), "{unwraps:?}");
}
