//! The policy of transport tcp: the server acknowledges what remoted has read, and says where to go on.
//!
//! ```text
//!    awaits resume ──resume──► going ──resume──┐
//!          ▲                    │ ▲────────────┘ (remoted was started anew)
//!          └──another connection┘
//! ```
//!
//! * **Release.** The window of the newest [`Resume`] or [`Ack`] bounds what may be sent; there is no lease. TCP loses
//!   nothing while the connection lasts. So a heartbeat serves only people and the log, and shows whether the
//!   connection is alive.
//! * **Confirm.** The server acknowledges the datagrams that remoted has read. Nothing else confirms.
//! * **Go on.** When a connection has gone, the client cannot know how much arrived. The server knows, and says where
//!   to go on: behind the datagrams that it has injected into the present remoted. Only a server that was started anew
//!   does not know: then the client starts from the oldest unacknowledged datagram.
//! * **Nobody else.** A server may know of datagrams in this stream that this process has not sent. Then it knows them
//!   from another process with the same memory, a guest that was cloned while it ran. Its words are about that
//!   process, and the client goes on under another name.

use super::terms::{Flight, Foreign, Resumption, Standing};
use crate::proto::terms::{Seq, Verdict};
use crate::proto::wire::{Ack, Resume};

/// The server's words over the present connection. See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Acks {
    verdict: Option<Verdict>,
    state: State,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    /// The server has not said where to go on; there may be no connection.
    #[default]
    AwaitsResume,
    /// Datagrams go in frames of this epoch, as the server counts them.
    Going { epoch: u32, window: u64 },
}

impl Acks {
    /// The connection is another one or gone: the words of the last one are over.
    pub(super) fn handle_other_connection(&mut self) {
        *self = Self::default();
    }

    /// The verdict of a pong or of a notice. The server says all things in their order, so the newest holds.
    pub(super) const fn handle_verdict(&mut self, verdict: Verdict) {
        self.verdict = Some(verdict);
    }

    pub(super) fn handle_resume(
        &mut self,
        resume: &Resume,
        flight: Flight,
        digest: Option<u64>,
    ) -> Result<Resumption, Foreign> {
        let is_other = digest.is_some_and(|ours| resume.digest != 0 && resume.digest != ours);
        if is_other || resume.from.is_some_and(|from| from > flight.furthest) {
            return Err(Foreign);
        }
        self.state = State::Going { epoch: resume.epoch, window: resume.window };
        // The server may have heard of more before another server had this client begin anew. Confirmed datagrams are
        // gone.
        let from = resume.from.map_or(flight.oldest, |from| from.max(flight.oldest));
        Ok(Resumption { from, reached: resume.reached })
    }

    pub(super) fn handle_ack(&mut self, ack: &Ack, flight: Flight) -> Result<Option<Seq>, Foreign> {
        if ack.read > flight.furthest {
            return Err(Foreign);
        }
        let State::Going { window, .. } = &mut self.state else {
            return Ok(None);
        };
        *window = ack.window;
        Ok(Some(ack.read).filter(|&read| read > flight.oldest))
    }

    /// The window, if a datagram may be sent. While remoted is away none may: at the server it would be out of reach
    /// of `--max-age` and `--rate`.
    pub(super) fn window(&self) -> Option<u64> {
        match self.state {
            State::Going { window, .. } if self.verdict == Some(Verdict::Up) => Some(window),
            State::Going { .. } | State::AwaitsResume => None,
        }
    }

    pub(super) const fn server_epoch(&self) -> Option<u32> {
        match self.state {
            State::Going { epoch, .. } => Some(epoch),
            State::AwaitsResume => None,
        }
    }

    pub(super) const fn standing(&self) -> Standing {
        match (self.verdict, self.state) {
            (None, _) | (Some(Verdict::Up), State::AwaitsResume) => Standing::Unanswered,
            (Some(Verdict::Up), State::Going { .. }) => Standing::Up,
            (Some(verdict), _) => Standing::Remote(verdict),
        }
    }
}
