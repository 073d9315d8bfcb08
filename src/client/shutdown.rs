//! The way to the end: held datagrams are drained, and the threads stop in order.
//!
//! ```text
//!   signal ─► drain ─► `receive` turns agents away, reads its socket empty, ends ─► drain ─► all end
//! ```
//!
//! Each drain lasts while the link is up, no second signal comes, and `--drain` is not over. `receive` goes on during
//! the first drain. If a thread ends by itself, all end at once.

use std::time::Duration;

use crossbeam_channel::{Receiver, select};

use super::shared::Shared;
use crate::os::net;
use crate::os::threads::{Ended, Stopper};
use crate::proto::{client::link::Standing, time::Time};

/// Why the end of a thread is always told.
const CREW_LISTENS: &str = "the crew keeps a sender";

/// Everything that the main thread looks at.
pub(super) struct Shutdown<'a> {
    pub(super) shared: &'a Shared,
    pub(super) drain: Duration,
    pub(super) signals: &'a Receiver<()>,
    pub(super) ended: &'a Receiver<Ended>,
    pub(super) drained: &'a Receiver<()>,
}

impl Shutdown<'_> {
    pub(super) fn conduct(&self, stop_receive: Stopper, stop_rest: Stopper) -> Result<(), Ended> {
        select! {
            recv(self.signals) -> _ => log::info!("stopping"),
            recv(self.ended) -> ended => return Err(ended.expect(CREW_LISTENS)),
        }
        let until = net::now() + self.drain;
        let mut in_time = self.drain_held(until)?;
        drop(stop_receive);
        // `receive` reads its socket empty first. Any other thread that ends here has failed.
        select! {
            recv(self.ended) -> ended => match ended.expect(CREW_LISTENS) {
                Ended::Stopped(_) => {}
                ended => return Err(ended),
            },
            recv(self.signals) -> _ => in_time = false,
        }
        if in_time {
            self.drain_held(until)?;
        }
        drop(stop_rest);
        Ok(())
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
            recv(self.signals) -> _ => Ok(false),
            recv(self.ended) -> ended => Err(ended.expect(CREW_LISTENS)),
            default(until.since(now)) => { Ok(false) }
        }
    }
}
