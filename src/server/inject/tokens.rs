//! The tokens of the sockets on the way to remoted: first the taps, then the sockets of agents.

/// Tokens start here; the tokens of connections lie below.
pub(in crate::server) const TOKENS_FROM: usize = usize::MAX / 2;
/// Taps, one for each address family.
pub(super) const TAPS_MAX: usize = 2;
