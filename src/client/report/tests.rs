use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::proto::amounts::{duration, size};
use crate::proto::client::buffer::Tally;
use crate::proto::client::link::Standing;
use crate::proto::client::{Counters, DropReason};
use crate::proto::terms::{Port, Seq, Verdict};

const WALL: u64 = 1_795_485_600;

/// A report and the state that it is shown.
struct Bench {
    report: Report,
    snapshot: Snapshot,
    at: u64,
}

impl Bench {
    fn new() -> Self {
        let snapshot = Snapshot {
            short: false,
            hindrance: None,
            standing: Standing::Unreachable,
            held: Tally::default(),
            unsent: Tally::default(),
            oldest: Seq(0),
            tail: Seq(0),
            counters: Counters::default(),
            replies_missing: 0,
        };
        Self { report: Report::new(Time::ZERO, &Counters::default(), 0), snapshot, at: 0 }
    }

    /// Leaves the state as it is for so many milliseconds. Returns the lines that are told meanwhile.
    fn pass(&mut self, millis: u64) -> Vec<String> {
        let mut lines = Vec::new();
        let end = self.at + millis;
        loop {
            let now = Time::from_millis(self.at);
            let wall = UNIX_EPOCH + Duration::from_secs(WALL) + Duration::from_millis(self.at);
            lines.extend(
                self.report.observe(now, wall, &self.snapshot, "no route to host").into_iter().map(|line| line.text),
            );
            let Some(next) =
                self.report.next_deadline().map(|at| at.as_nanos().div_ceil(1_000_000)).filter(|&at| at <= end)
            else {
                self.at = end;
                return lines;
            };
            assert!(next > self.at, "it asks to be woken for nothing at {next}");
            self.at = next;
        }
    }

    fn farewell(&mut self) -> Vec<String> {
        let wall = UNIX_EPOCH + Duration::from_secs(WALL) + Duration::from_millis(self.at);
        let lines = self.report.farewell(Time::from_millis(self.at), wall, &self.snapshot, self.snapshot.held);
        lines.into_iter().map(|line| line.text).collect()
    }

    fn stand(&mut self, standing: Standing, millis: u64) -> Vec<String> {
        self.snapshot.standing = standing;
        self.pass(millis)
    }

    fn up() -> Self {
        let mut bench = Self::new();
        assert_eq!(bench.stand(Standing::Up, 5_000), ["link up"]);
        bench
    }
}

#[test]
fn a_change_is_told_when_it_has_lasted_a_second() {
    let mut bench = Bench::up();
    assert_eq!(bench.stand(Standing::Remote(Verdict::Stopped), 999), Vec::<String>::new());
    assert_eq!(bench.pass(1), ["link down: remoted stopped; holding"]);
    bench.snapshot.held = Tally { datagrams: 1_204, bytes: 831_488 };
    assert_eq!(bench.pass(192_000), Vec::<String>::new(), "an outage is one line, however long");
    bench.snapshot.tail = Seq(1_204);
    assert_eq!(bench.stand(Standing::Up, 2_000), ["link up after 3m13s; 1204 datagrams (812 KiB) to send"]);
    (bench.snapshot.oldest, bench.snapshot.tail) = (Seq(1_203), Seq(1_300));
    assert_eq!(bench.pass(1_000), Vec::<String>::new());
    bench.snapshot.oldest = Seq(1_204);
    assert_eq!(bench.pass(1_000_000), ["backlog sent"], "newer datagrams are none of it");
}

#[test]
fn a_backlog_that_another_outage_meets_is_told_anew() {
    let mut bench = Bench::up();
    bench.stand(Standing::Unreachable, 2_000);
    (bench.snapshot.held, bench.snapshot.tail) = (Tally { datagrams: 9, bytes: 900 }, Seq(9));
    assert_eq!(bench.stand(Standing::Up, 2_000), ["link up after 2s; 9 datagrams (900 bytes) to send"]);
    assert_eq!(bench.stand(Standing::Unreachable, 2_000).len(), 1);
    (bench.snapshot.oldest, bench.snapshot.tail) = (Seq(9), Seq(12));
    assert_eq!(bench.pass(10_000), Vec::<String>::new(), "a link that is down has sent nothing");
    assert_eq!(bench.stand(Standing::Up, 2_000), ["link up after 12s; 9 datagrams (900 bytes) to send"]);
    bench.snapshot.oldest = Seq(12);
    assert_eq!(bench.pass(1_000), ["backlog sent"]);
}

#[test]
fn the_last_line_is_true_also_where_there_were_many() {
    let mut bench = Bench::up();
    let mut lines = Vec::new();
    for _ in 0..15 {
        lines.extend(bench.stand(Standing::Unreachable, 1_500));
        lines.extend(bench.stand(Standing::Up, 1_500));
        lines.retain(|line| !line.starts_with("link was down"));
        assert!(lines.last().is_some_and(|line| line.starts_with("link up")), "{lines:?}");
    }
    assert!(lines.len() <= 7, "{lines:?}");
}

#[test]
fn an_outage_that_changes_its_reason_is_one_outage() {
    let mut bench = Bench::up();
    assert_eq!(bench.stand(Standing::Unanswered, 1_500), ["link down: no route to host; holding"]);
    assert_eq!(bench.stand(Standing::Unreachable, 2_000), Vec::<String>::new(), "that is the same to the reader");
    assert_eq!(
        bench.stand(Standing::Remote(Verdict::NoProcess(Port::Free)), 2_000),
        ["link down: remoted no process; holding"]
    );
    assert_eq!(bench.stand(Standing::Up, 2_000), ["link up after 5s"]);
}

#[test]
fn a_start_without_a_server_is_told_with_its_reason() {
    let mut bench = Bench::new();
    assert_eq!(bench.pass(5_000), ["link down: no route to host; holding"]);
}

#[test]
fn short_interruptions_are_summed_up_once_a_minute() {
    let mut bench = Bench::up();
    let mut lines = Vec::new();
    for _ in 0..100 {
        lines.extend(bench.stand(Standing::Unanswered, 300));
        lines.extend(bench.stand(Standing::Up, 700));
    }
    lines.extend(bench.pass(60_000));
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(
        lines.iter().all(|line| line.starts_with("link was down ") && line.ends_with(" or too often for a line each")),
        "{lines:?}"
    );
}

#[test]
fn a_link_that_changes_all_the_time_is_told_of_a_few_times_a_minute() {
    let mut bench = Bench::up();
    let mut lines = 0;
    for _ in 0..150 {
        lines += bench.stand(Standing::Unreachable, 2_000).len();
        lines += bench.stand(Standing::Up, 2_000).len();
    }
    assert!(lines <= 80, "{lines} lines in ten minutes");
}

#[test]
fn a_full_buffer_with_a_drop_now_and_then_is_one_overflow() {
    let mut bench = Bench::up();
    bench.stand(Standing::Unreachable, 2_000);
    let mut lines = Vec::new();
    for _ in 0..100 {
        bench.snapshot.counters = bench.snapshot.counters.with_dropped(DropReason::Overflow, 1);
        lines.extend(bench.pass(10_000));
    }
    assert_eq!(lines.len(), 1, "{lines:?}");
    let lines = bench.stand(Standing::Up, 2_000);
    assert_eq!(lines, ["buffer was full from 02:00:07Z to 02:16:37Z: 100 dropped", "link up after 16m42s"]);
}

#[test]
fn an_overflow_is_told_when_it_begins_and_when_it_is_over() {
    let mut bench = Bench::up();
    bench.snapshot.held = Tally { datagrams: 100, bytes: 100 };
    let mut lines = Vec::new();
    for _ in 0..50 {
        bench.snapshot.counters = bench.snapshot.counters.with_dropped(DropReason::Overflow, 10);
        lines.extend(bench.pass(100));
    }
    assert_eq!(lines, ["buffer is full with 100 datagrams (100 bytes): dropping"]);
    assert_eq!(bench.pass(60_000), ["buffer was full from 02:00:05Z to 02:00:09Z: 500 dropped"]);
}

#[test]
fn a_full_buffer_behind_a_good_link_is_told_of_twice_a_minute_at_most() {
    let mut bench = Bench::up();
    let mut lines = 0;
    for _ in 0..400 {
        bench.snapshot.counters = bench.snapshot.counters.with_dropped(DropReason::Overflow, 1);
        lines += bench.pass(1_500).len();
    }
    assert!((18..=20).contains(&lines), "{lines} lines in ten minutes");
}

#[test]
fn an_overflow_of_another_day_has_dates() {
    let mut bench = Bench::up();
    bench.stand(Standing::Unreachable, 2_000);
    let mut lines = Vec::new();
    for _ in 0..49 {
        bench.snapshot.counters = bench.snapshot.counters.with_dropped(DropReason::Overflow, 1);
        lines = bench.pass(30_000);
        bench.at += 3_570_000;
    }
    assert_eq!(lines, Vec::<String>::new());
    bench.snapshot.counters = bench.snapshot.counters.with_dropped(DropReason::Overflow, 1);
    bench.pass(1_000);
    let lines = bench.stand(Standing::Up, 1_000);
    let said = "buffer was full from 2026-11-24T02:00:07Z to 2026-11-26T03:00:07Z: 50 dropped";
    assert_eq!(lines, [said, "link up after 2d1h0m"]);
}

#[test]
fn what_was_yesterday_has_a_date_also_if_it_was_short() {
    let mut bench = Bench::up();
    bench.at = 22 * 3_600_000 - 10_000;
    bench.snapshot.counters = bench.snapshot.counters.with_dropped(DropReason::Overflow, 1);
    let lines = bench.pass(60_000);
    assert_eq!(lines[1], "buffer was full from 2026-11-24T23:59:50Z to 2026-11-24T23:59:50Z: 1 dropped");
}

#[test]
fn a_stop_tells_all_that_was_not_told_yet() {
    let mut bench = Bench::up();
    for _ in 0..4 {
        bench.stand(Standing::Unanswered, 300);
        bench.stand(Standing::Up, 300);
    }
    bench.report.handle_kernel_drops(7);
    bench.snapshot.counters = bench.snapshot.counters.with_dropped(DropReason::Overflow, 2);
    bench.stand(Standing::Unreachable, 500);
    bench.report.handle_kernel_drops(9);
    bench.snapshot.counters = bench.snapshot.counters.with_dropped(DropReason::Overflow, 1);
    bench.snapshot.held = Tally { datagrams: 3, bytes: 300 };
    let lines = bench.farewell();
    let expected = [
        "link down: no route to host; holding; 3 datagrams (300 bytes) so far",
        "buffer was full from 02:00:07Z to 02:00:07Z: 3 dropped",
        "link was down 2 times more, for less than a second or too often for a line each",
        "the kernel dropped 9 datagrams from agents: raise --rcvbuf",
        "stopped: 0 received, 0 confirmed, 3 dropped, 3 left",
        "lost with this stop: 3 datagrams (300 bytes), not confirmed",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn a_stop_with_nothing_to_tell_is_one_line() {
    assert_eq!(Bench::new().farewell(), ["stopped: 0 received, 0 confirmed, 0 dropped, 0 left"]);
    assert_eq!(Bench::up().farewell(), ["stopped: 0 received, 0 confirmed, 0 dropped, 0 left"]);
}

#[test]
fn drops_of_others_are_told_with_their_rate_once_a_minute() {
    let mut bench = Bench::up();
    let mut lines = Vec::new();
    for _ in 0..600 {
        bench.snapshot.counters.others_drops += 31;
        lines.extend(bench.pass(100));
    }
    assert_eq!(lines, ["remoted's socket overflows: 310/s, by other senders"]);
    bench.snapshot.counters.doubtful += 3;
    let lines = bench.pass(10_000);
    assert_eq!(lines[0], "remoted's socket overflows: 305/s, by other senders");
    assert!(lines[1].starts_with("3 confirmed are doubtful"), "{lines:?}");
}

#[test]
fn other_drops_are_told_with_their_reason() {
    let mut bench = Bench::up();
    bench.report.handle_kernel_drops(7);
    bench.snapshot.counters = bench.snapshot.counters.with_dropped(DropReason::Expired, 2);
    assert_eq!(
        bench.pass(2_000),
        ["the kernel dropped 7 datagrams from agents: raise --rcvbuf", "2 dropped: older than --max-age"]
    );
}

#[test]
fn a_path_that_seems_blocked_is_warned_of_once() {
    let mut bench = Bench::up();
    bench.snapshot.replies_missing = 1;
    let warning =
        |who: &str| format!("UDP to remoted seems blocked: no replies any more to {who}, and heartbeats are good");
    assert_eq!(bench.pass(100_000), [warning("1 agent")]);
    bench.snapshot.replies_missing = 3;
    assert_eq!(bench.pass(100_000), [warning("3 agents")], "one that is known hides no others");
    bench.snapshot.replies_missing = 1;
    assert_eq!(bench.pass(100_000), Vec::<String>::new());
    bench.snapshot.replies_missing = 0;
    let good = "UDP to remoted seems good again: no agent misses replies, and no datagram is refused";
    assert_eq!(bench.pass(100_000), [good], "the warning ends");
    let mut bench = Bench::up();
    let lines = bench.stand(Standing::Refused, 100_000);
    assert_eq!(lines.len(), 2, "{lines:?}");
}

#[test]
fn sizes_and_spans_are_written_for_people() {
    let sizes = [0, 999, 10_239, 10_240, 831_488, 1 << 20, 64 << 20, 8 << 30].map(size);
    assert_eq!(sizes, ["0 bytes", "999 bytes", "10239 bytes", "10 KiB", "812 KiB", "1 MiB", "64 MiB", "8 GiB"]);
    let spans = [0, 12, 60, 192, 7_500, 90_061].map(|seconds| duration(Duration::from_secs(seconds)));
    assert_eq!(spans, ["0s", "12s", "1m", "3m12s", "2h5m", "1d1h1m"]);
}
