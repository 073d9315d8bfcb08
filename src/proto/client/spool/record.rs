//! One record of the spool.
//!
//! ```text
//!   length (u16)   session (u16)   crc (u32)   number (u64)   arrived (u64)   payload
//! ```
//!
//! A record says everything about itself, so that damage to one costs no other. The checksum covers the salt of the
//! segment, the header without the checksum, and the payload. Payloads are foreign: without the salt, which is secret,
//! a datagram could contain a record that a walk would find behind damage.
//!
//! `arrived` is in milliseconds of the clock of the record's generation. A length that no datagram has says that the
//! record is no datagram:
//!
//! | length | record | payload |
//! |---|---|---|
//! | 65,535 | mark: every datagram below `number` is confirmed or dropped | totals so far (80 bytes) |
//! | 65,534 | stream: the name under which the client sends | name (16 bytes) |
//! | 65,533 | agent: the agent in the place `session`, from `number` on | 48 bytes |
//! | 65,532 | clock: of the generation that `number` belongs to | 17 bytes |
//! | 65,531 | struck: the datagrams from `number` on were dropped, up to an end | number of the end (8 bytes) |

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::proto::terms::{AgentId, DATAGRAM_BYTES_MAX, Seq, StreamId};

/// Bytes in front of each payload.
pub const HEADER_BYTES: usize = 24;
/// Bytes of the longest record.
pub const RECORD_BYTES_MAX: usize = HEADER_BYTES + DATAGRAM_BYTES_MAX;

const MARK: u16 = u16::MAX;
const STREAM: u16 = u16::MAX - 1;
const AGENT: u16 = u16::MAX - 2;
const CLOCK: u16 = u16::MAX - 3;
const STRUCK: u16 = u16::MAX - 4;
/// Reasons for drops that have a place in a mark; more of them than there are.
const REASONS_MAX: usize = 8;
const MARK_BYTES: usize = 8 + 8 * REASONS_MAX + 8;
const STREAM_BYTES: usize = 16;
/// Bytes of the payload of an agent's record.
pub const AGENT_BYTES: usize = 48;
const CLOCK_BYTES: usize = 17;
const STRUCK_BYTES: usize = 8;

/// A record, and the number that it stands at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The number of the datagram; of a mark, the number below which no datagram is held.
    pub number: Seq,
    /// The subject of the record.
    pub item: Item<'a>,
}

/// The subject of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the table above says it")]
pub enum Item<'a> {
    Datagram { session: u16, arrived_ms: u64, bytes: &'a [u8] },
    Mark(Totals),
    Stream(StreamId),
    Agent(Agent),
    Clock(Clock),
    Struck { end: Seq },
}

/// Datagrams that are held no more, since the spool was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Confirmed datagrams.
    pub confirmed: u64,
    /// Dropped datagrams, by reason.
    pub dropped: [u64; REASONS_MAX],
    /// Every datagram that was sent until then is below this number.
    pub sent: Seq,
}

/// An agent behind the client, as the table of sessions knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agent {
    /// The place in the table.
    pub session: u16,
    /// How often the place was given to another agent before.
    pub generation: u32,
    /// Where replies go.
    pub address: SocketAddr,
    /// The address of this host that the agent sends to, where the socket listens on several.
    pub local: Option<IpAddr>,
    /// The `id` in front of its datagrams; zeros without one.
    pub id: AgentId,
    /// The UDP port that remoted knows the agent by; 0 without one.
    pub port: u16,
}

/// The clock of a generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// The boot in which the clock runs; only equality has a meaning.
    pub boot: u64,
    /// Milliseconds to add for the time since 1970; wraps.
    pub offset_ms: u64,
    /// The time since 1970 was right: a source of time had set it.
    pub trusted: bool,
}

impl Clock {
    /// The moment of this clock, in milliseconds, at which a `past` clock showed `ms`; `None` if nobody knows.
    pub const fn translate(self, past: Self, ms: u64) -> Option<u64> {
        if self.boot == past.boot {
            Some(ms)
        } else if self.trusted && past.trusted {
            // A moment long before this clock began counts as its beginning.
            let shift = past.offset_ms.wrapping_sub(self.offset_ms).cast_signed();
            Some(ms.saturating_add_signed(shift))
        } else {
            None
        }
    }
}

impl Record<'_> {
    /// Appends the record to `out`, with the salt of its segment in the checksum.
    pub fn encode(&self, salt: u64, out: &mut Vec<u8>) {
        let start = out.len();
        let (length, session, arrived) = match self.item {
            Item::Datagram { session, arrived_ms, bytes } => {
                debug_assert!(bytes.len() <= DATAGRAM_BYTES_MAX, "UDP has none longer");
                (bytes.len() as u16, session, arrived_ms)
            }
            Item::Mark(_) => (MARK, 0, 0),
            Item::Stream(_) => (STREAM, 0, 0),
            Item::Agent(agent) => (AGENT, agent.session, 0),
            Item::Clock(_) => (CLOCK, 0, 0),
            Item::Struck { .. } => (STRUCK, 0, 0),
        };
        out.extend(length.to_be_bytes());
        out.extend(session.to_be_bytes());
        out.extend([0; 4]);
        out.extend(self.number.0.to_be_bytes());
        out.extend(arrived.to_be_bytes());
        match self.item {
            Item::Datagram { bytes, .. } => out.extend(bytes),
            Item::Mark(totals) => {
                out.extend(totals.confirmed.to_be_bytes());
                out.extend(totals.dropped.iter().flat_map(|count| count.to_be_bytes()));
                out.extend(totals.sent.0.to_be_bytes());
            }
            Item::Stream(name) => out.extend(name.to_be_bytes()),
            Item::Agent(agent) => agent.encode(out),
            Item::Clock(clock) => {
                out.extend(clock.boot.to_be_bytes());
                out.extend(clock.offset_ms.to_be_bytes());
                out.push(u8::from(clock.trusted));
            }
            Item::Struck { end } => out.extend(end.0.to_be_bytes()),
        }
        let crc = checksum(salt, &out[start..]);
        out[start + 4..start + 8].copy_from_slice(&crc.to_be_bytes());
    }

    /// Bytes that the record takes.
    pub const fn span(&self) -> usize {
        HEADER_BYTES
            + match self.item {
                Item::Datagram { bytes, .. } => bytes.len(),
                Item::Mark(_) => MARK_BYTES,
                Item::Stream(_) => STREAM_BYTES,
                Item::Agent(_) => AGENT_BYTES,
                Item::Clock(_) => CLOCK_BYTES,
                Item::Struck { .. } => STRUCK_BYTES,
            }
    }
}

impl<'a> Record<'a> {
    /// The record at the beginning of `bytes`; `None` if none is whole and sound there. Datagrams have numbers from
    /// `first` on and below `until`: without that cheap look first, a walk over garbage would take a checksum at every
    /// byte.
    pub fn decode(salt: u64, (first, until): (Seq, Seq), bytes: &'a [u8]) -> Option<Self> {
        let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let [l0, l1, s0, s1, c0, c1, c2, c3, more @ ..] = *header;
        let [n0, n1, n2, n3, n4, n5, n6, n7, arrived @ ..] = more;
        let length = u16::from_be_bytes([l0, l1]);
        let number = Seq(u64::from_be_bytes([n0, n1, n2, n3, n4, n5, n6, n7]));
        let special = special_bytes(length);
        let is_misplaced = special.is_none() && (number < first || number == until);
        if is_misplaced || number > until || special.is_none() && usize::from(length) > DATAGRAM_BYTES_MAX {
            return None;
        }
        let payload = rest.get(..special.unwrap_or(usize::from(length)))?;
        if checksum(salt, &bytes[..HEADER_BYTES + payload.len()]) != u32::from_be_bytes([c0, c1, c2, c3]) {
            return None;
        }
        let session = u16::from_be_bytes([s0, s1]);
        let item = match length {
            MARK => Item::Mark(Totals {
                confirmed: u64_at(payload, 0)?,
                dropped: std::array::from_fn(|at| u64_at(payload, 8 + 8 * at).unwrap_or(0)),
                sent: Seq(u64_at(payload, MARK_BYTES - 8)?),
            }),
            STREAM => Item::Stream(u128::from_be_bytes(payload.try_into().ok()?)),
            AGENT => Item::Agent(Agent::decode(session, payload)?),
            CLOCK => {
                let trusted = *payload.last()? == 1;
                Item::Clock(Clock { boot: u64_at(payload, 0)?, offset_ms: u64_at(payload, 8)?, trusted })
            }
            STRUCK => Item::Struck { end: Seq(u64_at(payload, 0)?) },
            _ => Item::Datagram { session, arrived_ms: u64::from_be_bytes(arrived), bytes: payload },
        };
        Some(Self { number, item })
    }
}

/// Bytes behind the header of a record that is no datagram; `None` for a datagram.
const fn special_bytes(length: u16) -> Option<usize> {
    match length {
        MARK => Some(MARK_BYTES),
        STREAM => Some(STREAM_BYTES),
        AGENT => Some(AGENT_BYTES),
        CLOCK => Some(CLOCK_BYTES),
        STRUCK => Some(STRUCK_BYTES),
        _ => None,
    }
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The checksum of a whole record, whatever stands in the place of the checksum.
fn checksum(salt: u64, record: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&salt.to_be_bytes());
    crc.update(&record[..4]);
    crc.update(&record[8..]);
    crc.finalize()
}

impl Agent {
    /// The agent in a place of which nothing but its datagrams is known. It has an address that no packet comes from
    /// (RFC 6666).
    pub const fn unknown(session: u16) -> Self {
        let ip = IpAddr::V6(Ipv6Addr::from_bits(0x0100 << 112 | session as u128));
        Self { session, generation: 0, address: SocketAddr::new(ip, 0), local: None, id: [0; _], port: 0 }
    }

    /// The agent as text, which has no space, colon or other special character.
    pub fn to_text(&self) -> String {
        let mut bytes = self.session.to_be_bytes().to_vec();
        self.encode(&mut bytes);
        bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
    }

    /// The agent that a text names.
    pub fn from_text(text: &str) -> Option<Self> {
        let digit = |at: usize| text.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
        let bytes: Option<Vec<u8>> = (0..text.len()).step_by(2).map(digit).collect();
        let bytes = bytes?;
        let (session, rest) = bytes.split_first_chunk::<2>()?;
        Self::decode(u16::from_be_bytes(*session), rest)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let wide = |address: IpAddr| match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        out.extend(self.generation.to_be_bytes());
        out.extend(self.address.port().to_be_bytes());
        out.extend(self.port.to_be_bytes());
        out.extend(wide(self.address.ip()));
        out.extend(wide(self.local.unwrap_or(Ipv6Addr::UNSPECIFIED.into())));
        out.extend(self.id);
    }

    fn decode(session: u16, payload: &[u8]) -> Option<Self> {
        let payload: [u8; AGENT_BYTES] = payload.try_into().ok()?;
        let [g0, g1, g2, g3, a0, a1, p0, p1, rest @ ..] = payload;
        let (address, rest) = rest.split_first_chunk::<16>()?;
        let (local, id) = rest.split_first_chunk::<16>()?;
        let narrow = |octets: [u8; 16]| IpAddr::V6(Ipv6Addr::from(octets)).to_canonical();
        Some(Self {
            session,
            generation: u32::from_be_bytes([g0, g1, g2, g3]),
            address: SocketAddr::new(narrow(*address), u16::from_be_bytes([a0, a1])),
            local: Some(narrow(*local)).filter(|local| *local != IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
            id: id.try_into().ok()?,
            port: u16::from_be_bytes([p0, p1]),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SALT: u64 = 0x5a17;
    const ANY: (Seq, Seq) = (Seq(0), Seq(u64::MAX));

    fn decoded(bytes: &[u8]) -> Option<Record<'_>> {
        Record::decode(SALT, ANY, bytes)
    }

    fn records() -> Vec<Record<'static>> {
        let agent = Agent {
            session: 7,
            generation: 3,
            address: SocketAddr::from(([10, 0, 0, 9], 40_000)),
            local: Some(IpAddr::from([127, 0, 0, 1])),
            id: *b"1024\0\0\0\0",
            port: 1_517,
        };
        let v6 = Agent { address: "[fd00::9]:1".parse().expect("an address"), local: None, ..agent };
        let items = [
            Item::Datagram { session: 2, arrived_ms: 1_795_485_600_000, bytes: b"an event" },
            Item::Datagram { session: 0, arrived_ms: 0, bytes: b"" },
            Item::Mark(Totals { confirmed: 1 << 33, dropped: [1, 0, 3, 0, 5, 0, 0, 8], sent: Seq(7) }),
            Item::Stream(u128::MAX / 3),
            Item::Agent(agent),
            Item::Agent(v6),
            Item::Clock(Clock { boot: u64::MAX / 5, offset_ms: 1_795_485_600_000, trusted: true }),
            Item::Struck { end: Seq(9 << 40) },
        ];
        items.into_iter().zip(1..).map(|(item, number)| Record { number: Seq(number << 40), item }).collect()
    }

    fn encoded(record: &Record<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        record.encode(SALT, &mut bytes);
        bytes
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        for record in records() {
            let bytes = encoded(&record);
            assert_eq!((decoded(&bytes), bytes.len()), (Some(record), record.span()));
        }
    }

    #[test]
    fn each_flipped_bit_and_each_truncation_of_a_record_is_noticed() {
        for bytes in records().iter().map(encoded) {
            for at in 0..bytes.len() * 8 {
                let mut damaged = bytes.clone();
                damaged[at / 8] ^= 1 << (at % 8);
                // A longer length may reach behind the record: something follows.
                damaged.extend([0; 64]);
                assert_eq!(decoded(&damaged), None, "bit {at} of {bytes:?}");
            }
            for length in 0..bytes.len() {
                assert_eq!(decoded(&bytes[..length]), None);
            }
        }
    }

    #[test]
    fn a_record_of_another_segment_is_none() {
        for record in records() {
            assert_eq!(Record::decode(SALT + 1, ANY, &encoded(&record)), None);
        }
    }

    #[test]
    fn a_datagram_of_another_segment_is_not_even_checked() {
        let item = Item::Datagram { session: 0, arrived_ms: 0, bytes: b"event" };
        let bytes = encoded(&Record { number: Seq(7), item });
        let bounds = |first, until| Record::decode(SALT, (Seq(first), Seq(until)), &bytes).is_some();
        assert_eq!([bounds(7, 8), bounds(8, 9), bounds(6, 7)], [true, false, false]);
    }

    #[test]
    fn a_clock_is_translated_within_a_boot_or_where_both_were_right() {
        let hour = 3_600_000;
        let past = Clock { boot: 1, offset_ms: 1_000 * hour, trusted: true };
        // Two hours after the boot; the other boot began ten hours later.
        let present = Clock { boot: 2, offset_ms: 1_010 * hour, trusted: true };
        assert_eq!(past.translate(past, 5), Some(5));
        assert_eq!(Clock { trusted: false, ..past }.translate(past, 5), Some(5), "the boot clock needs no trust");
        assert_eq!(present.translate(past, 12 * hour), Some(2 * hour));
        assert_eq!(present.translate(past, 2 * hour), Some(0), "long before");
        assert_eq!(past.translate(present, 2 * hour), Some(12 * hour));
        for untrusted in [Clock { trusted: false, ..present }, Clock { offset_ms: 0, trusted: false, ..present }] {
            assert_eq!(untrusted.translate(past, 5), None);
            assert_eq!(past.translate(untrusted, 5), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_no_record(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(decoded(&bytes), None);
        }
    }
}
