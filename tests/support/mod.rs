//! What the tests over network namespaces stand on: namespaces, processes and journals that clean up after themselves.
//!
//! Nothing here knows the broker. Everything that is made (namespaces, processes, files) is a value whose `Drop` takes it away again, also
//! when a test fails; what a killed test run left behind, the next run removes.
//!
//! Nothing sleeps to let things settle: [`wait_until`] waits for a condition. The one exception says so in its name: [`pause_for`]
//! is for spans that are the *input* of a scenario, such as a cut of six seconds.

pub(crate) mod directory;
pub(crate) mod journal;
pub(crate) mod namespaces;
pub(crate) mod process;

use std::time::{Duration, Instant};

/// How long a condition may take to come true. Far more than it ever needs: only a failing test waits so long.
const DEADLINE: Duration = Duration::from_mins(1);
/// How often a condition is looked at.
const POLL_EVERY: Duration = Duration::from_millis(10);

/// Waits until `condition` holds and returns its value; panics with its last complaint when [`DEADLINE`] has passed.
#[expect(clippy::disallowed_methods, reason = "the one place where tests poll, with a deadline")]
pub(crate) fn wait_until<T>(what: &str, mut condition: impl FnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    loop {
        match condition() {
            Ok(value) => return value,
            Err(complaint) if begun.elapsed() >= DEADLINE => panic!("in vain waited until {what}: {complaint}"),
            Err(_) => std::thread::sleep(POLL_EVERY),
        }
    }
}

/// Lets `span` pass: the length of an outage or of a measurement, never a guess at how long something takes.
#[expect(clippy::disallowed_methods, reason = "the span is the input of the scenario")]
pub(crate) fn pause_for(span: Duration) {
    std::thread::sleep(span);
}
