//! The socket that agents send to.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use mio::net::UdpSocket;
use thiserror::Error;

use super::{config::Config, report::text::size};
use crate::os::net::{self, HostPort};

#[derive(Debug, Error)]
pub enum ListenError {
    #[error("cannot bind {0}: {why}", why = explain(.1))]
    Bind(HostPort, #[source] io::Error),
    #[error("what is sent to {server} comes back to {bound}, --listen: give it another port")]
    ComesBack { server: SocketAddr, bound: SocketAddr },
}

pub(super) fn listen(config: &Config) -> Result<UdpSocket, ListenError> {
    let cannot = |error| ListenError::Bind(config.listen.clone(), error);
    let address = config.listen.resolve().map_err(cannot)?[0];
    let socket = net::bind_agent(address, config.receive_buffer_bytes).map_err(cannot)?;
    let bytes = net::receive_buffer(&socket).unwrap_or(0);
    let buffer = size(bytes as u64);
    if bytes < config.receive_buffer_bytes {
        let asked = size(config.receive_buffer_bytes as u64);
        log::warn!(
            "listening on {address}, receive buffer {buffer} of {asked}: \
             raise net.core.rmem_max or run as root for more"
        );
    } else {
        log::info!("listening on {address}, receive buffer {buffer}");
    }
    match (config.server.address(), socket.local_addr()) {
        (Some(server), Ok(bound)) if net::comes_back(bound, server) => Err(ListenError::ComesBack { server, bound }),
        _ => Ok(socket),
    }
}

fn explain(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::AddrInUse => "address in use (another ossec-broker client, or remoted on this host?)".into(),
        _ => net::explain(error),
    }
}
