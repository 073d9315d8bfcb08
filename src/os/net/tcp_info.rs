//! The state of a TCP connection as the kernel tells it, tcp(7).

use mio::net::TcpStream;
use nix::sys::socket::getsockopt;
use nix::{getsockopt_impl, sockopt_impl};

sockopt_impl!(Info, GetOnly, libc::IPPROTO_TCP, libc::TCP_INFO, TcpInfo);

/// The beginning of the kernel's `struct tcp_info`, as far as Linux 4.1 fills it: `nix` takes less than was asked for
/// as an error of the program, and the structure that `libc` knows grows with each version.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[expect(unreachable_pub, reason = "the macro makes the option public, and an option's value is no less")]
pub struct TcpInfo {
    _flags: [u8; 8],
    _timers: [u32; 2],
    /// Bytes in a segment.
    pub(super) sent_mss: u32,
    _received_mss: u32,
    /// Segments that were sent and not acknowledged.
    pub(super) unacknowledged: u32,
    _counts: [u32; 4],
    _ages: [u32; 3],
    /// Milliseconds since the newest acknowledgement came.
    pub(super) last_acknowledgement_ms: u32,
    /// Bytes in a packet of the path.
    pub(super) path_mtu: u32,
    _estimates: [u32; 10],
    _pacing: [u64; 2],
    /// Bytes that were acknowledged. The beginning of the connection counts as one.
    pub(super) bytes_acknowledged: u64,
}

impl TcpInfo {
    pub(super) fn of(stream: &TcpStream) -> Option<Self> {
        getsockopt(stream, Info).ok()
    }
}
