//! The signals that ask for a stop.

use crossbeam_channel::{Receiver, bounded};
use nix::sys::signal::{SigSet, Signal};
use thiserror::Error;

/// The system does not let signals be handled.
#[derive(Debug, Error)]
#[error("cannot handle signals: {0}")]
pub struct SignalError(#[from] ctrlc::Error);

/// Keeps SIGHUP ignored if this process was started so, as `nohup` does it. This comes before any thread is started.
///
/// [`listen`] handles SIGHUP in any case. A blocked signal is never handled, and threads inherit the mask of blocked
/// signals. Other signals are handled even if they were ignored: a shell ignores SIGINT for its background jobs, and
/// `kill -INT` must stop them.
pub fn respect_nohup() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if is_ignored(&status, Signal::SIGHUP) {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGHUP);
        // It does not fail for signals that exist.
        let _ = signals.thread_block();
    }
}

/// SIGINT, SIGTERM and SIGHUP. The first asks for an orderly stop; the second ends the drain.
pub fn listen() -> Result<Receiver<()>, SignalError> {
    let (sender, receiver) = bounded(2);
    ctrlc::set_handler(move || {
        // A third says nothing new.
        let _ = sender.try_send(());
    })?;
    Ok(receiver)
}

/// Whether `/proc/PID/status` has this signal in its mask of ignored signals. Signal 1 is the lowest bit.
fn is_ignored(status: &str, signal: Signal) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap_or("0");
    u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask >> (signal as u32 - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_says_which_signals_are_ignored() {
        let table = [
            ("SigBlk:\t0000000000000001\nSigIgn:\t0000000000000000\n", false),
            ("SigIgn:\t0000000000000001\n", true),
            ("SigIgn:\t0000000000001006\n", false),
            ("SigIgn:\tffffffffffffffff\n", true),
            ("SigIgn:\tnonsense\n", false),
            ("", false),
        ];
        for (status, expected) in table {
            assert_eq!(is_ignored(status, Signal::SIGHUP), expected, "{status}");
        }
    }
}
