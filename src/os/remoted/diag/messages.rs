//! The messages of NETLINK_SOCK_DIAG as bytes. Pure.

#[cfg(test)]
mod tests;

use std::error::Error;
use std::io::{self, ErrorKind};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_UDP};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};

use crate::os::remoted::socket::{Family, Namespace, PortSocket};
use crate::proto::server::judge::{Binding, Socket};

/// A request for all unconnected UDP sockets on `port`, with their memory figures, still without sequence number.
pub(super) fn request(family: Family, port: u16) -> Vec<u8> {
    let (family, mut socket_id) = match family {
        Family::V4 => (AF_INET, SocketId::new_v4()),
        Family::V6 => (AF_INET6, SocketId::new_v6()),
    };
    socket_id.source_port = port;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let request = SockDiagMessage::InetRequest(InetRequest {
        family,
        protocol: IPPROTO_UDP,
        extensions: ExtensionFlags::SKMEMINFO,
        states: StateFlags::CLOSE,
        socket_id,
    });
    let mut message = NetlinkMessage::new(header, request.into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Takes the sockets out of one datagram of the answer to request `sequence`. Returns whether it was the last one.
///
/// # Errors
/// The kernel's, or `InvalidData` if the bytes are no such answer.
pub fn collect(datagram: &[u8], sequence: u32, seen: &mut Vec<PortSocket>) -> io::Result<bool> {
    let mut rest = datagram;
    while !rest.is_empty() {
        let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(invalid)?;
        // Messages start at multiples of four bytes.
        let length = (message.header.length as usize).next_multiple_of(4);
        rest = rest.get(length..).unwrap_or_default();
        if message.header.sequence_number != sequence {
            continue;
        }
        match message.payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => seen.push(socket(&response)?),
            NetlinkPayload::Noop => {}
            NetlinkPayload::Done(done) if done.code == 0 => return Ok(true),
            NetlinkPayload::Done(done) => return Err(refusal(done.code)),
            NetlinkPayload::Error(error) => return Err(refusal(error.raw_code())),
            _ => return Err(invalid("an answer of another kind")),
        }
    }
    Ok(false)
}

/// The socket in one message.
fn socket(response: &InetResponse) -> io::Result<PortSocket> {
    let attributes = &response.nlas;
    let Some(Nla::MemInfo(memory)) = attributes.iter().find(|attribute| matches!(attribute, Nla::MemInfo(_))) else {
        return Err(invalid("an answer without SK_MEMINFO"));
    };
    // `/proc` does not tell; kernels since 4.5 do, of each socket of IPv6.
    let v6_only = attributes.iter().any(|attribute| matches!(attribute, Nla::SkV6Only(true)));
    let socket = Socket {
        // The kernel's counter for inodes of sockets has 32 bits, too.
        inode: u64::from(response.header.inode),
        // Not `memory.receive_queue`, which counts datagrams until the kernel gives them back (`udp_rmem_release`).
        rx_queue: u64::from(response.header.recv_queue),
        drops: memory.drops,
        buffer: Some(u64::from(memory.receive_queue_max)),
    };
    let binding = Binding::of(response.header.socket_id.source_address, v6_only);
    Ok(PortSocket { namespace: Namespace::Ours, socket, binding })
}

/// The error in a message, a negative number. `ErrorMessage::to_io` would panic on the lowest there is.
fn refusal(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code.saturating_neg())
}

pub(super) fn invalid(what: impl Into<Box<dyn Error + Send + Sync>>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}
