//! Samples in; verdict and F out.
//!
//! The server looks at remoted each time a client asks (a [`Sample`]), and this room draws the conclusions. [`Judge`]
//! says whether remoted is up and how much it has read. `windows` says how much each client may have under way, so
//! that remoted's socket never overflows. Both together answer a heartbeat. This room does no input or output; the
//! moment comes with each call.
//!
//! | verdict | when |
//! |---|---|
//! | no process, no socket, stopped | as the sample says |
//! | stalled | datagrams wait in a socket and none was read for [`STALL`] |
//! | starting | there for less than `--settle` |
//! | starting | the analysis daemon once seen beside it is gone |
//! | starting | a `--require`d process is missing |
//! | up | otherwise |
//!
//! **F** is the sum of all falls of the socket's queue from one sample to the next. It is a lower bound of the bytes
//! that remoted read, because a fall that is refilled between two samples is not seen. See [`Reading`].
//!
//! With several sockets a sum of falls would let reads from one socket stand for datagrams that wait in another. So
//! each socket gets a target at a *checkpoint*: the sum of falls at which it has read its queue. F stands still until
//! each socket has reached its target, or was seen empty. Then F is the bytes that had come in by the checkpoint, the
//! queue is the bytes that came in since, and the next checkpoint begins.

mod bindings;
#[cfg(test)]
mod tests;

pub use bindings::{Binding, Bindings};

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::time::Duration;

use crate::proto::terms::{Incarnation, Port, Reading, Reason, Receives, Verdict};
use crate::proto::time::Time;

/// How long a queue may stand still before remoted counts as stalled. It is longer than a pause for a busy disk, and
/// shorter than an administrator's patience.
pub const STALL: Duration = Duration::from_secs(2);

/// The state of the processes that should own remoted's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// No process of an accepted name exists.
    NoProcess,
    /// No process of an accepted name exists, yet a socket is bound to the port. Its owner has another name or cannot
    /// be seen.
    Taken,
    /// A process of an accepted name exists, but none owns a UDP socket on the port.
    NoSocket,
    /// A process of an accepted name exists, but its sockets do not receive at the address of `--remoted`.
    Elsewhere,
    /// An owner of a socket is stopped (`SIGSTOP`, a debugger).
    Stopped,
    /// Every owner can run.
    Running,
}

/// One qualifying socket in one sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// The socket's inode, unique while it lives.
    pub inode: u64,
    /// Bytes of buffer in use by unread datagrams, overhead included.
    pub rx_queue: u64,
    /// The number of datagrams that the kernel dropped because the buffer was full, since the socket exists (wraps at
    /// 32 bits).
    pub drops: u32,
    /// Size of the receive buffer in bytes, overhead included; `None` where the system does not tell.
    pub buffer: Option<u64>,
}

/// A process that owns a qualifying socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// When it started, in clock ticks since boot; this distinguishes a reused process id.
    pub start_ticks: u64,
}

/// The state of remoted that one look at the system showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// State of the owning processes.
    pub presence: Presence,
    /// The qualifying sockets, sorted by inode; empty unless `presence` is `Stopped` or `Running`.
    pub sockets: Vec<Socket>,
    /// The owners of the sockets, sorted. It is empty where owners cannot be known (`--process any`, `/proc/PID/fd`
    /// not readable).
    pub owners: Vec<Process>,
    /// How long ago the youngest owner started; `None` where unknown.
    pub age: Option<Duration>,
    /// Whether the analysis daemon that belongs to remoted is there; `None` where none belongs to it.
    pub companion: Option<bool>,
    /// The first `--require` name that no running process has.
    pub missing: Option<String>,
    /// Where the sockets receive; `None` where that is unknown: in another network namespace, a container.
    pub bindings: Option<Bindings>,
}

/// Packets that came in, or were sent over loopback, and have not reached a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OnTheWay {
    /// The number of packets that the system has dropped there since its start.
    pub dropped: u64,
    /// The number of packets in the longest of its queues; 0 where the system does not tell.
    pub longest: usize,
}

/// A socket without a read for this long counts as not being read at the moment.
const READS: Duration = Duration::from_millis(300);

/// Draws conclusions from one sample after the other.
#[derive(Debug)]
pub struct Judge {
    settle: Duration,
    life: Option<Life>,
    companion_seen: bool,
    verdict: Verdict,
    read: u64,
    bindings: Option<Bindings>,
}

#[derive(Debug)]
struct Life {
    incarnation: Incarnation,
    pid: u32,
    /// From this moment on the incarnation is old enough.
    settled: Time,
    sockets: Vec<Watched>,
    drops: u64,
    base: u64,
    /// The bytes that had come into its sockets at the newest checkpoint, F at the beginning included.
    checkpoint: u64,
}

#[derive(Clone, Copy, Debug)]
struct Watched {
    latest: Socket,
    /// The newest moment at which its queue was empty or fell; before that, the moment when it was first seen.
    moved: Time,
    /// Its queue was seen empty, or seen to fall.
    has_moved: bool,
    fallen: u64,
    /// The sum at which it passes the newest checkpoint; `None` once it has passed.
    passes_at: Option<u64>,
}

impl Watched {
    const fn new(now: Time, latest: Socket) -> Self {
        Self { latest, moved: now, has_moved: false, fallen: 0, passes_at: None }
    }

    /// Adds up the changes since the last sample. Returns the number of dropped datagrams.
    fn handle_seen(&mut self, now: Time, seen: &Socket) -> u64 {
        let fall = self.latest.rx_queue.saturating_sub(seen.rx_queue);
        self.fallen += fall;
        if fall > 0 || seen.rx_queue == 0 || self.latest.rx_queue == 0 {
            (self.moved, self.has_moved) = (now, true);
        }
        self.passes_at = self.passes_at.filter(|&sum| seen.rx_queue > 0 && self.fallen < sum);
        // The kernel's counter has 32 bits and wraps.
        let drops = u64::from(seen.drops.wrapping_sub(self.latest.drops));
        self.latest = *seen;
        drops
    }

    /// The bytes that have come in since it was first seen, at least, and the queue at that moment.
    const fn arrived(&self) -> u64 {
        self.fallen + self.latest.rx_queue
    }
}

impl Life {
    /// The bytes that have come into the sockets, at least, F at the beginning included.
    fn arrived(&self) -> u64 {
        self.base + self.sockets.iter().map(Watched::arrived).sum::<u64>()
    }

    /// Returns F, and sets the next checkpoint if the last one has been passed.
    fn read(&mut self, before: u64) -> u64 {
        if let [only] = &self.sockets[..] {
            return self.base + only.fallen;
        }
        if self.sockets.iter().any(|socket| socket.passes_at.is_some()) {
            return before;
        }
        let passed = self.checkpoint;
        self.checkpoint = self.arrived();
        for socket in &mut self.sockets {
            socket.passes_at = (socket.latest.rx_queue > 0).then_some(socket.arrived());
        }
        // If all sockets are empty, the checkpoint is passed as soon as it is set.
        let empty = self.sockets.iter().all(|socket| socket.passes_at.is_none());
        if empty { self.checkpoint } else { passed }
    }
}

impl Judge {
    /// A judge that has seen nothing: remoted counts as absent.
    pub const fn new(settle: Duration) -> Self {
        Self {
            settle,
            life: None,
            companion_seen: false,
            verdict: Verdict::NoProcess(Port::Free),
            read: 0,
            bindings: None,
        }
    }

    /// Takes in a sample. The verdict then holds for this moment.
    pub fn handle_sample(&mut self, now: Time, sample: &Sample) {
        self.bindings.clone_from(&sample.bindings);
        self.verdict = match sample.presence {
            Presence::NoProcess => self.absent(Verdict::NoProcess(Port::Free)),
            Presence::Taken => self.absent(Verdict::NoProcess(Port::Taken)),
            Presence::NoSocket => self.absent(Verdict::NoSocket(Receives::Nowhere)),
            Presence::Elsewhere => self.absent(Verdict::NoSocket(Receives::Elsewhere)),
            Presence::Stopped | Presence::Running if sample.sockets.is_empty() => {
                self.absent(Verdict::NoSocket(Receives::Nowhere))
            }
            Presence::Stopped => {
                self.observe(now, sample);
                Verdict::Stopped
            }
            Presence::Running => {
                self.observe(now, sample);
                self.present(now, sample)
            }
        };
    }

    /// The verdict from the newest sample.
    pub const fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// The verdict for a client whose datagrams arrive at this address of the server's host, if that is known. remoted
    /// may receive at other addresses alone.
    pub fn verdict_at(&self, destination: Option<IpAddr>) -> Verdict {
        match (self.verdict, &self.bindings, destination) {
            (Verdict::NoProcess(_) | Verdict::NoSocket(_), _, _) => self.verdict,
            (_, Some(bindings), Some(at)) => bindings.receive_at(at).map_or_else(Verdict::NoSocket, |()| self.verdict),
            (_, _, _) => self.verdict,
        }
    }

    /// The life of remoted in the newest sample; the default where it showed none.
    pub fn incarnation(&self) -> Incarnation {
        self.life.as_ref().map_or_else(Incarnation::default, |life| life.incarnation)
    }

    /// Process id of an owner of the socket; 0 where unknown.
    pub fn pid(&self) -> u32 {
        self.life.as_ref().map_or(0, |life| life.pid)
    }

    /// How far remoted has read since this judge exists. With one socket `queue` is the queue of that socket, with
    /// several it may be more.
    pub fn reading(&self) -> Reading {
        let queue = self.life.as_ref().map_or(0, |life| life.arrived() - self.read);
        Reading { read: self.read, queue }
    }

    /// The bytes in remoted's sockets at the newest sample.
    pub fn backlog(&self) -> u64 {
        self.life.iter().flat_map(|life| &life.sockets).map(|socket| socket.latest.rx_queue).sum()
    }

    /// The number of datagrams dropped at remoted's sockets since this incarnation was first seen.
    pub fn drops(&self) -> u64 {
        self.life.as_ref().map_or(0, |life| life.drops)
    }

    /// remoted's sockets are empty, or were seen being read not long ago.
    pub fn is_reading(&self, now: Time) -> bool {
        let sockets = self.life.iter().flat_map(|life| &life.sockets);
        let reads = |socket: &Watched| socket.has_moved && now.since(socket.moved) < READS;
        sockets.into_iter().all(|socket| socket.latest.rx_queue == 0 || reads(socket))
    }

    /// The smallest receive buffer among remoted's sockets, in bytes.
    pub fn buffer(&self) -> Option<u64> {
        let sizes = self.life.iter().flat_map(|life| &life.sockets).filter_map(|socket| socket.latest.buffer);
        sizes.min()
    }

    /// When the verdict may change by time alone; a sample is due then.
    pub fn next_deadline(&self) -> Option<Time> {
        let settling = self.verdict == Verdict::Starting(Reason::Settling);
        self.life.as_ref().filter(|_| settling).map(|life| life.settled)
    }

    fn absent(&mut self, verdict: Verdict) -> Verdict {
        self.life = None;
        verdict
    }

    fn present(&mut self, now: Time, sample: &Sample) -> Verdict {
        let analysis_gone = sample.companion == Some(false) && self.companion_seen;
        self.companion_seen |= sample.companion == Some(true);
        let Some(life) = &self.life else {
            return Verdict::NoSocket(Receives::Nowhere);
        };
        let stalled = |socket: &Watched| socket.latest.rx_queue > 0 && now.since(socket.moved) >= STALL;
        if life.sockets.iter().any(stalled) {
            Verdict::Stalled
        } else if analysis_gone {
            Verdict::Starting(Reason::AnalysisGone)
        } else if sample.missing.is_some() {
            Verdict::Starting(Reason::RequiredMissing)
        } else if now < life.settled {
            Verdict::Starting(Reason::Settling)
        } else {
            Verdict::Up
        }
    }

    fn observe(&mut self, now: Time, sample: &Sample) {
        let incarnation = incarnation(sample);
        let mut life = match self.life.take().filter(|life| life.incarnation == incarnation) {
            Some(mut life) => {
                for (watched, seen) in life.sockets.iter_mut().zip(&sample.sockets) {
                    life.drops += watched.handle_seen(now, seen);
                }
                life
            }
            None => Life {
                incarnation,
                pid: sample.owners.first().map_or(0, |owner| owner.pid),
                settled: now + self.settle.saturating_sub(sample.age.unwrap_or_default()),
                sockets: sample.sockets.iter().map(|&latest| Watched::new(now, latest)).collect(),
                drops: 0,
                base: self.read,
                checkpoint: self.read,
            },
        };
        self.read = life.read(self.read);
        self.life = Some(life);
    }
}

/// The digest of owners and sockets. The inodes come sorted, so that equal incarnations list equal sockets in equal
/// places.
fn incarnation(sample: &Sample) -> Incarnation {
    let mut digest = DefaultHasher::new();
    sample.owners.hash(&mut digest);
    for socket in &sample.sockets {
        socket.inode.hash(&mut digest);
    }
    Incarnation(digest.finish())
}
