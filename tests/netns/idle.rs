//! The cost of the broker when there is little to do.

use std::time::Duration;

use crate::scene::{AGENT, Scene};
use crate::support::namespaces::{Side, run};
use crate::support::pause_for;

/// The span in which the test counts.
const SPAN: Duration = Duration::from_secs(10);

impl Scene {
    /// Context switches to the client's and to the server's threads so far.
    fn switches(&mut self) -> [u64; 2] {
        [self.client().context_switches(), self.server().context_switches()]
    }

    /// Heartbeats begun so far: segments with data that the client's connection has sent.
    fn heartbeats(&self) -> u64 {
        let mut ss = self.net.command(Side::Agent, "ss");
        let connections = run(ss.args(["-Htin", "state", "established", "dport", "=", ":1517"]));
        let counts = connections.split_ascii_whitespace().filter_map(|word| word.strip_prefix("data_segs_out:"));
        counts.map(|count| count.parse::<u64>().expect("is a number")).sum()
    }
}

#[test]
fn idle_means_idle() {
    let mut scene = Scene::up();
    // The first datagram proves that client and server have found each other.
    let traffic = scene.send_as(AGENT, 1, &[]);
    scene.expect_all(traffic, 0);
    let before = scene.switches();
    pause_for(SPAN);
    let after = scene.switches();
    for (role, (before, after)) in ["client", "server"].iter().zip(before.into_iter().zip(after)) {
        assert!(after - before < 8 * SPAN.as_secs(), "the idle {role} was woken {} times", after - before);
    }
    // A build for debugging is several times as large, and most of that is resident.
    if !cfg!(debug_assertions) {
        let resident = [scene.client().resident_kib(), scene.server().resident_kib()];
        assert!(resident.iter().all(|&kib| kib < 5 * 1024), "resident, in KiB: {resident:?}");
    }
}

#[test]
fn five_datagrams_a_second_cost_at_most_two_heartbeats_each() {
    let count = 5 * SPAN.as_secs();
    let mut scene = Scene::up();
    let traffic = scene.send_as(AGENT, 1, &[]);
    scene.expect_all(traffic, 0);
    let (switches, heartbeats) = (scene.switches(), scene.heartbeats());
    let mut traffic = scene.send_as(AGENT, count, &["--start", "2", "--rate", "5"]);
    Scene::wait_until_sent(&mut traffic);
    scene.wait_until_accepted(AGENT, count + 1);
    let heartbeats = scene.heartbeats() - heartbeats;
    // One more heartbeat may have been due already when the first datagram came.
    assert!(heartbeats <= 2 * count + 1, "{heartbeats} heartbeats for {count} datagrams");
    for (before, after) in switches.into_iter().zip(scene.switches()) {
        assert!(after - before < 60 * SPAN.as_secs(), "{} context switches", after - before);
    }
}
