//! remoted's processes and sockets, as the system shows them.
//!
//! ```text
//!   slow, on a thread of its own             fast, up to 1,000 times a second
//!   search ───────────────────────► Found ─► Inspector::sample ─────────────► Sample
//!   walks /proc: which process has the       looks at what was found alone:
//!   name, which one has the socket           /proc/PID/stat, SOCK_DIAG
//! ```
//!
//! A process counts when it runs a program with an accepted name, as nobody but root can make it (`vouch`), *and*
//! owns an unconnected UDP socket on the port. Neither alone is enough: another program can sit on the port, and a
//! remoted that failed to bind it is no use. The search looks in our network namespace first, then in the process's (a
//! remoted in a container). A look shows all sockets on the port: a socket that the search has not seen calls for
//! another search.
//!
//! Guarantees: nothing that the system does makes this room panic, hang or grow without bound. A process id that was
//! given to another process is not taken for the old one, because its start time differs. A process that cannot be
//! read counts as absent (the mount option `hidepid` hides it).
//!
//! Left out on purpose: pid files (stale after `kill -9`), `ossec-control status` (fails when any daemon is down, and
//! deletes files), the arguments of processes (an editor that has a file of remoted's open bears its name there), and
//! every judgement.

pub mod backlog;
// These two are public for `tests/fuzz/` alone.
#[doc(hidden)]
pub mod diag;
mod found;
#[doc(hidden)]
pub mod proc;
mod sample;
mod search;
mod socket;
#[cfg(test)]
mod tests;
mod vouch;
mod wanted;

pub use found::{Found, Unreachable};
pub use sample::Inspector;
pub use search::Searcher;
pub use vouch::Doubt;
pub use wanted::{Names, Wanted};
