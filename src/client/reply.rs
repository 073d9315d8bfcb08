//! Upstream → agent: remoted's replies, and the network's reports of refused datagrams.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;
use mio::{Poll, Token};

use super::shared::Shared;
use super::upstreams::{Change, Upstream};
use crate::os::net;
use crate::os::net::udp::{Inbox, take_refusal, unwatch, watch};
use crate::os::threads::{DOORBELL, Stop, Wait, WaitError};
use crate::proto::{client::Origin, terms::SessionName, time::Time};

/// Batches read from one socket before the others have their turn.
const BATCHES_MAX: usize = 16;
/// Errors in a row after which a socket is left alone until it has something new.
const ERRORS_MAX: usize = 64;
/// A socket that could not be watched is tried again after this.
const WATCH_PAUSE: Duration = Duration::from_secs(1);

/// The sockets of all sessions, as far as this thread has heard of them.
#[derive(Debug, Default)]
struct Watched {
    upstreams: HashMap<Token, Upstream>,
    /// Sockets that the system would not watch: their replies wait.
    unwatched: Vec<Upstream>,
    retry: Time,
    told: bool,
}

pub(super) fn run(shared: &Shared, mut wait: Wait, changes: &Receiver<Change>, stop: &Stop) -> Result<(), WaitError> {
    let (mut inbox, mut watched) = (Inbox::default(), Watched::default());
    let mut unread: Vec<Token> = Vec::new();
    while !stop.is_set() {
        let retry = (!watched.unwatched.is_empty()).then(|| watched.retry.since(net::now()));
        wait.wait(if unread.is_empty() { retry } else { Some(Duration::ZERO) })?;
        let mut ready = std::mem::take(&mut unread);
        for token in wait.ready() {
            if token == DOORBELL {
                changes.try_iter().for_each(|change| watched.take(wait.poll(), change));
            } else if !ready.contains(&token) {
                ready.push(token);
            }
        }
        watched.try_again(wait.poll());
        for token in ready {
            let upstream = watched.upstreams.get(&token);
            if upstream.is_some_and(|upstream| take_replies(shared, upstream, &mut inbox)) {
                unread.push(token);
            }
        }
    }
    Ok(())
}

impl Watched {
    fn take(&mut self, poll: &Poll, change: Change) {
        match change {
            Change::Open(upstream) => self.watch(poll, upstream),
            Change::Pass(session) => {
                let waiting = self.unwatched.iter_mut().find(|upstream| upstream.session.id == session.id);
                if let Some(upstream) = self.upstreams.get_mut(&token_of(session)).or(waiting) {
                    upstream.session = session;
                }
            }
            Change::Close(session) => {
                self.unwatched.retain(|upstream| upstream.session != session);
                if let Some(old) = self.upstreams.remove(&token_of(session)) {
                    if let Err(error) = unwatch(poll, &old.socket) {
                        log::debug!("cannot let go of a socket: {error}");
                    }
                    debug_assert_eq!(Arc::strong_count(&old.socket), 1, "the forward thread let go of it before");
                }
            }
        }
    }

    fn watch(&mut self, poll: &Poll, upstream: Upstream) {
        let token = token_of(upstream.session);
        match watch(poll, &upstream.socket, token) {
            Ok(()) => {
                self.upstreams.insert(token, upstream);
            }
            Err(error) => {
                if !std::mem::replace(&mut self.told, true) {
                    log::warn!("cannot wait for the replies to a session: {error}; trying again");
                }
                self.unwatched.push(upstream);
                self.retry = net::now() + WATCH_PAUSE;
            }
        }
    }

    fn try_again(&mut self, poll: &Poll) {
        if !self.unwatched.is_empty() && net::now() >= self.retry {
            for upstream in std::mem::take(&mut self.unwatched) {
                self.watch(poll, upstream);
            }
        }
    }
}

fn token_of(session: SessionName) -> Token {
    Token(usize::from(session.id))
}

fn take_refusals(shared: &Shared, upstream: &Upstream) {
    while let Some(error) = take_refusal(&*upstream.socket) {
        log::debug!("the network reports: {error}");
        // A router that tells of a smaller path has thrown a datagram away, too. The system fragments for that path
        // from here on.
        let now = net::now();
        shared.with_core(now, |core| core.handle_refused(now));
    }
}

/// Reads one socket; whether it has more than one turn takes.
fn take_replies(shared: &Shared, upstream: &Upstream, inbox: &mut Inbox) -> bool {
    take_refusals(shared, upstream);
    let mut errors = 0;
    for _ in 0..BATCHES_MAX {
        match inbox.receive(&*upstream.socket) {
            Ok(0) => return false,
            Ok(_) => {}
            // The queue has told of this error, and the read has cleared it.
            Err(error) if errors < ERRORS_MAX => {
                log::trace!("cannot receive a reply: {error}");
                errors += 1;
                continue;
            }
            Err(error) => {
                log::debug!("cannot receive replies: {error}");
                return false;
            }
        }
        let now = net::now();
        let origins: Vec<Option<Origin>> = shared.with_core(now, |core| {
            inbox.iter().map(|reply| core.handle_reply(now, upstream.session, reply.from)).collect()
        });
        for (reply, origin) in inbox.iter().zip(origins) {
            match origin {
                Some(origin) => shared.pass_on(origin, reply.bytes),
                None => log::trace!("{} bytes from {} are no reply", reply.bytes.len(), reply.from),
            }
        }
        if !inbox.is_full() {
            return false;
        }
    }
    true
}
