//! What this process has: threads and descriptors.

use std::fs;

use super::wait::wait_until;

/// So many threads and descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Census {
    threads: usize,
    descriptors: usize,
}

impl Census {
    /// Counts.
    pub(crate) fn take() -> Self {
        Self { threads: entries("/proc/self/task"), descriptors: entries("/proc/self/fd") }
    }

    /// Waits until there is nothing that was not there when this was taken.
    ///
    /// A scope goes on when the work of its threads is done, a moment before the system has taken them away; and the thread that resolves
    /// names is not joined at all.
    pub(crate) fn wait_until_restored(self) {
        wait_until("no thread and no descriptor is left behind", || {
            let now = Self::take();
            if now == self { Ok(()) } else { Err(format!("{now:?} instead of {self:?}; threads: {}", names())) }
        });
    }
}

fn entries(directory: &str) -> usize {
    fs::read_dir(directory).unwrap_or_else(|error| panic!("cannot read {directory}: {error}")).count()
}

/// The names of all threads.
fn names() -> String {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let names = tasks.map(|task| fs::read_to_string(task.path().join("comm")).unwrap_or_default().trim().to_owned());
    names.collect::<Vec<_>>().join(" ")
}
