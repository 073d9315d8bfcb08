//! A UDP datagram as the packet that it travels in: headers of IP and UDP with an address of our choice. Pure.
//!
//! ```text
//!   IPv4 (20 bytes) │ UDP (8 bytes) │ payload          IPv6 (40 bytes) │ UDP (8 bytes) │ payload
//! ```
//!
//! What the system fills in by itself in a packet of a raw socket (raw(7)) is left zero: checksum and length of the IPv4 header, and its
//! identification where that is zero. The UDP checksum is ours: over a pseudo-header of both addresses and the payload (RFC 768, RFC 8200
//! section 8.1). A packet that is longer than the device takes is not fragmented by the system when its header is ours: [`Flow::fragments`].

use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};

#[cfg(test)]
mod tests;

const V4_BYTES: usize = 20;
const V6_BYTES: usize = 40;
const UDP_BYTES: usize = 8;
/// The extension header of a fragment in IPv6.
const FRAGMENT_HEADER_BYTES: usize = 8;
/// Length fields have 16 bits: in IPv4 the header counts, in IPv6 it does not.
const LENGTH_MAX: usize = 0xFFFF;
/// What a fragment carries, a multiple of eight: with its headers it fits the 1,280 bytes that every device must take which speaks IPv6.
const FRAGMENT_BYTES: usize = 1_232;
/// Routers on the way; there are none to an address of this host.
const HOPS_MAX: u8 = 64;
const UDP: u8 = 17;
/// The header behind is that of a fragment (RFC 8200 section 4.5).
const FRAGMENT: u8 = 44;

/// From where to where: two addresses of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Over IPv4.
    V4(SocketAddrV4, SocketAddrV4),
    /// Over IPv6.
    V6(SocketAddrV6, SocketAddrV6),
}

/// What stands before a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    bytes: [u8; V6_BYTES + UDP_BYTES],
    length: usize,
}

impl AsRef<[u8]> for Header {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Flow {
    /// `None` if the addresses are of different families.
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

    /// The headers of a datagram with a wrong checksum: it comes as far as any, and no socket of UDP gets it.
    pub fn spoilt(&self, payload: &[u8]) -> Option<Header> {
        self.header_with(payload, 1)
    }

    /// The datagram in packets of at most 1,280 bytes; `None` if it is larger than a datagram can be. No two datagrams that are under way at
    /// the same time may have the same `identification`.
    pub fn fragments(&self, identification: u32, payload: &[u8]) -> Option<Vec<Vec<u8>>> {
        let header = self.header(payload)?;
        let ip = header.length - UDP_BYTES;
        let datagram = [&header.as_ref()[ip..], payload].concat();
        let last = datagram.len().div_ceil(FRAGMENT_BYTES) - 1;
        let fragments = datagram.chunks(FRAGMENT_BYTES).enumerate().map(|(at, part)| {
            let mut packet = header.bytes[..ip].to_vec();
            // In IPv6 this stands three bits to the left of the flags, in IPv4 behind them: both count in eights.
            let (eighths, more) = ((at * FRAGMENT_BYTES / 8) as u16, at < last);
            match self {
                Self::V4(..) => {
                    packet[4..6].copy_from_slice(&(identification as u16).max(1).to_be_bytes());
                    packet[6..8].copy_from_slice(&(u16::from(more) << 13 | eighths).to_be_bytes());
                }
                Self::V6(..) => {
                    packet[4..6].copy_from_slice(&((FRAGMENT_HEADER_BYTES + part.len()) as u16).to_be_bytes());
                    packet[6] = FRAGMENT;
                    packet.extend([UDP, 0]);
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
        let mut bytes = [0; V6_BYTES + UDP_BYTES];
        let udp_length = UDP_BYTES + payload.len();
        let (ip, ports, addresses) = match self {
            Self::V4(from, to) => {
                (bytes[0], bytes[8], bytes[9]) = (4 << 4 | (V4_BYTES / 4) as u8, HOPS_MAX, UDP);
                bytes[12..16].copy_from_slice(&from.ip().octets());
                bytes[16..20].copy_from_slice(&to.ip().octets());
                (V4_BYTES, (from.port(), to.port()), 12..20)
            }
            Self::V6(from, to) => {
                (bytes[0], bytes[6], bytes[7]) = (6 << 4, UDP, HOPS_MAX);
                bytes[4..6].copy_from_slice(&(udp_length.min(LENGTH_MAX) as u16).to_be_bytes());
                bytes[8..24].copy_from_slice(&from.ip().octets());
                bytes[24..40].copy_from_slice(&to.ip().octets());
                (V6_BYTES, (from.port(), to.port()), 8..40)
            }
        };
        let counted = udp_length + if ip == V4_BYTES { V4_BYTES } else { 0 };
        if counted > LENGTH_MAX {
            return None;
        }
        bytes[ip..ip + 2].copy_from_slice(&ports.0.to_be_bytes());
        bytes[ip + 2..ip + 4].copy_from_slice(&ports.1.to_be_bytes());
        bytes[ip + 4..ip + 6].copy_from_slice(&(udp_length as u16).to_be_bytes());
        let sum = u64::from(UDP)
            + udp_length as u64
            + words(&bytes[addresses])
            + words(&bytes[ip..ip + UDP_BYTES])
            + words(payload);
        bytes[ip + 6..ip + 8].copy_from_slice(&spoil(checksum(sum), error).to_be_bytes());
        Some(Header { bytes, length: ip + UDP_BYTES })
    }
}

/// The sum of 16-bit words in network order; a last odd byte counts as followed by a zero.
fn words(bytes: &[u8]) -> u64 {
    let pairs = bytes.chunks_exact(2);
    let odd = pairs.remainder().first().map_or(0, |&byte| u64::from(byte) << 8);
    pairs.map(|pair| u64::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u64>() + odd
}

/// The complement of the sum with its carries added. Zero means "none" in UDP: it is sent as its other form, all ones.
const fn checksum(mut sum: u64) -> u16 {
    while sum > 0xFFFF {
        sum = (sum >> 16) + (sum & 0xFFFF);
    }
    match !(sum as u16) {
        0 => 0xFFFF,
        some => some,
    }
}

/// Another checksum, if there is an error to be in it, and never the zero that means "none".
const fn spoil(checksum: u16, error: u16) -> u16 {
    match checksum ^ error {
        0 => 0xFFFE,
        other => other,
    }
}
