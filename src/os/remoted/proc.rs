//! `/proc`: small readers, above pure parsers.

mod parse;

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::socket::{Family, Namespace, PortSocket, SOCKETS_MAX};
use crate::proto::server::judge::Process;
use parse::decimal;
pub use parse::{Row, RunState, Stat, rows, socket_link, stat, users};

/// Most bytes of `/proc/PID/stat` that are read: 52 fields of at most 20 digits, and the name.
const STAT_BYTES_MAX: usize = 2_048;
/// Most bytes of `/proc/PID/status` that are read: some 60 lines, of which the line of users is among the first.
const STATUS_BYTES_MAX: u64 = 4_096;
/// Most bytes of a table of sockets that are read: 128 for each port there is. A line of `udp6` has some 170.
const TABLE_BYTES_MAX: u64 = 65_536 * 128;
/// Room made before a table is read: the first reads would be of 32 bytes, and each finds its place anew.
const TABLE_BYTES_USUAL: usize = 64 * 1_024;
/// How often a table is read before a socket counts as not in it. The kernel hands out a page at a time, some 30
/// lines, and goes on by counting from the start: if a socket is closed meanwhile, another one is passed over.
const READINGS: usize = 2;
/// Most descriptors of one process that are looked at: remoted opens its socket early, so it has a low number.
const DESCRIPTORS_MAX: usize = 65_536;
/// The receive buffer of a socket that asks for none, where the system does not tell (`net.core.rmem_default`).
const RMEM_DEFAULT_BYTES: u64 = 212_992;

/// A file, whatever path leads to it: its device and inode.
pub(super) type FileId = (u64, u64);

/// Tells the processes of a host and of its containers apart: the namespaces of network and process ids, and a changed
/// root; `None` where that may not be read.
#[derive(Clone, Debug)]
pub(super) struct Surroundings([Option<PathBuf>; 3]);

impl Surroundings {
    /// Whether two processes may belong to one OSSEC: they share network and process ids, and, where both have
    /// changed their root as OSSEC's do, that too. An unknown part does not keep them apart; nor does a mount
    /// namespace, which an init system gives to each of its services.
    pub(super) fn are_beside(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(one, other)| one.is_none() || other.is_none() || one == other)
    }
}

#[derive(Debug)]
pub(super) struct Proc {
    root: PathBuf,
    /// Whose programs are believed: root.
    trusted_user: u32,
}

impl Proc {
    /// The system's.
    pub(super) fn new() -> Self {
        Self { root: "/proc".into(), trusted_user: 0 }
    }

    /// One that is made of files, where the user of this process stands for root.
    #[cfg(test)]
    pub(super) fn imitated(root: &Path) -> Self {
        Self { root: root.to_owned(), trusted_user: nix::unistd::geteuid().as_raw() }
    }

    pub(super) const fn trusted_user(&self) -> u32 {
        self.trusted_user
    }

    /// All processes there are; the kernel bounds them (`kernel.pid_max`).
    pub(super) fn pids(&self) -> impl Iterator<Item = u32> {
        let entries = fs::read_dir(&self.root).into_iter().flatten();
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
    }

    /// The name of a process, at most 15 bytes.
    pub(super) fn comm(&self, pid: u32) -> Option<Vec<u8>> {
        let mut comm = Vec::with_capacity(32);
        File::open(self.of(pid, "comm")).ok()?.take(64).read_to_end(&mut comm).ok()?;
        comm.pop_if(|last| *last == b'\n');
        Some(comm)
    }

    /// The process that has this id; `None` if there is none or it is dead.
    pub(super) fn process(&self, pid: u32) -> Option<Process> {
        let stat = self.stat(pid)?;
        (stat.run_state != RunState::Gone).then_some(Process { pid, start_ticks: stat.start_ticks })
    }

    /// Whether a process that was seen before still runs.
    pub(super) fn run_state(&self, process: Process) -> RunState {
        let stat = self.stat(process.pid).filter(|stat| stat.start_ticks == process.start_ticks);
        stat.map_or(RunState::Gone, |stat| stat.run_state)
    }

    /// The real and the effective user of a process.
    pub(super) fn users(&self, pid: u32) -> Option<[u32; 2]> {
        let mut text = Vec::new();
        File::open(self.of(pid, "status")).ok()?.take(STATUS_BYTES_MAX).read_to_end(&mut text).ok()?;
        users(&text)
    }

    fn stat(&self, pid: u32) -> Option<Stat> {
        let mut text = [0; STAT_BYTES_MAX];
        // The kernel hands out the whole line with the first read.
        let length = File::open(self.of(pid, "stat")).ok()?.read(&mut text).ok()?;
        stat(&text[..length])
    }

    /// Whether a process lives in our namespace of this kind (`ns/net`); `None` where that may not be read.
    pub(super) fn shares(&self, pid: u32, namespace: &str) -> Option<bool> {
        Some(self.link("self", namespace)? == self.link(pid, namespace)?)
    }

    pub(super) fn surroundings(&self, pid: u32) -> Surroundings {
        let root = self.link(pid, "root").filter(|root| root != Path::new("/"));
        Surroundings([self.link(pid, "ns/net"), self.link(pid, "ns/pid"), root])
    }

    pub(super) fn file(path: &Path) -> Option<FileId> {
        let file = fs::metadata(path).ok()?;
        Some((file.dev(), file.ino()))
    }

    /// The sockets `among` these, by inode, that a process has open; `PermissionDenied` where that may not be read.
    pub(super) fn holds(&self, pid: u32, among: &[u64]) -> io::Result<Vec<u64>> {
        let mut held = Vec::new();
        for entry in fs::read_dir(self.of(pid, "fd"))?.take(DESCRIPTORS_MAX) {
            let target = match entry.and_then(|entry| fs::read_link(entry.path())) {
                Ok(target) => target,
                // Closed since the directory was read.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let inode = socket_link(target.as_os_str()).filter(|inode| among.contains(inode) && !held.contains(inode));
            held.extend(inode);
            if held.len() == among.len() {
                break;
            }
        }
        Ok(held)
    }

    /// Adds the sockets that receive on `port`, each once: reads a table into `text` until they are `enough`, at most
    /// [`READINGS`] times. An error where there is no table, as without IPv6.
    pub(super) fn read_sockets(
        &self,
        namespace: Namespace,
        family: Family,
        port: u16,
        text: &mut Vec<u8>,
        seen: &mut Vec<PortSocket>,
        enough: impl Fn(&[PortSocket]) -> bool,
    ) -> io::Result<()> {
        let name = match family {
            Family::V4 => "net/udp",
            Family::V6 => "net/udp6",
        };
        let path = match namespace {
            Namespace::Ours => self.root.join(name),
            Namespace::OfProcess(pid) => self.of(pid, name),
        };
        for _ in 0..READINGS {
            text.clear();
            text.reserve(TABLE_BYTES_USUAL);
            File::open(&path)?.take(TABLE_BYTES_MAX).read_to_end(text)?;
            let on_port = rows(text).filter(|row| row.receives_on(port)).take(SOCKETS_MAX);
            for new in on_port.map(|row| row.seen_in(namespace)) {
                if seen.iter().all(|one| one.socket.inode != new.socket.inode) {
                    seen.push(new);
                }
            }
            if enough(seen) {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn rmem_default_bytes(&self) -> u64 {
        let text = fs::read(self.root.join("sys/net/core/rmem_default")).unwrap_or_default();
        decimal(text.trim_ascii_end()).unwrap_or(RMEM_DEFAULT_BYTES)
    }

    pub(super) fn link(&self, process: impl Display, name: &str) -> Option<PathBuf> {
        fs::read_link(self.of(process, name)).ok()
    }

    pub(super) fn of(&self, process: impl Display, name: &str) -> PathBuf {
        self.root.join(format!("{process}/{name}"))
    }
}
