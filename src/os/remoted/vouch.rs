//! Who is what its name says: the name of a process is a text that everybody can give himself.
//!
//! A process counts under a name when its executable has that name, belongs to root with its folder, and nobody else
//! may write to either; and when it runs as root, or in a root folder of its own, as OSSEC's daemons do. Nobody but
//! root can bring that about. What cannot be read does not count.
//!
//! A process in another user namespace, or one whose executable is not where its path says, as in a container, does
//! not count by its name. Its executable has to be named by path.

use std::fs;
use std::mem::{Discriminant, discriminant};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::proc::{FileId, Proc};

/// What the system appends to the path of an executable that was removed or replaced.
const DELETED: &[u8] = b" (deleted)";
/// Others than the owner may write.
const WRITABLE: u32 = 0o022;

/// Why a process with an accepted name does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum Doubt {
    #[error("its program or its sockets cannot be seen: run as root, or with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH")]
    Unreadable,
    #[error("others than root may change its executable, or the folder of that")]
    Changeable,
    #[error("it runs as user {0}, in the root folder of the system")]
    User(u32),
    #[error("it is in a container: name its executable with --process /path")]
    Elsewhere,
}

impl Doubt {
    /// All doubts of one kind are told once.
    pub fn kind(self) -> Discriminant<Self> {
        discriminant(&self)
    }
}

/// Where a process's executable lies, as the system tells.
struct Executable {
    path: PathBuf,
    is_deleted: bool,
}

impl Proc {
    /// Whether a process runs a program of this name, and nobody but root can have brought that about. `None` if it
    /// runs another program.
    pub(super) fn vouch(&self, pid: u32, name: &str) -> Option<Result<(), Doubt>> {
        let Some(executable) = self.executable(pid) else {
            // A thread of the kernel has none, and a process that has ended neither.
            return self.process(pid).map(|_| Err(Doubt::Unreadable));
        };
        let is_named = executable.path.file_name().is_some_and(|file| file.as_bytes() == name.as_bytes());
        is_named.then(|| self.vouch_for(pid, &executable))
    }

    fn vouch_for(&self, pid: u32, executable: &Executable) -> Result<(), Doubt> {
        if !self.shares(pid, "ns/user").ok_or(Doubt::Unreadable)? {
            return Err(Doubt::Elsewhere);
        }
        let file = fs::metadata(self.of(pid, "exe")).map_err(|_| Doubt::Unreadable)?;
        let folder = executable.path.parent().and_then(|folder| fs::metadata(folder).ok()).ok_or(Doubt::Elsewhere)?;
        let is_here = if executable.is_deleted {
            self.shares(pid, "ns/pid").ok_or(Doubt::Unreadable)?
        } else {
            Self::file(&executable.path) == Some((file.dev(), file.ino()))
        };
        if !is_here {
            return Err(Doubt::Elsewhere);
        }
        if [&file, &folder].iter().any(|part| part.uid() != self.trusted_user() || part.mode() & WRITABLE != 0) {
            return Err(Doubt::Changeable);
        }
        let users = self.users(pid).ok_or(Doubt::Unreadable)?;
        let Some(user) = users.into_iter().find(|user| *user != self.trusted_user()) else {
            return Ok(());
        };
        let root = self.link(pid, "root").ok_or(Doubt::Unreadable)?;
        if root == Path::new("/") { Err(Doubt::User(user)) } else { Ok(()) }
    }

    /// Whether two processes execute files of one folder of one container.
    pub(super) fn is_of_one_folder(&self, pid: u32, other: u32) -> bool {
        let of = |pid: u32| {
            let folder = self.executable(pid)?.path.parent()?.to_owned();
            Some((folder, self.link(pid, "ns/mnt")?, self.link(pid, "ns/user")?))
        };
        of(pid).is_some_and(|its| of(other) == Some(its))
    }

    /// Whether a process executes the file that is at this path, or was there on this host when the process started.
    pub(super) fn executes(&self, pid: u32, path: &str, file: Option<FileId>) -> bool {
        if file.is_some() && file == Self::file(&self.of(pid, "exe")) {
            return true;
        }
        // A container's file may have the same path.
        let is_named = self.executable(pid).is_some_and(|it| it.is_deleted && it.path == Path::new(path));
        is_named && self.shares(pid, "ns/pid") == Some(true)
    }

    fn executable(&self, pid: u32) -> Option<Executable> {
        let link = self.link(pid, "exe")?;
        let bytes = link.as_os_str().as_bytes();
        Some(match bytes.strip_suffix(DELETED) {
            Some(path) => Executable { path: std::ffi::OsStr::from_bytes(path).into(), is_deleted: true },
            None => Executable { path: link, is_deleted: false },
        })
    }
}
