use super::*;
use crate::verdict::{Owner, Presence, Socket};
use crate::wire::{DataItem, Seq, SessionName};

const BUFFER: u64 = 212_992;
const SMALL: u64 = 832;

fn ms(n: u64) -> Time {
    Time::from_millis(n)
}

fn sample(queue: u64, drops: u32) -> Sample {
    Sample {
        presence: Presence::Running,
        sockets: vec![Socket { inode: 1, rx_queue: queue, drops, buffer: Some(BUFFER) }],
        owners: vec![Owner { pid: 7, start_ticks: 1 }],
        age: Some(Duration::from_hours(1)),
        companion: None,
        missing: None,
        places: None,
    }
}

fn data(epoch: u32, numbers: std::ops::Range<u64>) -> Data {
    let item = |number| DataItem { seq: Seq(number), session: 0, bytes: b"x" };
    Data::new(epoch, &numbers.map(item).collect::<Vec<_>>())
}

/// remoted up, one client that has sent so many datagrams.
fn gate(datagrams: u64) -> Gate {
    let mut gate = Gate::new(Duration::ZERO);
    gate.handle_sample(ms(0), &sample(0, 0));
    gate.handle_attach(ms(0), 1, 77, IpAddr::from([10, 0, 0, 1]));
    gate.handle_session(1, Session { name: SessionName { id: 0, generation: 0 }, port: 0 }).expect("attached");
    while gate.poll_told().is_some() {}
    if datagrams > 0 {
        gate.handle_data(1, data(1, 0..datagrams)).expect("in order");
    }
    gate
}

/// Injects all that may be; how many.
fn inject(gate: &mut Gate, now: Time) -> u64 {
    let mut injected = 0;
    while let Some(volley) = gate.poll(now) {
        let count = volley.payloads.len();
        gate.handle_injected(count);
        injected += count as u64;
    }
    injected
}

#[test]
fn a_drop_while_nothing_of_ours_is_under_way_does_not_excuse_the_next_one() {
    let mut gate = gate(0);
    gate.handle_sample(ms(1), &sample(0, 1));
    gate.handle_data(1, data(1, 0..5)).expect("in order");
    assert_eq!(inject(&mut gate, ms(20_000)), 5);
    gate.handle_sample(ms(20_001), &sample(2 * SMALL, 4));
    let resumed = std::iter::from_fn(|| gate.poll_told()).any(|(_, told)| matches!(told, Told::Resume(_)));
    assert!(resumed, "three of ours may have been dropped");
}

#[test]
fn while_others_overflow_the_socket_nothing_is_sent_again_but_once() {
    let mut gate = gate(0);
    let (mut resumes, mut epoch, mut next) = (0, 1, 0);
    for at in 1..1_000 {
        gate.handle_data(1, data(epoch, next..next + 1)).expect("in order");
        inject(&mut gate, ms(10 * at));
        gate.handle_sample(ms(10 * at + 1), &sample(SMALL, at as u32));
        for (_, told) in std::iter::from_fn(|| gate.poll_told()).collect::<Vec<_>>() {
            next += 1;
            if let Told::Resume(resume) = told {
                (resumes, epoch, next) = (resumes + 1, resume.epoch, resume.from.map_or(next, |from| from.0));
                gate.handle_session(1, Session { name: SessionName { id: 0, generation: 0 }, port: 0 })
                    .expect("attached");
            }
        }
        gate.handle_sample(ms(10 * at + 2), &sample(0, at as u32));
        next = next.max(at);
    }
    assert!((1..=2).contains(&resumes), "sent back {resumes} times");
}

#[test]
fn no_more_is_injected_than_remoteds_buffer_takes_until_some_is_read() {
    let mut gate = gate(1_000);
    let first = inject(&mut gate, ms(0));
    assert!((100..=BUFFER / 2 / SMALL).contains(&first), "{first} at once");
    gate.handle_sample(ms(1), &sample(first * SMALL, 0));
    assert_eq!(inject(&mut gate, ms(1)), 0, "it has read nothing");
    gate.handle_sample(ms(2), &sample(first / 2 * SMALL, 0));
    assert_eq!(inject(&mut gate, ms(2)), 0, "what was read is known when all of the step was");
    gate.handle_sample(ms(3), &sample(0, 0));
    assert_eq!(inject(&mut gate, ms(3)), first);
}

#[test]
fn nothing_is_injected_while_remoted_is_not_up() {
    let mut gate = gate(5);
    gate.handle_sample(ms(1), &Sample { presence: Presence::Stopped, ..sample(0, 0) });
    assert_eq!(inject(&mut gate, ms(1)), 0);
    gate.handle_sample(ms(2), &sample(0, 0));
    assert_eq!(inject(&mut gate, ms(2)), 5);
}

#[test]
fn a_drop_sends_clients_back_once_and_what_goes_on_dropping_is_others() {
    let mut gate = gate(5);
    assert_eq!(inject(&mut gate, ms(0)), 5);
    gate.handle_sample(ms(1), &sample(5 * SMALL, 1));
    let told: Vec<Told> = std::iter::from_fn(|| gate.poll_told()).map(|(_, told)| told).collect();
    assert!(matches!(told[0], Told::Resume(resume) if resume.from == Some(Seq(0)) && resume.epoch == 2), "{told:?}");
    gate.handle_session(1, Session { name: SessionName { id: 0, generation: 0 }, port: 0 }).expect("attached");
    gate.handle_data(1, data(2, 0..5)).expect("again");
    assert_eq!(inject(&mut gate, ms(1)), 5);
    gate.handle_sample(ms(2), &sample(5 * SMALL, 2));
    gate.handle_sample(ms(3), &sample(0, 3));
    let told: Vec<Told> = std::iter::from_fn(|| gate.poll_told()).map(|(_, told)| told).collect();
    assert!(matches!(told[..], [Told::Ack(ack)] if ack.read == Seq(5) && ack.doubtful), "{told:?}");
}

#[test]
fn remoted_is_looked_at_soon_while_it_reads_and_seldom_while_it_does_not() {
    let mut gate = gate(5);
    inject(&mut gate, ms(0));
    let mut at = ms(0);
    let mut gaps = Vec::new();
    for _ in 0..8 {
        let next = gate.next_look().expect("something is not read");
        gaps.push(next.since(at).as_millis());
        at = next;
        gate.handle_sample(at, &sample(5 * SMALL, 0));
    }
    assert_eq!(gaps, [1, 1, 2, 4, 8, 16, 32, 50]);
    gate.handle_sample(at, &sample(0, 0));
    assert_eq!(gate.next_look(), None);
}
