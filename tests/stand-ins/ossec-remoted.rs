//! A stand-in for `ossec-remoted`, as far as the broker's tests and demonstration need one.
//!
//! It has the properties of the real one that make life hard for a sender, and nothing else of it:
//!
//! - the process name `ossec-remoted` and a UDP socket with the kernel's default receive buffer;
//! - the counter rule (OSSEC's `os_crypto/shared/msgs.c`): a datagram is accepted only if its counter is greater than
//!   the last one accepted from that agent. So a copy is dropped, and an overtaken datagram is lost for ever. The
//!   counters are kept in memory alone: a restart forgets them, as remoted's does for the last 128;
//! - replies, which go to the source of the datagram that asked for them.
//!
//! A datagram is text: `AGENT COUNTER KIND padding`. The kind `ping` is answered with `AGENT COUNTER pong` (only if it
//! was accepted). The kind `push N` is answered with N datagrams of 900 bytes, `AGENT 1 pushed` to `AGENT N pushed`:
//! the configuration that remoted pushes to a fresh agent. Any other kind is an event.
//!
//! With `--journal` each datagram leaves a line: `took AGENT COUNTER` (accepted), `copy` (refused, accepted before),
//! `late` (refused, overtaken and therefore lost), or `other LENGTH`. Beside these stand `life PID` for each start,
//! and `drops N` whenever the kernel has dropped datagrams because the socket's buffer was full. (The drops are looked
//! up ten times a second and counted since the start.) The line is written *before* the datagram is taken off the
//! socket's queue. So after a `kill -9` at any moment, every datagram that was read is written down. A datagram that a
//! test misses afterwards was lost on its way here.

use std::collections::HashMap;
use std::convert::Infallible;
use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{self, ExitCode};
use std::str::{self, SplitAsciiWhitespace};
use std::thread;
use std::time::{Duration, Instant};

use argh::FromArgs;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

/// The port of OSSEC's `<remote>`.
const PORT: u16 = 1514;
/// The largest UDP payload is 65,507 bytes.
const DATAGRAM_BYTES_MAX: usize = 65_507;
/// The time between two looks at the socket's drop counter, and the longest time that reading waits.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The time that a late wake-up may make good again. More would turn `--rate` into bursts.
const CATCH_UP: Duration = Duration::from_millis(2);
/// remoted pushes about 1,250 datagrams to a fresh agent.
const PUSH_MAX: u32 = 10_000;
/// Size of a pushed datagram: `merged.mg` is sent in lines of about 900 bytes.
const PUSH_BYTES: usize = 900;
/// Pushed datagrams are this far apart: a thousand a second, some thirty times faster than remoted.
const PUSH_GAP: Duration = Duration::from_millis(1);

/// A stand-in for ossec-remoted: keeps the counter rule, answers pings, writes down what became of each datagram.
#[derive(FromArgs)]
struct Args {
    /// address to read from ([::]:1514 for both families; 0.0.0.0:1514 where there is no IPv6)
    #[argh(option, arg_name = "addr:port")]
    listen: Option<SocketAddr>,
    /// of an IPv6 address take nothing of IPv4
    #[argh(switch)]
    only_v6: bool,
    /// file to append the fate of each datagram to
    #[argh(option, arg_name = "file")]
    journal: Option<PathBuf>,
    /// read at most so many datagrams a second, evenly
    #[argh(option, arg_name = "n")]
    rate: Option<NonZeroU32>,
    /// receive buffer to ask for (the kernel's default)
    #[argh(option, arg_name = "bytes")]
    rcvbuf: Option<usize>,
    /// how long to read nothing, once in --every-ms (0)
    #[argh(option, arg_name = "ms", default = "0")]
    stall_ms: u64,
    /// how often to stall for --stall-ms (500)
    #[argh(option, arg_name = "ms", default = "500")]
    every_ms: u64,
}

fn main() -> ExitCode {
    let Err(error) = run(&argh::from_env());
    eprintln!("ossec-remoted: {error}");
    ExitCode::FAILURE
}

/// Reads until a signal ends the process: nothing is left to be written then.
fn run(args: &Args) -> Result<Infallible, Box<dyn Error>> {
    let socket = bind(args)?;
    socket.set_read_timeout(Some(LOOK_EVERY))?;
    let mut journal = Journal::open(args, &socket)?;
    let mut pace = Pace::new(args);
    let mut agents: HashMap<String, Agent> = HashMap::new();
    let mut bytes = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        journal.look_at_drops()?;
        let (length, source) = match socket.peek_from(&mut bytes) {
            Ok(arrived) => arrived,
            Err(error) if is_quiet(&error) => continue,
            Err(error) => return Err(format!("cannot read: {error}").into()),
        };
        pace.wait();
        let reply = if let Some(message) = Message::parse(&bytes[..length]) {
            let fate = agents.entry(message.agent.to_owned()).or_default().judge(message.counter);
            journal.line(format_args!("{} {} {}", fate.name(), message.agent, message.counter))?;
            (fate == Fate::Took).then_some(message)
        } else {
            journal.line(format_args!("other {length}"))?;
            None
        };
        // The datagram is written down: only now it leaves the queue.
        socket.recv_from(&mut [0])?;
        if let Some(message) = reply {
            message.answer(&socket, source)?;
        }
    }
}

/// A wait that ended without a datagram.
fn is_quiet(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

fn bind(args: &Args) -> Result<UdpSocket, Box<dyn Error>> {
    let at = |address: SocketAddr| {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() && address.ip().is_unspecified() {
            socket.set_only_v6(args.only_v6)?;
        }
        if let Some(bytes) = args.rcvbuf {
            // The size is set by force where that is allowed. The size that the kernel lets everybody ask for is
            // hardly more than its default.
            setsockopt(&socket, sockopt::RcvBufForce, &bytes).or_else(|_| socket.set_recv_buffer_size(bytes))?;
        }
        socket.bind(&address.into())?;
        io::Result::Ok(socket.into())
    };
    match args.listen {
        Some(address) => at(address).map_err(|error| format!("cannot bind {address}: {error}").into()),
        None => at((Ipv6Addr::UNSPECIFIED, PORT).into())
            .or_else(|_| at((Ipv4Addr::UNSPECIFIED, PORT).into()))
            .map_err(|error| format!("cannot bind UDP port {PORT}: {error}").into()),
    }
}

/// The content of a datagram. A datagram with other content is none of ours.
struct Message<'a> {
    agent: &'a str,
    counter: u64,
    rest: SplitAsciiWhitespace<'a>,
}

impl<'a> Message<'a> {
    fn parse(datagram: &'a [u8]) -> Option<Self> {
        let mut words = str::from_utf8(datagram).ok()?.split_ascii_whitespace();
        Some(Self { agent: words.next()?, counter: words.next()?.parse().ok()?, rest: words })
    }

    /// Sends what the datagram asks for. A reply that cannot be sent is lost, as remoted's are.
    fn answer(mut self, socket: &UdpSocket, to: SocketAddr) -> io::Result<()> {
        match self.rest.next() {
            Some("ping") => {
                let _ = socket.send_to(format!("{} {} pong", self.agent, self.counter).as_bytes(), to);
            }
            Some("push") => {
                let count = self.rest.next().and_then(|count| count.parse().ok()).unwrap_or(0);
                let (socket, agent) = (socket.try_clone()?, self.agent.to_owned());
                thread::Builder::new().name("push".into()).spawn(move || push(&socket, to, &agent, count))?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// Sends the numbered datagrams of a push; remoted, too, does so beside its reading.
fn push(socket: &UdpSocket, to: SocketAddr, agent: &str, count: u32) {
    for number in 1..=count.min(PUSH_MAX) {
        let mut datagram = format!("{agent} {number} pushed ").into_bytes();
        datagram.resize(PUSH_BYTES, b'=');
        let _ = socket.send_to(&datagram, to);
        pause(PUSH_GAP);
    }
}

/// The fate of a datagram.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Accepted: the counter is the greatest so far.
    Took,
    /// Refused, and no harm done: it was accepted before.
    Copy,
    /// Refused and lost: a newer one was accepted before it.
    Late,
}

impl Fate {
    fn name(self) -> &'static str {
        match self {
            Self::Took => "took",
            Self::Copy => "copy",
            Self::Late => "late",
        }
    }
}

/// The counters accepted from one agent, as ascending runs, since only a greater one is ever accepted.
#[derive(Default)]
struct Agent {
    runs: Vec<RangeInclusive<u64>>,
}

impl Agent {
    fn judge(&mut self, counter: u64) -> Fate {
        match self.runs.last().map(|run| (*run.start(), *run.end())) {
            Some((_, newest)) if counter <= newest => {
                let run = self.runs.partition_point(|run| *run.end() < counter);
                if self.runs[run].contains(&counter) { Fate::Copy } else { Fate::Late }
            }
            Some((start, newest)) if counter == newest + 1 => {
                self.runs.pop();
                self.runs.push(start..=counter);
                Fate::Took
            }
            _ => {
                self.runs.push(counter..=counter);
                Fate::Took
            }
        }
    }
}

/// The pace at which datagrams may be read.
struct Pace {
    gap: Duration,
    due: Instant,
    stall: Duration,
    every: Duration,
    stalled: Instant,
}

impl Pace {
    fn new(args: &Args) -> Self {
        Self {
            gap: args.rate.map_or(Duration::ZERO, |rate| Duration::from_secs(1) / rate.get()),
            due: now(),
            stall: Duration::from_millis(args.stall_ms),
            every: Duration::from_millis(args.every_ms),
            stalled: now(),
        }
    }

    fn wait(&mut self) {
        if !self.stall.is_zero() && self.stalled.elapsed() >= self.every {
            pause(self.stall);
            self.stalled = now();
        }
        if !self.gap.is_zero() {
            let now = now();
            pause(self.due.saturating_duration_since(now));
            self.due = self.due.max(now.checked_sub(CATCH_UP).unwrap_or(now)) + self.gap;
        }
    }
}

/// The file with the fate of each datagram, written without a buffer.
struct Journal {
    file: Option<File>,
    /// The name that the socket has in `/proc/net/udp{,6}`.
    inode: String,
    drops: u64,
    looked: Instant,
}

impl Journal {
    fn open(args: &Args, socket: &UdpSocket) -> Result<Self, Box<dyn Error>> {
        let open = |path: &PathBuf| {
            let opened = OpenOptions::new().create(true).append(true).open(path);
            opened.map_err(|error| format!("cannot open {}: {error}", path.display()))
        };
        let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd()))?;
        let inode = link.to_string_lossy().trim_start_matches("socket:[").trim_end_matches(']').to_owned();
        let mut journal = Self { file: args.journal.as_ref().map(open).transpose()?, inode, drops: 0, looked: now() };
        journal.line(format_args!("life {}", process::id()))?;
        Ok(journal)
    }

    /// Writes each line with one `write`: the line survives a `kill -9`.
    fn line(&mut self, line: std::fmt::Arguments) -> io::Result<()> {
        match &mut self.file {
            Some(file) => file.write_all(format!("{line}\n").as_bytes()),
            None => Ok(()),
        }
    }

    fn look_at_drops(&mut self) -> io::Result<()> {
        if self.looked.elapsed() < LOOK_EVERY {
            return Ok(());
        }
        self.looked = now();
        let drops = drops_of(&self.inode).unwrap_or(self.drops);
        if drops != self.drops {
            self.drops = drops;
            self.line(format_args!("drops {drops}"))?;
        }
        Ok(())
    }
}

/// The datagrams that the kernel has dropped because this socket's buffer was full: the last column of the socket's
/// line.
fn drops_of(inode: &str) -> Option<u64> {
    ["/proc/self/net/udp6", "/proc/self/net/udp"].iter().find_map(|table| {
        let table = fs::read_to_string(table).ok()?;
        let line = table.lines().find(|line| line.split_ascii_whitespace().nth(9) == Some(inode))?;
        line.split_ascii_whitespace().last()?.parse().ok()
    })
}

#[expect(clippy::disallowed_methods, reason = "a program of its own, which reads the clock where it needs it")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "pacing is what it is for, and only a signal ends it")]
fn pause(span: Duration) {
    if !span.is_zero() {
        thread::sleep(span);
    }
}
