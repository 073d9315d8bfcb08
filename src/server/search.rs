//! Finding remoted: a walk through `/proc`, off the serving thread.

use std::convert::Infallible;

use crossbeam_channel::{Receiver, Sender, select};

use crate::os::remoted::{Found, Searcher, Wanted};
use crate::os::threads::{Doorbell, Stop};

pub(super) fn run(
    wanted: Wanted,
    asked: &Receiver<()>,
    results: &Sender<Found>,
    bell: &Doorbell,
    stop: &Stop,
) -> Result<(), Infallible> {
    let mut searcher = Searcher::new(wanted);
    let mut home = false;
    loop {
        stop.wait(asked, None);
        if stop.is_set() {
            return Ok(());
        }
        let found = searcher.search();
        home |= found.is_at_home();
        // A remoted that was killed here must not be taken for alive because a container has one, too.
        let result = if home { found.at_home() } else { found };
        select! {
            send(results, result) -> sent => if sent.is_err() { return Ok(()) },
            recv(stop.channel()) -> _ => return Ok(()),
        }
        bell.ring();
    }
}
