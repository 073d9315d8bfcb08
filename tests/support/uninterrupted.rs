//! System calls that wait with a timeout.

use std::io;

/// Repeats a call that was interrupted. After a process was frozen for a while, its calls with a timeout are
/// interrupted.
pub(crate) fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}
