//! Agent socket → core. While this thread waits for anything else, the kernel drops what does not fit the socket.

use std::sync::atomic::Ordering;

use mio::Token;

use super::shared::Shared;
use crate::os::net;
use crate::os::net::udp::{Inbox, watch};
use crate::os::threads::{Stop, Wait, WaitError};
use crate::proto::client::Origin;

/// Batches read after the stop: as many as the largest usual buffer holds, and a bound for a sender that never pauses.
const LAST_BATCHES_MAX: usize = 4_096;

/// Receives until the stop, and then every datagram that came in before it. From the stop on agents' datagrams are
/// refused, which agents may notice, instead of lying in a socket that nobody reads. A socket that outlives this
/// process is left as it is.
pub(super) fn run(shared: &Shared, mut wait: Wait, stop: &Stop) -> Result<(), WaitError> {
    watch(wait.poll(), &shared.agents, Token(0)).map_err(|error| wait.error(error))?;
    let mut inbox = Inbox::default();
    while !stop.is_set() {
        wait.wait(None)?;
        while !stop.is_set() && take_unless_paused(shared, &mut inbox) {}
    }
    if shared.keeps_socket.load(Ordering::SeqCst) {
        return Ok(());
    }
    if let Err(error) = net::turn_away(&shared.agents) {
        log::debug!("agents are not turned away: {error}");
    }
    for _ in 0..LAST_BATCHES_MAX {
        if !take(shared, &mut inbox) {
            break;
        }
    }
    Ok(())
}

fn take_unless_paused(shared: &Shared, inbox: &mut Inbox) -> bool {
    let is_paused = shared.is_paused.lock();
    !*is_paused && take(shared, inbox)
}

/// Reads one batch; whether more may wait.
fn take(shared: &Shared, inbox: &mut Inbox) -> bool {
    match inbox.receive(&shared.agents) {
        Ok(0) => return false,
        Ok(_) => {}
        Err(error) => {
            log::debug!("cannot receive: {error}");
            return false;
        }
    }
    let now = net::now();
    shared.with_core(now, |core| {
        for datagram in inbox.iter() {
            core.handle_datagram(now, Origin { agent: datagram.from, local: datagram.local }, datagram.bytes);
        }
    });
    for datagram in inbox.iter() {
        let (length, from) = (datagram.bytes.len(), datagram.from);
        log::trace!(target: "ossec_broker::datagram", "received {length} bytes from {from}");
    }
    inbox.is_full()
}
