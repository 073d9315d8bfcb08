//! Hundreds of whole clients in one process, each with an address of its own, at one receiver with the default buffer.

use std::collections::BTreeMap;
use std::fs;

use crate::scene::{Scene, Summary, example};
use crate::support::namespaces::Side;
use crate::support::process::Process;
use crate::support::wait_until;

/// The network of the clients' addresses.
const NETWORK: &str = "10.78.0.0/16";

impl Scene {
    /// Starts a swarm and waits until all its clients hold the datagrams that they start with.
    fn start_swarm(&mut self, options: &[&str]) -> Process {
        self.net.add_network(Side::Agent, NETWORK);
        let remoted = format!("{}:1514", Side::Server.ipv4());
        let own = ["--server", &remoted, "--addresses", NETWORK, "--give-up-s", "55"];
        let options = [&own, &self.key_options()[..], options].concat();
        let swarm = self.start(Side::Agent, example("ossec-swarm"), "swarm", &options);
        wait_until("the swarm is ready", || {
            swarm.output().contains("ready").then_some(()).ok_or_else(|| swarm.output())
        });
        swarm
    }

    /// Waits until the swarm has nothing left, and holds it against the promise: nothing lost, nothing dropped by the
    /// receiver's socket, order kept, only intended copies.
    fn expect_all_of(&mut self, mut swarm: Process, clients: u64, each: u64) -> Summary {
        assert!(swarm.wait().success(), "the swarm was not rid of all it held: {}", swarm.output());
        let summary = Summary(swarm.output());
        assert_eq!((summary.get("confirmed"), summary.get("left")), (clients * each, 0), "{}", summary.0);
        let copies_max = self.copies_max(0);
        let mut copies = 0;
        for client in 1..=clients {
            let received = self.received(&format!("{client:04}"));
            assert!(received.took.iter().copied().eq(1..=each), "client {client}: {received:?}");
            assert_eq!(received.overtaken(), 0, "client {client}: order was not kept: {received:?}");
            assert!(received.copies() <= copies_max, "client {client}: too many copies: {received:?}");
            copies += received.copies();
        }
        assert!(copies <= summary.get("copies"), "{copies} copies arrived: {}", summary.0);
        assert_eq!(self.drops(), 0, "the receiver's socket overflowed: {}", summary.0);
        summary
    }

    /// The number of datagrams that the least favoured client had got through when half of all `total` were.
    fn fewest_at_half(&self, clients: u64, total: u64) -> u64 {
        let journal = fs::read_to_string(self.journal.path()).expect("the receiver wrote it");
        let accepted = journal.lines().filter_map(|line| line.strip_prefix("took ")?.split(' ').next());
        let mut shares: BTreeMap<&str, u64> = BTreeMap::new();
        for agent in accepted.take(usize::try_from(total / 2).expect("is small")) {
            *shares.entry(agent).or_default() += 1;
        }
        if (shares.len() as u64) < clients { 0 } else { shares.values().copied().min().unwrap_or(0) }
    }
}

#[test]
fn two_hundred_clients_that_come_back_at_once_all_get_their_share_and_overflow_nothing() {
    come_back_at_once(Scene::empty(), &[]);
}

#[test]
fn two_hundred_streams_that_come_back_at_once_all_get_their_share_and_overflow_nothing() {
    // remoted is slow enough that all clients are connected long before half of everything is delivered.
    come_back_at_once(Scene::empty_with_key(), &["--rate", "3000"]);
}

fn come_back_at_once(mut scene: Scene, remoted: &[&str]) {
    let (clients, held) = (200, 150);
    scene.start_remoted_and_wait(remoted);
    let swarm = scene.start_swarm(&["--clients", &clients.to_string(), "--held", &held.to_string()]);
    scene.start_server(&[]);
    scene.expect_all_of(swarm, clients, held);
    // The clients take turns of a few dozens. No client is more than one turn behind the others for long. When half of
    // all is delivered, each client has got through at least a third of the mean.
    let fewest = scene.fewest_at_half(clients, clients * held);
    assert!(3 * fewest >= held / 2, "at half of all somebody had got through {fewest} of {held}");
}

#[test]
fn hundreds_of_quiet_agents_do_not_wait_for_one_another() {
    be_quiet(Scene::empty());
}

#[test]
fn hundreds_of_quiet_streams_do_not_wait_for_one_another() {
    be_quiet(Scene::empty_with_key());
}

fn be_quiet(mut scene: Scene) {
    let (clients, seconds) = (400, 12);
    scene.start_remoted_and_wait(&[]);
    scene.start_server(&[]);
    scene.wait_until_up();
    let options =
        ["--clients", &clients.to_string(), "--held", "0", "--rate", "1", "--duration", &seconds.to_string()];
    let swarm = scene.start_swarm(&options);
    let summary = scene.expect_all_of(swarm, clients, seconds);
    // Each datagram is gone before the next one comes, or the one after that. If more than a few were kept waiting,
    // they would wait for each other.
    assert!(summary.get("most_unsent") <= 5, "{}", summary.0);
}
