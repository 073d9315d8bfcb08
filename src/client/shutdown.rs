//! The way to the end: held datagrams are drained, and the threads stop in order.
//!
//! ```text
//!   signal ─► drain ─► `receive` turns agents away, reads its socket empty, ends ─► drain ─► all end
//! ```
//!
//! With a spool, the thread `spool` ends last: when every other has ended, it writes everything that is held.
//!
//! Each drain lasts while the link is up, no second signal comes, and `--drain` is not over. `receive` goes on during
//! the first drain. If a thread ends by itself, all end at once.

use std::time::Duration;

use crossbeam_channel::{Receiver, select};

use super::handover::{Attempt, Handover};
use super::shared::Shared;
use crate::os::net;
use crate::os::signals::Signals;
use crate::os::threads::{Ended, Stopper};
use crate::proto::{client::link::Standing, time::Time};

/// Why the end of a thread is always told.
pub(super) const CREW_LISTENS: &str = "the crew keeps a sender";

/// Everything that the main thread looks at.
pub(super) struct Shutdown<'a> {
    pub(super) shared: &'a Shared,
    pub(super) drain: Duration,
    pub(super) signals: &'a Signals,
    pub(super) handover: Handover<'a>,
    pub(super) ended: &'a Receiver<Ended>,
    pub(super) drained: &'a Receiver<()>,
}

/// How the role has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Stopped,
    /// Another program takes over.
    Replaced,
}

impl Shutdown<'_> {
    pub(super) fn conduct(&self, stop_receive: Stopper, stop_rest: Stopper) -> Result<End, Ended> {
        loop {
            select! {
                recv(self.signals.stop) -> _ => break,
                recv(self.signals.replace) -> _ => {
                    match self.handover.attempt(&self.signals.stop, self.ended, self.drained)? {
                        Attempt::Safe => return Ok(End::Replaced),
                        Attempt::Refused => {}
                        Attempt::Stop => break,
                    }
                }
                recv(self.ended) -> ended => return Err(ended.expect(CREW_LISTENS)),
            }
        }
        log::info!("stopping");
        let until = net::now() + self.drain;
        let mut in_time = self.drain_held(until)?;
        drop(stop_receive);
        // `receive` reads its socket empty first. Any other thread that ends here has failed.
        select! {
            recv(self.ended) -> ended => match ended.expect(CREW_LISTENS) {
                Ended::Stopped(_) => {}
                ended => return Err(ended),
            },
            recv(self.signals.stop) -> _ => in_time = false,
        }
        if in_time {
            self.drain_held(until)?;
        }
        drop(stop_rest);
        Ok(End::Stopped)
    }

    /// Waits until everything held at this moment is confirmed, if the link is up. True if that comes before `until`
    /// and before another signal.
    fn drain_held(&self, until: Time) -> Result<bool, Ended> {
        let now = net::now();
        let (standing, is_drained) = self.shared.with_core(now, |core| {
            core.handle_drain();
            (core.snapshot(now).standing, core.is_drained())
        });
        // A connection that has not answered yet may do so in time.
        if !is_drained && !matches!(standing, Standing::Up | Standing::Unanswered) {
            return Ok(false);
        }
        select! {
            recv(self.drained) -> _ => Ok(true),
            recv(self.signals.stop) -> _ => Ok(false),
            recv(self.ended) -> ended => Err(ended.expect(CREW_LISTENS)),
            default(until.since(now)) => { Ok(false) }
        }
    }
}
