//! The signals that ask for a stop, or for a newer program in the place of this one.
//!
//! Only the main thread takes signals (see `os::threads`): whatever it blocks waits, also for the next program.

use std::io;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::unistd::Pid;
use thiserror::Error;

use crate::os::threads::detach;

/// The system does not let signals be handled.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum SignalError {
    #[error("cannot handle signals: {0}")]
    Stop(#[from] ctrlc::Error),
    #[error("cannot handle signals: {0}")]
    Replace(#[source] Errno),
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
}

/// A signal is in the channel so soon after it was taken.
const HEARD_WITHIN: Duration = Duration::from_millis(10);
/// Tells the next program that SIGHUP is ignored: a handled signal is not ignored any more.
const NOHUP: &str = "OSSEC_BROKER_NOHUP";

/// The signals that this process hears.
#[derive(Clone, Debug)]
pub struct Signals {
    /// SIGINT, SIGTERM and SIGHUP. The first asks for an orderly stop; the second ends the drain.
    pub stop: Receiver<()>,
    /// SIGUSR2 asks for a newer program in the place of this one.
    pub replace: Receiver<()>,
}

/// Signals that wait from the start of the process on.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// SIGHUP is ignored.
    is_nohup: bool,
}

/// Holds all signals back that [`Held::listen`] will hear. This comes before any thread is
/// started. SIGUSR1 and SIGUSR2 do nothing from here on.
///
/// SIGHUP stays ignored if this process was started so, as `nohup` does it: a blocked signal is never handled. Other
/// signals are handled even if they were ignored: a shell ignores SIGINT for its background jobs, and `kill -INT` must
/// stop them.
pub fn hold() -> Held {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let is_nohup = is_ignored(&status, Signal::SIGHUP) || std::env::var_os(NOHUP).is_some();
    block(&[Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2]);
    Held { is_nohup }
}

/// Blocks signals in this thread.
fn block(signals: &[Signal]) {
    // It does not fail for signals that exist.
    let _ = signals.iter().copied().collect::<SigSet>().thread_block();
}

impl Held {
    /// Hears signals, also those that have come in the meantime.
    pub fn listen(self) -> Result<Signals, SignalError> {
        let (sender, stop) = bounded(2);
        ctrlc::set_handler(move || {
            // A third says nothing new.
            let _ = sender.try_send(());
        })?;
        let mut heard = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
        if !self.is_nohup {
            heard.add(Signal::SIGHUP);
        }
        let _ = heard.thread_unblock();
        let (sender, replace) = bounded(1);
        let requests = SignalFd::new(&SigSet::from_iter([Signal::SIGUSR2])).map_err(SignalError::Replace)?;
        let wait = move || {
            while let Ok(Some(_)) = requests.read_signal() {
                // One that waits is enough.
                let _ = sender.try_send(());
            }
        };
        detach("signals", wait).map_err(SignalError::Thread)?;
        Ok(Signals { stop, replace })
    }

    /// Holds signals back again, so that the next program hears them, and also a stop that nobody has heeded. Returns
    /// what the next program's environment must say.
    pub fn hold_again(self, signals: &Signals) -> Vec<(&'static str, &'static str)> {
        block(&[Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
        // A signal that was taken a moment ago comes through a thread of its own.
        if signals.stop.recv_timeout(HEARD_WITHIN).is_ok() {
            let _ = kill(Pid::this(), Signal::SIGTERM);
        }
        if self.is_nohup { vec![(NOHUP, "1")] } else { Vec::new() }
    }
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
