//! Both roles in one process, with real threads and sockets, while everything between them breaks at random moments.
//!
//! ```text
//!                      ┌────────────────────── UDP, transport udp ──────────────────────────► remoted
//!   agents ──UDP──► client ──TCP──► proxy (kills, stalls, half-closes) ──► server ──UDP──► ┘
//! ```
//!
//! remoted closes its socket, binds it again, leaves it unread. The test runs over either transport. It expects:
//!
//! * a receiver that refuses overtaken datagrams accepts each datagram;
//! * the client's own accounts say the same;
//! * replies find their agents;
//! * nothing is left behind.
//!
//! The test uses loopback only and needs no root.
//!
//! `ROUNDS=100 SEED=1 cargo test --release --test stress` runs more rounds; `scripts/tsan` runs them under
//! ThreadSanitizer.

mod agent;
#[path = "../support/census.rs"]
mod census;
mod faults;
mod gauge;
mod ledger;
#[path = "../support/ports.rs"]
mod ports;
mod proxy;
#[path = "../simulation/random.rs"]
mod random;
mod remoted;
#[path = "../support/role.rs"]
mod role;
#[path = "../support/wait.rs"]
mod wait;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use agent::Agent;
use census::Census;
use faults::{Deck, LEASE_MAX, disturb};
use gauge::Gauge;
use ports::free_port;
use proxy::Proxy;
use random::Random;
use remoted::Remoted;
use role::{Lines, Role, Trace};
use wait::wait_until;

/// Agents at a time. Agents with odd numbers have keys bound to no address, and give way to others after each wave.
const AGENTS: u8 = 4;
/// Waves of agents in a round.
const WAVES: u8 = 2;
/// Places for sessions: the agents of a wave, and the agents with odd numbers of the wave before. The datagrams of the
/// agents before them are confirmed by then, because a window is smaller than a wave.
const SESSIONS: u8 = AGENTS + AGENTS / 2;
/// The number of troubles in a wave.
const TROUBLES: usize = 5;
const DISTURBANCES: usize = 2;

/// The ports of a round, and its transport.
#[derive(Clone, Copy)]
struct Ports {
    transport: &'static str,
    /// The client's port towards agents.
    listen: u16,
    /// The first of the ports from which the client sends.
    source: u16,
    proxy: u16,
    server: u16,
    remoted: u16,
}

impl Ports {
    fn new(transport: &'static str) -> Self {
        let source = free_port(u16::from(SESSIONS));
        Self {
            transport,
            listen: free_port(0),
            source,
            proxy: free_port(0),
            server: free_port(0),
            remoted: free_port(0),
        }
    }

    fn start_server(self) -> Role {
        let (listen, remoted) = (local(self.server), local(self.remoted));
        let server = ["server", "--listen", &listen, "--remoted", &remoted, "--process", "any", "--settle", "0"];
        Role::start(&server)
    }

    fn start_client(self) -> Role {
        let (listen, broker, remoted) = (local(self.listen), local(self.proxy), local(self.remoted));
        let (source, sessions, timeout) = (self.source.to_string(), SESSIONS.to_string(), format!("{LEASE_MAX:?}"));
        let addresses = ["client", "--listen", &listen, "--broker", &broker, "--server", &remoted];
        let values = [
            "--transport",
            self.transport,
            "--source-port",
            &source,
            "--max-sessions",
            &sessions,
            "--timeout",
            &timeout,
            "--drain",
            "60s",
        ];
        let client = Role::start(&[&addresses[..], &values[..]].concat());
        wait_until("the client listens", || Gauge::new(self.listen).look().ok_or("nobody listens".into()));
        client
    }
}

fn local(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// Everything between client and server, and the agents.
struct World {
    ports: Ports,
    proxy: Proxy,
    remoted: Remoted,
    agents: Vec<Agent>,
    /// The number of datagrams that agents had sent which have given way.
    sent: u64,
    deck: Deck,
    random: Random,
}

impl World {
    /// Agents send while everything breaks; when all is well again everything must have arrived.
    fn wave(&mut self, number: u8, server: Role) -> Role {
        self.gather(number);
        let over = AtomicBool::new(false);
        let Self { ports, proxy, remoted, agents, deck, random, .. } = self;
        let server = thread::scope(|scope| {
            let network = scope.spawn(|| deck.play(TROUBLES, proxy, server, || ports.start_server()));
            let receiver = scope.spawn(|| disturb(remoted, random, DISTURBANCES));
            let senders = agents.iter_mut().map(|agent| scope.spawn(|| agent.send_until(&over)));
            let senders: Vec<_> = senders.collect();
            let (network, receiver) = (network.join(), receiver.join());
            over.store(true, Ordering::Relaxed);
            // ThreadSanitizer sees a join, and does not see the end of a scope.
            for sender in senders {
                sender.join().expect("the agent has sent");
            }
            receiver.expect("the receiver's faults were played");
            network.expect("the network's faults were played")
        });
        // The last datagrams are sent when all is well. Their arrival shows that the link is up.
        self.agents.iter_mut().for_each(Agent::send);
        wait_until("everything has arrived", || self.check());
        self.agents.iter().for_each(|agent| self.wait_until_answered(agent));
        server
    }

    /// Gathers the agents of the first wave. Later it puts others in the place of the agents with odd numbers.
    fn gather(&mut self, wave: u8) {
        let client = SocketAddr::from(([127, 0, 0, 1], self.ports.listen));
        for number in 0..AGENTS {
            let odd = number % 2 == 1;
            let prefix = if odd { format!("!{}!", 100 * wave + number) } else { String::new() };
            let fresh = || {
                let (name, address) = (format!("agent{number}of{wave}"), Ipv4Addr::new(127, 0, 0, 2 + number));
                Agent::new(name, prefix, address, client, self.random.next())
            };
            match self.agents.get_mut(usize::from(number)) {
                None => self.agents.push(fresh()),
                Some(agent) if odd => self.sent += std::mem::replace(agent, fresh()).sent,
                Some(_) => {}
            }
        }
    }

    fn check(&self) -> Result<(), String> {
        let ledger = self.remoted.ledger.lock();
        self.agents.iter().try_for_each(|agent| ledger.check(&agent.name, agent.sent))
    }

    fn wait_until_answered(&self, agent: &Agent) {
        wait_until("a reply comes back", || {
            self.remoted.reply(&agent.name);
            if agent.take_replies() > 0 { Ok(()) } else { Err(format!("{} has heard nothing", agent.name)) }
        });
    }
}

/// Numbers in the last words of a client: `stopped: 10 received, 8 confirmed, 1 dropped, 1 left`.
fn last_words() -> Vec<u64> {
    let words = Lines::newest("stopped: ").expect("the client has said good-bye");
    words.split(' ').filter_map(|word| word.parse().ok()).collect()
}

/// Starts everything, has it broken and mended, and stops everything.
fn round(seed: u64, transport: &'static str) {
    let before = Census::take();
    let mut random = Random::new(seed);
    let ports = Ports::new(transport);
    let (proxy, remoted) = (Proxy::start(ports.proxy, ports.server), Remoted::start(ports.remoted));
    let mut server = ports.start_server();
    let client = ports.start_client();
    let deck = Deck::new(random.next());
    let mut world = World { ports, proxy, remoted, agents: Vec::new(), sent: 0, deck, random };
    for number in 0..WAVES {
        server = world.wave(number, server);
    }
    let sent = world.sent + world.agents.drain(..).map(|agent| agent.sent).sum::<u64>();
    let drops = Gauge::new(ports.listen).drops();
    client.stop();
    server.stop();
    world.proxy.stop();
    let ledger = world.remoted.ledger.clone();
    world.remoted.stop();
    let ledger = ledger.lock();
    println!("seed {seed} over {transport}: {sent} datagrams, {} lives of the receiver", ledger.lives);
    assert_eq!(drops, 0, "the agents send no more than the client's socket holds");
    assert_eq!(ledger.drops, 0, "a window is smaller than the receiver's buffer");
    assert_eq!(last_words(), [sent, sent, 0, 0], "received, confirmed, dropped, left");
    before.wait_until_restored();
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

#[test]
fn all_arrives_in_order_whatever_breaks_between_client_and_server() {
    let first = number("SEED").unwrap_or(1);
    for seed in first..first + number("ROUNDS").unwrap_or(1) {
        for transport in ["udp", "tcp"] {
            let _trace = Trace(format!("SEED={seed}, over {transport}"));
            round(seed, transport);
        }
    }
}
