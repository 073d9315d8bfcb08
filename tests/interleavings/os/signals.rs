//! A module in the place of `src/os/signals.rs`: the test sends the signals.

use crate::channels::Receiver;

#[derive(Debug)]
pub(crate) struct Signals {
    pub(crate) stop: Receiver<()>,
    pub(crate) replace: Receiver<()>,
}
