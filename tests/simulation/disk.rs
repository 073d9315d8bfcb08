//! A made-up disk. What was not synced may be lost in a power cut: names one by one, data page by page.

use std::collections::BTreeMap;
use std::ops::Range;

use ossec_broker::proto::client::spool::folder::Folder;

use crate::random::Random;

const PAGE_BYTES: usize = 4_096;

/// What the disk does wrong at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is mounted read-only.
    ReadOnly,
    /// It has no room.
    Full,
    /// Syncs fail, and what was to be synced may be lost or not.
    Sync,
    /// Nothing works, and nothing can be read.
    Dead,
}

#[derive(Clone, Debug, Default)]
struct File {
    data: Vec<u8>,
    durable: Vec<u8>,
    /// A sync of these bytes has failed. The kernel takes them for written, and no later sync writes them.
    forgotten: Range<usize>,
}

/// A folder on the disk.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    files: Vec<File>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    pub(crate) fault: Option<Fault>,
    /// Bytes that appends may still add before the disk is full in the middle of one.
    pub(crate) room: usize,
    random: Random,
    /// Operations that are still done; then the power is cut.
    pub(crate) operations: u64,
    pub(crate) written_bytes: u64,
    /// The most bytes that all files had, without those that a power cut has brought back.
    pub(crate) peak_bytes: u64,
    back_bytes: u64,
}

/// Why an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure;

impl Disk {
    pub(crate) const fn new(random: Random) -> Self {
        Self {
            files: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            fault: None,
            room: usize::MAX,
            random,
            operations: u64::MAX,
            written_bytes: 0,
            peak_bytes: 0,
            back_bytes: 0,
        }
    }

    /// The disk as the next process finds it. With the power everything may go that was not synced.
    pub(crate) fn after(mut self, power_cut: bool) -> Self {
        (self.fault, self.room, self.operations) = (None, usize::MAX, u64::MAX);
        if power_cut {
            let before = self.bytes();
            let mut names = self.durable_names.clone();
            for name in self.names.keys().chain(self.durable_names.keys()) {
                if self.random.per_mille(500) {
                    match self.names.get(name) {
                        Some(&file) => names.insert(name.clone(), file),
                        None => names.remove(name),
                    };
                }
            }
            self.names.clone_from(&names);
            self.durable_names = names;
            for file in &mut self.files {
                file.data = torn(&mut self.random, file);
                file.durable.clone_from(&file.data);
            }
            self.back_bytes = self.bytes().saturating_sub(before);
        }
        self
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.names.values().map(|&file| self.files[file].data.len() as u64).sum()
    }

    /// The contents of all files, for a test that damages them.
    pub(crate) fn contents(&mut self) -> impl Iterator<Item = (&String, &mut Vec<u8>)> {
        let mut files: Vec<Option<&mut Vec<u8>>> = self.files.iter_mut().map(|file| Some(&mut file.data)).collect();
        self.names.iter().filter_map(move |(name, &file)| Some((name, files[file].take()?)))
    }

    fn begin(&mut self, writes: bool) -> Result<(), Failure> {
        let fails = match self.fault {
            Some(Fault::ReadOnly) => writes,
            Some(Fault::Dead) => true,
            Some(Fault::Full | Fault::Sync) | None => false,
        };
        if self.operations == 0 || fails {
            return Err(Failure);
        }
        self.operations -= 1;
        Ok(())
    }

    fn file(&mut self, name: &str) -> Result<&mut File, Failure> {
        let file = *self.names.get(name).ok_or(Failure)?;
        Ok(&mut self.files[file])
    }
}

/// The data of a file after a power cut. Synced bytes stay. Of the others each page may be as it was written, zeros,
/// or torn. Bytes that were cut off may be back.
fn torn(random: &mut Random, file: &File) -> Vec<u8> {
    let (old, new) = (&file.durable, &file.data);
    let (shorter, longer) = if old.len() < new.len() { (old, new) } else { (new, old) };
    assert!(longer.starts_with(shorter), "a log only appends and cuts back");
    let length = random.range(shorter.len() as u64, longer.len() as u64 + 1) as usize;
    let mut data = longer[..length].to_vec();
    if old.len() < new.len() {
        for start in (0..length).step_by(PAGE_BYTES) {
            let end = (start + PAGE_BYTES).min(length);
            let written = match random.range(0, 4) {
                0 => start,
                1 => random.range(start as u64, end as u64) as usize,
                _ => end,
            };
            data[written.max(old.len()).min(end)..end].fill(0);
        }
    }
    if !file.forgotten.is_empty() && random.per_mille(500) {
        let end = file.forgotten.end.min(data.len());
        data[file.forgotten.start.min(end)..end].fill(0);
    }
    data
}

impl Folder for Disk {
    type Error = Failure;

    fn random(&mut self) -> u64 {
        self.random.next()
    }

    fn list(&mut self) -> Result<Vec<(String, u64)>, Failure> {
        self.begin(false)?;
        Ok(self.names.iter().map(|(name, &file)| (name.clone(), self.files[file].data.len() as u64)).collect())
    }

    fn create(&mut self, name: &str) -> Result<(), Failure> {
        self.begin(true)?;
        if self.names.contains_key(name) || self.fault == Some(Fault::Full) {
            return Err(Failure);
        }
        self.files.push(File::default());
        self.names.insert(name.to_owned(), self.files.len() - 1);
        Ok(())
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> (usize, Result<(), Failure>) {
        if self.begin(true).is_err() {
            return (0, Err(Failure));
        }
        let room = if self.fault == Some(Fault::Full) { self.random.range(0, 300) as usize } else { self.room };
        let taken = bytes.len().min(room);
        self.room = self.room.saturating_sub(taken);
        self.written_bytes += taken as u64;
        match self.file(name) {
            Ok(file) => file.data.extend_from_slice(&bytes[..taken]),
            Err(Failure) => return (0, Err(Failure)),
        }
        self.peak_bytes = self.peak_bytes.max(self.bytes().saturating_sub(self.back_bytes));
        (taken, if taken < bytes.len() { Err(Failure) } else { Ok(()) })
    }

    fn truncate(&mut self, name: &str, length: u64) -> Result<(), Failure> {
        self.begin(true)?;
        let file = self.file(name)?;
        file.data.truncate(length as usize);
        file.forgotten.end = file.forgotten.end.min(length as usize);
        Ok(())
    }

    fn sync(&mut self, name: &str) -> Result<(), Failure> {
        self.begin(true)?;
        if self.fault == Some(Fault::Sync) {
            let file = self.file(name)?;
            let from = if file.forgotten.is_empty() { file.durable.len() } else { file.forgotten.start };
            file.forgotten = from..file.data.len();
            return Err(Failure);
        }
        let file = self.file(name)?;
        file.durable.clone_from(&file.data);
        // What was cut off meanwhile matters no more.
        file.forgotten.end = file.forgotten.end.min(file.data.len());
        Ok(())
    }

    fn sync_names(&mut self) -> Result<(), Failure> {
        self.begin(true)?;
        if self.fault == Some(Fault::Sync) {
            return Err(Failure);
        }
        self.durable_names.clone_from(&self.names);
        Ok(())
    }

    fn remove(&mut self, name: &str) -> Result<(), Failure> {
        self.begin(true)?;
        self.names.remove(name);
        Ok(())
    }

    fn rename(&mut self, name: &str, new: &str) -> Result<(), Failure> {
        self.begin(true)?;
        let file = self.names.remove(name).ok_or(Failure)?;
        self.names.insert(new.to_owned(), file);
        Ok(())
    }

    fn read(&mut self, name: &str, from: u64, bytes: &mut [u8]) -> Result<usize, Failure> {
        self.begin(false)?;
        let data = &self.file(name)?.data;
        let rest = data.get(from as usize..).unwrap_or_default();
        let length = rest.len().min(bytes.len());
        bytes[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }
}
