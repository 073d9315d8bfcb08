//! System calls that wait with a timeout.

use std::io;

/// Does it again when it was interrupted: a process that was frozen for a while sees that of its calls that have a
/// timeout.
pub(crate) fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}
