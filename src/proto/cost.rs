//! The cost of datagrams in a socket's receive buffer.

/// The cost of a datagram of `bytes` in a receive buffer, in bytes. Windows are counted in this unit.
///
/// The kernel charges the memory that it allocated, not the payload. A datagram that came whole (loopback, jumbo
/// frames) costs a `sk_buff` of 256 bytes and a data area rounded up to a power of two. A datagram that exceeds the
/// usual 1,500 bytes of a link is charged in this way for each fragment. The sender cannot know which case applies, so
/// the larger cost counts.
///
/// Measured on Linux 6.18 over loopback: 832 bytes for up to 196 of payload, 1,280 to 644, 2,304 to 1,472, 8,448 for
/// 5,500. In fragments a datagram of 6,200 took 10,650.
pub const fn buffer_cost(bytes: usize) -> u64 {
    let (whole, cut) = (cost_whole(bytes), cost_in_fragments(bytes));
    if whole > cut { whole } else { cut }
}

/// The cost of an unfragmented datagram.
const fn cost_whole(bytes: usize) -> u64 {
    /// Above this size the data area consists of pages, and is no longer rounded up to a power of two.
    const LINEAR_BYTES_MAX: usize = 15_984;
    /// The overhead: `sk_buff`, headers, `skb_shared_info` and what belongs to them.
    const OVERHEAD_BYTES: u64 = 832;
    match bytes {
        0..=160 => 832,
        161..=600 => 1_280,
        601..=1_472 => 2_304,
        1_473..=LINEAR_BYTES_MAX => 256 + (bytes as u64 + 400).next_power_of_two(),
        _ => bytes as u64 + OVERHEAD_BYTES,
    }
}

/// The cost of a datagram that crosses a link of 1,500 bytes.
const fn cost_in_fragments(bytes: usize) -> u64 {
    /// The payload of a full fragment, a multiple of 8.
    const FRAGMENT_BYTES: usize = 1_480;
    const UDP_HEADER_BYTES: usize = 8;
    let wire = bytes + UDP_HEADER_BYTES;
    let last = wire % FRAGMENT_BYTES;
    (wire / FRAGMENT_BYTES) as u64 * cost_whole(FRAGMENT_BYTES - UDP_HEADER_BYTES)
        + if last == 0 { 0 } else { cost_whole(last) }
}
