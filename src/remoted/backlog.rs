//! What the system throws away before it reaches any socket: each CPU has a queue of packets that have come in, for loopback, too.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

/// Packets in a row that one CPU's queue takes, where the system does not tell: the kernel's default. (Only the first network namespace shows it.)
const LENGTH_DEFAULT: usize = 1_000;
/// Most that is read of the table: a line for each of 8,192 CPUs, the most that Linux knows.
const TABLE_BYTES_MAX: usize = 8_192 * 160;

/// Reads how much was thrown away.
#[derive(Debug)]
pub struct Backlog {
    table: Option<File>,
    bytes: Vec<u8>,
}

impl Backlog {
    /// Cannot fail: without the table nothing is known.
    pub fn new() -> Self {
        let table = File::open("/proc/net/softnet_stat");
        if let Err(error) = &table {
            log::debug!("cannot see what is dropped before it comes to a socket: {error}");
        }
        Self { table: table.ok(), bytes: vec![0; 4_096] }
    }

    /// Packets that were thrown away since the system was started, on all CPUs.
    pub fn dropped(&mut self) -> Option<u64> {
        let length = self.read().ok()?;
        dropped(&self.bytes[..length])
    }

    fn read(&mut self) -> io::Result<usize> {
        let table = self.table.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let mut length = 0;
        loop {
            if length == self.bytes.len() && length < TABLE_BYTES_MAX {
                self.bytes.resize(2 * length, 0);
            }
            match table.read_at(&mut self.bytes[length..], length as u64)? {
                0 => return Ok(length),
                more => length += more,
            }
        }
    }
}

impl Default for Backlog {
    fn default() -> Self {
        Self::new()
    }
}

/// How many packets one CPU's queue takes.
pub fn length() -> usize {
    let told = fs::read_to_string("/proc/sys/net/core/netdev_max_backlog");
    told.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(LENGTH_DEFAULT)
}

/// The sum of the second column: a line for each CPU, numbers in hexadecimal.
fn dropped(table: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(table).ok()?;
    let column = |line: &str| u64::from_str_radix(line.split_ascii_whitespace().nth(1)?, 16).ok();
    text.lines().map(column).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_column_is_summed_over_all_processors() {
        let table = b"0000a1b2 0000000f 00000001 00000000\n00000001 00000010 00000000 00000000\n";
        assert_eq!(dropped(table), Some(31));
        assert_eq!(dropped(b""), Some(0));
        assert_eq!(dropped(b"strange\n"), None);
    }

    #[test]
    fn this_system_has_a_table() {
        let mut backlog = Backlog::new();
        let first = backlog.dropped().expect("Linux has it");
        assert!(backlog.dropped().expect("it is read anew") >= first);
        assert!(length() > 0);
    }
}
