//! The client's threads, in every order that the explorer (`shuttle`) can think of.
//!
//! ```text
//!   client.rs, client/… (all but report), os/threads.rs      the source as it is (links to `src`)
//!   ──────────────────────────────────────────────────────────────────────
//!   mio, crossbeam_channel, parking_lot, crate::os (all but threads)      made up here, on virtual time
//!   agents, network, broker server, remoted                                     made up here, with faults
//! ```
//!
//! The explorer runs one thread at a time and decides at each step which thread is next. A step is a lock, a system
//! call, a look at the clock or the ring of a bell. When all threads sleep (see `judge.rs`), four states are wrong:
//!
//! * a datagram may be released, and `forward` sleeps;
//! * a heartbeat is due, and `probe` sleeps;
//! * something is unread, and its reader sleeps;
//! * there is something to do for the spool, and `spool` sleeps.
//!
//! After a stop, all threads must end without waiting for time to pass.
//!
//! `SCHEDULES=100000 cargo test --release --test interleavings` explores more schedules. A failed schedule is printed.
//! With that string in a file, `SCHEDULE=file` runs the schedule again and says what each thread does.

extern crate self as crossbeam_channel;
extern crate self as mio;
extern crate self as parking_lot;

mod channels;
#[expect(
    unreachable_pub,
    dead_code,
    reason = "it is a room of the library, and private here; what only the binary uses is unused"
)]
#[expect(
    clippy::explicit_auto_deref,
    clippy::unused_self,
    reason = "what is around it has other types, and does less"
)]
mod client;
mod judge;
mod lock;
mod os;
#[expect(clippy::unnecessary_wraps, reason = "stands in for what can fail")]
mod poll;
mod system;
mod world;

/// A room of `mio`.
mod event {
    pub(crate) use crate::poll::Event;
}

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use channels::{Receiver, RecvTimeoutError, Sender, TryRecvError, after, bounded, never, select};
pub(crate) use lock::Mutex;
pub(crate) use os::net;
pub(crate) use os::net::HostPort;
pub(crate) use ossec_broker::proto;

pub(crate) use poll::{Events, Poll, Registry, Token, Waker};
use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler};
use shuttle::{Runner, thread};
use system::System;
use world::{World, percent};

/// Schedules that each explorer tries.
const SCHEDULES_DEFAULT: usize = 800;
/// The client's threads keep more on their stacks than the explorer's default has room for.
const STACK_BYTES: usize = 256 * 1024;

fn config(transport: proto::client::Transport, rate: Option<NonZeroU32>, has_spool: bool) -> client::Config {
    let local = |port| HostPort { host: "127.0.0.1".into(), port };
    client::Config {
        server: local(1_514),
        listen: local(1_515),
        source_port: 0,
        spool: has_spool.then(|| client::SpoolConfig {
            path: "spool".into(),
            bytes: client::SPOOL_BYTES,
            sync: proto::client::SyncPolicy::Always,
        }),
        drain: Duration::from_mins(10),
        core: proto::client::Config {
            buffer_bytes: 1 << 20,
            rate,
            sessions_max: 2,
            transport,
            ..proto::client::Config::default()
        },
        ..client::Config::default()
    }
}

/// Starts a thread of the made-up system.
fn spawn(name: &'static str, body: impl FnOnce() + Send + 'static) {
    World::here().born();
    thread::spawn(move || {
        World::here().name(name);
        body();
        World::here().leave();
    });
}

/// One schedule: agents send, things go wrong, a stop comes at some moment.
fn schedule() {
    let (world, system) = (World::begin(replayed().is_some()), System::begin());
    let (signal, stop) = bounded(2);
    let (request, replace) = bounded(1);
    let transport = if percent(50) { proto::client::Transport::Tcp } else { proto::client::Transport::Udp };
    let rate = if percent(50) { NonZeroU32::new(10) } else { None };
    let has_spool = percent(50);
    let own = Arc::clone(&system);
    spawn("server", move || own.be_server());
    // The channels of signals are kept to the end: a channel that closes would be another signal.
    let (first, request_first) = (signal.clone(), request.clone());
    let own = Arc::clone(&system);
    spawn("agent", move || {
        own.be_agent();
        if percent(30) {
            own.wait_for_a_stop();
            let _ = request_first.try_send(());
        }
        own.wait_for_a_stop();
        let _ = first.try_send(());
    });
    spawn("client", move || {
        let config = config(transport, rate, has_spool);
        let successor =
            client::run(&config, &os::signals::Signals { stop, replace }, os::handover::Inherited::default());
        judge::look_back(successor.expect("nothing fails for good").is_some());
        System::here().end();
    });
    loop {
        let sleepers = world.wait_for_silence();
        if sleepers.is_empty() {
            return drop((signal, request));
        }
        judge::look_at(&sleepers);
        world.pass();
    }
}

fn explore(scheduler: impl Scheduler + 'static) {
    let mut config = shuttle::Config::new();
    config.stack_size = STACK_BYTES;
    match replayed() {
        Some(file) => Runner::new(ReplayScheduler::new_from_file(file).expect("a schedule"), config).run(schedule),
        None => Runner::new(scheduler, config).run(schedule),
    };
}

/// The file with the schedule that is to be run again.
fn replayed() -> Option<String> {
    std::env::var("SCHEDULE").ok()
}

fn schedules() -> usize {
    std::env::var("SCHEDULES").map_or(SCHEDULES_DEFAULT, |text| text.parse().expect("SCHEDULES is a number"))
}

#[test]
fn nothing_waits_for_a_thread_that_does_not_know_of_it_in_any_order() {
    explore(RandomScheduler::new(schedules()));
}

/// Few changes between threads at chosen places find faults that many changes at random do not find.
#[test]
fn nothing_waits_for_a_thread_that_does_not_know_of_it_with_few_changes() {
    explore(PctScheduler::new(4, schedules()));
}
