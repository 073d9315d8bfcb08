//! Services of the system beside sockets: the clock, random numbers, descriptors, memory.

use std::io;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::sysinfo::sysinfo;
use nix::time::{ClockId, clock_gettime};
use rtime_clock::adjtime::{Timex, adjtimex};

use crate::proto::client::spool::record::Clock;
use crate::proto::terms::digest;
use crate::proto::time::Time;

/// The origin of time lies so long before the boot: longer than any `--max-age`, so that datagrams of an earlier boot
/// have their moment, too.
const BEFORE_BOOT: Duration = Duration::from_hours(400 * 24);
/// Names the boot.
static BOOT: LazyLock<u64> =
    LazyLock::new(|| digest(&std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default()));
/// No right clock shows an earlier time, in seconds since 1970: the first of 2026.
const YEAR_2026_S: u64 = 1_767_225_600;

/// The present moment. The clock goes on while the system is suspended, so that a lease does not survive a suspension.
pub fn now() -> Time {
    let read = clock_gettime(ClockId::CLOCK_BOOTTIME).or_else(|_| clock_gettime(ClockId::CLOCK_MONOTONIC));
    let span = read.map_or(Duration::ZERO, Duration::from);
    Time::ZERO + BEFORE_BOOT + span
}

/// The clock behind [`now`]. It is trusted if the kernel says that a source of time has set it.
pub fn clock() -> Clock {
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let offset_ms = (wall.as_millis() as u64).wrapping_sub(now().as_nanos() / 1_000_000);
    let trusted = wall.as_secs() >= YEAR_2026_S && is_clock_synchronised();
    Clock { boot: *BOOT, offset_ms, trusted }
}

fn is_clock_synchronised() -> bool {
    let mut status = Timex::new();
    adjtimex(&mut status).is_ok_and(|state| state != libc::TIME_ERROR)
}

/// A random number: it names a stream or spreads retries.
pub fn random() -> u128 {
    let half = || getrandom::u64().unwrap_or_else(|_| now().as_nanos() ^ u64::from(std::process::id()) << 32);
    u128::from(half()) << 64 | u128::from(half())
}

/// Raises this process's limit of open descriptors to `wanted`, or as far as the system allows. Returns the limit that
/// is then in force; 0 if the system does not tell.
pub fn raise_descriptor_limit(wanted: u64) -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return 0;
    };
    let target = wanted.min(hard);
    if soft < target && setrlimit(Resource::RLIMIT_NOFILE, target, hard).is_ok() { target } else { soft }
}

/// Whether an error says that the system has no descriptors or buffers left. Such a shortage passes.
pub fn is_shortage(error: &io::Error) -> bool {
    use libc::{EMFILE, ENFILE, ENOBUFS, ENOMEM};
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS | ENOMEM))
}

/// The memory of this host in bytes, swap included; `None` if the system does not tell.
pub fn memory_bytes() -> Option<u64> {
    let info = sysinfo().ok()?;
    info.ram_total().checked_add(info.swap_total())
}
