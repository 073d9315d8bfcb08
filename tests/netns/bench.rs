//! Benchmarks: how fast a backlog drains without a loss, over either transport. They print figures and compare the
//! figures of one run. `scripts/bench` runs them, the tests do not.

use std::time::{Duration, Instant};

use crate::scene::{AGENT, Scene, example};
use crate::support::namespaces::Side;

/// The number of datagrams of this file that the kernel's default receive buffer holds.
const DEFAULT_BUFFER_HOLDS: u64 = 256;
/// A receive buffer that is no limit.
pub(crate) const LARGE_BUFFER: [&str; 2] = ["--rcvbuf", "8388608"];
/// The address at which the client listens when it is on remoted's host.
pub(crate) const LISTEN: &str = "127.0.0.1:2514";
/// The delay of the long path in one direction.
const DELAY: Duration = Duration::from_millis(50);

/// The place of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    /// On remoted's host.
    Loopback,
    /// A round trip of twice [`DELAY`] away from remoted's host.
    Long,
}

impl Path {
    const fn client_side(self) -> Side {
        match self {
            Self::Loopback => Side::Server,
            Self::Long => Side::Agent,
        }
    }
}

impl Scene {
    /// The rate, in datagrams a second, at which a backlog of `count` drains.
    fn drain(mut self, path: Path, remoted: &[&str], client: &[&str], count: u64) -> f64 {
        let _relays = if path == Path::Long { self.go_far(DELAY) } else { Vec::new() };
        let server = if path == Path::Long { Side::Server.far_ipv4() } else { "127.0.0.1" };
        self.start_client_at(path.client_side(), &[&["--server", server, "--listen", LISTEN], client].concat());
        let numbers = count.to_string();
        let options = ["--agent", AGENT, "--count", &numbers, "--rate", "20000", "--server", LISTEN, "--size", "150"];
        let mut agent = self.start(path.client_side(), example("ossec-agent"), "agent", &options);
        assert!(agent.wait().success(), "the agent fails");
        self.drained(remoted, count)
    }

    /// The same, where the client holds the backlog already.
    pub(crate) fn drained(&mut self, remoted: &[&str], count: u64) -> f64 {
        self.start_remoted_and_wait(remoted);
        self.start_server(&[]);
        self.wait_until_accepted(AGENT, 1);
        let (begun, first) = (now(), self.received(AGENT).took.len() as u64);
        self.wait_until_accepted(AGENT, count);
        let rate = (count - first) as f64 / begun.elapsed().as_secs_f64();
        assert_eq!((self.drops(), self.received(AGENT).overtaken()), (0, 0), "not without a loss");
        rate
    }
}

#[expect(clippy::disallowed_methods, reason = "to measure is what a benchmark is for")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The better figure of each transport. Both are measured in turn, twice, so that a machine that becomes slower or
/// faster meanwhile does not decide.
fn compare(path: Path, remoted: &[&str], [over_udp, over_tcp]: [u64; 2]) -> [f64; 2] {
    let mut best = [0.0_f64; 2];
    for _ in 0..2 {
        best[0] = best[0].max(Scene::empty().drain(path, remoted, &[], over_udp));
        best[1] = best[1].max(Scene::empty_with_key().drain(path, remoted, &[], over_tcp));
    }
    let buffer = if remoted.is_empty() { "default" } else { "8 MiB" };
    println!("| {path:?} | {buffer} | {:.0} | {:.0} | {:.2} |", best[0], best[1], best[1] / best[0]);
    best
}

#[test]
#[ignore = "a benchmark: scripts/bench runs it"]
fn a_backlog_drains_over_tcp_as_it_does_over_udp() {
    println!(
        "| path | remoted's buffer | udp, datagrams/s | tcp with key, datagrams/s | tcp/udp |\n|---|---|---|---|---|"
    );
    for (remoted, counts) in [(&[][..], [50_000, 100_000]), (&LARGE_BUFFER, [200_000, 200_000])] {
        let [udp, tcp] = compare(Path::Loopback, remoted, counts);
        assert!(tcp >= 0.6 * udp, "over loopback tcp takes more than five thirds of the time");
    }
    let [udp, tcp] = compare(Path::Long, &[], [5_000, 100_000]);
    let round_trip = 2 * DELAY;
    let buffers = tcp * round_trip.as_secs_f64() / DEFAULT_BUFFER_HOLDS as f64;
    println!("over the long path, remoted's default buffer is filled {buffers:.1} times in each round trip");
    assert!(tcp > 2.0 * udp && buffers > 2.0, "remoted's buffer is the limit");
    compare(Path::Long, &LARGE_BUFFER, [50_000, 100_000]);
}

#[test]
#[ignore = "a benchmark: scripts/bench runs it"]
fn a_rate_is_met_wherever_the_path_gives_more() {
    println!("| transport | --rate | datagrams/s |\n|---|---|---|");
    let mut missed = Vec::new();
    for (transport, scene) in [("udp", Scene::empty as fn() -> Scene), ("tcp with key", Scene::empty_with_key)] {
        for rate in [1_000, 3_000, 6_000, 9_000] {
            let options = ["--rate", &rate.to_string()];
            // A remoted that reads as fast as it can is rarely seen at its work: see the reliability page.
            let got = scene().drain(Path::Loopback, &["--rate", "20000"], &options, 4 * rate);
            println!("| {transport} | {rate} | {got:.0} |");
            if !(0.95..=1.05).contains(&(got / rate as f64)) {
                missed.push((transport, rate, got));
            }
        }
    }
    assert!(missed.is_empty(), "not within 5 %: {missed:?}");
}
