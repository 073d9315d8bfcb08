//! A moment in time, as the pure rooms know it.
//!
//! The core never reads a clock. Every method that depends on time takes the moment as an argument, so that tests and
//! the simulation run on virtual time. [`Time`] counts from an arbitrary origin (the boot of the system) and includes
//! the time that the system was suspended. After a suspension a lease must be over, not frozen.

use std::ops::Add;
use std::time::Duration;

/// A moment, in nanoseconds since an origin that is the same for the whole process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// The origin.
    pub const ZERO: Self = Self(0);

    /// A moment later than all others.
    pub const FAR: Self = Self(u64::MAX);

    /// The moment `nanos` nanoseconds after the origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// The moment `millis` milliseconds after the origin.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis * 1_000_000)
    }

    /// Nanoseconds since the origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The moment `span` earlier; the origin at the earliest.
    #[must_use]
    pub fn before(self, span: Duration) -> Self {
        Self::ZERO + self.since(Self::ZERO + span)
    }

    /// The time since `earlier`; zero if it lies ahead.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}
