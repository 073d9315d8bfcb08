//! Core → upstream: the one way out.

use std::convert::Infallible;
use std::io::ErrorKind;
use std::time::Duration;

use crossbeam_channel::Receiver;

use super::shared::Shared;
use super::upstreams::{SHORTAGE_PAUSE, Upstreams};
use crate::os::net::udp::{SendError, send_run};
use crate::os::{net, threads::Stop};
use crate::proto::client::Batch;

/// A datagram for which the system had no room is tried again after this.
const BUSY_PAUSE: Duration = Duration::from_millis(2);

/// What stopped a batch before its end.
enum Halt {
    Expired,
    Pause(Duration),
    Unsendable,
    /// The next datagram, or one before it, was refused.
    Refused,
}

pub(super) fn run(
    shared: &Shared,
    upstreams: &mut Upstreams<'_>,
    bell: &Receiver<()>,
    stop: &Stop,
) -> Result<(), Infallible> {
    let mut batch = Batch::default();
    while !stop.is_set() {
        let now = net::now();
        // A lease may have ended before everything was sent. Then a heartbeat has to come first, and is rung for.
        let (releases, due) = shared.with_core(now, |core| {
            let releases = core.poll_release(now, &mut batch);
            (releases, if releases { None } else { core.handle_forward_waits(now) })
        });
        if !releases {
            stop.wait(bell, due.map(|at| at.since(now)));
        } else if let Some(pause) = send(shared, upstreams, &batch) {
            stop.wait(&crossbeam_channel::never(), Some(pause));
        }
    }
    Ok(())
}

/// Sends a batch, tells the core, and says how long to pause, if the system asks for that.
fn send(shared: &Shared, upstreams: &mut Upstreams<'_>, batch: &Batch) -> Option<Duration> {
    let mut sent = 0;
    let halt = send_all(upstreams, batch, &mut sent).err();
    let now = net::now();
    shared.with_core(now, |core| {
        core.handle_sent(now, batch, sent);
        match halt {
            Some(Halt::Unsendable) => core.handle_unsendable(batch, sent),
            Some(Halt::Refused) => core.handle_refused(now),
            None | Some(Halt::Expired | Halt::Pause(_)) => {}
        }
    });
    log::trace!(target: "ossec_broker::datagram", "sent {sent} of {} to {}", batch.len(), batch.target());
    if let Some(Halt::Pause(pause)) = halt { Some(pause) } else { None }
}

/// Sends the batch session by session, and counts in `sent`.
fn send_all(upstreams: &mut Upstreams<'_>, batch: &Batch, sent: &mut usize) -> Result<(), Halt> {
    upstreams.change_ports(batch.ports());
    while *sent < batch.len() {
        let session = batch.session(*sent);
        let run = (*sent..batch.len()).take_while(|&at| batch.session(at) == session).count();
        let socket = match upstreams.get(session, batch.target()) {
            Ok(socket) => socket,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(Halt::Pause(BUSY_PAUSE)),
            Err(error) => {
                upstreams.tell_shortage(&error, "holding");
                return Err(Halt::Pause(SHORTAGE_PAUSE));
            }
        };
        let payloads: Vec<&[u8]> = (*sent..*sent + run).map(|at| batch.payload(at)).collect();
        // As late as possible: after the lease a datagram may overtake others that an outage has swallowed.
        if net::now() >= batch.until() {
            return Err(Halt::Expired);
        }
        let (done, outcome) = send_run(&*socket, batch.target(), &payloads);
        *sent += done;
        outcome.map_err(|error| halt(error, batch, *sent))?;
    }
    Ok(())
}

/// What follows from an error at this datagram of the batch.
fn halt(error: SendError, batch: &Batch, at: usize) -> Halt {
    match error {
        SendError::Busy => Halt::Pause(BUSY_PAUSE),
        SendError::Unsendable(error) => {
            log::debug!("cannot send {} bytes: {error}", batch.payload(at).len());
            Halt::Unsendable
        }
        SendError::Refused(error) => {
            log::debug!("{} refuses: {error}", batch.target());
            Halt::Refused
        }
    }
}
