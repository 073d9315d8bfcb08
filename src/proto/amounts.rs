//! Amounts and spans of time, for people.

use std::fmt::Write;
use std::time::Duration;

use crate::proto::client::buffer::Tally;

/// `1204 datagrams (812 KiB)`.
pub fn amount(Tally { datagrams, bytes }: Tally) -> String {
    let plural = if datagrams == 1 { "" } else { "s" };
    format!("{datagrams} datagram{plural} ({})", size(bytes))
}

/// `812 KiB`, `64 MiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["bytes", "KiB", "MiB", "GiB"];
    let mut value = bytes;
    let mut unit = 0;
    while unit + 1 < UNITS.len() && (value >= 10 * 1024 || value >= 1024 && value.is_multiple_of(1024)) {
        value /= 1024;
        unit += 1;
    }
    format!("{value} {}", UNITS[unit])
}

/// `3m12s`, `12s`, `2h5m`.
pub fn duration(span: Duration) -> String {
    let seconds = span.as_secs();
    let (days, hours, minutes, rest) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    let mut text = String::new();
    for (value, unit) in [(days, "d"), (hours, "h"), (minutes, "m")] {
        if value > 0 || !text.is_empty() {
            let _ = write!(text, "{value}{unit}");
        }
    }
    if days == 0 && (rest > 0 || text.is_empty()) {
        let _ = write!(text, "{rest}s");
    }
    text
}
