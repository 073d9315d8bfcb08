//! Transport tcp, with a key, under 500 datagrams a second: nothing is lost at all, and nothing comes twice unless remoted or the broker server dies.

use std::time::Duration;

use crate::scene::{AGENT, Scene, worth};
use crate::support::namespaces::{Firewall, Side};
use crate::support::pause_for;

const BEFORE: Duration = Duration::from_secs(1);
const AFTER: Duration = Duration::from_secs(2);

/// What may come twice after a crash: a window.
const COPIES_PER_CRASH: u64 = 200;

/// Sends while something happens that nobody dies of.
fn ride_out(span: Duration, happen: impl FnOnce(&mut Scene)) {
    let mut scene = Scene::up_over_tcp();
    let traffic = scene.send(worth(BEFORE + span + AFTER), &[]);
    scene.wait_until_accepted(AGENT, worth(BEFORE));
    happen(&mut scene);
    scene.expect_each_once(traffic);
}

/// Sends while remoted or the broker server dies, so many times.
fn survive(crashes: u64, span: Duration, happen: impl FnOnce(&mut Scene)) {
    let mut scene = Scene::up_over_tcp();
    let traffic = scene.send(worth(BEFORE + span + AFTER), &[]);
    scene.wait_until_accepted(AGENT, worth(BEFORE));
    happen(&mut scene);
    scene.expect_all(traffic, crashes);
    let received = scene.received(AGENT);
    assert!(received.copies() <= COPIES_PER_CRASH * crashes, "too many copies: {received:?}");
}

#[test]
fn a_steady_stream_loses_no_datagram_and_no_reply() {
    let mut scene = Scene::up_over_tcp();
    let count = worth(Duration::from_secs(5));
    let traffic = scene.send(count, &["--size", "60-900"]);
    let summary = scene.expect_each_once(traffic);
    assert_eq!((summary.get("replies"), summary.get("reordered")), (count, 0), "{}", summary.0);
    scene.expect_accounts(count);
}

#[test]
fn a_stream_on_which_a_twentieth_of_all_packets_is_lost_loses_nothing() {
    let lossy = Duration::from_secs(4);
    let mut scene = Scene::up_over_tcp();
    let traffic = scene.send_as(AGENT, worth(BEFORE + lossy + AFTER), &[]);
    scene.wait_until_accepted(AGENT, worth(BEFORE));
    scene.net.lose(5);
    pause_for(lossy);
    scene.net.lose_no_more();
    scene.expect_each_once(traffic);
}

#[test]
fn a_stream_cut_for_six_seconds_loses_nothing() {
    let span = Duration::from_secs(6);
    ride_out(span, |scene| {
        scene.net.cut();
        pause_for(span);
        scene.net.heal();
    });
}

#[test]
fn a_stream_cut_twelve_times_for_less_than_a_lease_loses_nothing() {
    let spans: Vec<(u64, u64)> = (1..=12).map(|cut| (20 + cut * 37 % 71, 300 + cut * 397 % 401)).collect();
    let sum = spans.iter().map(|(cut, healed)| cut + healed).sum();
    ride_out(Duration::from_millis(sum), |scene| {
        for (cut, healed) in spans {
            scene.net.cut();
            pause_for(Duration::from_millis(cut));
            scene.net.heal();
            pause_for(Duration::from_millis(healed));
        }
    });
}

#[test]
fn a_stream_that_passes_one_way_alone_for_a_while_loses_nothing() {
    for towards in [Side::Server, Side::Agent] {
        let span = Duration::from_secs(3);
        ride_out(span, |scene| {
            scene.net.cut_towards(towards);
            pause_for(span);
            scene.net.heal();
        });
    }
}

#[test]
fn a_filtered_udp_port_is_nothing_to_a_stream() {
    let span = Duration::from_secs(3);
    for firewall in [Firewall::RejectsUdp, Firewall::ForbidsUdp] {
        ride_out(span, |scene| {
            scene.net.raise(firewall);
            pause_for(span);
            scene.net.heal();
        });
    }
}

#[test]
fn a_receiver_killed_twice_misses_nothing_of_a_stream() {
    let (away, between) = (Duration::from_secs(2), Duration::from_secs(2));
    survive(2, away + between + away, |scene| {
        for pause in [between, Duration::ZERO] {
            scene.remoted().kill();
            pause_for(away);
            scene.start_remoted(&[]);
            pause_for(pause);
        }
    });
}

#[test]
fn a_receiver_stopped_for_four_seconds_misses_nothing_of_a_stream_and_gets_nothing_twice() {
    let span = Duration::from_secs(4);
    ride_out(span, |scene| {
        scene.remoted().signal("STOP");
        pause_for(span);
        scene.remoted().signal("CONT");
    });
}

#[test]
fn a_broker_server_killed_under_a_stream_costs_nothing() {
    let span = Duration::from_secs(2);
    survive(1, span, |scene| {
        scene.server().kill();
        pause_for(span);
        scene.start_server(&[]);
    });
}

#[test]
fn a_broker_server_stopped_under_a_stream_costs_nothing() {
    let span = Duration::from_secs(5);
    ride_out(span, |scene| {
        scene.server().signal("STOP");
        pause_for(span);
        scene.server().signal("CONT");
    });
}

/// Sends, and expects each datagram once and every reply.
fn expect_replies(scene: &mut Scene) {
    let count = worth(BEFORE + AFTER);
    let traffic = scene.send(count, &[]);
    let summary = scene.expect_each_once(traffic);
    assert_eq!((summary.get("replies"), summary.get("reordered")), (count, 0), "{}", summary.0);
}

#[test]
fn replies_come_back_through_a_stateful_firewall_at_the_agents_host() {
    let mut scene = Scene::empty_with_key();
    scene.start_remoted_and_wait();
    scene.start_server(&[]);
    scene.wait_until_up();
    scene.net.raise(Firewall::Stateful);
    scene.start_client(&[]);
    expect_replies(&mut scene);
}

#[test]
fn replies_come_back_over_the_connection_where_the_server_injects_in_its_own_name() {
    let mut scene = Scene::empty_with_key();
    scene.start_remoted_and_wait();
    scene.start_server(&["--inject", "local"]);
    scene.wait_until_up();
    // Nothing but the broker's connection passes.
    scene.net.raise(Firewall::ForbidsUdp);
    scene.start_client(&[]);
    expect_replies(&mut scene);
}

#[test]
fn a_stream_may_be_ipv6() {
    let mut scene = Scene::empty_with_key();
    scene.start_remoted_and_wait();
    scene.start_server(&[]);
    scene.wait_until_up();
    let server = format!("[{}]", Side::Server.ipv6());
    scene.start_client(&["--server", &server]);
    expect_replies(&mut scene);
}
