//! The shape of the house, by path: which room may look into which, and which things no room may do.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Floors from the roof down. A room looks only into rooms of lower floors, or into the rooms that it holds.
const FLOORS: [&[&str]; 4] = [&["main"], &["cli"], &["check", "client", "logging", "server", "spool"], &["os"]];

/// Names that the pure floor does not use.
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

    /// The paths from the crate's root or from a parent that the code names, in parts.
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

/// The paths that begin here: one path, or the paths of a list in braces.
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

/// The most words of the README: more than one page is not read.
const README_WORDS_MAX: usize = 900;
/// Columns of a line of Markdown.
const COLUMNS_MAX: usize = 119;
/// Calls that make a line of the log above `debug`.
const LOGS: [&str; 4] = ["log::info!(", "log::warn!(", "log::error!(", "warn(format!("];
/// Shorter pieces of a log line, between its varying parts, say too little.
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
        for (number, line) in (1..).zip(text.lines()) {
            let columns = line.chars().count();
            assert!(columns <= COLUMNS_MAX, "{name}:{number} has {columns} columns, {COLUMNS_MAX} at most");
        }
    }
}

/// The tables of the kernel are as wide as they are, so their file is left out.
#[test]
fn lines_of_code_are_short() {
    for File { path, text, .. } in files().iter().filter(|file| !file.path.ends_with("proc/parse/tests.rs")) {
        for (number, line) in (1..).zip(text.lines()) {
            let columns = line.chars().count();
            assert!(
                columns <= COLUMNS_MAX,
                "{}:{number} has {columns} columns, {COLUMNS_MAX} at most",
                path.display()
            );
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
    for File { path, text, .. } in files() {
        for logs in LOGS {
            for line in text.match_indices(logs).filter_map(|(at, _)| literal(&text[at + logs.len()..])) {
                // The varying parts stand in braces.
                let pieces = line.split('{').map(|piece| piece.split_once('}').map_or(piece, |(_, fixed)| fixed));
                for piece in pieces.filter(|piece| piece.len() >= PIECE_CHARS_MIN) {
                    assert!(manual.contains(piece.trim()), "{}: {line:?} is not in the manual", path.display());
                }
            }
        }
    }
}

#[test]
fn a_parent_composes_and_its_children_do_not_look_up() {
    let files = files();
    let modules: Vec<&[String]> = files.iter().map(|file| &file.module[..]).collect();
    let mut arrows = Vec::new();
    for file in files.iter().filter(|file| !file.is_test()) {
        for name in file.names() {
            // The room that the name is of: the longest part of it that is a file.
            let room = (1..=name.len()).rev().map(|length| &name[..length]).find(|part| modules.contains(part));
            let is_parent = |room: &[String]| room.len() < file.module.len() && file.module.starts_with(room);
            if room.is_some_and(is_parent) {
                arrows.push(format!("{}: {}", file.module.join("::"), name.join("::")));
            }
        }
    }
    arrows.sort();
    assert!(arrows.is_empty(), "{} arrows:\n{}", arrows.len(), arrows.join("\n"));
}
