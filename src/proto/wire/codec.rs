//! Fields as bytes, and the length in front of a frame.

use std::net::{IpAddr, Ipv6Addr};

use crate::proto::foreign::shown;
use crate::proto::terms::DATAGRAM_BYTES_MAX;

/// The length of the longest frame, its length field excluded. It has room for the largest datagram and the fields
/// before it.
pub const FRAME_BYTES_MAX: usize = DATAGRAM_BYTES_MAX + 512;

/// The length of the longest frame of a peer that has not greeted: a greeting, with room for what later versions add.
pub const GREETING_BYTES_MAX: usize = 512;

/// The bytes of the length in front of a frame.
pub(super) const LENGTH_BYTES: usize = 4;

/// Why a peer's bytes do not parse; the connection is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A frame is longer than [`FRAME_BYTES_MAX`], or empty; the length it claims, in bytes.
    #[error("a frame of {0} bytes: not this protocol")]
    Length(u32),
    /// A `Hello` without our magic number.
    #[error("a greeting of another protocol")]
    Foreign,
    /// Datagrams that end in the middle, or whose numbers are out of order.
    #[error("garbled datagrams")]
    Datagrams,
}

/// Reads fields off a body; a missing field is zero.
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(super) const fn new(body: &'a [u8]) -> Self {
        Self(body)
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        if let Some((head, rest)) = self.0.split_first_chunk::<N>() {
            self.0 = rest;
            *head
        } else {
            self.0 = &[];
            [0; N]
        }
    }

    pub(super) fn u8(&mut self) -> u8 {
        u8::from_be_bytes(self.take())
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take())
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.take())
    }

    pub(super) fn u128(&mut self) -> u128 {
        u128::from_be_bytes(self.take())
    }

    /// An address: IPv6, or IPv4 mapped into it; `None` where there is none.
    pub(super) fn address(&mut self) -> Option<IpAddr> {
        let address = Ipv6Addr::from(self.u128());
        (!address.is_unspecified()).then(|| IpAddr::V6(address).to_canonical())
    }

    pub(super) const fn rest(self) -> &'a [u8] {
        self.0
    }

    /// A text up to the end of the body, fit to be shown.
    pub(super) fn text(&self, bytes_max: usize) -> String {
        shown(self.0, bytes_max)
    }
}

/// Writes one frame: the length is filled in at the end.
pub(super) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Writer<'a> {
    pub(super) fn begin(out: &'a mut Vec<u8>, kind: u8) -> Self {
        let start = out.len();
        out.extend_from_slice(&[0; LENGTH_BYTES]);
        out.push(kind);
        Self { out, start }
    }

    /// Continues the unfinished frame that begins at `start`.
    pub(super) const fn resume(out: &'a mut Vec<u8>, start: usize) -> Self {
        Self { out, start }
    }

    pub(super) fn u8(&mut self, value: u8) -> &mut Self {
        self.out.push(value);
        self
    }

    pub(super) fn u16(&mut self, value: u16) -> &mut Self {
        self.out.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.out.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.out.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(super) fn u128(&mut self, value: u128) -> &mut Self {
        self.out.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(super) fn address(&mut self, address: Option<IpAddr>) -> &mut Self {
        let wide = match address {
            None => Ipv6Addr::UNSPECIFIED,
            Some(IpAddr::V4(v4)) => v4.to_ipv6_mapped(),
            Some(IpAddr::V6(v6)) => v6,
        };
        self.u128(wide.into())
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.out.extend_from_slice(bytes);
        self
    }

    pub(super) fn text(&mut self, text: &str, bytes_max: usize) -> &mut Self {
        self.out.extend_from_slice(&text.as_bytes()[..text.floor_char_boundary(bytes_max)]);
        self
    }

    pub(super) fn finish(self) {
        let length = self.out.len() - self.start - LENGTH_BYTES;
        debug_assert!(length <= FRAME_BYTES_MAX, "every frame is far below the bound");
        self.out[self.start..self.start + LENGTH_BYTES].copy_from_slice(&(length as u32).to_be_bytes());
    }
}
