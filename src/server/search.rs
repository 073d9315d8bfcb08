//! Finding remoted: a walk through `/proc`, off the serving thread.

use crossbeam_channel::{Receiver, Sender, select};

use crate::remoted::{Found, Wanted, search};
use crate::threads::{Doorbell, Stop};

/// Searches each time it is asked to, until the stop.
pub(super) fn run(
    wanted: &Wanted,
    asked: &Receiver<()>,
    found: &Sender<Found>,
    bell: &Doorbell,
    stop: &Stop,
) -> Result<(), String> {
    while !stop.is_set() {
        stop.wait(asked, None);
        if stop.is_set() {
            return Ok(());
        }
        let result = search(wanted);
        select! {
            send(found, result) -> sent => if sent.is_err() { return Ok(()) },
            recv(stop.channel()) -> _ => return Ok(()),
        }
        bell.ring();
    }
    Ok(())
}
