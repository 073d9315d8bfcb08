//! A stand-in for the OSSEC agent, as far as the broker's tests and demonstration need one.
//!
//! Like the agent (`client-agent/start_agent.c`), it sends from a *connected* UDP socket. So a reply counts only if it
//! comes from the very address and port that it sends to. It can open a new source port now and then
//! (`--reconnect-every`). `shared/payload.rs` says what a datagram looks like. Datagrams that the system refuses to
//! send (nobody listens: ECONNREFUSED) are lost, as they are in the agent, and counted.
//!
//! At the end it prints one line of `name value` pairs:
//!
//! - `sent`, `failed`: datagrams that the system took, and datagrams that it did not take;
//! - `refused`: ICMP errors that came back;
//! - `replies`, `reordered`, `repeated`, `last`: pongs that came back, how many of them behind a newer one, how many
//!   once more, and the greatest counter among them;
//! - `pushed`, `push_reordered`: the same for the datagrams of a push;
//! - `median_us`, `p99_us`: from sending a ping to its pong, in microseconds.

#[path = "shared/payload.rs"]
mod payload;

use std::collections::HashSet;
use std::error::Error;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::num::{NonZeroU32, NonZeroU64};
use std::process::ExitCode;
use std::str;
use std::time::{Duration, Instant};

use argh::FromArgs;
use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token};
use payload::Sizes;

/// The shortest wait that the system offers. Datagrams that fall due meanwhile are sent together.
const TICK: Duration = Duration::from_millis(1);
/// The number of datagrams that are sent at full speed before replies are looked for.
const BURST: u64 = 64;

/// A stand-in for the OSSEC agent: sends numbered datagrams at a steady rate and watches the replies.
#[derive(FromArgs)]
struct Args {
    /// where to send to (127.0.0.1:1514)
    #[argh(option, arg_name = "host:port", default = "String::from(\"127.0.0.1:1514\")")]
    server: String,
    /// source address (the system's choice)
    #[argh(option, arg_name = "addr")]
    source: Option<IpAddr>,
    /// datagrams a second (500)
    #[argh(option, arg_name = "n", default = "NonZeroU32::new(500).expect(\"is not zero\")")]
    rate: NonZeroU32,
    /// send as fast as the system takes them
    #[argh(switch)]
    burst: bool,
    /// how many datagrams to send (1000)
    #[argh(option, arg_name = "n", default = "1000")]
    count: u64,
    /// bytes of each datagram, or a range (150)
    #[argh(option, arg_name = "min[-max]", default = "Sizes::fixed(150)")]
    size: Sizes,
    /// the agent's id (001)
    #[argh(option, arg_name = "id", default = "String::from(\"001\")")]
    agent: String,
    /// the first counter (1)
    #[argh(option, arg_name = "counter", default = "1")]
    start: u64,
    /// ask for a pong with each datagram
    #[argh(switch)]
    ping: bool,
    /// ask for a push of so many datagrams with the first one
    #[argh(option, arg_name = "n", default = "0")]
    push: u64,
    /// open a new source port after so many datagrams
    #[argh(option, arg_name = "n")]
    reconnect_every: Option<NonZeroU64>,
    /// after the last datagram wait so long for one more reply (2000)
    #[argh(option, arg_name = "ms", default = "2000")]
    linger_ms: u64,
}

fn main() -> ExitCode {
    match run(&argh::from_env()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ossec-agent: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let server = resolve(&args.server)?;
    let mut link = Link::open(args, server)?;
    let mut agent = Agent {
        args,
        sent_at: Vec::new(),
        failed: 0,
        refused: 0,
        pongs: Replies::default(),
        pushed: Replies::default(),
    };
    let begun = now();
    let mut heard = begun;
    loop {
        let progress = agent.send_due(&link.socket, begun);
        let now = now();
        if agent.receive(&link.socket, now) || progress.sent > 0 {
            heard = now;
        }
        if agent.is_complete() || (agent.has_sent_all() && heard.elapsed() >= Duration::from_millis(args.linger_ms)) {
            break;
        }
        if progress.wants_new_port {
            link = Link::open(args, server)?;
        }
        link.wait(agent.next_due(begun))?;
    }
    println!("{}", agent.summary());
    Ok(())
}

fn resolve(server: &str) -> Result<SocketAddr, String> {
    let mut addresses = server.to_socket_addrs().map_err(|error| format!("cannot resolve {server}: {error}"))?;
    addresses.next().ok_or_else(|| format!("{server} has no address"))
}

/// The connected socket and the wait for its replies.
struct Link {
    socket: UdpSocket,
    poll: Poll,
    events: Events,
}

impl Link {
    fn open(args: &Args, server: SocketAddr) -> Result<Self, Box<dyn Error>> {
        let any = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let source = SocketAddr::new(args.source.unwrap_or(any), 0);
        let mut socket = UdpSocket::bind(source).map_err(|error| format!("cannot bind {source}: {error}"))?;
        socket.connect(server).map_err(|error| format!("cannot connect to {server}: {error}"))?;
        let poll = Poll::new()?;
        poll.registry().register(&mut socket, Token(0), Interest::READABLE)?;
        Ok(Self { socket, poll, events: Events::with_capacity(1) })
    }

    /// Waits until a reply is there or `span` is over.
    fn wait(&mut self, span: Duration) -> io::Result<()> {
        match self.poll.poll(&mut self.events, Some(span)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }
}

/// The result of one turn of sending.
struct Progress {
    sent: u64,
    wants_new_port: bool,
}

struct Agent<'a> {
    args: &'a Args,
    /// The moment when each datagram was sent, the first one first.
    sent_at: Vec<Instant>,
    failed: u64,
    refused: u64,
    pongs: Replies,
    pushed: Replies,
}

impl Agent<'_> {
    /// Sends the datagrams that have fallen due since `begun`, up to the next change of the source port.
    fn send_due(&mut self, socket: &UdpSocket, begun: Instant) -> Progress {
        let already = self.sent();
        let due = if self.args.burst { already + BURST } else { self.due_after(begun.elapsed()) };
        while self.sent() < due.min(self.args.count) {
            match socket.send(&self.datagram(self.sent())) {
                Ok(_) => {}
                // The socket's buffer is full: the system will take the datagram in a moment.
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.failed += 1,
            }
            self.sent_at.push(now());
            if self.reconnects() {
                return Progress { sent: self.sent() - already, wants_new_port: true };
            }
        }
        Progress { sent: self.sent() - already, wants_new_port: false }
    }

    /// Whether the next datagram leaves from a new source port.
    fn reconnects(&self) -> bool {
        let every = self.args.reconnect_every;
        !self.has_sent_all() && every.is_some_and(|every| self.sent().is_multiple_of(every.get()))
    }

    fn sent(&self) -> u64 {
        self.sent_at.len() as u64
    }

    /// The number of datagrams that are due after `span`. The first one is due at once.
    fn due_after(&self, span: Duration) -> u64 {
        let rate = u128::from(self.args.rate.get());
        (span.as_nanos() * rate / 1_000_000_000) as u64 + 1
    }

    /// The time for which there is nothing to send.
    fn next_due(&self, begun: Instant) -> Duration {
        if self.has_sent_all() {
            return Duration::from_millis(self.args.linger_ms).min(10 * TICK);
        }
        if self.args.burst {
            return Duration::ZERO;
        }
        let due = Duration::from_secs(1).mul_f64(self.sent() as f64 / f64::from(self.args.rate.get()));
        due.saturating_sub(begun.elapsed()).max(TICK)
    }

    fn datagram(&self, number: u64) -> Vec<u8> {
        let Args { agent, start, push, ping, size, .. } = self.args;
        let kind = match (number, *push, *ping) {
            (0, 1.., _) => format!("push {push}"),
            (_, _, true) => "ping".to_owned(),
            (_, _, false) => "event".to_owned(),
        };
        size.datagram(number, agent, start + number, &kind)
    }

    /// Takes in all replies that are there; true if there was one.
    fn receive(&mut self, socket: &UdpSocket, now: Instant) -> bool {
        let mut any = false;
        let mut bytes = [0; 2048];
        loop {
            match socket.recv(&mut bytes) {
                Ok(length) => any |= self.take_reply(&bytes[..length], now).is_some(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return any,
                // This is the word of an ICMP message on an earlier datagram.
                Err(_) => self.refused += 1,
            }
        }
    }

    fn take_reply(&mut self, datagram: &[u8], now: Instant) -> Option<()> {
        let mut words = str::from_utf8(datagram).ok()?.split_ascii_whitespace();
        let (agent, number, kind) = (words.next()?, words.next()?.parse::<u64>().ok()?, words.next()?);
        if agent != self.args.agent {
            return None;
        }
        match kind {
            "pong" => {
                let index = usize::try_from(number.checked_sub(self.args.start)?).ok()?;
                self.pongs.take(number, now.saturating_duration_since(*self.sent_at.get(index)?));
            }
            "pushed" => self.pushed.take(number, Duration::ZERO),
            _ => return None,
        }
        Some(())
    }

    fn has_sent_all(&self) -> bool {
        self.sent() >= self.args.count
    }

    /// Everything is sent, and nothing more can come.
    fn is_complete(&self) -> bool {
        let pushes = u64::from(self.args.push > 0 && self.args.count > 0);
        let pongs = if self.args.ping { self.args.count - pushes } else { 0 };
        self.has_sent_all() && self.pongs.count() >= pongs && self.pushed.count() >= self.args.push
    }

    fn summary(&mut self) -> String {
        let (sent, failed, refused) = (self.sent() - self.failed, self.failed, self.refused);
        let Replies { reordered, repeated, newest, .. } = self.pongs;
        let (replies, pushed, push_reordered) = (self.pongs.count(), self.pushed.count(), self.pushed.reordered);
        let (median, p99) = (self.pongs.percentile_us(50), self.pongs.percentile_us(99));
        format!(
            "sent {sent} failed {failed} refused {refused} replies {replies} reordered {reordered} \
             repeated {repeated} last {newest} pushed {pushed} push_reordered {push_reordered} \
             median_us {median} p99_us {p99}"
        )
    }
}

/// The replies of one kind.
#[derive(Default)]
struct Replies {
    numbers: HashSet<u64>,
    reordered: u64,
    repeated: u64,
    newest: u64,
    spans: Vec<Duration>,
}

impl Replies {
    fn take(&mut self, number: u64, span: Duration) {
        if self.numbers.insert(number) {
            self.reordered += u64::from(number < self.newest);
            self.newest = self.newest.max(number);
            self.spans.push(span);
        } else {
            self.repeated += 1;
        }
    }

    fn count(&self) -> u64 {
        self.numbers.len() as u64
    }

    fn percentile_us(&mut self, percent: usize) -> u128 {
        self.spans.sort_unstable();
        let index = (self.spans.len() * percent / 100).min(self.spans.len().saturating_sub(1));
        self.spans.get(index).map_or(0, Duration::as_micros)
    }
}

#[expect(clippy::disallowed_methods, reason = "a program of its own, which reads the clock where it needs it")]
fn now() -> Instant {
    Instant::now()
}
