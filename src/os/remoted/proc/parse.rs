//! Pure parsers of the files of `/proc`. From bytes that the kernel would not write they give `None`, or leave the
//! line out: they never panic.

#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;

use crate::os::remoted::socket::{Namespace, PortSocket};
use crate::proto::server::judge::{Binding, Socket};

/// TCP_CLOSE, the state of a UDP socket that is not connected. A connected one hears a single peer only.
const STATE_UNCONNECTED: u8 = 7;

/// Whether a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// No such process, a zombie, or another process that got its id.
    Gone,
    /// Stopped by a signal or a tracer.
    Stopped,
    /// Able to run.
    Running,
}

/// The fields of `/proc/PID/stat` that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// What the letter of the state means, as in proc_pid_stat(5).
    pub run_state: RunState,
    /// When the process started, in clock ticks since boot.
    pub(super) start_ticks: u64,
}

/// Parses `/proc/PID/stat`. The name may hold spaces and parentheses, but no `)` follows the one that ends it.
pub fn stat(text: &[u8]) -> Option<Stat> {
    let name_end = text.iter().rposition(|&byte| byte == b')')?;
    let mut fields = text[name_end + 1..].split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
    // The state is field 3, the start time field 22.
    let run_state = match fields.next()?.first()? {
        // A zombie's sockets are closed already.
        b'Z' | b'X' | b'x' => RunState::Gone,
        b'T' | b't' => RunState::Stopped,
        _ => RunState::Running,
    };
    Some(Stat { run_state, start_ticks: decimal(fields.nth(18)?)? })
}

/// The real and the effective user in `/proc/PID/status`. A name in it cannot begin a line: the kernel escapes line
/// ends there.
pub fn users(text: &[u8]) -> Option<[u32; 2]> {
    let line = text.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"Uid:"))?;
    let mut fields = str::from_utf8(line).ok()?.split_ascii_whitespace();
    Some([fields.next()?.parse().ok()?, fields.next()?.parse().ok()?])
}

/// A line of `/proc/net/udp` or `/proc/net/udp6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The address that the socket is bound to.
    address: IpAddr,
    port: u16,
    state: u8,
    socket: Socket,
}

impl Row {
    /// Whether the socket receives from everybody on this port.
    pub fn receives_on(&self, port: u16) -> bool {
        self.port == port && self.state == STATE_UNCONNECTED
    }

    /// The socket in a table of `namespace`: without the size of its buffer, and bound to `::` taken for dual-stack.
    pub(super) fn seen_in(self, namespace: Namespace) -> PortSocket {
        PortSocket { namespace, socket: self.socket, binding: Binding::of(self.address, false) }
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
    let socket = Socket {
        inode: inode.parse().ok()?,
        // Without the bytes that the kernel has yet to give back. It is an int: sums of it cannot overflow.
        rx_queue: u32::from_str_radix(rx_queue, 16).ok()?.into(),
        // Older kernels print the counter with a sign once it has passed 2^31.
        drops: u32::try_from(drops & i64::from(u32::MAX)).ok()?,
        buffer: None,
    };
    let (port, state) = (u16::from_str_radix(port, 16).ok()?, u8::from_str_radix(state, 16).ok()?);
    Some(Row { address: address_of(address)?, port, state, socket })
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

pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    str::from_utf8(digits).ok()?.parse().ok()
}
