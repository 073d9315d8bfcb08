//! A moment in time, as the pure rooms know it.
//!
//! The core never reads a clock: every method that depends on time takes the moment as an argument, so that tests and the simulation can
//! run on time of their own. [`Time`] counts from an arbitrary origin (the boot of the system) and includes the time that the
//! system was suspended: after a suspension a lease must be over, not frozen.

use std::ops::Add;
use std::time::Duration;

/// A moment, in nanoseconds since an origin that is the same for the whole process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// The origin.
    pub const ZERO: Self = Self(0);

    /// Later than all that will ever be.
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

    /// The moment so long before; the origin at the earliest.
    #[must_use]
    pub fn before(self, span: Duration) -> Self {
        Self::ZERO + self.since(Self::ZERO + span)
    }

    /// How long ago `earlier` was; zero if it lies ahead.
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

/// A moment of the calendar, in UTC and to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Utc {
    /// Days since 1970-01-01.
    days: u64,
    second_of_day: u64,
}

impl Utc {
    /// The moment so many seconds after 1970-01-01T00:00:00Z.
    pub const fn from_unix(seconds: u64) -> Self {
        Self { days: seconds / 86_400, second_of_day: seconds % 86_400 }
    }

    /// Whether both are of the same day.
    pub const fn is_same_day(self, other: Self) -> bool {
        self.days == other.days
    }

    /// `2026-11-24`.
    pub fn date(self) -> String {
        let (year, month, day) = date(self.days);
        format!("{year}-{month:02}-{day:02}")
    }

    /// `02:10:03`.
    pub fn time_of_day(self) -> String {
        let second = self.second_of_day;
        format!("{:02}:{:02}:{:02}", second / 3_600, second / 60 % 60, second % 60)
    }
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar.
const fn date(days: u64) -> (u64, u64, u64) {
    // Counted from 0000-03-01, so that a leap day is the last of its year; 146,097 days are 400 years.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_dates() {
        let at = |seconds: u64| {
            let utc = Utc::from_unix(seconds);
            format!("{}T{}Z", utc.date(), utc.time_of_day())
        };
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(at(951_868_800), "2000-03-01T00:00:00Z");
        assert_eq!(at(1_795_485_600), "2026-11-24T02:00:00Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00Z");
    }
}
