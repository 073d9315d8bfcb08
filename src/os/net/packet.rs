//! A UDP datagram as the packet that it travels in: headers of IP and UDP with addresses of our choice. Pure.
//!
//! ```text
//!   IPv4 (20 bytes) │ UDP (8 bytes) │ payload          IPv6 (40 bytes) │ UDP (8 bytes) │ payload
//! ```
//!
//! Fields of the IPv4 header that the system fills in for a raw socket (raw(7)) are left zero: checksum, length and,
//! except in fragments, identification. The UDP checksum is ours: over a pseudo-header of both addresses and the
//! payload (RFC 768, RFC 8200 section 8.1). The system does not fragment packets with headers of ours:
//! [`Flow::fragments`] does.

use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};

#[cfg(test)]
mod tests;

const V4_HEADER_BYTES: u16 = 20;
const V6_HEADER_BYTES: usize = 40;
const UDP_HEADER_BYTES: usize = 8;
const FRAGMENT_HEADER_BYTES: usize = 8;
/// The payload of a fragment, a multiple of eight. With headers it fits 1,280 bytes, which every device of IPv6 takes.
const FRAGMENT_PAYLOAD_BYTES_MAX: usize = 1_232;
/// Routers on the way; there are none to an address of this host.
const HOPS_MAX: u8 = 64;
const PROTOCOL_UDP: u8 = 17;
/// The next header is a fragment's (RFC 8200 section 4.5).
const PROTOCOL_FRAGMENT: u8 = 44;

/// Source and destination: two addresses of one family, with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Over IPv4.
    V4(SocketAddrV4, SocketAddrV4),
    /// Over IPv6.
    V6(SocketAddrV6, SocketAddrV6),
}

/// The headers in front of a payload: so many bytes of IP's, then UDP's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    bytes: Vec<u8>,
    ip: usize,
}

impl AsRef<[u8]> for Header {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Flow {
    /// The flow between two addresses; `None` if they are of different families.
    pub const fn between(from: SocketAddr, to: SocketAddr) -> Option<Self> {
        match (from, to) {
            (SocketAddr::V4(from), SocketAddr::V4(to)) => Some(Self::V4(from, to)),
            (SocketAddr::V6(from), SocketAddr::V6(to)) => Some(Self::V6(from, to)),
            (SocketAddr::V4(_), SocketAddr::V6(_)) | (SocketAddr::V6(_), SocketAddr::V4(_)) => None,
        }
    }

    /// The headers of a datagram with this payload; `None` if that is larger than a datagram can be.
    pub fn header(&self, payload: &[u8]) -> Option<Header> {
        self.header_with(payload, 0)
    }

    /// The headers of a datagram with a wrong checksum: it travels like any other, but no socket of UDP gets it.
    pub fn spoilt(&self, payload: &[u8]) -> Option<Header> {
        self.header_with(payload, 1)
    }

    /// The datagram in packets of at most 1,280 bytes; `None` if it is larger than a datagram can be. Datagrams that
    /// are under way at the same time must differ in `identification`.
    pub fn fragments(&self, identification: u32, payload: &[u8]) -> Option<Vec<Vec<u8>>> {
        let header = self.header(payload)?;
        let (ip, udp) = header.bytes.split_at(header.ip);
        let datagram = [udp, payload].concat();
        let last = datagram.len().div_ceil(FRAGMENT_PAYLOAD_BYTES_MAX) - 1;
        let fragments = datagram.chunks(FRAGMENT_PAYLOAD_BYTES_MAX).enumerate().map(|(at, part)| {
            let mut packet = ip.to_vec();
            // The offset counts in eights. In IPv6 it stands three bits to the left of the flags, in IPv4 behind them.
            let (eighths, more) = ((at * FRAGMENT_PAYLOAD_BYTES_MAX / 8) as u16, at < last);
            match self {
                Self::V4(..) => {
                    packet[4..6].copy_from_slice(&(identification as u16).max(1).to_be_bytes());
                    packet[6..8].copy_from_slice(&(u16::from(more) << 13 | eighths).to_be_bytes());
                }
                Self::V6(..) => {
                    packet[4..6].copy_from_slice(&((FRAGMENT_HEADER_BYTES + part.len()) as u16).to_be_bytes());
                    packet[6] = PROTOCOL_FRAGMENT;
                    packet.extend([PROTOCOL_UDP, 0]);
                    packet.extend((eighths << 3 | u16::from(more)).to_be_bytes());
                    packet.extend(identification.to_be_bytes());
                }
            }
            packet.extend(part);
            packet
        });
        Some(fragments.collect())
    }

    fn header_with(&self, payload: &[u8], error: u16) -> Option<Header> {
        let length = u16::try_from(UDP_HEADER_BYTES + payload.len()).ok()?;
        let mut bytes = Vec::with_capacity(V6_HEADER_BYTES + UDP_HEADER_BYTES);
        let (addresses, ports) = match self {
            Self::V4(from, to) => {
                // The length of an IPv4 packet counts its header.
                length.checked_add(V4_HEADER_BYTES)?;
                bytes.extend([0x45, 0, 0, 0, 0, 0, 0, 0, HOPS_MAX, PROTOCOL_UDP, 0, 0]);
                bytes.extend([from.ip().octets(), to.ip().octets()].concat());
                (12, [from.port(), to.port()])
            }
            Self::V6(from, to) => {
                let [high, low] = length.to_be_bytes();
                bytes.extend([0x60, 0, 0, 0, high, low, PROTOCOL_UDP, HOPS_MAX]);
                bytes.extend([from.ip().octets(), to.ip().octets()].concat());
                (8, [from.port(), to.port()])
            }
        };
        let ip = bytes.len();
        for field in [ports[0], ports[1], length] {
            bytes.extend(field.to_be_bytes());
        }
        // The pseudo-header's addresses stand right before the header of UDP.
        let sum = u64::from(PROTOCOL_UDP) + u64::from(length) + words(&bytes[addresses..]) + words(payload);
        bytes.extend(spoil(checksum(sum), error).to_be_bytes());
        Some(Header { bytes, ip })
    }
}

/// The sum of 16-bit words in network order; a last odd byte counts as followed by a zero.
fn words(bytes: &[u8]) -> u64 {
    let pairs = bytes.chunks_exact(2);
    let odd = pairs.remainder().first().map_or(0, |&byte| u64::from(byte) << 8);
    pairs.map(|pair| u64::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u64>() + odd
}

/// The complement of the sum with its carries added. Zero means "none" in UDP, so its other form is sent: all ones.
const fn checksum(mut sum: u64) -> u16 {
    while sum > 0xFFFF {
        sum = (sum >> 16) + (sum & 0xFFFF);
    }
    match !(sum as u16) {
        0 => 0xFFFF,
        some => some,
    }
}

/// The checksum with the bits of `error` flipped, and never the zero that means "none".
const fn spoil(checksum: u16, error: u16) -> u16 {
    match checksum ^ error {
        0 => 0xFFFE,
        other => other,
    }
}
