//! Why a connection is closed, or its client refused.

use std::net::IpAddr;

use super::complaints::Complaints;
use crate::os::net::framed::Broken;
use crate::proto::server::conversation::{Conversation, Garbage};
use crate::proto::server::streams::Offence;
use crate::server::inject;

#[derive(Debug)]
pub(super) enum Close {
    Ended,
    Garbage(Garbage),
    Silent,
    /// Its client has made another one.
    Replaced,
    Broken(Broken),
}

impl From<Offence> for Close {
    fn from(offence: Offence) -> Self {
        Self::Garbage(Garbage::Datagrams(offence))
    }
}

impl Close {
    /// Has the log say why the connection of this address is closed: at once, or among the complaints.
    pub(super) fn report(&self, address: IpAddr, conversation: &Conversation, complaints: &mut Complaints) {
        match self {
            Self::Ended => log::debug!("{address} closed its connection"),
            Self::Broken(Broken::Seal(why)) => complaints.refuse(address, why),
            Self::Garbage(why @ Garbage::KeyWanted) => complaints.refuse(address, why),
            Self::Garbage(what) => complaints.cut_off(address, what),
            Self::Silent if conversation.is_stranger() => {
                complaints.cut_off(address, &"it did not say in time what it is");
            }
            // Its host or the way to it is gone, or it has made another one: that happens every day.
            Self::Silent if conversation.is_client() => {
                log::debug!("client {address} was silent for too long: its connection is closed");
            }
            Self::Silent => log::debug!("{address} did not close its connection"),
            Self::Replaced => log::debug!("{address} has a newer connection"),
            Self::Broken(why @ Broken::SlowReader) => complaints.cut_off(address, why),
            Self::Broken(broken) => log::debug!("connection of {address} lost: {broken}"),
        }
    }
}

/// Why a client's connection is of no use to it: one line, for its log and for this server's.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// Its datagrams go to another port than the one that this server watches.
    #[error("{0}")]
    Port(String),
    #[error("source {name} is not allowed for a client from {address} (--allow-source at the server)")]
    Source { name: IpAddr, address: IpAddr },
    #[error(transparent)]
    Uninjectable(#[from] inject::Error),
}
