//! The one place where tests wait: for a condition, with a deadline, or for a span that is the input of a scenario.

use std::time::{Duration, Instant};

/// The time in which a condition must come true. It is far more than a condition ever needs: only a failing test waits
/// so long.
const DEADLINE: Duration = Duration::from_mins(1);
/// The time between two looks at a condition.
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
