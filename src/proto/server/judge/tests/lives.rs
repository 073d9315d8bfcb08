//! Random lives of remoted, against a model that knows what really happened.

use super::*;

#[derive(Clone, Debug)]
enum Step {
    /// Bytes come into a socket, and some are read from it.
    Traffic {
        socket: usize,
        arrives: u64,
        reads: u64,
    },
    /// So many datagrams do not fit.
    Drop {
        socket: usize,
        datagrams: u32,
    },
    /// Another process starts, with other sockets.
    Restart {
        sockets: usize,
    },
    Wait(u64),
    Sample,
    /// A sample in which remoted is stopped, or cannot be seen.
    SampleAs(Presence),
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = || prop_oneof![2 => 0u64..5_000, 1 => Just(0), 1 => Just(1 << 20)];
    prop_oneof![
        8 => (0usize..3, bytes(), bytes())
            .prop_map(|(socket, arrives, reads)| Step::Traffic { socket, arrives, reads }),
        2 => (0usize..3, any::<u32>()).prop_map(|(socket, datagrams)| Step::Drop { socket, datagrams }),
        1 => (1usize..4).prop_map(|sockets| Step::Restart { sockets }),
        3 => (0u64..1_500).prop_map(Step::Wait),
        8 => Just(Step::Sample),
        1 => prop::sample::select(&[Presence::Stopped, Presence::NoProcess, Presence::NoSocket][..])
            .prop_map(Step::SampleAs),
    ]
}

/// remoted as it really is.
struct World {
    now: u64,
    sample: Sample,
    inodes: u64,
    /// Bytes that remoted has read, in all of its lives.
    read: u64,
    /// The flow of bytes through each socket in this life.
    sockets: Vec<Flow>,
}

/// Bytes that have come into a socket and bytes that were read from it.
#[derive(Clone, Copy, Default)]
struct Flow {
    arrived: u64,
    read: u64,
}

impl World {
    fn new(sockets: usize) -> Self {
        let mut world = Self { now: 0, sample: running(0), inodes: 100, read: 0, sockets: Vec::new() };
        world.restart(sockets);
        world
    }

    fn restart(&mut self, sockets: usize) {
        let inodes = self.inodes..self.inodes + sockets as u64;
        self.inodes = inodes.end;
        self.sample.sockets = inodes.map(|inode| Socket { inode, ..socket(0) }).collect();
        self.sample.owners[0].pid += 1;
        // The bytes in the queues are lost.
        self.sockets = vec![Flow::default(); sockets];
    }

    fn socket(&mut self, at: usize) -> &mut Socket {
        let sockets = self.sample.sockets.len();
        &mut self.sample.sockets[at % sockets]
    }

    fn traffic(&mut self, at: usize, arrives: u64, reads: u64) {
        let socket = self.socket(at);
        socket.rx_queue += arrives;
        let took = reads.min(socket.rx_queue);
        socket.rx_queue -= took;
        self.read += took;
        let at = at % self.sockets.len();
        let flow = &mut self.sockets[at];
        (flow.arrived, flow.read) = (flow.arrived + arrives, flow.read + took);
    }
}

/// All that the judge was shown of the present life.
#[derive(Default)]
struct Seen {
    samples: Vec<(u64, Vec<Socket>)>,
    drops: u64,
    incarnations: Vec<(u32, Incarnation)>,
    /// F + queue at a sample, with the flow of each socket until then.
    marks: Vec<(u64, Vec<Flow>)>,
}

impl Seen {
    fn take(&mut self, world: &World) {
        let sockets = world.sample.sockets.clone();
        match self.samples.last() {
            Some((_, before)) if before[0].inode == sockets[0].inode => {
                let grown = before.iter().zip(&sockets).map(|(old, new)| new.drops.wrapping_sub(old.drops));
                self.drops += grown.map(u64::from).sum::<u64>();
            }
            Some(_) | None => {
                let incarnations = std::mem::take(&mut self.incarnations);
                *self = Self { incarnations, ..Self::default() };
            }
        }
        self.samples.push((world.now, sockets));
    }

    /// The moment since which a socket has held something and its queue was not seen to fall.
    fn still_since(&self, at: usize) -> Option<u64> {
        let queue = |index: usize| self.samples[index].1[at].rx_queue;
        let last = self.samples.len() - 1;
        let moved = (0..=last)
            .rev()
            .find(|&i| i == 0 || queue(i) == 0 || queue(i - 1) == 0 || queue(i) < queue(i - 1))
            .expect("the first at least");
        (queue(last) > 0).then(|| self.samples[moved].0)
    }
}

proptest! {
    #[test]
    fn a_judge_says_of_any_life_what_it_saw_and_never_more_than_was_read(
        sockets in 1usize..4,
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let (mut world, mut judge, mut seen) = (World::new(sockets), Judge::new(SETTLE), Seen::default());
        let mut read = 0;
        for step in steps {
            match step {
                Step::Traffic { socket, arrives, reads } => world.traffic(socket, arrives, reads),
                Step::Drop { socket, datagrams } => {
                    let socket = world.socket(socket);
                    socket.drops = socket.drops.wrapping_add(datagrams);
                }
                Step::Restart { sockets } => world.restart(sockets),
                Step::Wait(millis) => world.now += millis,
                Step::Sample => {
                    judge.handle_sample(ms(world.now), &world.sample);
                    seen.take(&world);
                    check_seen(&judge, &world, &mut seen);
                }
                Step::SampleAs(Presence::Stopped) => {
                    let sample = Sample { presence: Presence::Stopped, ..world.sample.clone() };
                    judge.handle_sample(ms(world.now), &sample);
                    seen.take(&world);
                    prop_assert_eq!(judge.verdict(), Verdict::Stopped);
                }
                Step::SampleAs(presence) => {
                    judge.handle_sample(ms(world.now), &absent(presence));
                    seen.samples.clear();
                    prop_assert_eq!((judge.reading().queue, judge.drops(), judge.pid()), (0, 0, 0));
                    prop_assert!(matches!(judge.verdict(), Verdict::NoProcess(_) | Verdict::NoSocket(_)));
                }
            }
            prop_assert!(judge.reading().read >= read, "F falls");
            read = judge.reading().read;
            prop_assert!(read <= world.read, "{} claimed, {} read", read, world.read);
        }
    }
}

fn check_seen(judge: &Judge, world: &World, seen: &mut Seen) {
    let sockets = &world.sample.sockets;
    let backlog: u64 = sockets.iter().map(|socket| socket.rx_queue).sum();
    assert_eq!(judge.backlog(), backlog);
    // With several sockets, the queue includes bytes that are known to be read and do not count yet.
    assert!(
        judge.reading().queue >= backlog && (judge.reading().queue == 0) == (backlog == 0),
        "{} of {backlog}",
        judge.reading().queue
    );
    assert!(sockets.len() > 1 || judge.reading().queue == backlog);
    assert_eq!(judge.drops(), seen.drops);
    assert_eq!(judge.pid(), world.sample.owners[0].pid);
    let still = (0..sockets.len()).filter_map(|at| seen.still_since(at)).min();
    let stalled = still.is_some_and(|since| world.now - since >= STALL.as_millis() as u64);
    assert_eq!(judge.verdict(), if stalled { Verdict::Stalled } else { Verdict::Up });
    // One life is one incarnation, whatever happens meanwhile.
    let life = (judge.pid(), judge.incarnation());
    assert!(seen.incarnations.iter().all(|other| (other.0 == life.0) == (other.1 == life.1)), "{life:?}");
    seen.incarnations.push(life);
    check_marks(judge, world, seen);
}

/// Checks the basis of confirmation. F and the queue at a sample have a sum. When F reaches that sum, all bytes that
/// had come into any socket at the sample have been read.
fn check_marks(judge: &Judge, world: &World, seen: &mut Seen) {
    for (reached, then) in seen.marks.iter().filter(|(reached, _)| judge.reading().read >= *reached) {
        let read = world.sockets.iter().zip(then).all(|(flow, then)| flow.read >= then.arrived);
        assert!(read, "confirmed at F = {} of {reached}, and not read", judge.reading().read);
    }
    seen.marks.push((judge.reading().read + judge.reading().queue, world.sockets.clone()));
}
