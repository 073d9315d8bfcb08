//! The outside world as the client sees it: the library's, except for sockets and threads.

#[expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "stands in for what can fail")]
pub(crate) mod handover;
#[expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "stands in for what can fail")]
pub(crate) mod net;
pub(crate) mod signals;
#[expect(clippy::unnecessary_wraps, reason = "stands in for what can fail")]
pub(crate) mod spool;
#[expect(unreachable_pub, dead_code, reason = "a room of the library; what only the server uses is unused")]
#[expect(clippy::unnecessary_wraps, reason = "stands in for what can fail")]
pub(crate) mod threads;

pub(crate) use ossec_broker::os::{keyfile, privileges};
