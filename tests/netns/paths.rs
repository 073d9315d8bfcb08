//! Paths that take long or swallow large packets, and servers with several addresses.

use std::time::Duration;

use crate::scene::{AGENT, Scene, example, worth};
use crate::support::namespaces::{Firewall, Side};
use crate::support::process::Process;
use crate::support::{pause_for, wait_until};

/// A name of the server's host with an address of either family.
const NAME: &str = "ossec.example";
/// Packets of more bytes than this vanish.
const PACKET_BYTES_MAX: u32 = 1_400;

impl Scene {
    /// Makes the path through the tunnel take so long in either direction. The path is slow as long as the returned
    /// processes live.
    pub(crate) fn go_far(&mut self, delay: Duration) -> Vec<Process> {
        let milliseconds = delay.as_millis().to_string();
        let relays = self.net.tunnel().map(|(side, listen, to)| {
            self.start(side, example("udp-delay"), "delay", &["--listen", &listen, "--to", &to, "--ms", &milliseconds])
        });
        relays.into()
    }

    /// The agent's host knows the server's by a name with two addresses.
    fn name_both_families(&self) {
        let lines = [Side::Server.ipv6(), Side::Server.ipv4()].map(|address| format!("{address} {NAME}\n"));
        self.net.write_hosts(Side::Agent, &format!("127.0.0.1 localhost\n{}", lines.concat()));
        // The first packet over IPv6 may be lost while the hosts look for each other. The system names that address
        // first.
        wait_until("the server answers over IPv6", || {
            let output = self.check_at(Side::Server.ipv6());
            output.status.success().then_some(()).ok_or_else(|| format!("{output:?}"))
        });
    }
}

/// A greeting and its answer take longer than an attempt to connect usually may.
fn a_long_way(mut scene: Scene, one_way: Duration) {
    let _relays = scene.go_far(one_way);
    let mut scene = scene.served(&[], &[]);
    scene.start_client(&["--server", Side::Server.far_ipv4()]);
    let traffic = scene.send(100, &["--rate", "100"]);
    scene.wait_until_client_says(&["connected to", "a round trip takes"]);
    scene.expect_all(traffic, 1);
}

#[test]
fn a_round_trip_of_more_than_a_second_connects_and_carries_all_over_udp() {
    a_long_way(Scene::empty(), Duration::from_millis(700));
}

#[test]
fn a_round_trip_of_more_than_a_second_connects_and_carries_all_over_tcp() {
    a_long_way(Scene::empty_with_key(), Duration::from_millis(700));
}

#[test]
fn a_round_trip_longer_than_the_timeout_connects_and_carries_all_over_udp() {
    a_long_way(Scene::empty(), Duration::from_millis(1_250));
}

#[test]
fn a_round_trip_longer_than_the_timeout_connects_and_carries_all_over_tcp() {
    a_long_way(Scene::empty_with_key(), Duration::from_millis(1_250));
}

/// An address like `fe80::1%eth0` means another host on each link.
fn at_an_address_of_the_link(scene: Scene, server: &[&str]) {
    let mut scene = scene.served(&[], server);
    let server = scene.net.link_local(Side::Server);
    let output = scene.check_at(&server);
    assert!(output.status.success(), "{output:?}");
    let listen = scene.net.link_local(Side::Agent);
    scene.start_client(&["--server", &format!("[{server}]:1514"), "--listen", &format!("[{listen}]:1514")]);
    // A program that is no resolver knows an interface by its number.
    let numbered = listen.replace("wire", &scene.net.interface(Side::Agent));
    let traffic = scene.send(200, &["--server", &format!("[{numbered}]:1514")]);
    scene.expect_all_and_replies(traffic, 0);
}

#[test]
fn a_server_is_reached_at_its_address_of_the_link_over_udp() {
    at_an_address_of_the_link(Scene::empty(), &[]);
}

#[test]
fn a_server_is_reached_at_its_address_of_the_link_over_tcp() {
    // remoted itself could not answer there.
    at_an_address_of_the_link(Scene::empty_with_key(), &["--inject", "local"]);
}

#[test]
fn a_path_that_swallows_large_packets_carries_all_over_tcp_in_smaller_ones_and_the_log_says_so() {
    let mut scene = Scene::empty_with_key();
    scene.net.swallow_larger_than(PACKET_BYTES_MAX);
    scene.start_client(&[]);
    // A backlog goes out in full segments.
    let mut traffic = scene.send_as(AGENT, 500, &["--size", "200-900"]);
    assert!(traffic.process.wait().success(), "the agent fails");
    let mut scene = scene.served(&[], &[]);
    scene.wait_until_client_says(&["packets of 1500 bytes do not get through", "sending smaller ones"]);
    scene.expect_all(traffic, 2);
}

#[test]
fn a_client_of_a_name_with_both_families_goes_to_the_one_that_remoted_receives() {
    let mut scene = Scene::empty().served(&["--listen", "0.0.0.0:1514"], &[]);
    scene.name_both_families();
    // Nothing comes back that would tell the client.
    scene.net.raise(Firewall::DropsUdpOverIpv6);
    scene.start_client(&["--server", NAME]);
    let traffic = scene.send(worth(Duration::from_secs(2)), &[]);
    scene.expect_all(traffic, 0);
}

#[test]
fn a_cut_moves_no_client_to_another_address_of_its_server() {
    let mut scene = Scene::empty().served(&[], &[]);
    scene.name_both_families();
    scene.net.count_families(Side::Server);
    scene.start_client(&["--server", NAME]);
    let (between, cut) = (Duration::from_secs(1), Duration::from_secs(4));
    let traffic = scene.send(worth(4 * (between + cut)), &[]);
    scene.wait_until_accepted(AGENT, worth(between));
    for _ in 0..3 {
        // The cut is long enough for an attempt at each address to fail.
        scene.net.cut();
        pause_for(cut);
        scene.wait_until_client_says_again("link up", |scene| scene.net.heal_cut());
        pause_for(between);
    }
    scene.expect_all(traffic, 3);
    let [ipv4, ipv6] = scene.net.counted_families(Side::Server);
    assert!((ipv4 == 0) != (ipv6 == 0), "{ipv4} datagrams came over IPv4, {ipv6} over IPv6");
}

#[test]
fn check_gives_a_name_with_three_dead_addresses_the_time_of_one() {
    let scene = Scene::empty();
    scene.net.cut();
    let lines = ["10.77.0.201", "10.77.0.202", "10.77.0.203"].map(|address| format!("{address} {NAME}\n"));
    scene.net.write_hosts(Side::Agent, &lines.concat());
    let time = |name: &str| {
        let begun = ossec_broker::os::net::now();
        let output = scene.check_at(name);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        ossec_broker::os::net::now().since(begun)
    };
    let (one, three) = (time("10.77.0.201"), time(NAME));
    assert!(three < 2 * one, "{three:?}, and {one:?} for one");
}
