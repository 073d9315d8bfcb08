//! The source addresses under which datagrams get through to remoted. Pure.
//!
//! A firewall of this host, or its sysctls, may drop datagrams on `lo` that carry another host's address. The sender
//! gets no error: remoted's queue stays empty, and an empty queue acknowledges. So a canary goes the same way under
//! the same address, and has to arrive before anything is injected for a client. It goes again in two cases:
//!
//! * each time that a client of that address attaches;
//! * when something is injected and the last proof is old, because a firewall may be loaded later.
//!
//! An address under which nothing is injected costs nothing.
//!
//! ```text
//!            enter                     a canary arrived
//!   closed ─────────► asked ─────────────────────────────► open ──admits, the proof is old──► open, asked
//!     ▲                 │ ◄──────────────── enter ───────────┘                                     │
//!     └─────────────────┴─────────────────── no canary arrives ────────────────────────────────────┘
//! ```
//!
//! The table is bounded by the number of connections, plus `LEFT_MAX` addresses without a connection.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use hashlink::LinkedHashSet;

use crate::proto::time::Time;

/// The number of canaries for one proof: a burst on a busy host may swallow some.
const CANARIES_MAX: u32 = 8;
/// The time between two canaries, and the wait after the last one.
const CANARY_GAP: Duration = Duration::from_millis(250);
/// An injection later than this after the last proof calls for another proof. A firewall that was just loaded may
/// swallow everything injected during this time and while canaries are tried. A canary costs some ten microseconds.
const PROOF_AGE_MAX: Duration = Duration::from_secs(1);
/// Addresses remembered without a connection: as many as there may be waiting streams without a connection.
const LEFT_MAX: usize = 1_024;

/// All addresses that datagrams are, or were, injected for.
#[derive(Debug, Default)]
pub struct Passages {
    by_address: HashMap<IpAddr, Passage>,
    /// The time of the next step for each address with a proof under way.
    due: BTreeSet<(Time, IpAddr)>,
    /// The addresses without a connection, in the order in which they lost the last one.
    left: LinkedHashSet<IpAddr>,
}

#[derive(Debug, Default)]
struct Passage {
    /// The number of connections that send under this address, or are about to.
    users: usize,
    /// The time of the last proof; `None` if the passage is closed.
    proven: Option<Time>,
    /// The proof that is under way.
    asked: Option<Asked>,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    canaries_left: u32,
    /// When the next canary goes out, or the wait for canaries ends.
    next: Time,
}

/// A step that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send a canary under this address.
    Canary(IpAddr),
    /// No canary has arrived: nothing may be injected under this address.
    Failed(IpAddr),
}

impl Passages {
    /// A connection is about to send under this address, once the next canary arrives.
    pub fn enter(&mut self, now: Time, address: IpAddr) {
        self.by_address.entry(address).or_default().users += 1;
        self.left.remove(&address);
        self.ask(now, address);
    }

    /// A connection sends under this address no more. Its waiting datagrams may still be injected.
    pub fn leave(&mut self, address: IpAddr) {
        let Some(passage) = self.by_address.get_mut(&address) else {
            return;
        };
        passage.users = passage.users.saturating_sub(1);
        if passage.users == 0 && !self.left.contains(&address) {
            self.left.insert(address);
        }
        if self.left.len() > LEFT_MAX
            && let Some(address) = self.left.pop_front()
        {
            self.forget(address);
        }
    }

    /// A datagram is about to be injected under this address. Returns whether it may be.
    pub fn admits(&mut self, now: Time, address: IpAddr) -> bool {
        let Some(proven) = self.by_address.get(&address).and_then(|passage| passage.proven) else {
            return false;
        };
        if proven + PROOF_AGE_MAX <= now {
            self.ask(now, address);
        }
        true
    }

    /// A canary under this address arrived. Returns whether one was expected.
    pub fn handle_arrival(&mut self, now: Time, address: IpAddr) -> bool {
        let Some(passage) = self.by_address.get_mut(&address) else {
            return false;
        };
        let Some(asked) = passage.asked.take() else {
            return false;
        };
        passage.proven = Some(now);
        self.due.remove(&(asked.next, address))
    }

    /// The next step that is due.
    pub fn poll(&mut self, now: Time) -> Option<Step> {
        let &(at, address) = self.due.first().filter(|(at, _)| *at <= now)?;
        self.due.remove(&(at, address));
        let passage = self.by_address.get_mut(&address)?;
        let canaries_left = passage.asked.map_or(0, |asked| asked.canaries_left);
        if canaries_left == 0 {
            (passage.asked, passage.proven) = (None, None);
            return Some(Step::Failed(address));
        }
        // The gap counts from now, not from the due time: a host that stood still also spaces its canaries.
        let next = now + CANARY_GAP;
        passage.asked = Some(Asked { canaries_left: canaries_left - 1, next });
        self.due.insert((next, address));
        Some(Step::Canary(address))
    }

    /// When [`Self::poll`] has a step.
    pub fn next_deadline(&self) -> Option<Time> {
        self.due.first().map(|&(at, _)| at)
    }

    fn ask(&mut self, now: Time, address: IpAddr) {
        if let Some(passage) = self.by_address.get_mut(&address)
            && passage.asked.is_none()
        {
            passage.asked = Some(Asked { canaries_left: CANARIES_MAX, next: now });
            self.due.insert((now, address));
        }
    }

    fn forget(&mut self, address: IpAddr) {
        if let Some(asked) = self.by_address.remove(&address).and_then(|passage| passage.asked) {
            self.due.remove(&(asked.next, address));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> Time {
        Time::from_millis(1_000_000 + millis)
    }

    fn address(n: u16) -> IpAddr {
        IpAddr::from([10, 0, (n >> 8) as u8, n as u8])
    }

    /// All steps that are due at this moment.
    fn steps(passages: &mut Passages, now: Time) -> Vec<Step> {
        std::iter::from_fn(|| passages.poll(now)).collect()
    }

    #[test]
    fn nothing_is_injected_in_a_name_before_a_canary_in_it_has_arrived() {
        let (mut passages, a) = (Passages::default(), address(1));
        assert!(!passages.admits(at(0), a), "nobody has entered");
        passages.enter(at(0), a);
        assert!(!passages.admits(at(0), a));
        assert_eq!(passages.next_deadline(), Some(at(0)));
        assert_eq!(steps(&mut passages, at(0)), [Step::Canary(a)]);
        assert!(!passages.admits(at(1), a));
        assert!(!passages.handle_arrival(at(1), address(2)), "nobody has asked in that name");
        assert!(!passages.admits(at(1), address(2)));
        assert!(passages.handle_arrival(at(1), a));
        assert!(!passages.handle_arrival(at(1), a), "a second one says nothing new");
        assert!(passages.admits(at(1), a));
        assert_eq!(passages.next_deadline(), None, "what is proven costs nothing");
    }

    #[test]
    fn it_has_failed_when_none_of_several_canaries_arrives_and_may_be_tried_again() {
        let (mut passages, a) = (Passages::default(), address(1));
        passages.enter(at(0), a);
        let mut canaries = 0;
        let mut now = at(0);
        while let Some(next) = passages.next_deadline() {
            assert!(next >= now);
            now = next;
            match steps(&mut passages, now)[..] {
                [Step::Canary(of)] => canaries += u32::from(of == a),
                [Step::Failed(of)] => assert_eq!(of, a),
                ref other => panic!("{other:?}"),
            }
        }
        assert_eq!((canaries, now), (CANARIES_MAX, at(0) + CANARY_GAP * CANARIES_MAX));
        assert!(!passages.admits(now, a) && !passages.handle_arrival(now, a), "too late");
        passages.enter(now, a);
        assert_eq!(steps(&mut passages, now), [Step::Canary(a)]);
        assert!(passages.handle_arrival(now, a) && passages.admits(now, a));
    }

    #[test]
    fn each_client_that_comes_asks_again_and_the_others_go_on_meanwhile() {
        let (mut passages, a) = (Passages::default(), address(1));
        passages.enter(at(0), a);
        assert_eq!(steps(&mut passages, at(0)), [Step::Canary(a)]);
        assert!(passages.handle_arrival(at(0), a));
        passages.enter(at(500), a);
        assert_eq!(steps(&mut passages, at(500)), [Step::Canary(a)]);
        assert!(passages.admits(at(500), a), "the first one's proof holds");
        passages.enter(at(501), a);
        assert_eq!(steps(&mut passages, at(501)), [], "one proof serves all that wait for it");
        let end = at(500) + CANARY_GAP * CANARIES_MAX;
        let mut all = Vec::new();
        while let Some(next) = passages.next_deadline() {
            all.extend(steps(&mut passages, next));
        }
        assert_eq!(all.last(), Some(&Step::Failed(a)));
        assert!(!passages.admits(end, a), "a firewall that was loaded meanwhile holds for all of them");
    }

    #[test]
    fn an_old_proof_is_renewed_when_something_is_injected_and_only_then() {
        let (mut passages, a) = (Passages::default(), address(1));
        passages.enter(at(0), a);
        assert_eq!(steps(&mut passages, at(0)), [Step::Canary(a)]);
        assert!(passages.handle_arrival(at(0), a));
        let young = at(999);
        assert!(passages.admits(young, a));
        assert_eq!(passages.next_deadline(), None);
        let old = at(0) + PROOF_AGE_MAX * 100;
        assert_eq!(passages.poll(old), None, "an address at rest costs nothing");
        assert!(passages.admits(old, a));
        assert_eq!(steps(&mut passages, old), [Step::Canary(a)]);
        assert!(passages.admits(old, a));
        assert_eq!(steps(&mut passages, old), [], "one proof at a time");
        assert!(passages.handle_arrival(old, a));
        assert!(passages.admits(old, a));
        assert_eq!(passages.next_deadline(), None);
    }

    #[test]
    fn what_a_client_left_behind_is_injected_and_addresses_without_one_are_bounded() {
        let mut passages = Passages::default();
        for n in 0..=LEFT_MAX as u16 {
            passages.enter(at(0), address(n));
            assert_eq!(steps(&mut passages, at(0)), [Step::Canary(address(n))]);
            assert!(passages.handle_arrival(at(0), address(n)));
        }
        passages.enter(at(0), address(1));
        assert!(
            steps(&mut passages, at(0)) == [Step::Canary(address(1))] && passages.handle_arrival(at(0), address(1))
        );
        for n in 0..=LEFT_MAX as u16 {
            passages.leave(address(n));
        }
        assert_eq!((passages.by_address.len(), passages.left.len()), (LEFT_MAX + 1, LEFT_MAX), "one has a client");
        assert!(passages.admits(at(0), address(0)) && passages.admits(at(0), address(1)));
        passages.leave(address(1));
        assert!(!passages.admits(at(0), address(0)), "the one that has been without for longest");
        passages.enter(at(0), address(5));
        passages.leave(address(5));
        assert_eq!((passages.by_address.len(), passages.left.len(), passages.due.len()), (LEFT_MAX, LEFT_MAX, 1));
        passages.leave(address(5));
        passages.leave(address(9_999));
        assert_eq!((passages.by_address.len(), passages.left.len()), (LEFT_MAX, LEFT_MAX), "nobody leaves twice");
    }
}
