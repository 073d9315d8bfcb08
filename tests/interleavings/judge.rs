//! The judge checks whether all threads sleep rightly, and whether the end is right.

use std::time::Duration;

use ossec_broker::proto::client::Batch;
use ossec_broker::proto::time::Time;

use crate::system::{DATAGRAMS, System};
use crate::world::{Micros, Sleeper, World};

/// `forward` may sleep for so long with something that could be sent. Under a rate it takes along the datagrams that
/// fall due within this time. It pauses for less when the system had no room for a datagram.
const PAUSE_MAX: Duration = Duration::from_millis(5);

/// No thread moves, and no alarm is about to go off. A possible step must not wait for a thread that does not know of
/// it.
pub(crate) fn look_at(sleepers: &[Sleeper]) {
    let (system, now) = (System::here(), World::here().time());
    let asleep = |name: &str, until: Time| {
        let thread = sleepers.iter().find(|sleeper| sleeper.name == name);
        thread.is_some_and(|thread| thread.alarm.is_none_or(|alarm| alarm > until))
    };
    let overlooked = system.is_agents_unread() && !system.may_pause();
    assert!(!(asleep("receive", now) && overlooked), "agents wait for `receive`, which sleeps");
    assert!(!(asleep("reply", now) && system.is_upstream_unread()), "remoted waits for `reply`, which sleeps");
    let Some(core) = system.core() else { return };
    // If one of them sleeps with the lock, the explorer reports a deadlock here.
    let mut core = core.lock().expect("nobody panics with it");
    let releasable = core.poll_release(now, &mut Batch::default()) && !system.is_congested();
    assert!(
        !(releasable && asleep("forward", now + PAUSE_MAX)),
        "a datagram may be released, and `forward` sleeps: {sleepers:?}"
    );
    if let Some(at) = core.next_release(now).filter(|_| !system.is_congested()) {
        assert!(
            !asleep("forward", at + PAUSE_MAX),
            "a datagram is due at {}, it is {}, and `forward` sleeps: {sleepers:?}",
            Micros(at),
            Micros(now)
        );
    }
    // In a pause, `forward` has something to release that it has not given up. It asks for a heartbeat itself if its
    // lease ends meanwhile.
    let pauses = sleepers.iter().any(|sleeper| sleeper.name == "forward" && sleeper.alarm.is_some());
    if let Some(at) = core.next_heartbeat(now).filter(|_| !pauses) {
        assert!(
            !asleep("probe", at.max(now)),
            "a heartbeat is due at {}, it is {}, and `probe` sleeps: {sleepers:?}",
            Micros(at),
            Micros(now)
        );
    }
    if let Some(at) = core.link().next_deadline(now) {
        assert!(
            !asleep("probe", at.max(now)),
            "a heartbeat is late at {}, it is {}, and `probe` sleeps: {sleepers:?}",
            Micros(at),
            Micros(now)
        );
    }
    if let Some(at) = core.next_errand() {
        assert!(
            !asleep("spool", at.max(now)),
            "there is an errand at {}, it is {}, and `spool` sleeps: {sleepers:?}",
            Micros(at),
            Micros(now)
        );
    }
    assert!(!(core.is_drained() && asleep("client", now)), "nothing is held any more, and the client sleeps");
}

/// The client has returned; another program takes over, or none.
pub(crate) fn look_back(is_replaced: bool) {
    let system = System::here();
    let counters = system.farewell().expect("the client has said good-bye").counters;
    let held = system.farewell().map_or(0, |snapshot| snapshot.held.datagrams);
    let waiting = if is_replaced { system.agents_unread() } else { 0 };
    assert_eq!(counters.received + waiting, u64::from(DATAGRAMS), "what came in before the stop was taken in");
    assert!(!is_replaced || held == 0 || system.has_disk(), "nothing but a disk keeps what is held");
    assert_eq!(
        counters.received,
        counters.confirmed + counters.dropped_total() + held,
        "every datagram is accounted for"
    );
    assert!(!system.has_lost_with_sound_disk(), "what is held at the end is on disk");
    assert!(system.has_all() || held + waiting > 0, "what did not arrive is held, or waits in the socket");
}
