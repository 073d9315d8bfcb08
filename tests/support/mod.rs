//! The ground of the tests over network namespaces: namespaces, processes and journals that clean up after themselves.
//!
//! Nothing here knows the broker. Everything that is made (namespaces, processes, files) is a value whose `Drop` takes
//! it away again, also when a test fails. The next run removes the leftovers of a killed test run.
//!
//! Nothing sleeps to let things settle: [`wait_until`] waits for a condition. The one exception says so in its name:
//! [`pause_for`] is for spans that are the *input* of a scenario, such as a cut of six seconds.

pub(crate) mod directory;
pub(crate) mod journal;
pub(crate) mod namespaces;
pub(crate) mod process;
pub(crate) mod wait;

pub(crate) use wait::{pause_for, wait_until};
