//! Values of options, checked as they are read.

mod host;

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use crate::proto::client::buffer::{BUFFER_BYTES_MIN, SESSION_ID_MAX};
use crate::proto::client::{FullPolicy, Transport};
use crate::server::Inject;
pub(super) use host::{Host, Source};

/// Longest duration that is taken: longer ones are mistakes.
const SPAN_MAX: Duration = Duration::from_hours(366 * 24);
/// As many descriptors as Linux gives to a process.
const CONNECTIONS_MAX: usize = 1 << 20;
/// A receive buffer larger than this is refused by every kernel.
const RECEIVE_BYTES_MAX: usize = 1 << 30;

/// A duration above zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span(pub(super) Duration);

/// A duration that may be zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pause(pub(super) Duration);

/// The size of the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BufferBytes(pub(super) usize);

/// The size of a receive buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReceiveBytes(pub(super) usize);

/// A number of sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sessions(pub(super) u16);

/// A number of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Connections(pub(super) usize);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way(pub(super) Transport);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Injected(pub(super) Inject);

/// Addresses with the same first bits, or a single one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prefix(pub(super) IpNet);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resend {
    Yes,
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full(pub(super) FullPolicy);

/// Writes `--name=value` as two words and `-vvv` as three: argh knows neither.
pub(super) fn spread(arguments: &[String]) -> Vec<String> {
    let mut words = Vec::with_capacity(arguments.len());
    for argument in arguments {
        let verbose = argument.strip_prefix('-').filter(|rest| rest.len() > 1 && rest.bytes().all(|byte| byte == b'v'));
        if let Some(rest) = verbose {
            words.extend(rest.chars().map(|_| "-v".to_string()));
        } else if argument == "-h" {
            words.push("--help".into());
        } else if let Some((name, value)) = argument.split_once('=').filter(|(name, _)| name.starts_with("--")) {
            words.extend([name.to_string(), value.to_string()]);
        } else {
            words.push(argument.clone());
        }
    }
    words
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let single = text.parse::<IpAddr>().map(IpNet::from).ok();
        let prefix = single.or_else(|| text.parse().ok());
        prefix.map(Self).ok_or_else(|| format!("{text:?} is no prefix of addresses, like 10.0.0.0/8 or fd00::/8"))
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let span = duration(text)?;
        if span.is_zero() { Err(format!("{text}: must be above zero")) } else { Ok(Self(span)) }
    }
}

impl FromStr for Pause {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        duration(text).map(Self)
    }
}

/// `100ms`, `2s`, `1.5s`, `10m`, `2h`, `1d`; `0` needs no unit.
fn duration(text: &str) -> Result<Duration, String> {
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
    let span = Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())?;
    if span > SPAN_MAX { Err(format!("{text}: longer than a year")) } else { Ok(span) }
}

/// `1048576`, `512KiB`, `64MiB`, `1GiB`; `64M` and `64MB`, in small letters too, mean the same: who asks for memory counts so.
fn size(text: &str) -> Result<usize, String> {
    let wrong = || format!("{text:?} is no size (4096, 512KiB, 64MiB, 1GiB)");
    let (number, unit) = split(text);
    let factor: usize = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        _ => return Err(wrong()),
    };
    let number: usize = number.parse().map_err(|_| wrong())?;
    number.checked_mul(factor).ok_or_else(wrong)
}

fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    text.split_at(end)
}

impl FromStr for BufferBytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = size(text)?;
        if bytes < BUFFER_BYTES_MIN {
            Err(format!("{text}: at least {} KiB", BUFFER_BYTES_MIN >> 10))
        } else {
            Ok(Self(bytes))
        }
    }
}

impl FromStr for ReceiveBytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = size(text)?;
        if (1..=RECEIVE_BYTES_MAX).contains(&bytes) { Ok(Self(bytes)) } else { Err(format!("{text}: from 1 to 1GiB")) }
    }
}

impl FromStr for Sessions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let most = SESSION_ID_MAX - 1;
        text.parse()
            .ok()
            .filter(|n| (1..=most).contains(n))
            .map(Self)
            .ok_or_else(|| format!("{text:?}: from 1 to {most}"))
    }
}

impl FromStr for Connections {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse()
            .ok()
            .filter(|n| (1..=CONNECTIONS_MAX).contains(n))
            .map(Self)
            .ok_or_else(|| format!("{text:?}: from 1 to {CONNECTIONS_MAX}"))
    }
}

impl FromStr for Way {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "udp" => Ok(Self(Transport::Udp)),
            "tcp" => Ok(Self(Transport::Tcp)),
            _ => Err(format!("{text:?} is neither udp nor tcp")),
        }
    }
}

impl FromStr for Injected {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "spoof" => Ok(Self(Inject::Spoof)),
            "local" => Ok(Self(Inject::Local)),
            _ => Err(format!("{text:?} is neither spoof nor local")),
        }
    }
}

impl FromStr for Resend {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "yes" => Ok(Self::Yes),
            "never" => Ok(Self::Never),
            _ => Err(format!("{text:?}: yes or never")),
        }
    }
}

impl FromStr for Full {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "drop-oldest" => Ok(Self(FullPolicy::DropOldest)),
            "drop-newest" => Ok(Self(FullPolicy::DropNewest)),
            _ => Err(format!("{text:?}: drop-oldest or drop-newest")),
        }
    }
}
