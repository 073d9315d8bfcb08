//! Random histories: agents, network and server do anything, in any order, and the invariants hold. Afterwards a good
//! link empties the buffer.

use std::collections::VecDeque;

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::proto::client::link::Probe;
use crate::proto::terms::{Mark, Reading};
use crate::proto::terms::{Port, Reason, Receives, Seq};

#[derive(Clone, Debug)]
enum Step {
    Arrive {
        host: u8,
        length: usize,
    },
    Begin,
    /// The oldest heartbeat under way gets this answer.
    Answer(Pong),
    /// A good server answers the heartbeats under way and one more. It has read so many more bytes and has so many in
    /// its queue.
    Beat {
        window: u64,
        reads: u64,
        queue: u64,
    },
    /// A good heartbeat comes after a grace. Then all datagrams that may go are sent.
    Round {
        window: u64,
        reads: u64,
        queue: u64,
    },
    /// A heartbeat is not answered in time.
    Late,
    /// Datagrams sent before a heartbeat are refused while that heartbeat is under way.
    Refused,
    Time,
    TakeOut,
    /// So many of the datagrams taken out are sent, and the next one cannot be.
    Sent {
        most: usize,
        halt: Halt,
    },
    Disconnect,
    Connect,
    Notice,
    Wait(u64),
}

#[derive(Clone, Copy, Debug)]
enum Halt {
    None,
    Unsendable,
    Refused,
}

const VERDICTS: [Verdict; 8] = [
    Verdict::Up,
    Verdict::Up,
    Verdict::Up,
    Verdict::NoProcess(Port::Free),
    Verdict::NoSocket(Receives::Nowhere),
    Verdict::Stopped,
    Verdict::Stalled,
    Verdict::Starting(Reason::Settling),
];

/// A small number, as numbers come, or the largest: a server may say anything.
fn figure() -> impl Strategy<Value = u64> {
    prop_oneof![6 => 0u64..4, 3 => 0u64..200_000, 1 => Just(u64::MAX)]
}

/// Bytes read, or in a queue.
fn up_to(bytes: u64) -> impl Strategy<Value = u64> {
    prop_oneof![1 => Just(0), 1 => 0..bytes]
}

prop_compose! {
    fn any_pong()(
        verdict in select(&VERDICTS[..]),
        lives in prop_oneof![8 => Just(1), 1 => 0u64..4],
        figures in prop::array::uniform3(figure()),
        drops in prop_oneof![6 => Just(0), 1 => figure()],
        small in prop::array::uniform3(prop_oneof![6 => 0u32..50, 1 => Just(u32::MAX)]),
        active in 0u32..3,
    ) -> Pong {
        let ([read, queue, window], [pid, gap_us, ask_again_ms]) = (figures, small);
        let incarnation = Incarnation(lives);
        Pong { number: 0, verdict, incarnation, pid, read, queue, drops, window, gap_us, ask_again_ms, active }
    }
}

fn step() -> impl Strategy<Value = Step> {
    let beat = || (0u64..30_000, up_to(2_000), up_to(8_000));
    prop_oneof![
        6 => (0u8..6, 4usize..3_000).prop_map(|(host, length)| Step::Arrive { host, length }),
        3 => Just(Step::Begin),
        3 => any_pong().prop_map(Step::Answer),
        6 => beat().prop_map(|(window, reads, queue)| Step::Beat { window, reads, queue }),
        6 => beat().prop_map(|(window, reads, queue)| Step::Round { window, reads, queue }),
        1 => Just(Step::Late),
        1 => Just(Step::Refused),
        1 => Just(Step::Time),
        5 => Just(Step::TakeOut),
        5 => (0usize..70, select(&[Halt::None, Halt::None, Halt::None, Halt::Unsendable, Halt::Refused][..]))
            .prop_map(|(most, halt)| Step::Sent { most, halt }),
        1 => Just(Step::Disconnect),
        2 => Just(Step::Connect),
        1 => Just(Step::Notice),
        4 => prop_oneof![4 => 0u64..80, 1 => 80u64..400, 1 => 1_000u64..3_000].prop_map(Step::Wait),
    ]
}

/// A good heartbeat of the present epoch.
#[derive(Clone, Copy, Debug)]
struct Good {
    begun: Time,
    /// Every datagram below this one had been sent when the heartbeat began.
    released: Seq,
    mark: Mark,
    /// The grace at the moment when this heartbeat came back.
    grace: Duration,
}

/// A core, with a record of the facts that must hold for it.
struct History {
    bench: Bench,
    /// Heartbeats under way. Beside each stand the first datagram that had not been sent when it began, and the epoch
    /// at that moment.
    probes: VecDeque<(Probe, Seq, u64)>,
    batch: Option<Batch>,
    arrivals: u32,
    epoch: u64,
    good: Vec<Good>,
    /// The newest datagram sent in this epoch.
    newest: Option<Seq>,
    /// The window of the newest answer that came in time.
    window: u64,
    /// The moment until which good heartbeats allow release.
    until: Time,
    /// The count of read bytes (F) of the good server.
    read: u64,
}

impl History {
    fn new(config: Config) -> Self {
        Self {
            bench: Bench::connected(config),
            probes: VecDeque::new(),
            batch: None,
            arrivals: 0,
            epoch: 0,
            good: Vec::new(),
            newest: None,
            window: 0,
            until: Time::ZERO,
            read: 0,
        }
    }

    fn core(&mut self) -> &mut ClientCore {
        &mut self.bench.core
    }

    fn take(&mut self, step: Step) {
        let now = self.bench.now();
        match step {
            Step::Arrive { host, length } => self.arrive(host, length),
            Step::Begin => self.begin(),
            Step::Answer(pong) => self.answer(pong),
            Step::Beat { window, reads, queue } => {
                self.read += reads;
                self.beat(window, queue);
            }
            Step::Round { window, reads, queue } => {
                self.read += reads;
                self.round(window, queue);
            }
            Step::Late => {
                self.begin();
                self.bench.at += 1 + self.bench.core.link().lease().as_millis() as u64;
                let now = self.bench.now();
                self.core().handle_time(now);
            }
            Step::Refused => {
                self.begin();
                self.core().handle_refused(now);
            }
            Step::Time => self.core().handle_time(now),
            Step::TakeOut => self.take_out(),
            Step::Sent { most, halt } => self.sent(most, halt),
            Step::Disconnect => {
                self.probes.clear();
                self.core().handle_disconnected(now);
            }
            Step::Connect => {
                self.probes.clear();
                self.core().handle_connected(now, Duration::from_millis(1), SocketAddr::from(TARGET));
            }
            Step::Notice => self.core().handle_notice(Verdict::Up),
            Step::Wait(span) => self.bench.at += span,
        }
        self.turn_epoch();
        self.check_thread_questions();
    }

    /// When the epoch changes, everything that its heartbeats could prove is gone.
    fn turn_epoch(&mut self) {
        let epoch = self.bench.core.link.epoch();
        if epoch != self.epoch {
            self.epoch = epoch;
            self.good.clear();
            self.newest = None;
        }
    }

    fn arrive(&mut self, host: u8, length: usize) {
        let mut payload = vec![1; length];
        payload[..4].copy_from_slice(&self.arrivals.to_be_bytes());
        self.arrivals += 1;
        self.bench.core.handle_datagram(self.bench.now(), origin(host), &payload);
    }

    fn begin(&mut self) {
        if let Some((probe, ping)) = self.bench.core.begin_heartbeat(self.bench.now()) {
            assert!(ping.oldest <= ping.next && ping.next <= ping.tail, "{ping:?}");
            self.probes.push_back((probe, ping.next, self.epoch));
        }
    }

    fn answer(&mut self, pong: Pong) {
        let Some((probe, released, epoch)) = self.probes.pop_front() else {
            return;
        };
        let (now, number, begun, until) =
            (self.bench.now(), probe.number(), probe.begun(), probe.begun() + probe.lease());
        let (confirmed, oldest) = (self.bench.counters().confirmed, self.bench.core.held.buffer.oldest());
        let outcome = self.bench.core.handle_pong(now, probe, &Pong { number, ..pong });
        let in_time = now <= until;
        assert!(in_time || self.bench.core.link.epoch() > epoch, "late, and nothing was rewound");
        if in_time {
            self.window = pong.window;
            if pong.verdict == Verdict::Up {
                self.until = self.until.max(until);
            }
        }
        // A heartbeat that began before a rewind proves nothing about datagrams sent after it.
        if in_time && pong.verdict == Verdict::Up && outcome.rewind.is_none() && epoch == self.epoch {
            let (mark, grace) = (pong.reading().mark(), self.bench.core.link.grace(now));
            self.good.push(Good { begun, released, mark, grace });
        }
        if self.bench.counters().confirmed > confirmed {
            assert!(outcome.rewind.is_none() && in_time && pong.verdict == Verdict::Up, "{outcome:?} of {pong:?}");
            self.check_confirmed(outcome.confirm.expect("something was confirmed"), oldest, pong.reading());
        }
    }

    /// Checks the proof of a confirmation. An earlier good heartbeat began after the datagrams were sent. A heartbeat
    /// that began a grace later looked at the socket, and everything that lay there has been read.
    fn check_confirmed(&self, below: Seq, from: Seq, reading: Reading) {
        let proven = self.good.iter().enumerate().any(|(at, earlier)| {
            let mut later = self.good[at + 1..].iter();
            let is_later = |later: &Good| later.begun >= earlier.begun + later.grace && reading.has_passed(later.mark);
            earlier.released >= below && later.any(is_later)
        });
        assert!(proven, "{from:?} to {below:?} confirmed at {reading:?}: {:?}", self.good);
    }

    fn beat(&mut self, window: u64, queue: u64) {
        let pong = Pong { read: self.read, queue, ..pong(0, window) };
        while !self.probes.is_empty() {
            self.answer(pong);
            self.turn_epoch();
        }
        self.begin();
        self.bench.at += 1;
        self.answer(pong);
        self.bench.at += 1;
    }

    fn round(&mut self, window: u64, queue: u64) {
        self.bench.at += 60;
        self.beat(window, queue);
        self.turn_epoch();
        self.take_out();
        self.sent(usize::MAX, Halt::None);
    }

    fn take_out(&mut self) {
        if self.batch.is_some() {
            return;
        }
        let (now, mut batch) = (self.bench.now(), Batch::default());
        if !self.bench.core.poll_release(now, &mut batch) {
            return;
        }
        let core = &self.bench.core;
        assert!(now < batch.until() && batch.until() <= self.until, "without a lease");
        let seqs: Vec<Seq> = (0..batch.len()).map(|at| batch.seq(at)).collect();
        let unsent: Vec<Seq> = core.held.buffer.unsent_entries().map(|entry| entry.seq).take(batch.len()).collect();
        assert_eq!(seqs, unsent, "in their order, and none left out");
        assert!(self.newest.is_none_or(|newest| newest < seqs[0]), "{newest:?} was sent before", newest = self.newest);
        if self.newest.is_none() {
            let front = core.held.buffer.front().map(|entry| entry.seq);
            assert_eq!(Some(seqs[0]), front, "what is doubtful comes before anything newer");
        }
        let cost: u64 = (0..batch.len()).map(|at| buffer_cost(batch.payload(at).len())).sum();
        let alone = core.held.unconfirmed_cost() == 0 && batch.len() == 1;
        assert!(core.held.unconfirmed_cost() + cost <= self.window || alone, "{cost} more in {}", self.window);
        self.batch = Some(batch);
    }

    fn sent(&mut self, most: usize, halt: Halt) {
        let (now, Some(batch)) = (self.bench.now(), self.batch.take()) else {
            return;
        };
        let sent = most.min(batch.len());
        self.bench.core.handle_sent(now, &batch, sent);
        if sent > 0 && batch.epoch() == self.epoch {
            self.newest = Some(batch.seq(sent - 1));
        }
        match halt {
            Halt::Unsendable if sent < batch.len() => self.bench.core.handle_unsendable(&batch, sent),
            Halt::Refused => self.bench.core.handle_refused(now),
            Halt::Unsendable | Halt::None => {}
        }
    }

    /// The questions of the threads have an answer at any time.
    fn check_thread_questions(&mut self) {
        let now = self.bench.now();
        let core = self.core();
        let (heartbeat, deadline) = (core.next_heartbeat(now), core.link().next_deadline(now));
        assert!(heartbeat.is_none_or(|at| at <= now + Duration::from_secs(10)), "{heartbeat:?}");
        assert!(deadline.is_none_or(|at| at <= now + Duration::from_secs(10)), "{deadline:?}");
        core.next_release(now);
        let bells = core.bells(now);
        assert!(!bells.drained, "nothing is to be drained");
    }

    /// remoted lives and reads again: everything goes out, in order, and is confirmed.
    fn recover(&mut self) {
        self.batch = None;
        self.take(Step::Connect);
        let mut rounds = 0;
        while self.bench.held() > 0 {
            rounds += 1;
            assert!(
                rounds < 1_000,
                "{} stay held: {:?}",
                self.bench.held(),
                self.bench.core.snapshot(self.bench.now())
            );
            // This is longer than any pause after a rewind or a refusal.
            self.bench.at += 6_000;
            self.beat(10_000_000, 0);
            self.turn_epoch();
            loop {
                self.take_out();
                if self.batch.is_none() {
                    break;
                }
                self.sent(usize::MAX, Halt::None);
            }
            for _ in 0..2 {
                self.bench.at += 60;
                self.beat(10_000_000, 0);
                self.turn_epoch();
            }
        }
    }
}

proptest! {
    /// The core itself checks the accounting at each step.
    #[test]
    fn whatever_happens_the_invariants_hold_and_a_good_link_empties_the_buffer(
        steps in prop::collection::vec(step(), 1..300),
        oldest in any::<bool>(),
        resend in prop::bool::weighted(0.8),
        max_age in prop::option::weighted(0.3, select(&[50u64, 5_000][..]).prop_map(Duration::from_millis)),
        rate in prop::option::weighted(0.2, select(&[10u32, 10_000][..])),
    ) {
        let full = if oldest { FullPolicy::DropOldest } else { FullPolicy::DropNewest };
        let rate = rate.and_then(NonZeroU32::new);
        let mut history = History::new(Config { full, max_age, rate, resend, ..config() });
        for step in steps {
            history.take(step);
        }
        history.recover();
        let counters = history.bench.counters();
        prop_assert_eq!(counters.received, u64::from(history.arrivals));
        prop_assert_eq!(counters.received, counters.confirmed + counters.dropped_total());
    }
}
