//! The client's spool over a made-up disk, and the ends of its process.

use ossec_broker::proto::client::link::Standing;
use ossec_broker::proto::client::spool::keeper::{Errand, Keeper};
use ossec_broker::proto::client::spool::log::{Log, Setting, datagram_bytes_max};
use ossec_broker::proto::client::spool::record::Clock;
use ossec_broker::proto::client::spool::records::Records;
use ossec_broker::proto::client::{ClientCore, SyncPolicy};
use ossec_broker::proto::terms::Seq;
use ossec_broker::proto::time::Time;

use super::client::Client;
use super::connect::routes;
use super::{Event, World, nanos, time};
use crate::disk::{Disk, Fault};
use crate::plan::{self, End, MS, SECOND};
use crate::promise::Loss;
use crate::remoted::Datagram;

/// A datagram that is held longer than this is on disk, and synced with `interval`: it is a second old, waits a
/// quarter of a second for others, and a second for the sync.
const WRITTEN_AFTER: u64 = 1_400 * MS;
const SYNCED_AFTER: u64 = 2_500 * MS;
/// With `always`, whatever came in during an outage is synced after this.
const ALWAYS_AFTER: u64 = 50 * MS;

/// The spool of a client that runs.
pub(super) struct Spool {
    keeper: Keeper<Disk>,
    /// The errand under way.
    errand: Option<Errand>,
    records: Records,
    /// The number of the process.
    life: u64,
    /// Since when the link is not good.
    down_since: Option<u64>,
}

/// What has happened to a client beside what its newest process knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Past {
    /// Datagrams that came in while there was no socket.
    pub(super) missed: u64,
    /// Datagrams that an earlier process dropped, and that the newest one does not count.
    pub(super) dropped: u64,
    pub(super) doubtful: u64,
    /// Datagrams that may have arrived twice, which the newest process does not count.
    pub(super) copies: u64,
    /// Every process could write its last words.
    pub(super) is_exact: bool,
    /// The agents' socket stays while the process is away.
    keeps_socket: bool,
    /// The power was cut.
    power_cut: bool,
    boot: u64,
    pub(super) lives: u64,
}

impl Default for Past {
    fn default() -> Self {
        Self {
            missed: 0,
            dropped: 0,
            doubtful: 0,
            copies: 0,
            is_exact: true,
            keeps_socket: false,
            power_cut: false,
            boot: 1,
            lives: 0,
        }
    }
}

impl Client {
    pub(super) const fn is_away(&self) -> bool {
        self.away.is_some()
    }

    pub(super) fn spool_due(&mut self, now: Time) -> Option<Time> {
        let is_idle = self.spool.as_ref().is_some_and(|spool| spool.errand.is_none());
        if is_idle { self.core.handle_spool_waits(now) } else { None }
    }

    /// The clock of the host, which is right only in every other boot.
    fn clock(&self) -> Clock {
        let boot = self.past.boot;
        Clock { boot, offset_ms: 1_795_485_600_000, trusted: boot.is_multiple_of(2) }
    }
}

impl World<'_> {
    /// A client's process begins over this disk.
    pub(super) fn open_spool(&mut self, client: usize, mut disk: Disk, spool: plan::Spool) {
        // A client whose disk cannot be read goes on without a spool: nothing is to be seen of that here.
        disk.fault = self.plan.disk_fault(client, self.now).filter(|fault| *fault != Fault::Dead);
        let one = &mut self.clients[client];
        one.past.lives += 1;
        let setting = Setting {
            bound_bytes: spool.bytes,
            stream: u128::from(self.random.next()),
            clock: one.clock(),
            now: time(self.now),
        };
        let (log, found) = Log::open(disk, setting).unwrap_or_else(|error| panic!("it always opens: {error:?}"));
        one.core = ClientCore::reopen(self.plan.config(), spool.sync, &found, datagram_bytes_max(spool.bytes));
        one.stream = found.stream;
        one.past.copies += found.held.datagrams;
        one.past.is_exact &= found.failure.is_none();
        let keeper = Keeper::new(log, spool.sync != SyncPolicy::Never);
        let life = one.past.lives;
        one.spool =
            Some(Spool { keeper, errand: None, records: Records::default(), life, down_since: Some(self.now) });
        let held = found.held.datagrams;
        self.say(|| format!("client {client}: begins with {held} on disk"));
    }

    /// A datagram comes to the client's host.
    pub(super) fn receive(&mut self, client: usize, datagram: Datagram) {
        let one = &mut self.clients[client];
        if !one.is_away() {
            one.handle_datagram(self.now, datagram);
        } else if one.past.keeps_socket {
            one.waiting.push(datagram);
        } else {
            one.past.missed += 1;
            self.ledger.lost(datagram, Loss::Excused);
        }
    }

    /// Begins the next errand, if none is under way.
    pub(super) fn poll_spool(&mut self, client: usize) {
        let now = time(self.now);
        let Some(takes) = self.plan.spool.map(|spool| spool.takes) else {
            return;
        };
        let one = &mut self.clients[client];
        let is_good = one.core.snapshot(now).standing == Standing::Up;
        let Some(spool) = one.spool.as_mut() else {
            return;
        };
        spool.down_since = if is_good { None } else { spool.down_since.or(Some(self.now)) };
        if spool.errand.is_some() {
            return;
        }
        let errand = one.core.poll_spool(now, &mut spool.records);
        if errand != Errand::Wait {
            spool.errand = Some(errand);
            let (at, life) = (self.now + self.random.range(takes.0, takes.1), spool.life);
            self.at(at, Event::Spools { client, life });
        }
    }

    /// An errand is done.
    pub(super) fn spools(&mut self, client: usize, life: u64) {
        if self.clients[client].spool.as_ref().is_some_and(|spool| spool.life == life) {
            self.run_errand(client);
            self.act(client);
        }
    }

    fn run_errand(&mut self, client: usize) -> bool {
        let fault = self.plan.disk_fault(client, self.now);
        let one = &mut self.clients[client];
        let clock = one.clock();
        let Some(spool) = one.spool.as_mut() else {
            return false;
        };
        let Some(errand) = spool.errand.take() else {
            return false;
        };
        spool.keeper.log().folder().fault = fault;
        let report = spool.keeper.run(errand, clock, &mut spool.records);
        one.core.handle_errand(time(self.now), errand, &spool.records, &report);
        self.say(|| format!("client {client}: {errand:?}: {report:?}"));
        true
    }

    /// The process of a client ends.
    pub(super) fn end_client(&mut self, client: usize, end: End, until: u64) {
        if let Some(away) = &mut self.clients[client].away {
            *away = until.max(*away);
            return;
        }
        let Some(plan) = self.plan.spool else {
            return;
        };
        if let End::Stop { keeps_socket } = end {
            self.stop(client);
            self.clients[client].past.keeps_socket = keeps_socket;
        } else {
            self.crash(client, end, plan);
        }
        if end != End::PowerCut
            && self.plan.cut(false, true, self.now, self.now + self.plan.round_trip_at(self.now) / 2).is_none()
        {
            self.server.disconnect(self.now, client);
        }
        let one = &mut self.clients[client];
        one.past.copies += one.counters().copies;
        one.away = Some(until);
        self.say(|| format!("client {client}: {end:?}"));
    }

    /// Everything that is held goes to disk.
    fn stop(&mut self, client: usize) {
        let now = time(self.now);
        if self.clients[client].spool.as_ref().is_some_and(|spool| spool.errand.is_some()) {
            self.run_errand(client);
        }
        self.clients[client].core.handle_stop();
        loop {
            let one = &mut self.clients[client];
            let Some(spool) = one.spool.as_mut() else {
                return;
            };
            let errand = one.core.poll_spool(now, &mut spool.records);
            if errand == Errand::Wait {
                break;
            }
            spool.errand = Some(errand);
            self.run_errand(client);
        }
        let left = self.clients[client].core.unwritten().datagrams;
        let is_faulty = self.plan.has_disk_fault(client, self.now.saturating_sub(2 * SECOND), self.now);
        let is_full = self.plan.spool.is_some_and(|spool| spool.bytes < 1 << 20);
        if left > 0 && !is_faulty && !is_full {
            self.ledger.complain(format!("client {client}: {left} lost with a stop"));
        }
        let safe = self.written(client);
        self.excuse(client, safe);
        let one = &mut self.clients[client];
        one.past.doubtful += one.counters().doubtful;
        if left > 0 || is_faulty {
            one.past.is_exact = false;
            one.past.dropped += one.counters().dropped_total();
            one.sessions.clear();
        }
    }

    fn written(&mut self, client: usize) -> Seq {
        self.clients[client].spool.as_mut().map_or(Seq(0), |spool| spool.keeper.log().written())
    }

    /// The process is gone at once, perhaps in the middle of something.
    fn crash(&mut self, client: usize, end: End, plan: plan::Spool) {
        if self.random.per_mille(500) {
            let operations = self.random.range(0, 6);
            if let Some(spool) = self.clients[client].spool.as_mut() {
                spool.keeper.log().folder().operations = operations;
            }
            self.run_errand(client);
        }
        let Some(spool) = self.clients[client].spool.as_mut() else {
            return;
        };
        let log = spool.keeper.log();
        let safe = match (end, plan.sync) {
            (End::PowerCut, SyncPolicy::Never) => Seq(0),
            (End::PowerCut, _) if !log.is_past_durable() => Seq(0),
            (End::PowerCut, _) => log.durable(),
            _ => log.written(),
        };
        let down_since = spool.down_since;
        self.watch_promise(client, end, plan, safe, down_since);
        if safe == Seq(0) {
            let agents = self.agents(client);
            self.ledger.excuse(agents);
        }
        self.excuse(client, safe);
        let one = &mut self.clients[client];
        one.past.is_exact = false;
        one.past.doubtful += one.counters().doubtful;
        one.past.dropped += one.counters().dropped_total();
        one.sessions.clear();
        one.past.power_cut = end == End::PowerCut;
        one.past.boot += u64::from(one.past.power_cut);
    }

    /// Says what `--spool-sync` promises, and does not keep.
    fn watch_promise(&mut self, client: usize, end: End, plan: plan::Spool, safe: Seq, down_since: Option<u64>) {
        let slow = 12 * plan.takes.1;
        let after = match (end, plan.sync) {
            (End::PowerCut, SyncPolicy::Never) => return,
            (End::PowerCut, _) => SYNCED_AFTER,
            _ => WRITTEN_AFTER,
        };
        let is_bound = |arrived: u64| {
            let always = plan.sync == SyncPolicy::Always
                && down_since.is_some_and(|since| since.max(arrived) + ALWAYS_AFTER + slow < self.now);
            always || arrived + after + slow < self.now
        };
        // A full spool promises nothing more, and what a disk refuses is tried again a second later.
        let is_excepted = plan.bytes < 1 << 20
            || self.plan.has_disk_fault(client, self.now.saturating_sub(after + slow + 2 * SECOND), self.now);
        let core = &self.clients[client].core;
        let broken = core.held_from(safe).filter(|entry| is_bound(nanos(entry.arrived))).count();
        if broken > 0 && !is_excepted {
            self.ledger.complain(format!("client {client}: {broken} should have been on disk: {end:?}, {plan:?}"));
        }
    }

    /// Everything held that is not safe may be lost with the process.
    fn excuse(&mut self, client: usize, safe: Seq) {
        let core = &self.clients[client].core;
        let lost: Vec<Datagram> = core.held_from(safe).map(|entry| Datagram::of(entry.bytes)).collect();
        for datagram in lost {
            self.ledger.lost(datagram, Loss::Excused);
        }
    }

    /// The process of a client begins again, if it is time.
    pub(super) fn begin_client(&mut self, client: usize) {
        let Some(plan) = self.plan.spool else {
            return;
        };
        if self.clients[client].away.is_none_or(|until| until > self.now) {
            return;
        }
        let fresh = Client::new(self.plan.config(), self.random.next(), &routes(self.plan));
        let old = std::mem::replace(&mut self.clients[client], fresh);
        let mut spool = old.spool.expect("it had a spool");
        let disk = spool.keeper.log().folder().clone().after(old.past.power_cut);
        let one = &mut self.clients[client];
        (one.past, one.sessions, one.contented) = (old.past, old.sessions, self.now);
        (one.past.keeps_socket, one.past.power_cut) = (false, false);
        self.open_spool(client, disk, plan);
        for datagram in old.waiting {
            self.clients[client].handle_datagram(self.now, datagram);
        }
        self.act(client);
    }
}
