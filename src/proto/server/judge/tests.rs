use proptest::prelude::*;

use super::*;

mod lives;

const SETTLE: Duration = Duration::from_secs(3);

const fn ms(n: u64) -> Time {
    Time::from_millis(1_000_000 + n)
}

fn socket(rx_queue: u64) -> Socket {
    Socket { inode: 7, rx_queue, drops: 0, buffer: Some(212_992) }
}

/// remoted in good order, running for an hour.
fn running(rx_queue: u64) -> Sample {
    Sample {
        presence: Presence::Running,
        sockets: vec![socket(rx_queue)],
        owners: vec![Process { pid: 4_711, start_ticks: 5 }],
        age: Some(Duration::from_hours(1)),
        companion: None,
        missing: None,
        bindings: None,
    }
}

fn absent(presence: Presence) -> Sample {
    Sample {
        presence,
        sockets: Vec::new(),
        owners: Vec::new(),
        age: None,
        companion: None,
        missing: None,
        bindings: None,
    }
}

fn judged(samples: &[(u64, Sample)]) -> Judge {
    let mut judge = Judge::new(SETTLE);
    for (at, sample) in samples {
        judge.handle_sample(ms(*at), sample);
    }
    judge
}

#[test]
fn the_whole_table_of_verdicts() {
    let young = |age| Sample { age: Some(Duration::from_secs(age)), ..running(0) };
    let companion = |companion| Sample { companion, ..running(0) };
    let stopped = Sample { presence: Presence::Stopped, ..running(0) };
    let missing = Sample { missing: Some("ossec-logcollector".into()), ..running(0) };
    let settling = Verdict::Starting(Reason::Settling);
    let table = [
        ("nothing was ever seen", vec![], Verdict::NoProcess(Port::Free)),
        ("no process", vec![(0, absent(Presence::NoProcess))], Verdict::NoProcess(Port::Free)),
        ("no process that can be seen", vec![(0, absent(Presence::Taken))], Verdict::NoProcess(Port::Taken)),
        ("no socket", vec![(0, absent(Presence::NoSocket))], Verdict::NoSocket(Receives::Nowhere)),
        ("no socket there", vec![(0, absent(Presence::Elsewhere))], Verdict::NoSocket(Receives::Elsewhere)),
        (
            "running without a socket",
            vec![(0, Sample { sockets: vec![], ..running(0) })],
            Verdict::NoSocket(Receives::Nowhere),
        ),
        ("an old process", vec![(0, running(0))], Verdict::Up),
        ("a process of two seconds", vec![(0, young(2))], settling),
        ("the same a second later", vec![(0, young(2)), (1_000, young(3))], Verdict::Up),
        ("of unknown age, just seen", vec![(0, Sample { age: None, ..running(0) })], settling),
        ("stopped", vec![(0, running(0)), (1, stopped.clone())], Verdict::Stopped),
        ("stopped and going on", vec![(0, running(0)), (1, stopped), (2, running(0))], Verdict::Up),
        ("gone", vec![(0, running(0)), (1, absent(Presence::NoProcess))], Verdict::NoProcess(Port::Free)),
        (
            "a queue that stands still for too long",
            vec![(0, running(0)), (1, running(832)), (2_001, running(832))],
            Verdict::Stalled,
        ),
        (
            "a queue that stands still for a moment",
            vec![(0, running(0)), (1, running(832)), (1_999, running(832))],
            Verdict::Up,
        ),
        (
            "a queue that falls now and then",
            vec![(0, running(832)), (1_500, running(800)), (3_000, running(900))],
            Verdict::Up,
        ),
        ("analysisd never seen", vec![(0, companion(Some(false)))], Verdict::Up),
        (
            "analysisd seen and gone",
            vec![(0, companion(Some(true))), (1, companion(Some(false)))],
            Verdict::Starting(Reason::AnalysisGone),
        ),
        ("a required process is missing", vec![(0, missing)], Verdict::Starting(Reason::RequiredMissing)),
    ];
    for (what, samples, verdict) in table {
        assert_eq!(judged(&samples).verdict(), verdict, "{what}");
    }
}

#[test]
fn a_stalled_remoted_that_reads_again_is_up() {
    let stalled = [(0, running(0)), (1, running(832)), (2_001, running(832)), (2_002, running(0))];
    assert_eq!(judged(&stalled).verdict(), Verdict::Up);
}

#[test]
fn an_old_process_with_a_new_socket_settles_anew() {
    let fresh = Sample { sockets: vec![Socket { inode: 8, ..socket(0) }], age: None, ..running(0) };
    let judge = judged(&[(0, running(0)), (1, fresh)]);
    assert_eq!((judge.verdict(), judge.next_deadline()), (Verdict::Starting(Reason::Settling), Some(ms(1) + SETTLE)));
}

#[test]
fn what_was_read_is_the_sum_of_all_falls() {
    let judge = judged(&[(0, running(1_000)), (1, running(400)), (2, running(900)), (3, running(0))]);
    assert_eq!((judge.reading().read, judge.reading().queue), (1_500, 0));
    let restarted = Sample { owners: vec![Process { pid: 5_000, start_ticks: 9 }], ..running(0) };
    let judge = judged(&[(0, running(1_000)), (1, restarted)]);
    assert_eq!(judge.reading().read, 0, "what lay in the socket of an earlier life was not read");
}

#[test]
fn falls_are_counted_socket_by_socket_and_the_smallest_buffer_counts() {
    let two = |first, second| Sample {
        sockets: vec![socket(first), Socket { inode: 8, buffer: Some(65_536), ..socket(second) }],
        ..running(0)
    };
    let judge = judged(&[(0, two(1_000, 0)), (1, two(0, 1_000))]);
    assert_eq!((judge.reading().read, judge.reading().queue, judge.buffer()), (1_000, 1_000, Some(65_536)));
    let half_stuck = [(0, two(500, 500)), (1_000, two(400, 500)), (2_000, two(300, 500))];
    assert_eq!(judged(&half_stuck).verdict(), Verdict::Stalled, "one of the two is not read");
}

#[test]
fn drops_are_counted_over_the_wrap_of_the_kernels_counter_and_from_the_first_sight() {
    let dropped = |drops| Sample { sockets: vec![Socket { drops, ..socket(0) }], ..running(0) };
    let judge = judged(&[(0, dropped(u32::MAX - 1)), (1, dropped(3))]);
    assert_eq!(judge.drops(), 5);
}

#[test]
fn process_start_time_and_sockets_make_an_incarnation() {
    let first = judged(&[(0, running(0))]).incarnation();
    assert_eq!(judged(&[(9, running(500))]).incarnation(), first, "what changes all the time does not");
    let others = [
        Sample { owners: vec![Process { pid: 4_712, start_ticks: 5 }], ..running(0) },
        Sample { owners: vec![Process { pid: 4_711, start_ticks: 6 }], ..running(0) },
        Sample { sockets: vec![Socket { inode: 8, ..socket(0) }], ..running(0) },
    ];
    for other in others {
        assert_ne!(judged(&[(0, other.clone())]).incarnation(), first, "{other:?}");
    }
}

#[test]
fn a_judge_that_has_just_come_has_seen_nobody_read() {
    let mut judge = Judge::new(Duration::ZERO);
    judge.handle_sample(Time::from_millis(0), &running(5_000));
    assert!(!judge.is_reading(Time::from_millis(0)));
    judge.handle_sample(Time::from_millis(10), &running(4_000));
    assert!(judge.is_reading(Time::from_millis(10)));
    assert!(!judge.is_reading(Time::from_millis(400)), "not for some time");
}

#[test]
fn of_several_sockets_what_one_reads_proves_nothing_of_another() {
    let two =
        |first, second| Sample { sockets: vec![socket(first), Socket { inode: 8, ..socket(second) }], ..running(0) };
    let mut judge = judged(&[(0, two(1_000, 500))]);
    let mark = judge.reading().read + judge.reading().queue;
    let mut is_read = |at, first, second| {
        judge.handle_sample(ms(at), &two(first, second));
        judge.reading().read >= mark
    };
    assert!(!is_read(1, 0, 500));
    assert!(!is_read(2, 9_000, 500));
    assert!(!is_read(3, 0, 500), "the first has read far more than the mark");
    assert!(is_read(4, 700, 0));
    assert_eq!(judge.reading().queue, 700 + 9_000, "what has come in since the checkpoint waits for the next one");
    judge.handle_sample(ms(5), &two(0, 0));
    assert_eq!(
        (judge.reading().read, judge.reading().queue),
        (10_000 + 1_200, 0),
        "with all of them empty nothing does"
    );
}

#[test]
fn a_client_whose_datagrams_arrive_where_remoted_does_not_receive_is_told_so_and_it_alone() {
    let bindings = Bindings { remoted: vec![Binding::AllOfV4], strangers: Vec::new() };
    let at = |text: &str| Some(text.parse::<IpAddr>().expect("an address"));
    let known = |presence| Sample { presence, bindings: Some(bindings.clone()), ..running(0) };
    let v4_alone = Verdict::NoSocket(Receives::Ipv4Alone);
    for (sample, expected) in [
        (known(Presence::Running), [Verdict::Up, Verdict::Up, v4_alone]),
        (known(Presence::Stopped), [Verdict::Stopped, Verdict::Stopped, v4_alone]),
        (Sample { bindings: None, ..running(0) }, [Verdict::Up; 3]),
        (absent(Presence::NoProcess), [Verdict::NoProcess(Port::Free); 3]),
        (absent(Presence::NoSocket), [Verdict::NoSocket(Receives::Nowhere); 3]),
    ] {
        let judge = judged(&[(0, running(0)), (1, sample)]);
        assert_eq!([None, at("10.0.0.1"), at("fd00::1")].map(|at| judge.verdict_at(at)), expected);
    }
}
