//! More than remoted can take: bursts, many clients at once, and senders that ask nobody.

use std::process::Command;
use std::time::Duration;

use crate::scene::{AGENT, Scene, example};
use crate::support::namespaces::Side;
use crate::support::{pause_for, wait_until};

/// Options of a receiver that takes a third of the burst.
const SLOW: [&str; 2] = ["--rate", "3500"];

#[test]
fn a_burst_of_small_datagrams_is_paced() {
    burst(Scene::empty(), 24_000, "150");
}

#[test]
fn a_burst_of_small_datagrams_is_paced_over_tcp() {
    burst(Scene::empty_with_key(), 24_000, "150");
}

// 9,000 of the large datagrams fit into the client's default buffer of 64 MiB, even if remoted takes none meanwhile.

#[test]
fn a_burst_of_large_datagrams_is_paced() {
    burst(Scene::empty(), 9_000, "5500");
}

#[test]
fn a_burst_of_large_datagrams_is_paced_over_tcp() {
    burst(Scene::empty_with_key(), 9_000, "5500");
}

fn burst(scene: Scene, count: u64, size: &str) {
    let mut scene = scene.served(&SLOW, &[]);
    // The buffer has room for the whole burst, in case the client has no turn on a busy machine meanwhile.
    scene.start_client(&["--rcvbuf", "128MiB"]);
    let traffic = scene.send_as(AGENT, count, &["--rate", "12000", "--size", size]);
    scene.expect_all(traffic, 0);
}

#[test]
fn thirty_clients_that_come_back_at_once_do_not_overflow_the_receiver() {
    // Each client has been away, and may send datagrams under way again.
    come_back_at_once(Scene::empty(), 1);
}

#[test]
fn thirty_streams_that_come_back_at_once_do_not_overflow_the_receiver() {
    come_back_at_once(Scene::empty_with_key(), 0);
}

fn come_back_at_once(mut scene: Scene, outages: u64) {
    const CLIENTS: u64 = 30;
    let (before, cut, after) = (100, Duration::from_secs(5), 150);
    scene.start_remoted_and_wait(&[]);
    scene.start_server(&[]);
    scene.wait_until_up();
    let mut clients = Vec::new();
    let mut agents = Vec::new();
    for index in 0..CLIENTS {
        let (source, listen) = (format!("10.77.0.{}", 100 + index), format!("127.0.0.1:{}", 2000 + index));
        scene.net.add_address(Side::Agent, &source);
        scene.start_client(&["--source", &source, "--listen", &listen]);
        clients.push(scene.take_client());
        // Each agent sends 50 datagrams a second. At the end of the cut, 7,500 datagrams are held: thirty times what
        // the receiver's buffer has room for.
        let count = before + cut.as_secs() * 50 + after;
        agents.push(scene.send_as(&format!("{}", 100 + index), count, &["--rate", "50", "--server", &listen]));
    }
    for index in 0..CLIENTS {
        scene.wait_until_accepted(&format!("{}", 100 + index), before);
    }
    scene.net.cut();
    pause_for(cut);
    scene.net.heal();
    for agent in agents {
        scene.expect_all(agent, outages);
    }
}

#[test]
fn a_sender_without_a_broker_that_overflows_the_receiver_does_not_stop_the_client() {
    go_on_under_a_flood(Scene::empty(), |scene| scene.wait_until_client_says(&["by other senders"]));
}

#[test]
fn a_sender_without_a_broker_that_overflows_the_receiver_does_not_stop_a_stream() {
    // The server injects where others leave room. It injects datagrams again that may have been dropped.
    go_on_under_a_flood(Scene::empty_with_key(), |scene| scene.wait_until_accepted(AGENT, UNDER_A_FLOOD));
}

/// Datagrams that a client sends while a flood lasts.
const UNDER_A_FLOOD: u64 = 1_000;

fn go_on_under_a_flood(scene: Scene, expect: impl FnOnce(&mut Scene)) {
    const FLOOD: &str = "900";
    const DIRECT: &str = "901";
    let count = UNDER_A_FLOOD;
    let mut scene = scene.brought_up(&["--rate", "2000"]);
    // This counts the client's datagrams: they leave from the first session's source port.
    scene.net.count_datagrams(Side::Server, 1517);
    let flood = ["--server", &format!("{}:1514", Side::Server.ipv4()), "--rate", "6000"];
    // The flood has far more datagrams than it sends before the test ends it.
    let mut flood = scene.send_as(FLOOD, 6_000 * 120, &flood);
    scene.wait_until_dropped(1_000);
    // A second agent without a broker sends beside the flood, as slowly as ours. It gets through as many datagrams as
    // can be had.
    let direct = ["--server", &format!("{}:1514", Side::Server.ipv4()), "--rate", "100"];
    let mut direct = scene.send_as(DIRECT, count, &direct);
    let mut traffic = scene.send_as(AGENT, count, &["--rate", "100"]);
    Scene::wait_until_sent(&mut traffic);
    Scene::wait_until_sent(&mut direct);
    // The client goes on under the flood and releases everything, once. (Two of three datagrams of every sender are
    // dropped. A client that took these for its own drops would send again for ever.)
    wait_until("the client has released everything", || {
        let released = scene.net.counted_datagrams(Side::Server);
        (released >= count).then_some(()).ok_or_else(|| format!("{released} of {count}"))
    });
    let released = scene.net.counted_datagrams(Side::Server);
    assert!(released <= 2 * count, "{count} datagrams were released {released} times");
    expect(&mut scene);
    assert!(flood.process.is_running(), "the flood was over too early");
    flood.process.kill();
    // The drops hit the client no harder than an agent without a broker. The factor of two allows for chance. A client
    // that released only as remoted's reading confirms would get hardly anything through: it would release just when
    // the buffer is full.
    let (brokered, direct) = (scene.received(AGENT).took.len(), scene.received(DIRECT).took.len());
    assert!(2 * brokered >= direct, "{brokered} came through with the broker, {direct} without");
    // The flood has no lasting effect: all datagrams after it arrive.
    scene.wait_until_read();
    let start = count + 1;
    let mut traffic = scene.send_as(AGENT, 500, &["--start", &start.to_string()]);
    Scene::wait_until_sent(&mut traffic);
    wait_until("all arrives after the flood", || {
        let received = scene.received(AGENT);
        let whole = received.took.range(start..).count() == 500;
        whole.then_some(()).ok_or_else(|| format!("{received:?}"))
    });
}

#[test]
fn a_stream_loses_nothing_to_bursts_of_senders_without_a_broker() {
    // 400 datagrams at once every tenth of a second are more than the receiver's buffer holds, and less than it reads
    // meanwhile.
    const BURSTS: &str =
        r#"while sleep 0.1; do "$0" --server "$1" --agent 900 --count 400 --burst --linger-ms 0; done"#;
    let mut scene = Scene::empty_with_key().brought_up(&["--rate", "5000"]);
    let agent = example("ossec-agent");
    let (agent, server) = (agent.to_str().expect("is plain text"), format!("{}:1514", Side::Server.ipv4()));
    let mut bursts = scene.start(Side::Agent, "bash".into(), "bursts", &["-c", BURSTS, agent, &server]);
    scene.wait_until_dropped(100);
    let count = 4_000;
    let mut traffic = scene.send_as(AGENT, count, &["--rate", "300"]);
    let before = scene.drops();
    Scene::wait_until_sent(&mut traffic);
    let dropped = scene.drops() - before;
    scene.wait_until_accepted(AGENT, count);
    assert!(bursts.is_running(), "the bursts were over too early");
    bursts.kill();
    assert!(dropped > 1_000, "only {dropped} were dropped: the bursts were too small");
    let received = scene.received(AGENT);
    assert_eq!(received.overtaken(), 0, "{received:?}");
    println!("{received:?}, {dropped} dropped in all");
}

#[test]
fn a_stream_loses_nothing_where_packets_are_steered_to_another_processor() {
    // Packets sent over loopback then wait in the queue of the second processor, which takes 1,000 in a row.
    let steer = "echo 2 > /sys/class/net/lo/queues/rx-0/rps_cpus";
    let mut scene = Scene::empty_with_key();
    let steered = scene.net.command(Side::Server, "bash").args(["-c", steer]).status().expect("bash runs");
    if !steered.success() {
        println!("no receive packet steering here: this is a large backlog and a slow firewall");
    }
    // A long list of rules for incoming packets makes that processor the slower of the two.
    let rules = "{ echo 'table inet long { chain incoming { type filter hook input priority 0;'; \
                 for i in $(seq 200); do echo \"udp dport $((20000 + i)) drop\"; done; echo '};}'; } | nft -f -";
    let ruled = scene.net.command(Side::Server, "bash").args(["-c", rules]).status().expect("bash runs");
    assert!(ruled.success(), "nft takes the rules");
    // All datagrams are there when remoted comes, so that the server injects as fast as it can.
    let count = 100_000;
    scene.start_client(&["--rcvbuf", "128MiB"]);
    let mut traffic = scene.send_as(AGENT, count, &["--rate", "20000"]);
    Scene::wait_until_sent(&mut traffic);
    scene.start_remoted_and_wait(&["--rcvbuf", "8388608"]);
    scene.start_server(&[]);
    let server = scene.server().id().to_string();
    let pinned = Command::new("taskset").args(["-a", "-p", "-c", "0", &server]).output().expect("taskset runs");
    assert!(pinned.status.success(), "{pinned:?}");
    scene.expect_all(traffic, 0);
}
