//! Outages of the link, of remoted and of the broker's server under 500 datagrams a second.

use std::time::Duration;

use crate::scene::{AGENT, Scene, copies_max, worth};
use crate::support::namespaces::{Firewall, Side};
use crate::support::pause_for;

/// Traffic before an outage begins.
const BEFORE: Duration = Duration::from_secs(1);
/// Traffic after the last outage, for the replay to overtake and the replies to come back.
const AFTER: Duration = Duration::from_secs(4);

/// Sends at 500 datagrams a second while `happen` lets `outages` happen, of `span` in all. Expects that nothing is
/// lost.
pub(crate) fn ride_out(outages: u64, span: Duration, happen: impl FnOnce(&mut Scene)) {
    let mut scene = Scene::up();
    let traffic = scene.send(worth(BEFORE + span + AFTER), &[]);
    scene.wait_until_accepted(AGENT, worth(BEFORE));
    happen(&mut scene);
    scene.expect_all_and_replies(traffic, outages);
}

#[test]
fn a_steady_link_loses_no_datagram_and_no_reply() {
    let mut scene = Scene::up();
    let traffic = scene.send(worth(Duration::from_secs(5)), &["--size", "60-900"]);
    scene.expect_all_and_replies(traffic, 0);
}

#[test]
fn a_cut_of_six_seconds_is_ridden_out() {
    let span = Duration::from_secs(6);
    ride_out(1, span, |scene| {
        scene.net.cut();
        pause_for(span);
        scene.net.heal();
    });
}

#[test]
fn twelve_short_cuts_are_ridden_out() {
    // Each cut lasts 150 to 500 ms, with 700 to 1,300 ms in between. These are whole numbers of milliseconds, the same
    // in every run.
    let spans: Vec<(u64, u64)> = (1..=12).map(|cut| (150 + cut * 211 % 351, 700 + cut * 397 % 601)).collect();
    let sum = spans.iter().map(|(cut, healed)| cut + healed).sum();
    ride_out(12, Duration::from_millis(sum), |scene| {
        for (cut, healed) in spans {
            scene.net.cut();
            pause_for(Duration::from_millis(cut));
            scene.net.heal();
            pause_for(Duration::from_millis(healed));
        }
    });
}

#[test]
fn a_link_that_passes_nothing_towards_the_server_is_ridden_out() {
    cut_one_way(Side::Server);
}

#[test]
fn a_link_that_passes_nothing_towards_the_agent_is_ridden_out() {
    cut_one_way(Side::Agent);
}

fn cut_one_way(towards: Side) {
    let span = Duration::from_secs(3);
    ride_out(1, span, |scene| {
        scene.net.cut_towards(towards);
        pause_for(span);
        scene.net.heal();
    });
}

#[test]
fn a_cable_pulled_at_the_agents_host_is_ridden_out() {
    pull_cable(Side::Agent);
}

#[test]
fn a_cable_pulled_at_the_servers_host_is_ridden_out() {
    pull_cable(Side::Server);
}

fn pull_cable(at: Side) {
    let span = Duration::from_secs(3);
    ride_out(1, span, |scene| {
        scene.net.link_down(at);
        pause_for(span);
        scene.net.link_up(at);
    });
}

#[test]
fn a_firewall_that_rejects_the_datagrams_is_ridden_out() {
    raise_firewall(Firewall::RejectsUdp);
}

#[test]
fn a_firewall_that_rejects_everything_is_ridden_out() {
    raise_firewall(Firewall::RejectsAll);
}

#[test]
fn a_firewall_that_lets_no_datagram_out_is_ridden_out() {
    raise_firewall(Firewall::ForbidsUdp);
}

fn raise_firewall(firewall: Firewall) {
    let span = Duration::from_secs(3);
    ride_out(1, span, |scene| {
        scene.net.raise(firewall);
        pause_for(span);
        scene.net.heal();
    });
}

#[test]
fn a_receiver_killed_twice_misses_nothing() {
    let (away, between) = (Duration::from_secs(2), Duration::from_secs(2));
    ride_out(2, away + between + away, |scene| kill_twice(scene, away, between));
}

/// remoted is killed, away for a while and started again, twice.
pub(crate) fn kill_twice(scene: &mut Scene, away: Duration, between: Duration) {
    for pause in [between, Duration::ZERO] {
        scene.remoted().kill();
        pause_for(away);
        scene.start_remoted(&[]);
        pause_for(pause);
    }
}

#[test]
fn a_receiver_killed_and_started_again_at_once_misses_nothing() {
    ride_out(1, Duration::ZERO, |scene| {
        scene.remoted().kill();
        scene.start_remoted(&[]);
    });
}

#[test]
fn a_receiver_stopped_for_four_seconds_misses_nothing() {
    let span = Duration::from_secs(4);
    ride_out(1, span, |scene| {
        scene.remoted().signal("STOP");
        pause_for(span);
        scene.remoted().signal("CONT");
    });
}

#[test]
fn a_broker_server_killed_and_started_again_costs_nothing() {
    let span = Duration::from_secs(2);
    ride_out(1, span, |scene| {
        scene.server().kill();
        pause_for(span);
        scene.start_server(&[]);
    });
}

#[test]
fn everything_started_in_the_wrong_order_finds_together() {
    let step = Duration::from_secs(1);
    let mut scene = Scene::empty();
    let mut traffic = scene.send_as(AGENT, worth(4 * step + AFTER), &[]);
    pause_for(step);
    scene.start_client(&[]);
    pause_for(step);
    scene.start_server(&[]);
    pause_for(step);
    scene.start_remoted(&[]);
    assert!(traffic.process.wait().success(), "the agent fails");
    scene.wait_until_newest(AGENT, worth(4 * step + AFTER));
    // Datagrams that the agent sent before anybody listened are lost. From the first datagram that the client got, all
    // are there.
    let received = scene.received(AGENT);
    let first = received.took.first().copied().expect("the newest is there");
    assert!(received.took.iter().copied().eq(first..=received.newest()), "there are gaps: {received:?}");
    assert!(first <= worth(3 * step), "the client's socket came late: {received:?}");
    assert_eq!(received.overtaken(), 0, "order was not kept: {received:?}");
    assert!(received.copies() <= copies_max(0), "too many copies: {received:?}");
    assert_eq!(scene.drops(), 0);
}

#[test]
fn a_name_that_becomes_known_after_the_start_is_found() {
    let count = 100;
    let mut scene = Scene::empty();
    scene.net.write_hosts(Side::Agent, "127.0.0.1 localhost\n");
    scene.start_remoted(&[]);
    scene.start_server(&[]);
    scene.wait_until_up();
    scene.start_client(&["--server", "ossec.example"]);
    scene.wait_until_client_says(&["cannot resolve ossec.example"]);
    let traffic = scene.send_as(AGENT, count, &[]);
    scene.net.write_hosts(Side::Agent, &format!("{} ossec.example\n", Side::Server.ipv4()));
    scene.expect_all(traffic, 0);
}
