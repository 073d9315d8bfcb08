//! The threads and descriptors of this process.

use std::fs;
use std::path::{Path, PathBuf};

use super::wait::wait_until;

/// So many threads and descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Census {
    threads: usize,
    descriptors: usize,
}

impl Census {
    /// Counts threads and descriptors.
    pub(crate) fn take() -> Self {
        Self {
            threads: entries("/proc/self/task").len(),
            descriptors: entries("/proc/self/fd").iter().filter(|entry| is_ours(entry)).count(),
        }
    }

    /// Waits until the numbers are the same as when this census was taken.
    ///
    /// A scope goes on when the work of its threads is done, a moment before the system has taken them away. The
    /// thread that resolves names is not joined at all.
    pub(crate) fn wait_until_restored(self) {
        wait_until("no thread and no descriptor is left behind", || {
            let now = Self::take();
            if now == self { Ok(()) } else { Err(format!("{now:?} instead of {self:?}; threads: {}", names())) }
        });
    }
}

fn entries(directory: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("cannot read {directory}: {error}"));
    entries.flatten().map(|entry| entry.path()).collect()
}

/// The roles have no pipes. ThreadSanitizer makes some for the program that finds names, at its first finding.
fn is_ours(descriptor: &Path) -> bool {
    !fs::read_link(descriptor).is_ok_and(|target| target.to_string_lossy().starts_with("pipe:"))
}

/// The names of all threads.
fn names() -> String {
    let tasks = entries("/proc/self/task").into_iter();
    let names = tasks.map(|task| fs::read_to_string(task.join("comm")).unwrap_or_default().trim().to_owned());
    names.collect::<Vec<_>>().join(" ")
}
