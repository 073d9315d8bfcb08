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

/// More than one page is not read.
const README_WORDS_MAX: usize = 900;
/// Columns of a line of Markdown.
const COLUMNS_MAX: usize = 119;
/// Pages that may have longer lines: tables of what is where.
const WIDE: [&str; 1] = ["architecture.md"];
/// What makes a line of the log above `debug`.
const LOGS: [&str; 4] = ["log::info!(", "log::warn!(", "log::error!(", "warn(format!("];
/// Shorter pieces of a log line, between what varies in it, say too little.
const PIECE_CHARS_MIN: usize = 6;

/// The Markdown pages with their texts, the README among them.
fn pages() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let entries = fs::read_dir(root.join("docs")).expect("docs can be read");
    let docs = entries.map(|entry| entry.expect("docs can be read").path());
    let paths = docs.chain([root.join("README.md")]).filter(|path| path.extension().is_some_and(|end| end == "md"));
    paths.map(|path| (path.clone(), fs::read_to_string(&path).expect("it is text"))).collect()
}

/// The manual page without the escapes of its language.
fn manual() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/ossec-broker.8");
    let text = fs::read_to_string(path).expect("there is a manual");
    text.replace("\\-", "-").replace("\\(dq", "\"")
}

/// The name that a heading has in a link.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || "-_ ".contains(*c);
    heading.trim_start_matches('#').trim().to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")
}

#[test]
fn the_readme_is_one_page_and_lines_of_markdown_are_short() {
    for (path, text) in pages() {
        let name = path.file_name().expect("a name").to_string_lossy();
        if name == "README.md" {
            let words = text.split_whitespace().count();
            assert!(words <= README_WORDS_MAX, "the README has {words} words");
        }
        if WIDE.contains(&&*name) {
            continue;
        }
        for (number, line) in (1..).zip(text.lines()) {
            let columns = line.chars().count();
            assert!(columns <= COLUMNS_MAX, "{name}:{number} has {columns} columns");
        }
    }
}

#[test]
fn links_between_pages_lead_somewhere() {
    for (path, text) in pages() {
        for (at, _) in text.match_indices("](") {
            let link = text[at + 2..].split(')').next().unwrap_or("");
            if link.contains("://") {
                continue;
            }
            let (file, part) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { path.with_file_name(file) };
            assert!(target.exists(), "{}: {link} leads nowhere", path.display());
            if !part.is_empty() {
                let text = fs::read_to_string(&target).expect("it is text");
                let found = text.lines().any(|line| line.starts_with('#') && anchor(line) == part);
                assert!(found, "{}: {link} names no heading", path.display());
            }
        }
    }
}

#[test]
fn the_manual_has_the_options_of_the_help_and_no_others() {
    let manual = manual();
    for role in ["client", "server", "check", "genkey"] {
        let help = std::process::Command::new(env!("CARGO_BIN_EXE_ossec-broker")).args([role, "--help"]).output();
        let help = String::from_utf8(help.expect("the broker starts").stdout).expect("it is text");
        // `  -v, --verbose     say more`; the rest of a text stands further to the right.
        let rows = help.lines().filter_map(|line| line.strip_prefix("  ")).filter(|row| row.starts_with('-'));
        let mut offered: Vec<&str> =
            rows.filter_map(|row| row.split(' ').find_map(|word| word.strip_prefix("--"))).collect();
        offered.retain(|option| *option != "help,");
        let section = manual.split(&format!("\n.Ss {role}\n")).nth(1).expect("the role has a section");
        let section = section.split("\n.Sh ").next().and_then(|rest| rest.split("\n.Ss ").next()).unwrap_or("");
        // `.It Fl v , Fl -verbose`
        let items = section.lines().filter_map(|line| line.strip_prefix(".It Fl "));
        let mut described: Vec<&str> =
            items.filter_map(|item| item.split(' ').find_map(|word| word.strip_prefix('-'))).collect();
        offered.sort_unstable();
        described.sort_unstable();
        assert_eq!(described, offered, "{role}");
    }
}

/// The text of the string literal that `code` begins with, if it does.
fn literal(code: &str) -> Option<String> {
    let mut rest = code.trim_start().strip_prefix('"')?.chars();
    let mut text = String::new();
    loop {
        match rest.next()? {
            '"' => return Some(text),
            '\\' => match rest.next()? {
                // A line that goes on below.
                '\n' => rest = rest.as_str().trim_start().chars(),
                escaped => text.push(escaped),
            },
            other => text.push(other),
        }
    }
}

#[test]
fn the_manual_has_what_is_logged_without_an_option() {
    let manual = manual().replace('\n', " ");
    for (_, path, text) in files() {
        for logs in LOGS {
            for line in text.match_indices(logs).filter_map(|(at, _)| literal(&text[at + logs.len()..])) {
                // What varies stands in braces.
                let pieces = line.split('{').map(|piece| piece.split_once('}').map_or(piece, |(_, fixed)| fixed));
                for piece in pieces.filter(|piece| piece.len() >= PIECE_CHARS_MIN) {
                    assert!(manual.contains(piece.trim()), "{}: {line:?} is not in the manual", path.display());
                }
            }
        }
    }
}
