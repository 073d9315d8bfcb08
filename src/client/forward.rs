//! ClientCore → upstream: the one way out.

use std::io::ErrorKind;
use std::time::Duration;

use crossbeam_channel::Receiver;

use super::Shared;
use super::upstreams::{SHORTAGE_PAUSE, Upstreams};
use crate::os::net;
use crate::os::net::udp::{SendError, send_run};
use crate::os::threads::Stop;
use crate::proto::client::Batch;

/// The system had no room for a datagram: it is tried again after this.
const BUSY_PAUSE: Duration = Duration::from_millis(2);
/// The forward thread.
#[derive(Debug)]
pub(super) struct Forwarder<'a> {
    shared: Shared,
    upstreams: Upstreams<'a>,
}

/// What stopped a batch.
enum Halt {
    /// Nothing: it is sent.
    Done,
    /// The lease ended before all was sent.
    Expired,
    /// Wait and try again.
    Pause(Duration),
    /// The datagram after those sent can never be sent.
    Unsendable,
    /// The datagram after those sent, or one before it, was refused.
    Refused,
}

impl<'a> Forwarder<'a> {
    pub(super) const fn new(shared: Shared, upstreams: Upstreams<'a>) -> Self {
        Self { shared, upstreams }
    }

    /// Sends what may be sent, until the stop.
    pub(super) fn run(mut self, bell: &Receiver<()>, stop: &Stop) -> Result<(), String> {
        let mut batch = Batch::default();
        while !stop.is_set() {
            let now = net::now();
            let mut core = self.shared.core.lock();
            if !core.poll_release(now, &mut batch) {
                let wait = core.handle_forward_waits(now).map(|at| at.since(now));
                // A lease that ended before everything was sent: a heartbeat has to come first.
                let bells = core.bells(now);
                drop(core);
                self.shared.ring(bells);
                stop.wait(bell, wait);
                continue;
            }
            drop(core);
            if let Some(pause) = self.send(&batch) {
                stop.wait(&crossbeam_channel::never(), Some(pause));
            }
        }
        Ok(())
    }

    /// Sends a batch and says what became of it. How long to pause, if the system asks for that.
    fn send(&mut self, batch: &Batch) -> Option<Duration> {
        let (sent, halt) = self.send_all(batch);
        let now = net::now();
        let bells = {
            let mut core = self.shared.core.lock();
            core.handle_sent(now, batch, sent);
            match halt {
                Halt::Unsendable => core.handle_unsendable(batch, sent),
                Halt::Refused => core.handle_refused(now),
                Halt::Done | Halt::Expired | Halt::Pause(_) => {}
            }
            core.bells(now)
        };
        self.shared.ring(bells);
        log::trace!(target: "ossec_broker::datagram", "sent {sent} of {} to {}", batch.len(), batch.target());
        match halt {
            Halt::Pause(pause) => Some(pause),
            Halt::Done | Halt::Expired | Halt::Unsendable | Halt::Refused => None,
        }
    }

    /// Sends run by run what belongs to one session.
    fn send_all(&mut self, batch: &Batch) -> (usize, Halt) {
        let mut sent = 0;
        self.upstreams.change_ports(batch.ports());
        while sent < batch.len() {
            let session = batch.session(sent);
            let run = (sent..batch.len()).take_while(|&at| batch.session(at) == session).count();
            let socket = match self.upstreams.get(session, batch.target()) {
                Ok(socket) => socket,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return (sent, Halt::Pause(BUSY_PAUSE)),
                Err(error) => {
                    self.upstreams.tell_shortage(&error, "holding");
                    return (sent, Halt::Pause(SHORTAGE_PAUSE));
                }
            };
            let payloads: Vec<&[u8]> = (sent..sent + run).map(|at| batch.payload(at)).collect();
            // As late as possible: what is sent after the lease may overtake what an outage has swallowed.
            if net::now() >= batch.until() {
                return (sent, Halt::Expired);
            }
            let (done, outcome) = send_run(&*socket, batch.target(), &payloads);
            sent += done;
            match outcome {
                Ok(()) => {}
                Err(SendError::Busy) => return (sent, Halt::Pause(BUSY_PAUSE)),
                Err(SendError::Unsendable(error)) => {
                    log::debug!("cannot send {} bytes: {error}", batch.payload(sent).len());
                    return (sent, Halt::Unsendable);
                }
                Err(SendError::Refused(error)) => {
                    log::debug!("{} refuses: {error}", batch.target());
                    return (sent, Halt::Refused);
                }
            }
        }
        (sent, Halt::Done)
    }
}
