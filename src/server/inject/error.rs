//! Why datagrams are not injected.

use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::os::{net, net::udp::SendError, remoted::Unreachable};

/// Why a client's datagrams cannot be injected: one line, for the client's log and for this server's.
#[derive(Debug, thiserror::Error)]
pub(in crate::server) enum Error {
    #[error("cannot inject for {address}: from remoted no way leads back to a link-local address")]
    LinkLocal { address: IpAddr },
    #[error("cannot inject for {address}: --remoted has no {} address", net::family(*.address))]
    Family { address: IpAddr },
    #[error("cannot inject into {target}: {why}")]
    NotReceived { target: SocketAddr, why: Unreachable },
    /// No canary in this name has arrived. `source`: why the last one could not even be sent.
    #[error("cannot inject for {address}: nothing in its name reaches {target}: {}; --inject local does without",
        obstruction(.source.as_ref()))]
    Blocked { address: IpAddr, target: SocketAddr, source: Option<io::Error> },
    #[error("cannot inject into {target} from {from}: {source}")]
    NoSocket { from: IpAddr, target: SocketAddr, source: io::Error },
    #[error("cannot inject into {target}: {source}")]
    NotSent { target: SocketAddr, source: io::Error },
}

fn obstruction(error: Option<&io::Error>) -> String {
    error.map_or_else(
        || "on the server's host a firewall drops it (a rule for lo)".to_owned(),
        |error| format!("{error} (a firewall of the server's host?)"),
    )
}

/// Where a volley went, how many of its datagrams are in remoted's socket as far as the system tells, and why the rest
/// is not.
pub(super) type Sent = (SocketAddr, usize, Result<(), SendError>);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::wire::TEXT_BYTES_MAX;

    #[test]
    fn why_nothing_gets_through_fits_a_refusal() {
        let address = IpAddr::from([0xFFFF; 8]);
        for source in [None, Some(io::Error::from_raw_os_error(libc::EPERM))] {
            let target = SocketAddr::new(address, u16::MAX);
            let text = Error::Blocked { address, target, source }.to_string();
            assert!(text.len() <= TEXT_BYTES_MAX, "{} bytes", text.len());
        }
    }
}
