//! The socket that agents send to.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use mio::net::UdpSocket;
use thiserror::Error;

use super::config::Config;
use crate::os::net::{self, HostPort};
use crate::proto::amounts::size;

#[derive(Debug, Error)]
pub enum ListenError {
    #[error("cannot bind {0}: {why}", why = explain(.1))]
    Bind(HostPort, #[source] io::Error),
    #[error("cannot take over the agents' socket: {0}")]
    Inherit(#[source] io::Error),
    #[error("the agents' socket that this process was given is bound to {bound}, and --listen says {listen}")]
    Differs { bound: SocketAddr, listen: HostPort },
    #[error("what is sent to {server} comes back to {bound}, --listen: give it another port")]
    ComesBack { server: SocketAddr, bound: SocketAddr },
}

/// The agents' socket: the one that was passed to this process, or a fresh one. `is_kept`: an init system keeps it.
pub(super) fn listen(
    config: &Config,
    inherited: Option<std::net::UdpSocket>,
    is_kept: bool,
) -> Result<UdpSocket, ListenError> {
    let cannot = |error| ListenError::Bind(config.listen.clone(), error);
    let addresses = config.listen.resolve().map_err(cannot)?;
    let socket = match inherited {
        Some(inherited) => take_over(config, inherited, &addresses)?,
        None => net::bind_agent(addresses[0], config.receive_buffer_bytes).map_err(cannot)?,
    };
    let address = socket.local_addr().map_err(cannot)?;
    let bytes = net::receive_buffer(&socket).unwrap_or(0);
    let buffer = size(bytes as u64);
    if bytes < config.receive_buffer_bytes.min(net::RECEIVE_BUFFER_BYTES_MAX) {
        let asked = size(config.receive_buffer_bytes as u64);
        let remedy = if is_kept { "give the socket unit a ReceiveBuffer=" } else { "raise net.core.rmem_max" };
        log::warn!("listening on {address}, receive buffer {buffer} of {asked}: {remedy} or run as root for more");
    } else {
        log::info!("listening on {address}, receive buffer {buffer}");
    }
    match (config.server.address(), socket.local_addr()) {
        (Some(server), Ok(bound)) if net::comes_back(bound, server) => Err(ListenError::ComesBack { server, bound }),
        _ => Ok(socket),
    }
}

fn take_over(
    config: &Config,
    inherited: std::net::UdpSocket,
    addresses: &[SocketAddr],
) -> Result<UdpSocket, ListenError> {
    let cannot = |error| ListenError::Inherit(error);
    let bound = inherited.local_addr().map_err(cannot)?;
    if !addresses.contains(&bound) {
        return Err(ListenError::Differs { bound, listen: config.listen.clone() });
    }
    net::take_agent(inherited, config.receive_buffer_bytes).map_err(cannot)
}

fn explain(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::AddrInUse => "address in use (another ossec-broker client, or remoted on this host?)".into(),
        _ => net::explain(error),
    }
}
