//! A module in the place of `src/os/spool.rs`: a folder in memory, with a disk that fails every now and then.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

pub(crate) use ossec_broker::os::spool::SpoolError;
use ossec_broker::proto::client::spool::folder::Folder;

use crate::system::System;
use crate::world::World;

#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    files: BTreeMap<String, Vec<u8>>,
}

impl Directory {
    pub(crate) fn lock(path: &Path) -> Result<Self, SpoolError> {
        System::here().note_disk(true);
        Ok(Self { path: path.into(), files: BTreeMap::new() })
    }

    pub(crate) fn look(path: &Path) -> Result<Self, SpoolError> {
        Self::lock(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Another thread may come first, and the disk may fail.
    fn file(&mut self, name: &str) -> io::Result<&mut Vec<u8>> {
        step()?;
        self.files.get_mut(name).ok_or(ErrorKind::NotFound.into())
    }
}

fn step() -> io::Result<()> {
    World::here().step();
    if System::here().may_fail() {
        System::here().note_disk(false);
        return Err(ErrorKind::StorageFull.into());
    }
    Ok(())
}

impl Folder for Directory {
    type Error = io::Error;

    fn random(&mut self) -> u64 {
        7
    }

    fn list(&mut self) -> io::Result<Vec<(String, u64)>> {
        Ok(self.files.iter().map(|(name, bytes)| (name.clone(), bytes.len() as u64)).collect())
    }

    fn create(&mut self, name: &str) -> io::Result<()> {
        step()?;
        self.files.insert(name.into(), Vec::new());
        Ok(())
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> (usize, io::Result<()>) {
        match self.file(name) {
            Ok(file) => {
                file.extend_from_slice(bytes);
                (bytes.len(), Ok(()))
            }
            Err(error) => (0, Err(error)),
        }
    }

    fn truncate(&mut self, name: &str, length: u64) -> io::Result<()> {
        self.file(name)?.truncate(length as usize);
        Ok(())
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.file(name).map(|_| ())
    }

    fn sync_names(&mut self) -> io::Result<()> {
        step()
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        step()?;
        self.files.remove(name);
        Ok(())
    }

    fn rename(&mut self, name: &str, new: &str) -> io::Result<()> {
        step()?;
        let bytes = self.files.remove(name).unwrap_or_default();
        self.files.insert(new.into(), bytes);
        Ok(())
    }

    fn read(&mut self, name: &str, from: u64, bytes: &mut [u8]) -> io::Result<usize> {
        let rest = self.file(name)?.get(from as usize..).unwrap_or_default();
        let length = rest.len().min(bytes.len());
        bytes[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }
}
