use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::{env, process, thread};

use super::*;
use crate::proto::client::buffer::Entry;
use crate::proto::client::spool::log::{Log, SPOOL_BYTES_MIN, Setting};
use crate::proto::client::spool::record::{Agent, Clock, Totals};
use crate::proto::client::spool::records::{Mark, Records};
use crate::proto::terms::Seq;
use crate::proto::time::Time;

/// A place for one test, removed at the end with everything in it.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ossec-broker-os-spool-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = env::temp_dir().join(name);
        fs::create_dir(&path).unwrap_or_else(|error| panic!("cannot make {}: {error}", path.display()));
        Self(path)
    }

    /// Where the spool is to be. It does not exist yet.
    fn spool(&self) -> PathBuf {
        self.0.join("spool")
    }

    fn lock(&self) -> Directory {
        Directory::lock(&self.spool()).expect("a folder of its own")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("it is ours");
}

/// The texts of the errors when this folder is taken, and when it is looked at.
fn refusals(path: &Path) -> [String; 2] {
    [Directory::lock(path), Directory::look(path)].map(|outcome| outcome.expect_err("it is refused").to_string())
}

fn expect_refused(path: &Path, why: &str) {
    for text in refusals(path) {
        assert_eq!(text, format!("cannot use the spool {}: {why}", path.display()));
    }
}

/// The names and lengths of all files, in the order of their names.
fn listed(folder: &mut Directory) -> Vec<(String, u64)> {
    let mut files = folder.list().expect("it can be read");
    files.sort();
    files
}

fn append(folder: &mut Directory, name: &str, bytes: &[u8]) {
    let (written, outcome) = folder.append(name, bytes);
    assert_eq!((written, outcome.map_err(|error| error.to_string())), (bytes.len(), Ok(())));
}

#[test]
fn a_new_spool_can_be_entered_by_its_user_alone_and_so_can_its_files() {
    let place = Place::new();
    let mut folder = place.lock();
    folder.create("a.seg").expect("a new name");
    assert_eq!(folder.path(), place.spool());
    assert_eq!([mode(&place.spool()), mode(&place.spool().join("a.seg"))], [0o700, 0o600]);
}

#[test]
fn a_folder_that_is_there_already_is_taken_as_it_is() {
    let place = Place::new();
    fs::create_dir(place.spool()).expect("a new name");
    set_mode(&place.spool(), 0o700);
    fs::write(place.spool().join("a.seg"), b"left").expect("it is ours");
    assert_eq!(listed(&mut place.lock()), [("a.seg".to_owned(), 4)]);
}

#[test]
fn a_folder_that_others_may_enter_is_refused() {
    let place = Place::new();
    fs::create_dir(place.spool()).expect("a new name");
    for bit in 0..6 {
        set_mode(&place.spool(), 0o700 | 1 << bit);
        expect_refused(&place.spool(), "others may enter it; chmod 700 it");
    }
    set_mode(&place.spool(), 0o700);
    drop(place.lock());
}

#[test]
fn a_folder_of_another_user_is_refused_and_root_alone_may_look_into_it() {
    if !geteuid().is_root() {
        // Not through a macro: libtest would keep it to itself.
        let _ = writeln!(io::stderr(), "not tested, only root can: a folder of another user is refused");
        return;
    }
    let place = Place::new();
    fs::create_dir(place.spool()).expect("a new name");
    set_mode(&place.spool(), 0o700);
    fs::write(place.spool().join("a.seg"), b"theirs").expect("it is ours");
    chown(place.spool(), Some(12_345), None).expect("root may");
    let refused = Directory::lock(&place.spool()).expect_err("it is another user's").to_string();
    let why = "it belongs to user 12345, and this runs as user 0";
    assert_eq!(refused, format!("cannot use the spool {}: {why}", place.spool().display()));
    let mut look = Directory::look(&place.spool()).expect("root may look");
    assert_eq!(look.list().expect("it can be read"), [("a.seg".to_owned(), 6)], "nothing was made there");
}

#[test]
fn a_symbolic_link_and_a_file_are_no_folders_for_a_spool() {
    let place = Place::new();
    let (folder, link, file) = (place.spool(), place.0.join("link"), place.0.join("file"));
    drop(place.lock());
    symlink(&folder, &link).expect("a new name");
    fs::write(&file, b"text").expect("a new name");
    for path in [&link, &file] {
        expect_refused(path, "it is no folder, or a symbolic link");
    }
    // A slash at the end would lead through it.
    let refused = Directory::lock(&link.join("")).expect_err("it is a link").to_string();
    assert!(refused.ends_with("it is no folder, or a symbolic link"), "{refused}");
    // A link to nothing is not a place where a folder can be made.
    fs::remove_dir(&folder).expect("it is empty");
    expect_refused(&link, "it is no folder, or a symbolic link");
    assert!(!folder.exists());
}

#[test]
fn a_folder_whose_parent_is_missing_is_not_made_and_a_look_makes_nothing() {
    let place = Place::new();
    let path = place.spool().join("deeper");
    for text in refusals(&path) {
        assert!(text.starts_with(&format!("cannot use the spool {}: ", path.display())), "{text}");
    }
    Directory::look(&place.spool()).expect_err("it is missing");
    assert!(!place.spool().exists());
}

#[test]
fn one_process_uses_a_spool_at_a_time_and_others_may_look() {
    let place = Place::new();
    for _ in 0..3 {
        let mut folder = place.lock();
        folder.remove("a.seg").expect("it may be missing");
        folder.create("a.seg").expect("a new name");
        append(&mut folder, "a.seg", b"event");
        let refused = Directory::lock(&place.spool()).expect_err("it is taken").to_string();
        assert_eq!(refused, format!("cannot use the spool {}: another process uses it", place.spool().display()));
        let mut look = Directory::look(&place.spool()).expect("looking needs no lock");
        assert_eq!(listed(&mut look), [("a.seg".to_owned(), 5)]);
        // A look neither takes the spool from its process nor keeps it.
        drop(look);
        Directory::lock(&place.spool()).expect_err("it is still taken");
    }
}

#[test]
fn a_file_has_what_was_appended_and_is_cut_back_renamed_and_removed() {
    let place = Place::new();
    let mut folder = place.lock();
    folder.create("a.seg").expect("a new name");
    assert_eq!(folder.create("a.seg").map_err(|error| error.kind()), Err(ErrorKind::AlreadyExists));
    append(&mut folder, "a.seg", b"one");
    append(&mut folder, "a.seg", b"");
    append(&mut folder, "a.seg", b" two");
    folder.truncate("a.seg", 4).expect("it is open");
    append(&mut folder, "a.seg", b"three");
    folder.sync("a.seg").expect("it is open");
    append(&mut folder, "a.seg", b" four");
    folder.sync_names().expect("it is a folder");
    let path = place.spool().join("a.seg");
    assert_eq!(fs::read(&path).expect("it is there"), b"one three four");

    folder.rename("a.seg", "a.seg.bad").expect("it is there");
    assert_eq!(listed(&mut folder), [("a.seg.bad".to_owned(), 14)]);
    // The name is free again, and what is appended there goes to the new file.
    folder.create("a.seg").expect("a free name");
    append(&mut folder, "a.seg", b"new");
    assert_eq!(listed(&mut folder), [("a.seg".to_owned(), 3), ("a.seg.bad".to_owned(), 14)]);

    for _ in 0..2 {
        folder.remove("a.seg.bad").expect("a missing file is no error");
        folder.remove("a.seg").expect("a missing file is no error");
        assert_eq!(listed(&mut folder), []);
    }
    for outcome in [folder.append("a.seg", b"x").1, folder.truncate("a.seg", 0), folder.sync("a.seg")] {
        assert_eq!(outcome.map_err(|error| error.kind()), Err(ErrorKind::NotFound), "nothing makes a file but create");
    }
    assert_eq!(folder.rename("a.seg", "b.seg").map_err(|error| error.kind()), Err(ErrorKind::NotFound));
}

#[test]
fn a_file_of_an_earlier_process_is_appended_to_cut_back_and_synced() {
    let place = Place::new();
    let mut folder = place.lock();
    folder.create("a.seg").expect("a new name");
    append(&mut folder, "a.seg", b"event");
    drop(folder);
    let mut folder = place.lock();
    folder.create("b.seg").expect("a new name");
    folder.sync("a.seg").expect("it is there");
    append(&mut folder, "a.seg", b" more");
    folder.truncate("a.seg", 7).expect("it is there");
    append(&mut folder, "b.seg", b"newest");
    assert_eq!(listed(&mut folder), [("a.seg".to_owned(), 7), ("b.seg".to_owned(), 6)]);
    assert_eq!(fs::read(place.spool().join("a.seg")).expect("it is there"), b"event m");
}

#[test]
fn reading_says_how_many_bytes_there_are_from_any_place_on() {
    let place = Place::new();
    let mut folder = place.lock();
    folder.create("a.seg").expect("a new name");
    append(&mut folder, "a.seg", b"0123456789");
    let mut read = |from: u64, length: usize| {
        let mut bytes = vec![b'-'; length];
        let count = folder.read("a.seg", from, &mut bytes).expect("it can be read");
        assert!(bytes[count..].iter().all(|byte| *byte == b'-'), "nothing else is touched");
        String::from_utf8(bytes[..count].to_vec()).expect("it is text")
    };
    for (from, length, expected) in [
        (0, 10, "0123456789"),
        (0, 3, "012"),
        (4, 3, "456"),
        (7, 10, "789"),
        (9, 1, "9"),
        (10, 5, ""),
        (1 << 40, 5, ""),
        (3, 0, ""),
    ] {
        assert_eq!(read(from, length), expected, "{length} bytes from {from}");
    }
    let missing = folder.read("b.seg", 0, &mut [0; 4]).map_err(|error| error.kind());
    assert_eq!(missing, Err(ErrorKind::NotFound));
}

#[test]
fn a_symbolic_link_under_the_name_of_a_segment_is_not_followed() {
    let place = Place::new();
    let mut folder = place.lock();
    let (foreign, link) = (place.0.join("foreign"), place.spool().join("a.seg"));
    fs::write(&foreign, b"precious").expect("a new name");
    symlink(&foreign, &link).expect("a new name");
    assert_eq!(listed(&mut folder), [], "it is no file");
    folder.create("a.seg").expect_err("the name is taken");
    let (written, outcome) = folder.append("a.seg", b"event");
    assert_eq!(written, 0);
    let read = folder.read("a.seg", 0, &mut [0; 4]).map(|_| ());
    for outcome in [outcome, read, folder.truncate("a.seg", 0), folder.sync("a.seg")] {
        let error = outcome.expect_err("it is a link");
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP), "{error}");
    }
    folder.rename("a.seg", "a.seg.bad").expect("the link has another name");
    folder.remove("a.seg.bad").expect("the link is removed");
    assert_eq!(fs::read(&foreign).expect("it is there"), b"precious");
    // Nothing is made at the other end of a link to nothing, either.
    let nowhere = place.0.join("nowhere");
    symlink(&nowhere, &link).expect("a new name");
    folder.create("a.seg").expect_err("the name is taken");
    assert!(!nowhere.exists());
}

#[test]
fn only_files_are_listed() {
    let place = Place::new();
    let mut folder = place.lock();
    folder.create("a.seg").expect("a new name");
    fs::create_dir(place.spool().join("b.seg")).expect("a new name");
    nix::unistd::mkfifo(&place.spool().join("c.seg"), nix::sys::stat::Mode::S_IRUSR).expect("a new name");
    assert_eq!(listed(&mut folder), [("a.seg".to_owned(), 0)]);
}

/// The number of descriptors of this process that lead into a folder.
fn descriptors(path: &Path) -> usize {
    let entries = fs::read_dir("/proc/self/fd").expect("Linux has it").flatten();
    entries.filter(|entry| fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(path))).count()
}

#[test]
fn many_files_need_few_descriptors_whether_they_are_synced_or_not() {
    const FILES: usize = 3 * FILES_MAX;
    const FOLDER: usize = 1;
    let place = Place::new();
    let name = |at: usize| format!("{at:03}.seg");
    let mut folder = place.lock();
    for at in 0..FILES {
        folder.create(&name(at)).expect("a new name");
        append(&mut folder, &name(at), name(at).as_bytes());
        let open = descriptors(&place.spool());
        assert!(open <= FILES_MAX + FOLDER, "{open} after {at} files");
    }
    let all: Vec<(String, u64)> = (0..FILES).map(|at| (name(at), name(at).len() as u64)).collect();
    assert_eq!(listed(&mut folder), all);
    // This process syncs all files, and so does the next one.
    for _ in 0..2 {
        for at in 0..FILES {
            folder.sync(&name(at)).expect("it is there");
        }
        let open = descriptors(&place.spool());
        assert!(open <= 1 + FOLDER, "{open} after all were synced");
        drop(folder);
        folder = place.lock();
    }
}

#[test]
fn a_list_does_not_fail_because_files_come_and_go_meanwhile() {
    const FILES: usize = 20;
    const LISTS: usize = 3_000;
    let place = Place::new();
    let mut folder = place.lock();
    // To look at these files takes a while, in which others go.
    (0..100).for_each(|at| folder.create(&format!("kept-{at}.seg")).expect("a new name"));
    let mut look = Directory::look(&place.spool()).expect("looking needs no lock");
    let is_over = AtomicBool::new(false);
    let failure = thread::scope(|scope| {
        let come_and_go = || {
            for at in (0..FILES).cycle().take_while(|_| !is_over.load(Ordering::Relaxed)) {
                folder.create(&format!("{at}.seg")).expect("a free name");
                folder.remove(&format!("{}.seg", (at + 1) % FILES)).expect("it may be missing");
            }
        };
        thread::Builder::new().spawn_scoped(scope, come_and_go).expect("a thread starts");
        let failure = (0..LISTS).find_map(|at| Some((at, look.list().err()?)));
        is_over.store(true, Ordering::Relaxed);
        failure
    });
    assert!(failure.is_none(), "{failure:?}");
}

/// The folder of a process that is killed at one of its operations. Everything that it has done before stays.
struct Mortal {
    folder: Directory,
    /// Operations up to the fatal one; 0: the process is dead.
    left: Rc<Cell<u64>>,
}

impl Mortal {
    fn new(place: &Place, left: &Rc<Cell<u64>>) -> Self {
        Self { folder: place.lock(), left: Rc::clone(left) }
    }

    /// Counts an operation. The fatal one is not done.
    fn live(&self) -> io::Result<()> {
        let left = self.left.get().saturating_sub(1);
        self.left.set(left);
        if left == 0 { Err(io::Error::other("it was killed")) } else { Ok(()) }
    }
}

impl Folder for Mortal {
    type Error = io::Error;

    fn random(&mut self) -> u64 {
        self.folder.random()
    }

    fn list(&mut self) -> io::Result<Vec<(String, u64)>> {
        self.live()?;
        self.folder.list()
    }

    fn create(&mut self, name: &str) -> io::Result<()> {
        self.live()?;
        self.folder.create(name)
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> (usize, io::Result<()>) {
        let was_alive = self.left.get() > 0;
        match self.live() {
            Ok(()) => self.folder.append(name, bytes),
            // A kill may cut a write in two.
            Err(error) if was_alive => (self.folder.append(name, &bytes[..bytes.len() / 2]).0, Err(error)),
            Err(error) => (0, Err(error)),
        }
    }

    fn truncate(&mut self, name: &str, length: u64) -> io::Result<()> {
        self.live()?;
        self.folder.truncate(name, length)
    }

    // A kill takes nothing from the kernel, and the test need not wait for a disk a thousand times.
    fn sync(&mut self, _: &str) -> io::Result<()> {
        self.live()
    }

    fn sync_names(&mut self) -> io::Result<()> {
        self.live()
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.live()?;
        self.folder.remove(name)
    }

    fn rename(&mut self, name: &str, new: &str) -> io::Result<()> {
        self.live()?;
        self.folder.rename(name, new)
    }

    fn read(&mut self, name: &str, from: u64, bytes: &mut [u8]) -> io::Result<usize> {
        self.live()?;
        self.folder.read(name, from, bytes)
    }
}

const NOW: Time = Time::from_millis(1_000_000);

const fn setting() -> Setting {
    let clock = Clock { boot: 1, offset_ms: 0, trusted: false };
    Setting { bound_bytes: SPOOL_BYTES_MIN, stream: 7, clock, now: NOW }
}

/// The log says that something could not be done.
#[derive(Debug)]
struct Dead;

/// What a client knows of its datagrams.
#[derive(Default)]
struct Ledger {
    /// Every datagram that was ever to be written.
    all: BTreeMap<u64, Vec<u8>>,
    /// Held datagrams.
    held: BTreeSet<u64>,
    next: u64,
    /// Every datagram below this number was written.
    written: u64,
    /// Every datagram below this number was confirmed, and a mark on disk says so.
    marked: u64,
}

impl Ledger {
    /// Runs some processes, one after the other, until one is killed.
    fn live(&mut self, place: &Place, left: &Rc<Cell<u64>>) -> Result<(), Dead> {
        const PROCESSES: usize = 3;
        const ROUNDS: usize = 80;
        for _ in 0..PROCESSES {
            let folder = Mortal::new(place, left);
            let (mut log, found) = Log::open(folder, setting()).map_err(|_| Dead)?;
            if found.failure.is_some() {
                return Err(Dead);
            }
            self.next = found.tail.0;
            for round in 0..ROUNDS {
                let outcome = self.round(&mut log, round);
                self.written = self.written.max(log.written().0);
                outcome?;
            }
        }
        Ok(())
    }

    fn round(&mut self, log: &mut Log<Mortal>, round: usize) -> Result<(), Dead> {
        self.append(log)?;
        if round % 2 == 1 {
            self.confirm(log)?;
        }
        if round % 16 == 15 {
            log.sync().map_err(|_| Dead)?;
        }
        if round % 5 == 4 {
            let from = self.held.first().copied().unwrap_or(self.next);
            log.read(Seq(from), 1_000, &mut Records::default()).map_err(|_| Dead)?;
        }
        Ok(())
    }

    fn mark(&self) -> Mark {
        Mark { below: Seq(self.held.first().copied().unwrap_or(self.next)), totals: Totals::default() }
    }

    fn append(&mut self, log: &mut Log<Mortal>) -> Result<(), Dead> {
        let mut records = Records::default();
        (records.stream, records.mark) = (7, self.mark());
        records.agents = vec![Agent::unknown(1)];
        for _ in 0..3 {
            let bytes = self.next.to_be_bytes().repeat(10 + (self.next % 30) as usize);
            records.push(Entry { seq: Seq(self.next), session: 1, arrived: NOW, bytes: &bytes });
            self.all.insert(self.next, bytes);
            self.held.insert(self.next);
            self.next += 1;
        }
        records.end = Seq(self.next);
        log.append(&records).map_err(|_| Dead)
    }

    fn confirm(&mut self, log: &mut Log<Mortal>) -> Result<(), Dead> {
        for _ in 0..5 {
            self.held.pop_first();
        }
        let mark = self.mark();
        log.append_state(&Records::from(mark)).map_err(|_| Dead)?;
        self.marked = mark.below.0;
        Ok(())
    }

    /// What the next process reads, in its order.
    fn read_back(&self, place: &Place) -> Vec<u64> {
        let folder = Mortal::new(place, &Rc::new(Cell::new(u64::MAX)));
        let (mut log, found) = Log::open(folder, setting()).expect("it opens");
        assert!(self.all.last_key_value().is_none_or(|(newest, _)| *newest < found.tail.0), "a new generation");
        let (mut records, mut numbers, mut from) = (Records::default(), Vec::new(), found.first);
        while from < found.tail {
            let through = log.read(from, 5_000, &mut records).expect("it can be read");
            assert!(through > from, "it goes on");
            for entry in records.entries() {
                assert_eq!(self.all.get(&entry.seq.0).map(Vec::as_slice), Some(entry.bytes), "as it was");
                numbers.push(entry.seq.0);
            }
            from = through;
        }
        assert_eq!(found.held.datagrams, numbers.len() as u64);
        numbers
    }
}

#[test]
fn whenever_a_process_is_killed_the_next_one_finds_what_was_written_once_and_in_order() {
    const KILLS: u64 = 500;
    for fatal in 1..=KILLS {
        let place = Place::new();
        let left = Rc::new(Cell::new(fatal));
        let mut ledger = Ledger::default();
        ledger.live(&place, &left).expect_err("the last operation is later than that");
        let numbers = ledger.read_back(&place);
        assert!(numbers.is_sorted_by(|one, next| one < next), "operation {fatal}: once, and in order");
        let confirmed = numbers.iter().filter(|number| **number < ledger.marked).count();
        assert_eq!(confirmed, 0, "operation {fatal}: these were confirmed");
        let mut written = ledger.held.iter().filter(|number| **number < ledger.written);
        let lost = written.find(|number| numbers.binary_search(number).is_err());
        assert_eq!(lost, None, "operation {fatal}: it was written");
        assert_eq!(ledger.read_back(&place), numbers, "operation {fatal}: it stays so");
    }
}
