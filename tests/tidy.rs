//! The shape of the house, by path: which room may look into which, and what no room may do.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Floors from the roof down: a room looks into those of lower floors alone, or into what it holds.
const FLOORS: [&[&str]; 4] = [&["main"], &["cli"], &["check", "client", "logging", "server"], &["os"]];

/// What the pure floor does not use.
const OUTSIDE: [&str; 9] =
    ["std::net::Udp", "std::net::Tcp", "std::thread", "std::fs", "std::io", "Instant", "SystemTime", "mio::", "nix::"];

/// A source file: the path of its module (`["proto", "client", "link"]`), and its text without tests.
struct File {
    path: PathBuf,
    module: Vec<String>,
    text: String,
    code: String,
}

fn files() -> Vec<File> {
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
            let inside = path.strip_prefix(&root).expect("below src").with_extension("");
            let module = inside.iter().map(|part| part.to_string_lossy().into_owned()).collect();
            let text = fs::read_to_string(&path).expect("it is text");
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or("").to_owned();
            files.push(File { path, module, text, code });
        }
    }
    files
}

impl File {
    fn is_test(&self) -> bool {
        self.module.iter().any(|part| part == "tests")
    }

    fn is_below(&self, room: &[&str]) -> bool {
        self.module.iter().zip(room).filter(|(part, of)| part == of).count() == room.len()
    }

    /// What the code names by a path from the crate's root or from a parent, as parts.
    fn names(&self) -> Vec<Vec<String>> {
        let mut names = Vec::new();
        for (at, _) in self.code.match_indices("crate::") {
            let inside = self.code[..at].ends_with("pub(") || self.code[..at].ends_with("in ");
            if !inside {
                names.extend(spelled_out(&self.code[at + "crate::".len()..], &[]));
            }
        }
        for (at, _) in self.code.match_indices("super::") {
            if self.code[..at].ends_with("super::") || self.code[..at].ends_with("in ") {
                continue;
            }
            let (mut rest, mut base) = (&self.code[at..], self.module.clone());
            while let Some(after) = rest.strip_prefix("super::") {
                base.pop();
                rest = after;
            }
            names.extend(spelled_out(rest, &base));
        }
        names
    }
}

/// The paths that begin here: one, or those of a list in braces.
fn spelled_out(text: &str, base: &[String]) -> Vec<Vec<String>> {
    if let Some(list) = text.strip_prefix('{') {
        let mut depth = 0;
        let mut items = vec![String::new()];
        for c in list.chars() {
            match c {
                '}' if depth == 0 => break,
                ',' if depth == 0 => {
                    items.push(String::new());
                    continue;
                }
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if let Some(item) = items.last_mut() {
                item.push(c);
            }
        }
        return items
            .iter()
            .map(|item| item.trim())
            .filter(|item| !item.is_empty())
            .flat_map(|item| spelled_out(item, base))
            .collect();
    }
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let path = if name == "self" { base.to_vec() } else { base.iter().cloned().chain([name.to_owned()]).collect() };
    match rest.strip_prefix("::") {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == '{') => {
            spelled_out(rest, &path)
        }
        _ => vec![path],
    }
}

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&room))
}

#[test]
fn imports_point_down_never_up_or_sideways() {
    for file in files() {
        let Some(room) = file.module.first().filter(|room| *room != "lib") else {
            continue;
        };
        for name in file.names().iter().filter(|name| name.first() != Some(room)) {
            let other = name.first().expect("a name");
            let above = floor(room).unwrap_or(FLOORS.len());
            let below = match other.as_str() {
                "proto" => FLOORS.len(),
                other => floor(other).unwrap_or_else(|| panic!("{}: what is crate::{other}?", file.path.display())),
            };
            assert!(below > above, "{}: {room} looks into {other}", file.path.display());
        }
    }
}

#[test]
fn the_two_roles_know_nothing_of_each_other() {
    for (role, other) in [("client", "server"), ("server", "client")] {
        for file in files().iter().filter(|file| file.is_below(&["proto", role])) {
            let strange =
                file.names().into_iter().find(|name| name.len() > 1 && name[0] == "proto" && name[1] == other);
            assert_eq!(strange, None, "{}", file.path.display());
        }
    }
}

#[test]
fn the_ground_floor_is_pure() {
    for file in files().iter().filter(|file| file.is_below(&["proto"])) {
        for outside in OUTSIDE {
            assert!(!file.text.contains(outside), "{} is pure and must not use {outside}", file.path.display());
        }
    }
}

#[test]
fn nothing_unwraps_outside_of_tests_and_every_file_says_what_it_is_for() {
    let mut unwraps = BTreeMap::new();
    for file in files().into_iter().filter(|file| !file.is_test()) {
        assert!(file.text.starts_with("//!"), "{} has no header", file.path.display());
        let count = file.code.matches(".unwrap()").count();
        if count > 0 {
            unwraps.insert(file.path, count);
        }
    }
    assert!(unwraps.is_empty(), "{unwraps:?}");
}
