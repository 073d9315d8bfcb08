//! Packets that the system drops before they reach any socket: each CPU has a queue of them, for loopback, too.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use crate::proto::server::judge::OnTheWay;

/// Packets in one CPU's queue, by the kernel's default. Only the first network namespace shows the real limit.
const QUEUE_PACKETS_DEFAULT: usize = 1_000;
/// Most bytes of the table that are read: a line for each of 8,192 CPUs, the most that Linux knows.
const TABLE_BYTES_MAX: usize = 8_192 * 160;

/// Reads how many packets wait in the queues, and how many were dropped.
#[derive(Debug)]
pub struct Backlog {
    table: Option<File>,
    bytes: Vec<u8>,
}

impl Default for Backlog {
    /// Opens the table. Cannot fail: without it nothing is known.
    fn default() -> Self {
        let table = File::open("/proc/net/softnet_stat");
        if let Err(error) = &table {
            log::debug!("cannot see what is dropped before it comes to a socket: {error}");
        }
        Self { table: table.ok(), bytes: vec![0; 4_096] }
    }
}

impl Backlog {
    /// The state of the queues at this moment; `None` if the system does not tell.
    pub fn look(&mut self) -> Option<OnTheWay> {
        let (table, mut length) = (self.table.as_ref()?, 0);
        loop {
            if length == self.bytes.len() && length < TABLE_BYTES_MAX {
                self.bytes.resize(2 * length, 0);
            }
            match table.read_at(&mut self.bytes[length..], length as u64).ok()? {
                0 => return on_the_way(&self.bytes[..length]),
                more => length += more,
            }
        }
    }
}

/// Most packets that one CPU's queue takes.
pub fn length() -> usize {
    let told = fs::read_to_string("/proc/sys/net/core/netdev_max_backlog");
    told.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(QUEUE_PACKETS_DEFAULT)
}

/// Parses the table: a line for each CPU, in hexadecimal. The second number counts dropped packets, the twelfth (since
/// Linux 5.10) waiting ones.
fn on_the_way(table: &[u8]) -> Option<OnTheWay> {
    let text = std::str::from_utf8(table).ok()?;
    let mut sum = OnTheWay::default();
    for line in text.lines() {
        let mut columns = line.split_ascii_whitespace().map(|column| u32::from_str_radix(column, 16).ok());
        sum.dropped += u64::from(columns.nth(1)??);
        sum.longest = sum.longest.max(columns.nth(9).flatten().map_or(0, |waiting| waiting as usize));
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_for_all_processors_and_of_any_age() {
        let line = |dropped: u32, waiting: u32| {
            let zeros = "00000000 ".repeat(9);
            format!("0000a1b2 {dropped:08x} {zeros}{waiting:08x} 00000001 00000000\n")
        };
        let (newer, older) = (line(15, 2) + &line(16, 300) + &line(0, 7), "0000a1b2 0000000f 00000001\n");
        assert_eq!(on_the_way(newer.as_bytes()), Some(OnTheWay { dropped: 31, longest: 300 }));
        assert_eq!(on_the_way(older.as_bytes()), Some(OnTheWay { dropped: 15, longest: 0 }));
        assert_eq!(on_the_way(b""), Some(OnTheWay::default()));
        assert_eq!(on_the_way(b"strange\n"), None);
    }

    #[test]
    fn this_system_has_a_table() {
        let mut backlog = Backlog::default();
        let first = backlog.look().expect("Linux has it").dropped;
        assert!(backlog.look().expect("it is read anew").dropped >= first);
        assert!(length() > 0);
    }
}
