//! A module in the place of `src/os/net.rs`: the clock and the sockets of the made-up system.

pub(crate) mod framed;
pub(crate) mod udp;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

pub(crate) use framed::TcpStream;
pub(crate) use ossec_broker::os::net::{HostPort, explain, family, is_shortage};
use ossec_broker::proto::client::spool::record::Clock;
use ossec_broker::proto::time::Time;
pub(crate) use udp::UdpSocket;

use crate::system::System;
use crate::world::World;

pub(crate) fn now() -> Time {
    World::here().look()
}

/// The number is the same each time, so that a schedule can be run again.
pub(crate) const fn random() -> u128 {
    7
}

pub(crate) fn clock() -> Clock {
    Clock { boot: 1, offset_ms: 0, trusted: false }
}

/// The limit is one descriptor more than the process itself needs, so that sessions take turns.
pub(crate) const fn raise_descriptor_limit(_: u64) -> u64 {
    33
}

pub(crate) const fn comes_back(_: SocketAddr, _: SocketAddr) -> bool {
    false
}

pub(crate) const RECEIVE_BUFFER_BYTES_MAX: usize = 1 << 30;

pub(crate) const fn receive_buffer(_: &UdpSocket) -> Option<usize> {
    Some(usize::MAX)
}

pub(crate) fn bind_agent(address: SocketAddr, _: usize) -> io::Result<UdpSocket> {
    let socket = UdpSocket::new(address);
    System::here().open_agents(&socket);
    World::here().notify();
    Ok(socket)
}

pub(crate) fn take_agent(_: std::net::UdpSocket, _: usize) -> io::Result<UdpSocket> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn take_upstream(_: std::net::UdpSocket) -> io::Result<UdpSocket> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Some descriptor: nobody reads it.
pub(crate) fn duplicate(_: &UdpSocket) -> io::Result<OwnedFd> {
    Ok(std::fs::File::open("/dev/null")?.into())
}

pub(crate) const fn turn_away(_: &UdpSocket) -> io::Result<()> {
    Ok(())
}

pub(crate) fn bind_upstream(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::new(address);
    System::here().open_upstream(&socket);
    Ok(socket)
}

pub(crate) fn dial(address: SocketAddr, _: Option<IpAddr>, _: Option<u16>) -> io::Result<TcpStream> {
    World::here().step();
    if System::here().may_fail() {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    let stream = TcpStream::new(address);
    System::here().open_connection(&stream);
    World::here().notify();
    Ok(stream)
}
