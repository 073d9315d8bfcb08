//! Upstream → agent: what remoted answers, and what the network says of datagrams that it refused.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;
use mio::{Poll, Token};

use super::upstreams::Upstream;
use super::{Shared, events};
use crate::net;
use crate::net::udp::{Inbox, take_refusal, unwatch, watch};
use crate::threads::{DOORBELL, Stop};

/// Batches read from one socket before the others have their turn.
const BATCHES_MAX: usize = 16;
/// Errors in a row after which a socket is left alone until it has something new.
const ERRORS_MAX: usize = 64;

/// Carries replies until the stop.
pub(super) fn run(shared: &Shared, mut poll: Poll, fresh: &Receiver<Upstream>, stop: &Stop) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("cannot wait for replies: {error}");
    let (mut events, mut inbox) = (events(), Inbox::default());
    let mut upstreams: HashMap<Token, Upstream> = HashMap::new();
    let mut unread: Vec<Token> = Vec::new();
    while !stop.is_set() {
        let wait = if unread.is_empty() { None } else { Some(Duration::ZERO) };
        match poll.poll(&mut events, wait) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => return Err(failed(error)),
            Ok(()) | Err(_) => {}
        }
        let mut ready = std::mem::take(&mut unread);
        for event in &events {
            if event.token() == DOORBELL {
                take_fresh(&poll, fresh, &mut upstreams).map_err(failed)?;
            } else if !ready.contains(&event.token()) {
                ready.push(event.token());
            }
        }
        for token in ready {
            if upstreams.get(&token).is_some_and(|upstream| take_replies(shared, upstream, &mut inbox)) {
                unread.push(token);
            }
        }
    }
    Ok(())
}

/// Takes in the sockets of new sessions. A session that gave way takes its socket along.
fn take_fresh(
    poll: &Poll,
    fresh: &Receiver<Upstream>,
    upstreams: &mut HashMap<Token, Upstream>,
) -> std::io::Result<()> {
    for upstream in fresh.try_iter() {
        let token = Token(usize::from(upstream.session.id));
        watch(poll, &upstream.socket, token)?;
        if let Some(old) = upstreams.insert(token, upstream) {
            unwatch(poll, &old.socket)?;
            debug_assert_eq!(Arc::strong_count(&old.socket), 1, "the forward thread let go of it before");
        }
    }
    Ok(())
}

/// Reads one socket, its error queue too; whether it has more than one turn takes.
fn take_replies(shared: &Shared, upstream: &Upstream, inbox: &mut Inbox) -> bool {
    while let Some(error) = take_refusal(&*upstream.socket) {
        log::debug!("the network reports: {error}");
        // Also where a router told of a smaller path: it threw a datagram away. The system fragments for that path from here on.
        let now = net::now();
        let bells = {
            let mut relay = shared.relay.lock();
            relay.handle_refused(now);
            relay.bells(now)
        };
        shared.ring(bells);
    }
    let mut errors = 0;
    for _ in 0..BATCHES_MAX {
        match inbox.receive(&*upstream.socket) {
            Ok(0) => return false,
            Ok(_) => {}
            // An error that the queue has told of: reading it has cleared it.
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
        for reply in inbox.iter() {
            let origin = shared.relay.lock().handle_reply(now, upstream.session, reply.from);
            let Some(origin) = origin else {
                log::trace!("{} bytes from {} are no reply", reply.bytes.len(), reply.from);
                continue;
            };
            shared.pass_on(origin, reply.bytes);
        }
        if !inbox.is_full() {
            return false;
        }
    }
    true
}
