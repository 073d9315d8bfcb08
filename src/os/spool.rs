//! The folder of a spool on disk.
//!
//! What is written there and when, and what an opening makes of it, is decided elsewhere
//! ([`proto::client::spool`](crate::proto::client::spool)); this room does it.
//!
//! * The folder belongs to the user that runs this, and nobody else can enter it: payloads and the salts of their
//!   checksums lie there. A folder of somebody else's, or a symbolic link, is refused.
//! * One process uses it at a time: a lock says so, which the kernel takes back however the process ends.
//! * Files keep their descriptor until they were synced: an error that the kernel met while it wrote would not be told
//!   to another.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, geteuid};
use thiserror::Error;

use crate::os::net;
use crate::os::threads::Cause;
use crate::proto::client::spool::folder::{Blame, Folder};

/// The permissions that nobody but the owner may have.
const REFUSED_MODE: u32 = 0o077;
/// Files that are open at once: more are there only where nothing is ever synced.
const FILES_MAX: usize = 64;

/// A folder is of no use as a spool.
#[derive(Debug, Error)]
#[error("cannot use the spool {path}: {why}", path = .path.display())]
pub struct SpoolError {
    path: PathBuf,
    #[source]
    why: Cause,
}

/// The folder of a spool.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    folder: File,
    /// Files that were appended to and not synced, the newest last.
    files: Vec<(String, File)>,
}

impl SpoolError {
    /// A folder that is of no use for this reason.
    pub fn new(path: &Path, why: impl Into<Cause>) -> Self {
        Self { path: path.into(), why: why.into() }
    }
}

impl Directory {
    /// Takes the folder for this process alone. It is made if it is missing.
    pub fn lock(path: &Path) -> Result<Self, SpoolError> {
        let path = &plain(path);
        let cannot = |why: Cause| SpoolError::new(path, why);
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(cannot(error.into())),
            Ok(()) | Err(_) => {}
        }
        let directory = Self::open(path, false)?;
        // The folder itself is locked: that needs no room on the disk, and works where nothing can be written.
        match directory.folder.try_lock() {
            Ok(()) => Ok(directory),
            Err(TryLockError::WouldBlock) => Err(cannot("another process uses it".into())),
            Err(TryLockError::Error(error)) => Err(cannot(error.into())),
        }
    }

    /// Opens the folder to look at it, also while a process uses it. Root may look into another user's.
    pub fn look(path: &Path) -> Result<Self, SpoolError> {
        Self::open(path, true)
    }

    fn open(path: &Path, is_look: bool) -> Result<Self, SpoolError> {
        let path = &plain(path);
        let cannot = |why: Cause| SpoolError::new(path, why);
        let flags = libc::O_NOFOLLOW | libc::O_DIRECTORY;
        let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
        let folder = opened.map_err(|error| match error.raw_os_error() {
            Some(libc::ELOOP | libc::ENOTDIR) => cannot("it is no folder, or a symbolic link".into()),
            _ => cannot(error.into()),
        })?;
        let metadata = folder.metadata().map_err(|error| cannot(error.into()))?;
        let (owner, user) = (Uid::from_raw(metadata.uid()), geteuid());
        // Root may look into everybody's, but would leave files there that their owner cannot use.
        if owner != user && !(is_look && user.is_root()) {
            return Err(cannot(format!("it belongs to user {owner}, and this runs as user {user}").into()));
        }
        if metadata.mode() & REFUSED_MODE != 0 {
            return Err(cannot("others may enter it; chmod 700 it".into()));
        }
        Ok(Self { path: path.into(), folder, files: Vec::new() })
    }

    /// Where the folder is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An open file; a file of an earlier process is opened.
    fn file(&mut self, name: &str) -> io::Result<&File> {
        if let Some(at) = self.files.iter().position(|(known, _)| known == name) {
            return Ok(&self.files[at].1);
        }
        let file = OpenOptions::new().append(true).custom_flags(libc::O_NOFOLLOW).open(self.path.join(name))?;
        self.files.insert(0, (name.into(), file));
        Ok(&self.files[0].1)
    }

    fn forget(&mut self, name: &str) {
        self.files.retain(|(known, _)| known != name);
    }
}

/// The path without a slash at its end, which would lead through a symbolic link.
fn plain(path: &Path) -> PathBuf {
    path.components().collect()
}

impl Folder for Directory {
    type Error = io::Error;

    fn blame(error: &io::Error) -> Blame {
        match error.raw_os_error() {
            Some(libc::ENOENT) => Blame::Gone,
            Some(libc::EIO | libc::EBADMSG | libc::EUCLEAN | libc::ENODATA) => Blame::Medium,
            _ => Blame::Other,
        }
    }

    fn random(&mut self) -> u64 {
        net::random() as u64
    }

    fn list(&mut self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            // A process that uses the folder may have removed the file a moment ago.
            let metadata = match entry.metadata() {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                outcome => outcome?,
            };
            if metadata.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                files.push((name, metadata.len()));
            }
        }
        Ok(files)
    }

    fn create(&mut self, name: &str) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let file = options.append(true).create_new(true).mode(0o600).open(self.path.join(name))?;
        if self.files.len() >= FILES_MAX {
            self.files.remove(0);
        }
        self.files.push((name.into(), file));
        Ok(())
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> (usize, io::Result<()>) {
        let mut file = match self.file(name) {
            Ok(file) => file,
            Err(error) => return (0, Err(error)),
        };
        let mut written = 0;
        while written < bytes.len() {
            match file.write(&bytes[written..]) {
                Ok(0) => return (written, Err(ErrorKind::WriteZero.into())),
                Ok(more) => written += more,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return (written, Err(error)),
            }
        }
        (written, Ok(()))
    }

    fn truncate(&mut self, name: &str, length: u64) -> io::Result<()> {
        self.file(name)?.set_len(length)
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.file(name)?.sync_data()?;
        // The newest file may be appended to once more.
        if self.files.last().is_some_and(|(newest, _)| newest != name) {
            self.forget(name);
        }
        Ok(())
    }

    fn sync_names(&mut self) -> io::Result<()> {
        self.folder.sync_all()
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.forget(name);
        match fs::remove_file(self.path.join(name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        }
    }

    fn rename(&mut self, name: &str, new: &str) -> io::Result<()> {
        self.forget(name);
        fs::rename(self.path.join(name), self.path.join(new))
    }

    fn read(&mut self, name: &str, from: u64, bytes: &mut [u8]) -> io::Result<usize> {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(self.path.join(name))?;
        let mut read = 0;
        while read < bytes.len() {
            match file.read_at(&mut bytes[read..], from + read as u64) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests;
