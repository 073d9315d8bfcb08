//! Agent socket → core.
//!
//! This thread waits for its socket alone: while it waits for anything else the kernel drops what does not fit the socket's buffer.

use mio::{Poll, Token};

use super::{Shared, events};
use crate::os::net;
use crate::os::net::udp::{Inbox, watch};
use crate::os::threads::Stop;
use crate::proto::client::Origin;

/// Batches read after the stop: as many as the largest buffer that is usual holds, and a bound for a sender that never pauses.
const LAST_BATCHES_MAX: usize = 4_096;

/// Receives until the stop, then what has come in before it. From the stop on agents are turned away: what they send is refused, which they may
/// notice, instead of lying in a socket that nobody reads.
pub(super) fn run(shared: &Shared, mut poll: Poll, stop: &Stop) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("cannot wait for the agent's socket: {error}");
    watch(&poll, &shared.agents, Token(0)).map_err(failed)?;
    let (mut events, mut inbox) = (events(), Inbox::default());
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => return Err(failed(error)),
            Ok(()) | Err(_) => {}
        }
        while !stop.is_set() && take(shared, &mut inbox) {}
        if stop.is_set() {
            if let Err(error) = net::turn_away(&shared.agents) {
                log::debug!("agents are not turned away: {error}");
            }
            for _ in 0..LAST_BATCHES_MAX {
                if !take(shared, &mut inbox) {
                    break;
                }
            }
            return Ok(());
        }
    }
}

/// Reads one batch; whether more may wait.
fn take(shared: &Shared, inbox: &mut Inbox) -> bool {
    let read = match inbox.receive(&*shared.agents) {
        Ok(read) => read,
        Err(error) => {
            log::debug!("cannot receive: {error}");
            return false;
        }
    };
    if read == 0 {
        return false;
    }
    let now = net::now();
    let bells = {
        let mut core = shared.core.lock();
        for datagram in inbox.iter() {
            core.handle_datagram(now, Origin { agent: datagram.from, local: datagram.local }, datagram.bytes);
        }
        core.bells(now)
    };
    shared.ring(bells);
    for datagram in inbox.iter() {
        log::trace!(target: "ossec_broker::datagram", "received {} bytes from {}", datagram.bytes.len(), datagram.from);
    }
    inbox.is_full()
}
