//! `/proc`: small readers, and the pure parsers below them.
//!
//! Parsers take bytes and give `None`, or leave the line out, where these are not what the kernel writes: they never
//! panic.

#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Family, Sight, View};
use crate::proto::server::judge::{Owner, Place, Socket};

/// Most bytes of `/proc/PID/stat` that are read: 52 fields of at most 20 digits, and the name.
const STAT_BYTES_MAX: usize = 2_048;

/// Most bytes of a table of sockets that are read: a line of 128 bytes for each port there is. A line of `udp6` has
/// some 170.
const TABLE_BYTES_MAX: u64 = 65_536 * 128;

/// Room made before a table is read. Without it the first reads would be of 32 bytes, and each finds its place in the
/// table anew.
const TABLE_BYTES_USUAL: usize = 64 * 1_024;

/// How often a table is read before it is believed that a socket is not in it.
///
/// The kernel hands out a page at a time, some 30 lines, and goes on by counting from the start: if a socket is closed
/// meanwhile, another one is passed over.
pub(super) const READINGS: usize = 2;

/// Most descriptors of one process that are looked at: remoted opens its socket early, so it has a low number.
const DESCRIPTORS_MAX: usize = 65_536;

/// What Linux gives a socket that asks for no buffer, where the system does not tell (`net.core.rmem_default`).
const RMEM_DEFAULT_BYTES: u64 = 212_992;

/// TCP_CLOSE, the state of a UDP socket that is not connected. A connected one hears a single peer only.
const STATE_UNCONNECTED: u8 = 7;

/// How a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// No such process, a zombie, or another process that got its id.
    Gone,
    /// Stopped by a signal or a tracer.
    Stopped,
    /// It can run.
    Running,
}

/// A file, whatever path leads to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

/// What tells one host's processes from those of containers on it; `None` where that may not be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Surroundings {
    network: Option<PathBuf>,
    pids: Option<PathBuf>,
    root: Option<PathBuf>,
}

impl Surroundings {
    /// Whether two processes may belong to one OSSEC: they share network and process ids, and, where both have
    /// changed their root as OSSEC's do, that too. What is not known does not part them; nor does a mount namespace,
    /// which an init system gives to each of its services.
    pub(super) fn are_beside(&self, other: &Self) -> bool {
        let agree = |one: &Option<PathBuf>, other: &Option<PathBuf>| one.is_none() || other.is_none() || one == other;
        let changed = |root: &Option<PathBuf>| root.clone().filter(|root| root != Path::new("/"));
        agree(&self.network, &other.network)
            && agree(&self.pids, &other.pids)
            && agree(&changed(&self.root), &changed(&other.root))
    }
}

/// What `/proc/PID/exe` shows of a file that is not there any more.
fn deleted(path: &str) -> String {
    format!("{path} (deleted)")
}

/// A proc file system.
#[derive(Debug)]
pub(super) struct Proc {
    root: PathBuf,
}

impl Proc {
    pub(super) fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// All processes there are; the kernel bounds them (`kernel.pid_max`).
    pub(super) fn pids(&self) -> impl Iterator<Item = u32> {
        fs::read_dir(&self.root)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
    }

    /// The name of a process, at most 15 bytes.
    pub(super) fn comm(&self, pid: u32) -> Option<Vec<u8>> {
        let mut comm = Vec::with_capacity(32);
        File::open(self.of(pid, "comm")).ok()?.take(64).read_to_end(&mut comm).ok()?;
        comm.pop_if(|last| *last == b'\n');
        Some(comm)
    }

    /// The process that has this id; `None` if there is none or it is dead.
    pub(super) fn process(&self, pid: u32) -> Option<Owner> {
        let stat = self.stat(pid)?;
        (stat.life() != Life::Gone).then_some(Owner { pid, start_ticks: stat.start_ticks })
    }

    /// How a process is that was seen before.
    pub(super) fn life(&self, process: Owner) -> Life {
        match self.stat(process.pid) {
            Some(stat) if stat.start_ticks == process.start_ticks => stat.life(),
            Some(_) | None => Life::Gone,
        }
    }

    fn stat(&self, pid: u32) -> Option<Stat> {
        let mut text = [0; STAT_BYTES_MAX];
        // The kernel hands out the whole line with the first read.
        let length = File::open(self.of(pid, "stat")).ok()?.read(&mut text).ok()?;
        stat(&text[..length])
    }

    /// Whether a process lives in our own network namespace; `None` where that may not be read.
    pub(super) fn shares_our_network(&self, pid: u32) -> Option<bool> {
        let ours = fs::read_link(self.root.join("self/ns/net")).ok()?;
        Some(ours == self.network(pid)?)
    }

    /// The name of a process's network namespace.
    pub(super) fn network(&self, pid: u32) -> Option<PathBuf> {
        fs::read_link(self.of(pid, "ns/net")).ok()
    }

    /// What a process shares with those that belong to it.
    pub(super) fn surroundings(&self, pid: u32) -> Surroundings {
        let link = |name| fs::read_link(self.of(pid, name)).ok();
        Surroundings { network: self.network(pid), pids: link("ns/pid"), root: link("root") }
    }

    /// The file at a path, as the system tells files apart.
    pub(super) fn file(path: &Path) -> Option<FileId> {
        let file = fs::metadata(path).ok()?;
        Some(FileId { device: file.dev(), inode: file.ino() })
    }

    /// Whether a process executes that file: the one that is there, or one of this host that has been replaced since
    /// it was started.
    pub(super) fn executes(&self, pid: u32, path: &str, file: Option<FileId>) -> bool {
        let link = self.of(pid, "exe");
        if file.is_some() && file == Self::file(&link) {
            return true;
        }
        // A container's file may have the same path.
        let deleted =
            fs::read_link(&link).is_ok_and(|target| target.as_os_str().as_bytes() == deleted(path).as_bytes());
        let ours = || fs::read_link(self.root.join("self/ns/pid")).ok();
        deleted && ours().is_some_and(|ours| self.surroundings(pid).pids == Some(ours))
    }

    /// Those of the sockets `among` that a process has open.
    ///
    /// # Errors
    /// `PermissionDenied` where its descriptors may not be read.
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

    /// Reads a table of sockets into `text`, in place of what was there. One that is not in it may be there all the
    /// same: see [`READINGS`].
    ///
    /// # Errors
    /// That of the system, as where there is no IPv6.
    pub(super) fn read_table(&self, view: View, family: Family, text: &mut Vec<u8>) -> io::Result<()> {
        let name = match family {
            Family::V4 => "net/udp",
            Family::V6 => "net/udp6",
        };
        let path = match view {
            View::Own => self.root.join(name),
            View::Of(pid) => self.of(pid, name),
        };
        text.clear();
        text.reserve(TABLE_BYTES_USUAL);
        File::open(path)?.take(TABLE_BYTES_MAX).read_to_end(text)?;
        Ok(())
    }

    /// Bytes of receive buffer of a socket that asks for none.
    pub(super) fn rmem_default(&self) -> u64 {
        let text = fs::read(self.root.join("sys/net/core/rmem_default")).unwrap_or_default();
        decimal(text.trim_ascii_end()).unwrap_or(RMEM_DEFAULT_BYTES)
    }

    fn of(&self, pid: u32, name: &str) -> PathBuf {
        self.root.join(format!("{pid}/{name}"))
    }
}

/// What is needed of `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// One letter, as in proc_pid_stat(5).
    state: u8,
    /// When the process started, in clock ticks since boot.
    start_ticks: u64,
}

impl Stat {
    /// What the state means to us. A zombie's sockets are closed already.
    pub fn life(self) -> Life {
        match self.state {
            b'Z' | b'X' | b'x' => Life::Gone,
            b'T' | b't' => Life::Stopped,
            _ => Life::Running,
        }
    }
}

/// Parses `/proc/PID/stat`. The name may hold spaces and parentheses, but no `)` follows the one that ends it.
pub fn stat(text: &[u8]) -> Option<Stat> {
    let name_end = text.iter().rposition(|&byte| byte == b')')?;
    let mut fields = text[name_end + 1..].split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
    // The state is field 3, the start time field 22.
    let state = *fields.next()?.first()?;
    let start_ticks = decimal(fields.nth(18)?)?;
    Some(Stat { state, start_ticks })
}

/// A line of `/proc/net/udp` or `/proc/net/udp6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The address that the socket is bound to.
    pub(super) address: IpAddr,
    port: u16,
    state: u8,
    /// Bytes of buffer in use, already without what the kernel has yet to give back.
    rx_queue: u64,
    pub(super) inode: u64,
    drops: u32,
}

impl Row {
    /// Whether the socket receives from everybody on this port.
    pub fn receives_on(&self, port: u16) -> bool {
        self.port == port && self.state == STATE_UNCONNECTED
    }

    /// The same as NETLINK_SOCK_DIAG tells it. `/proc` tells neither the size of the buffer nor whether a socket of
    /// IPv6 takes IPv4, too.
    pub(super) fn sight(self, buffer: u64) -> Sight {
        let socket = Socket { inode: self.inode, rx_queue: self.rx_queue, drops: self.drops, buffer: Some(buffer) };
        Sight { socket, place: Place::of(self.address, false) }
    }
}

/// The sockets of a table; the heading and lines that make no sense are left out.
pub fn rows(table: &[u8]) -> impl Iterator<Item = Row> {
    table.split(|&byte| byte == b'\n').filter_map(row)
}

/// `sl local_address rem_address st tx_queue:rx_queue tr:when retrnsmt uid timeout inode ref pointer drops`,
/// hexadecimal as far as `retrnsmt`.
fn row(line: &[u8]) -> Option<Row> {
    let mut fields = str::from_utf8(line).ok()?.split_ascii_whitespace().skip(1);
    let (address, port) = fields.next()?.split_once(':')?;
    let state = fields.nth(1)?;
    let (_, rx_queue) = fields.next()?.split_once(':')?;
    let inode = fields.nth(4)?;
    let drops: i64 = fields.nth(2)?.parse().ok()?;
    Some(Row {
        address: address_of(address)?,
        port: u16::from_str_radix(port, 16).ok()?,
        state: u8::from_str_radix(state, 16).ok()?,
        // An int of the kernel's: sums of it cannot overflow.
        rx_queue: u32::from_str_radix(rx_queue, 16).ok()?.into(),
        inode: inode.parse().ok()?,
        // Older kernels print the counter with a sign once it has passed 2^31.
        drops: u32::try_from(drops & i64::from(u32::MAX)).ok()?,
    })
}

/// An address as words of 32 bits in hexadecimal, each in the byte order of this machine.
fn address_of(words: &str) -> Option<IpAddr> {
    let mut bytes = [0; 16];
    let (chunks, _) = words.as_bytes().as_chunks::<8>();
    for (word, bytes) in chunks.iter().zip(bytes.chunks_exact_mut(4)) {
        bytes.copy_from_slice(&u32::from_str_radix(str::from_utf8(word).ok()?, 16).ok()?.to_ne_bytes());
    }
    match words.len() {
        8 => <[u8; 4]>::try_from(&bytes[..4]).ok().map(IpAddr::from),
        32 => Some(bytes.into()),
        _ => None,
    }
}

/// The inode in the target of a descriptor's link, `socket:[123]`.
pub fn socket_link(target: &OsStr) -> Option<u64> {
    decimal(target.as_bytes().strip_prefix(b"socket:[")?.strip_suffix(b"]")?)
}

fn decimal(digits: &[u8]) -> Option<u64> {
    str::from_utf8(digits).ok()?.parse().ok()
}
