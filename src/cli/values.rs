//! Values of options: each is checked by the function that reads it. Their errors are the texts that argh prints.

mod host;

use std::fmt::Display;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use crate::proto::client::buffer::{BUFFER_BYTES_MIN, SESSION_ID_MAX};
use crate::proto::client::spool::log::SPOOL_BYTES_MIN;
use crate::proto::client::{FullPolicy, SyncPolicy, Transport};
use crate::server::Inject;
pub(super) use host::{broker, remoted, source};

/// Longest duration that is taken: longer durations are mistakes.
const DURATION_MAX: Duration = Duration::from_hours(366 * 24);
/// As many descriptors as Linux gives to a process.
const CONNECTIONS_MAX: usize = 1 << 20;
/// A receive buffer larger than this is refused by every kernel.
const RECEIVE_BYTES_MAX: usize = 1 << 30;

/// Addresses with the same first bits, or a single address.
pub(super) fn prefix(text: &str) -> Result<IpNet, String> {
    let single = text.parse::<IpAddr>().map(IpNet::from).ok();
    let prefix = single.or_else(|| text.parse().ok());
    prefix.ok_or_else(|| format!("{text:?} is no prefix of addresses, like 10.0.0.0/8 or fd00::/8"))
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let duration = pause(text)?;
    if duration.is_zero() { Err(format!("{text}: must be above zero")) } else { Ok(duration) }
}

/// A duration that may be zero: `100ms`, `2s`, `1.5s`, `10m`, `2h`, `1d`; `0` needs no unit.
pub(super) fn pause(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration (100ms, 2s, 10m, 2h, 1d)");
    let (number, unit) = split(text);
    let seconds: f64 = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        "" if number == "0" => 0.0,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let duration = Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())?;
    if duration > DURATION_MAX { Err(format!("{text}: longer than a year")) } else { Ok(duration) }
}

pub(super) fn buffer_bytes(text: &str) -> Result<usize, String> {
    let bytes = memory(text)?;
    if bytes < BUFFER_BYTES_MIN { Err(format!("{text}: at least {} KiB", BUFFER_BYTES_MIN >> 10)) } else { Ok(bytes) }
}

pub(super) fn spool_bytes(text: &str) -> Result<u64, String> {
    let bytes = size(text)?;
    if bytes < SPOOL_BYTES_MIN { Err(format!("{text}: at least {} KiB", SPOOL_BYTES_MIN >> 10)) } else { Ok(bytes) }
}

pub(super) fn receive_bytes(text: &str) -> Result<usize, String> {
    let bytes = memory(text)?;
    if (1..=RECEIVE_BYTES_MAX).contains(&bytes) { Ok(bytes) } else { Err(format!("{text}: from 1 to 1GiB")) }
}

/// `1048576`, `512KiB`, `64MiB`, `1GiB`. Memory is counted in powers of two, so `64M`, `64MB` and `64mb` mean `64MiB`.
fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no size (4096, 512KiB, 64MiB, 1GiB)");
    let (number, unit) = split(text);
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(factor).ok_or_else(wrong)
}

fn memory(text: &str) -> Result<usize, String> {
    usize::try_from(size(text)?).map_err(|_| format!("{text}: more than this system can address"))
}

fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    text.split_at(end)
}

pub(super) fn rate(text: &str) -> Result<NonZeroU32, String> {
    number(text, NonZeroU32::MIN, NonZeroU32::MAX)
}

pub(super) fn source_port(text: &str) -> Result<u16, String> {
    number(text, 0, u16::MAX)
}

pub(super) fn sessions(text: &str) -> Result<u16, String> {
    number(text, 1, SESSION_ID_MAX - 1)
}

pub(super) fn connections(text: &str) -> Result<usize, String> {
    number(text, 1, CONNECTIONS_MAX)
}

fn number<T: FromStr + PartialOrd + Display>(text: &str, least: T, most: T) -> Result<T, String> {
    let number = text.parse().ok().filter(|number| (&least..=&most).contains(&number));
    number.ok_or_else(|| format!("{text:?}: from {least} to {most}"))
}

pub(super) fn transport(text: &str) -> Result<Transport, String> {
    choice(text, " is neither udp nor tcp", [("udp", Transport::Udp), ("tcp", Transport::Tcp)])
}

pub(super) fn inject(text: &str) -> Result<Inject, String> {
    choice(text, " is neither spoof nor local", [("spoof", Inject::Spoof), ("local", Inject::Local)])
}

pub(super) fn spool_sync(text: &str) -> Result<SyncPolicy, String> {
    let choices = [("never", SyncPolicy::Never), ("interval", SyncPolicy::Interval), ("always", SyncPolicy::Always)];
    choice(text, ": never, interval or always", choices)
}

pub(super) fn resend(text: &str) -> Result<bool, String> {
    choice(text, ": yes or never", [("yes", true), ("never", false)])
}

pub(super) fn full(text: &str) -> Result<FullPolicy, String> {
    let choices = [("drop-oldest", FullPolicy::DropOldest), ("drop-newest", FullPolicy::DropNewest)];
    choice(text, ": drop-oldest or drop-newest", choices)
}

fn choice<T, const N: usize>(text: &str, wrong: &str, choices: [(&str, T); N]) -> Result<T, String> {
    let chosen = choices.into_iter().find(|(name, _)| *name == text);
    chosen.map(|(_, value)| value).ok_or_else(|| format!("{text:?}{wrong}"))
}
