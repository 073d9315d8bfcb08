use super::spool::record::{Agent, Totals};
use super::spool::records::Mark;
use super::spool::struck::Run;
use super::*;
use crate::proto::terms::{Incarnation, Port, Receives, Verdict};

mod histories;
mod silence;
mod stream;

const TARGET: ([u8; 4], u16) = ([10, 0, 0, 2], 1_514);
const SMALL: u64 = 832;

fn config() -> Config {
    Config { buffer_bytes: buffer::BUFFER_BYTES_MIN, sessions_max: 4, ..Config::default() }
}

const fn ms(n: u64) -> Time {
    Time::from_millis(1_000 + n)
}

fn origin(host: u8) -> Origin {
    Origin { agent: SocketAddr::from(([127, 0, 0, host], 4_000)), local: None }
}

fn pong(number: u64, window: u64) -> Pong {
    Pong {
        number,
        verdict: Verdict::Up,
        incarnation: Incarnation(1),
        pid: 1,
        read: 0,
        queue: 0,
        drops: 0,
        window,
        gap_us: 1_000,
        ask_again_ms: 0,
        active: 1,
    }
}

/// A core, driven as the threads would drive it.
struct Bench {
    core: ClientCore,
    at: u64,
    window: u64,
}

impl Bench {
    fn new(config: Config) -> Self {
        Self { core: ClientCore::new(config, 1), at: 0, window: 100 * SMALL }
    }

    fn connected(config: Config) -> Self {
        let mut bench = Self::new(config);
        bench.core.handle_connected(ms(0), Duration::from_millis(1), SocketAddr::from(TARGET));
        bench
    }

    fn now(&self) -> Time {
        ms(self.at)
    }

    /// Datagrams arrive, each with its number as the payload.
    fn arrive(&mut self, numbers: std::ops::Range<u32>) {
        for number in numbers {
            self.core.handle_datagram(self.now(), origin(1), &number.to_be_bytes());
        }
    }

    /// A good heartbeat that takes a millisecond.
    fn beat(&mut self) -> Outcome {
        let (probe, ping) = self.core.begin_heartbeat(self.now()).expect("a heartbeat may begin");
        self.at += 1;
        let outcome = self.core.handle_pong(self.now(), probe, &pong(ping.number, self.window));
        self.at += 1;
        outcome
    }

    /// A good heartbeat after the grace. It confirms the datagrams that the heartbeat before it covers. Rewound
    /// datagrams have landed by then.
    fn later_beat(&mut self) -> Outcome {
        self.at += 60;
        self.beat()
    }

    /// Sends all datagrams that may be sent. Returns the numbers of those datagrams.
    fn release(&mut self) -> Vec<u32> {
        let mut batch = Batch::default();
        let mut out = Vec::new();
        while self.core.poll_release(self.now(), &mut batch) {
            out.extend(numbers(&batch));
            self.core.handle_sent(self.now(), &batch, batch.len());
        }
        out
    }

    fn counters(&self) -> Counters {
        self.core.snapshot(self.now()).counters
    }

    fn held(&self) -> u64 {
        self.core.snapshot(self.now()).held.datagrams
    }
}

fn numbers(batch: &Batch) -> Vec<u32> {
    let number = |at| u32::from_be_bytes(batch.payload(at).try_into().expect("four bytes"));
    (0..batch.len()).map(number).collect()
}

#[test]
fn an_outage_is_held_and_replayed_in_order_with_the_new_behind_the_old() {
    let mut bench = Bench::connected(config());
    bench.beat();
    bench.arrive(0..5);
    assert_eq!(bench.release(), [0, 1, 2, 3, 4]);
    bench.core.handle_disconnected(bench.now());
    bench.arrive(5..8);
    assert_eq!(bench.release(), Vec::<u32>::new());
    bench.at += 5_000;
    bench.core.handle_connected(bench.now(), Duration::from_millis(1), SocketAddr::from(TARGET));
    bench.later_beat();
    bench.arrive(8..10);
    assert_eq!(bench.release(), (0..10).collect::<Vec<_>>(), "the doubtful first, then the held, then the new");
    assert_eq!(bench.counters().copies, 5);
    bench.later_beat();
    bench.later_beat();
    assert_eq!((bench.counters().confirmed, bench.held()), (10, 0));
}

#[test]
fn the_window_bounds_what_is_under_way_and_a_confirmation_opens_it() {
    let mut bench = Bench::connected(config());
    bench.window = 3 * SMALL;
    bench.beat();
    bench.arrive(0..10);
    assert_eq!(bench.release(), [0, 1, 2]);
    bench.later_beat();
    assert_eq!(bench.release(), Vec::<u32>::new());
    bench.later_beat();
    assert_eq!(bench.release(), [3, 4, 5]);
}

#[test]
fn one_datagram_goes_even_if_it_is_larger_than_the_window() {
    let mut bench = Bench::connected(config());
    bench.window = 1;
    bench.beat();
    bench.arrive(0..2);
    assert_eq!(bench.release(), [0]);
}

#[test]
fn a_batch_sent_after_a_rewind_does_not_move_the_cursor() {
    let mut bench = Bench::connected(config());
    bench.beat();
    bench.arrive(0..4);
    let mut batch = Batch::default();
    assert!(bench.core.poll_release(bench.now(), &mut batch));
    bench.core.handle_disconnected(bench.now());
    bench.core.handle_sent(bench.now(), &batch, 4);
    assert_eq!(bench.core.snapshot(bench.now()).unsent.datagrams, 4);
    bench.core.handle_connected(bench.now(), Duration::from_millis(1), SocketAddr::from(TARGET));
    bench.beat();
    assert_eq!(bench.release(), [0, 1, 2, 3]);
}

#[test]
fn a_heartbeat_between_taking_a_batch_out_and_sending_it_does_not_cover_it() {
    let mut bench = Bench::connected(config());
    bench.beat();
    bench.arrive(0..4);
    let mut batch = Batch::default();
    assert!(bench.core.poll_release(bench.now(), &mut batch));
    bench.later_beat();
    bench.later_beat();
    bench.core.handle_sent(bench.now(), &batch, 4);
    bench.later_beat();
    assert_eq!(bench.counters().confirmed, 0, "only heartbeats begun after the sending count");
    bench.later_beat();
    assert_eq!(bench.counters().confirmed, 4);
}

#[test]
fn a_full_buffer_drops_the_oldest_or_the_newest_and_counts_it() {
    for (full, first) in [(FullPolicy::DropOldest, None), (FullPolicy::DropNewest, Some(0))] {
        let mut bench = Bench::new(Config { full, ..config() });
        bench.arrive(0..20_000);
        let dropped = bench.counters().dropped(DropReason::Overflow);
        assert!(dropped > 0 && bench.held() + dropped == 20_000);
        bench.core.handle_connected(ms(0), Duration::from_millis(1), SocketAddr::from(TARGET));
        bench.beat();
        let out = bench.release();
        assert_eq!(out[0], first.unwrap_or(dropped as u32), "{full:?}");
    }
}

#[test]
fn what_a_full_buffer_drops_on_its_way_still_takes_its_place_in_the_window() {
    let mut bench = Bench::connected(config());
    bench.window = 3 * SMALL;
    bench.beat();
    bench.arrive(0..3);
    assert_eq!(bench.release(), [0, 1, 2]);
    // These datagrams are enough to push out all that are under way.
    bench.arrive(3..20_000);
    assert!(bench.core.held.buffer.oldest().0 > 3, "{:?}", bench.counters());
    assert_eq!(bench.release(), Vec::<u32>::new(), "remoted's socket is still as full");
    bench.later_beat();
    bench.later_beat();
    assert_eq!(bench.release().len(), 3, "it has been read");
}

#[test]
fn what_a_full_buffer_drops_while_it_is_being_sent_takes_its_place_in_the_window() {
    let mut bench = Bench::connected(config());
    bench.window = 3 * SMALL;
    bench.beat();
    bench.arrive(0..3);
    let mut batch = Batch::default();
    assert!(bench.core.poll_release(bench.now(), &mut batch));
    bench.arrive(3..20_000);
    assert!(bench.core.held.buffer.oldest().0 > 3, "{:?}", bench.counters());
    bench.core.handle_sent(bench.now(), &batch, batch.len());
    assert_eq!(bench.release(), Vec::<u32>::new(), "it is on its way all the same");
    bench.later_beat();
    bench.later_beat();
    assert_eq!(bench.release().len(), 3, "it has been read");
}

#[test]
fn what_is_too_large_for_the_buffer_is_dropped_alone() {
    let mut bench = Bench::new(config());
    bench.arrive(0..3);
    bench.core.handle_datagram(bench.now(), origin(1), &vec![0; 65_507]);
    assert_eq!((bench.held(), bench.counters().dropped(DropReason::TooLarge)), (3, 1));
}

#[test]
fn what_is_too_old_is_dropped_and_what_is_under_way_is_not() {
    let mut bench = Bench::connected(Config { max_age: Some(Duration::from_secs(10)), ..config() });
    bench.beat();
    bench.arrive(0..2);
    assert_eq!(bench.release(), [0, 1]);
    bench.core.handle_disconnected(bench.now());
    bench.at += 6_000;
    bench.arrive(2..4);
    bench.at += 6_000;
    bench.core.handle_connected(bench.now(), Duration::from_millis(1), SocketAddr::from(TARGET));
    bench.later_beat();
    assert_eq!(bench.release(), [2, 3]);
    assert_eq!(bench.counters().dropped(DropReason::Expired), 2);
}

#[test]
fn resend_never_forgets_what_may_have_arrived_and_says_so() {
    let mut bench = Bench::connected(Config { resend: false, ..config() });
    bench.beat();
    bench.arrive(0..3);
    bench.release();
    bench.core.handle_disconnected(bench.now());
    bench.arrive(3..5);
    bench.core.handle_connected(bench.now(), Duration::from_millis(1), SocketAddr::from(TARGET));
    bench.later_beat();
    assert_eq!(bench.release(), [3, 4]);
    assert_eq!((bench.counters().dropped(DropReason::NotResent), bench.counters().copies), (3, 0));
}

#[test]
fn resend_never_holds_for_a_batch_that_a_rewind_overtook() {
    let mut bench = Bench::connected(Config { resend: false, ..config() });
    bench.beat();
    bench.arrive(0..4);
    let mut batch = Batch::default();
    assert!(bench.core.poll_release(bench.now(), &mut batch));
    bench.core.handle_disconnected(bench.now());
    bench.core.handle_sent(bench.now(), &batch, 3);
    assert_eq!((bench.counters().dropped(DropReason::NotResent), bench.held()), (3, 1));
    bench.core.handle_connected(bench.now(), Duration::from_millis(1), SocketAddr::from(TARGET));
    bench.beat();
    assert_eq!((bench.release(), bench.counters().copies), (vec![3], 0));
}

#[test]
fn an_unsendable_datagram_does_not_stop_those_behind_it() {
    let mut bench = Bench::connected(config());
    bench.beat();
    bench.arrive(0..4);
    let mut batch = Batch::default();
    assert!(bench.core.poll_release(bench.now(), &mut batch));
    bench.core.handle_sent(bench.now(), &batch, 1);
    bench.core.handle_unsendable(&batch, 1);
    assert_eq!(bench.release(), [2, 3]);
    bench.core.handle_disconnected(bench.now());
    bench.core.handle_connected(bench.now(), Duration::from_millis(1), SocketAddr::from(TARGET));
    bench.later_beat();
    assert_eq!(bench.release(), [0, 2, 3], "it stays dropped");
    bench.later_beat();
    bench.later_beat();
    assert_eq!(
        (bench.counters().confirmed, bench.counters().dropped(DropReason::Unsendable), bench.held()),
        (3, 1, 0)
    );
}

#[test]
fn a_refused_path_is_tested_with_one_datagram() {
    let mut bench = Bench::connected(config());
    bench.beat();
    bench.arrive(0..5);
    bench.release();
    bench.core.handle_refused(bench.now());
    bench.at += 2_000;
    bench.later_beat();
    assert_eq!(bench.release(), [0]);
    bench.later_beat();
    bench.later_beat();
    assert_eq!(bench.release(), [1, 2, 3, 4], "the first was confirmed: the path is open");
}

#[test]
fn the_rate_bounds_what_is_sent_in_a_second() {
    let mut bench = Bench::connected(Config { rate: NonZeroU32::new(100), ..config() });
    bench.arrive(0..1_000);
    let mut sent = 0;
    for _ in 0..1_000 {
        bench.beat();
        sent += bench.release().len();
    }
    // 1,000 heartbeats of 2 ms.
    assert!((199..=205).contains(&sent), "{sent} in two seconds");
}

#[test]
fn a_rate_that_outruns_the_window_gathers_a_burst_that_proves_the_path() {
    let mut bench = Bench::connected(Config { rate: NonZeroU32::new(1_500), ..config() });
    let (mut arrived, mut sent) = (0, 0);
    while bench.at < 4_000 {
        bench.arrive(arrived..arrived + 4);
        arrived += 4;
        if bench.core.next_heartbeat(bench.now()).is_some_and(|at| at <= bench.now()) {
            bench.beat();
        } else {
            bench.at += 1;
        }
        sent += bench.release().len();
    }
    // Without a rate, a window of 100 datagrams goes out after each grace of 50 ms.
    assert!((4 * 1_500 * 95 / 100..=4 * 1_500 * 105 / 100).contains(&sent), "{sent} in four seconds");
}

#[test]
fn a_thread_that_waits_for_the_rate_is_not_rung_for() {
    let mut bench = Bench::connected(Config { rate: NonZeroU32::new(10), ..config() });
    bench.beat();
    bench.arrive(0..5);
    assert_eq!(bench.release(), [0]);
    let due = bench.core.handle_forward_waits(bench.now()).expect("more is to be sent");
    assert!(due > bench.now());
    assert!(!bench.core.bells(bench.now()).forward, "it would look in vain, and again at once");
    bench.beat();
    assert!(!bench.core.bells(bench.now()).forward, "it wakes up by itself");
}

#[test]
fn a_thread_that_waits_for_the_window_is_rung_for_when_only_the_rate_is_to_be_waited_for() {
    let mut bench = Bench::connected(Config { rate: NonZeroU32::new(5), ..config() });
    bench.window = SMALL;
    bench.beat();
    bench.arrive(0..5);
    assert_eq!(bench.release(), [0]);
    assert_eq!(bench.core.handle_forward_waits(bench.now()), None, "it has to be confirmed first");
    bench.beat();
    bench.later_beat();
    assert_eq!(bench.counters().confirmed, 1);
    assert!(bench.core.bells(bench.now()).forward, "it does not know of its next turn");
    assert!(bench.core.handle_forward_waits(bench.now()).is_some());
}

#[test]
fn bells_ring_once_for_a_thread_that_waits() {
    let mut bench = Bench::connected(config());
    bench.beat();
    bench.core.handle_forward_waits(bench.now());
    let due = bench.core.next_heartbeat(bench.now());
    bench.core.handle_probe_waits(due);
    assert_eq!(bench.core.bells(bench.now()), Bells::default(), "nothing is to do");
    bench.arrive(0..1);
    let bells = bench.core.bells(bench.now());
    assert_eq!((bells.forward, bells.probe), (true, false), "it may go under the lease that is left");
    assert_eq!(bench.core.bells(bench.now()), Bells::default(), "one ring is enough");
    bench.at += 500;
    bench.core.handle_forward_waits(bench.now());
    let bells = bench.core.bells(bench.now());
    assert_eq!((bells.forward, bells.probe), (false, true), "the lease is over: a heartbeat comes first");
}

#[test]
fn an_isolated_datagram_costs_two_heartbeats_before_the_next() {
    let mut bench = Bench::connected(config());
    let mut beats = 0;
    for number in 0..50 {
        bench.arrive(number..number + 1);
        // The threads live for 200 ms, a millisecond at a time.
        let until = bench.at + 200;
        while bench.at < until {
            if bench.core.next_heartbeat(bench.now()).is_some_and(|at| at <= bench.now()) {
                bench.beat();
                beats += 1;
            } else {
                bench.at += 1;
            }
            bench.release();
        }
    }
    assert!(beats <= 101, "{beats} heartbeats for 50 datagrams");
    assert!(bench.counters().confirmed >= 48);
}

#[test]
fn the_drain_asks_for_heartbeats_until_nothing_is_held() {
    let mut bench = Bench::connected(config());
    bench.beat();
    bench.arrive(0..3);
    bench.release();
    bench.later_beat();
    bench.core.handle_drain();
    assert!(!bench.core.bells(bench.now()).drained);
    assert!(
        bench.core.next_heartbeat(bench.now()).is_some_and(|at| at <= ms(bench.at + 1)),
        "it does not wait for the interval"
    );
    bench.arrive(3..5);
    bench.later_beat();
    assert!(bench.core.bells(bench.now()).drained, "what came in since does not keep it up");
    assert!(!bench.core.bells(bench.now()).drained, "it is said once");
    bench.core.handle_drain();
    assert!(!bench.core.bells(bench.now()).drained, "that is to be drained now");
    bench.release();
    bench.later_beat();
    bench.later_beat();
    assert!(bench.core.bells(bench.now()).drained);
}

#[test]
fn what_is_too_old_keeps_no_newer_one_out_of_a_full_buffer() {
    let max_age = Some(Duration::from_secs(1));
    let mut bench = Bench::connected(Config { full: FullPolicy::DropNewest, max_age, ..config() });
    bench.beat();
    bench.arrive(0..1);
    assert_eq!(bench.release(), [0]);
    // Nothing more is read. For a minute, a datagram of 200 bytes arrives each millisecond.
    for _ in 0..60_000 {
        bench.at += 1;
        bench.core.handle_datagram(bench.now(), origin(1), &[7; 200]);
    }
    let counters = bench.counters();
    let fits = buffer::BUFFER_BYTES_MIN as u64 / 208;
    assert!(bench.held() > fits / 2, "{} of {fits} are held", bench.held());
    // Datagrams find no room only while nothing has expired yet.
    assert!(counters.dropped(DropReason::Expired) > 60 * fits / 2, "{counters:?}");
}

#[test]
fn replies_are_taken_from_remoted_alone() {
    let mut bench = Bench::connected(config());
    bench.beat();
    bench.arrive(0..1);
    let session = SessionName { id: 0, generation: 0 };
    let now = bench.now();
    assert_eq!(bench.core.handle_reply(now, session, SocketAddr::from(TARGET)), Some(origin(1)));
    assert_eq!(bench.core.handle_reply(now, session, SocketAddr::from(([10, 0, 0, 3], 1_514))), None);
    assert_eq!(bench.core.handle_reply(now, session, SocketAddr::from(([10, 0, 0, 2], 1_515))), None);
    assert_eq!(bench.counters().replies, 1);
}

#[test]
fn the_server_books_a_grant_for_no_less_than_the_lease_lasts() {
    let mut bench = Bench::connected(config());
    // The lease is 100 ms, a round trip of 1.3 ms and four times half of that.
    bench.core.handle_connected(ms(0), Duration::from_micros(1_300), SocketAddr::from(TARGET));
    let (probe, ping) = bench.core.begin_heartbeat(ms(0)).expect("it is connected");
    assert!(probe.lease().subsec_nanos() % 1_000_000 > 0, "a fraction is what this is about: {:?}", probe.lease());
    assert!(Duration::from_millis(ping.lease_ms.into()) >= probe.lease(), "{} ms", ping.lease_ms);
}

/// What an earlier process has left: nothing.
fn nothing_found() -> Found<()> {
    let tail = Seq(1 << 40);
    let mark = Mark { below: tail, totals: Totals { confirmed: 0, dropped: [0; 8], sent: Seq(0) } };
    let (held, agents) = (Tally { datagrams: 0, bytes: 0 }, Vec::new());
    Found {
        stream: 1,
        first: tail,
        tail,
        held,
        agents,
        mark,
        damaged: (0, 0),
        unreadable: None,
        set_aside: 0,
        failure: None,
    }
}

/// Everything up to here is on disk.
const fn done(written: Seq) -> Report<()> {
    Report { answer: Answer::Done, written, durable: written }
}

/// The next errand that writes something; what was written is synced at once.
fn next_write(bench: &mut Bench, written: Seq) -> (Errand, Records) {
    let mut records = Records::default();
    loop {
        match bench.core.poll_spool(bench.now(), &mut records) {
            Errand::Wait => bench.at += 50,
            Errand::Sync => bench.core.handle_errand(bench.now(), Errand::Sync, &records, &done(written)),
            errand => return (errand, records),
        }
    }
}

#[test]
fn the_disk_is_told_what_was_dropped_behind_a_datagram_under_way_until_it_has_that() {
    let config = Config { max_age: Some(Duration::from_secs(3)), ..config() };
    let mut bench = Bench::new(config);
    bench.core = ClientCore::reopen(config, SyncPolicy::Never, &nothing_found(), 1_000);
    bench.core.handle_connected(ms(0), Duration::from_millis(1), SocketAddr::from(TARGET));
    bench.beat();
    let number = |count: u64| Seq((1 << 40) + count);
    bench.arrive(0..1);
    assert_eq!(bench.release(), [0]);
    bench.arrive(1..4);
    let (errand, records) = next_write(&mut bench, number(0));
    bench.core.handle_errand(bench.now(), errand, &records, &done(number(4)));
    // The last one is given to the disk, and is dropped before anybody knows whether it is there.
    bench.arrive(4..5);
    let (errand, records) = next_write(&mut bench, number(4));
    assert_eq!(records.end, number(5));
    bench.at += 4_000;
    bench.arrive(5..6);
    assert_eq!(bench.counters().dropped(DropReason::Expired), 4);
    bench.core.handle_errand(bench.now(), errand, &records, &done(number(5)));
    let struck = Run { first: number(1), end: number(5) };
    let failed = Report { answer: Answer::Failed(()), ..done(number(5)) };
    for (report, expected) in [(failed, vec![struck]), (done(number(6)), vec![struck]), (done(number(7)), vec![])] {
        let (errand, records) = next_write(&mut bench, number(6));
        assert_eq!(records.struck, expected);
        assert_eq!(records.mark.totals.dropped.iter().sum::<u64>(), 4, "what was dropped counts");
        bench.core.handle_errand(bench.now(), errand, &records, &report);
        bench.arrive(6..7);
    }
}

/// A core that finds five datagrams of an earlier process on disk, three of which that one has sent.
fn reopened(config: Config) -> Bench {
    let first = 1 << 40;
    let mut held = Tally::default();
    (0..5).for_each(|_| held.add(4));
    let totals = Totals { sent: Seq(first + 3), ..Default::default() };
    let found = Found::<()> {
        stream: 1,
        first: Seq(first),
        tail: Seq(2 << 40),
        held,
        agents: vec![(Agent::unknown(0), 5)],
        mark: Mark { below: Seq(first), totals },
        damaged: (0, 0),
        unreadable: None,
        set_aside: 0,
        failure: None,
    };
    let mut bench = Bench::new(config);
    bench.core = ClientCore::reopen(config, SyncPolicy::Interval, &found, 1_000);
    let mut records = Records::default();
    let errand = bench.core.poll_spool(bench.now(), &mut records);
    assert!(matches!(errand, Errand::Read(from, _) if from == Seq(first)), "{errand:?}");
    for number in 0..5_u32 {
        let (seq, arrived) = (Seq(first + u64::from(number)), bench.now());
        records.push(Entry { seq, session: 0, arrived, bytes: &number.to_be_bytes() });
    }
    let report = Report::<()> { answer: Answer::ReadBack(found.tail), written: found.tail, durable: found.tail };
    bench.core.handle_errand(bench.now(), errand, &records, &report);
    bench.core.handle_connected(bench.now(), Duration::from_millis(1), SocketAddr::from(TARGET));
    bench.beat();
    bench
}

#[test]
fn what_an_earlier_process_has_left_is_sent_before_anything_new() {
    let mut bench = reopened(config());
    bench.arrive(5..7);
    assert_eq!(bench.release(), (0..7).collect::<Vec<_>>());
    bench.later_beat();
    bench.later_beat();
    assert_eq!((bench.counters().received, bench.counters().confirmed, bench.held()), (7, 7, 0));
}

#[test]
fn what_an_earlier_process_has_sent_is_not_sent_again_where_nothing_is() {
    let mut bench = reopened(Config { resend: false, ..config() });
    bench.arrive(5..7);
    assert_eq!(bench.release(), [3, 4, 5, 6]);
    assert_eq!(bench.counters().dropped(DropReason::NotResent), 3);
}
