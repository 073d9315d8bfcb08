//! Spans of time between lines.

use std::time::Duration;

/// A change is told when it has lasted this long.
pub(super) const LASTING: Duration = Duration::from_secs(1);
/// Repeats are summed up this often.
pub(super) const SUMMARY: Duration = Duration::from_mins(1);
