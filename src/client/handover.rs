//! A newer program in the place of this one: the process stays, and so do its sockets.
//!
//! ```text
//!   SIGUSR2 ─► the new program says yes ─► `receive` pauses ─► everything held is safe ─► all threads end ─► exec
//!                       └──────────────────────────────┴── no, or not in time: goes on as before
//! ```
//!
//! Held datagrams are safe when they are in the spool, or without one when they are confirmed. Whatever comes in
//! meanwhile waits in the agents' socket.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::{Receiver, select};

use super::shared::Shared;
use super::shutdown::CREW_LISTENS;
use crate::os::handover::{Image, Legacy};
use crate::os::net;
use crate::os::threads::{Cause, Doorbell, Ended};
use crate::proto::client::link::Standing;
use crate::proto::client::spool::record::Agent;

/// Longest time until everything held is safe: agents' datagrams wait in their socket meanwhile.
const SAFE_WITHIN: Duration = Duration::from_secs(5);
/// With a spool no confirmation is waited for longer than this.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(1);

/// Everything that the next program takes over.
#[derive(Debug)]
pub struct Successor {
    /// The program.
    pub image: Image,
    /// The sockets.
    pub legacy: Legacy,
}

/// How an attempt has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    Safe,
    /// This process goes on.
    Refused,
    /// A stop was asked for meanwhile.
    Stop,
}

/// The program that may take this one's place, and what the attempt needs.
#[derive(Debug)]
pub(super) struct Handover<'a> {
    pub(super) shared: &'a Shared,
    pub(super) image: Option<&'a Image>,
    pub(super) has_spool: bool,
    pub(super) receive: Doorbell,
}

impl Handover<'_> {
    /// Asks the program, and waits until everything held is safe.
    pub(super) fn attempt(
        &self,
        stop: &Receiver<()>,
        ended: &Receiver<Ended>,
        safe: &Receiver<()>,
    ) -> Result<Attempt, Ended> {
        let Some(image) = self.image else {
            log::warn!("no other program takes over: the system does not say where this one stands");
            return Ok(Attempt::Refused);
        };
        log::info!("handing over to {}", image.path());
        if let Err(why) = image.accepts() {
            return Ok(self.refuse(&why));
        }
        *self.shared.is_paused.lock() = true;
        let outcome = self.make_safe(stop, ended, safe)?;
        if outcome == Attempt::Safe {
            self.shared.keeps_socket.store(true, Ordering::SeqCst);
            return Ok(outcome);
        }
        self.shared.with_core(net::now(), |core| core.handle_flush(false));
        *self.shared.is_paused.lock() = false;
        // Its socket says only once that something has come in.
        self.receive.ring();
        Ok(outcome)
    }

    /// Waits until held datagrams are confirmed, if the link is up: then none is sent twice. Else they must be in the
    /// spool.
    fn make_safe(&self, stop: &Receiver<()>, ended: &Receiver<Ended>, safe: &Receiver<()>) -> Result<Attempt, Ended> {
        let (until, mut is_late) = (net::now() + SAFE_WITHIN, false);
        loop {
            let now = net::now();
            // A bell from an earlier attempt says nothing.
            let _ = safe.try_recv();
            let (is_safe, is_up) = self.shared.with_core(now, |core| {
                let is_up = core.snapshot(now).standing == Standing::Up && !is_late;
                if is_up || !self.has_spool {
                    core.handle_drain();
                } else {
                    core.handle_flush(true);
                }
                (core.is_drained(), is_up)
            });
            if !is_safe && !is_up && !self.has_spool {
                return Ok(self.refuse(&"the link is down, and there is no spool for what is held".into()));
            }
            let patience = if is_up && self.has_spool { CONFIRMED_WITHIN } else { until.since(now) };
            select! {
                recv(safe) -> _ => return Ok(Attempt::Safe),
                recv(stop) -> _ => return Ok(Attempt::Stop),
                recv(ended) -> ended => return Err(ended.expect(CREW_LISTENS)),
                default(patience) => {}
            }
            if is_late || !self.has_spool || !is_up {
                return Ok(self.refuse(&format!("what is held is not safe within {SAFE_WITHIN:?}").into()));
            }
            is_late = true;
        }
    }

    fn refuse(&self, why: &Cause) -> Attempt {
        let path = self.image.map_or_else(String::new, |image| image.path().to_string());
        log::warn!("not handing over to {path}: {why}; going on");
        Attempt::Refused
    }
}

/// The sockets for the next program: the agents', and those of sessions.
pub(super) fn legacy(shared: &Shared, is_kept: bool, upstreams: Vec<(Agent, OwnedFd)>) -> Result<Legacy, Cause> {
    let mut legacy = Legacy::new(net::duplicate(&shared.agents)?, is_kept);
    for (agent, socket) in upstreams {
        legacy.push(&agent, socket);
    }
    Ok(legacy)
}
