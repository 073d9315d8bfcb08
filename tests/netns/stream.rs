//! Transport tcp, with a key, under 500 datagrams a second: nothing is lost at all, and nothing comes twice unless
//! remoted or the broker server dies.

use std::time::Duration;

use crate::half_open::come_back_without_connections;
use crate::outages::kill_twice;
use crate::scene::{AGENT, COPIES_PER_OUTAGE_MAX, Scene, find_line, worth};
use crate::support::namespaces::{Firewall, Side};
use crate::support::pause_for;

const BEFORE: Duration = Duration::from_secs(1);
const AFTER: Duration = Duration::from_secs(2);

/// Sends while something happens that no process dies of.
fn ride_out(span: Duration, happen: impl FnOnce(&mut Scene)) {
    survive(0, span, happen);
}

/// Sends while remoted or the broker server dies, so many times.
fn survive(crashes: u64, span: Duration, happen: impl FnOnce(&mut Scene)) {
    let mut scene = Scene::up_over_tcp();
    let traffic = scene.send(worth(BEFORE + span + AFTER), &[]);
    scene.wait_until_accepted(AGENT, worth(BEFORE));
    happen(&mut scene);
    scene.expect_all(traffic, crashes);
}

#[test]
fn a_steady_stream_loses_no_datagram_and_no_reply() {
    let mut scene = Scene::up_over_tcp();
    let count = worth(Duration::from_secs(5));
    let traffic = scene.send(count, &["--size", "60-900"]);
    let summary = scene.expect_all(traffic, 0);
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
    scene.expect_all(traffic, 0);
}

#[test]
fn a_cut_is_noticed_however_little_is_sent() {
    let mut scene = Scene::up_over_tcp();
    // Fifteen seconds: the system takes each of them for a connection that is dead.
    let mut traffic = scene.send(75, &["--rate", "5"]);
    scene.wait_until_accepted(AGENT, 5);
    scene.net.cut();
    scene.wait_until_client_says(&["link down", "does not answer in time"]);
    assert!(traffic.process.is_running(), "that took as long as all of them");
    scene.net.heal();
    scene.expect_all(traffic, 0);
}

#[test]
fn a_stream_cut_for_six_seconds_loses_nothing() {
    let span = Duration::from_secs(6);
    ride_out(span, |scene| {
        scene.net.cut();
        pause_for(span);
        scene.wait_until_client_says(&["link down", "does not answer in time"]);
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
    survive(2, away + between + away, |scene| kill_twice(scene, away, between));
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
fn a_broker_server_that_is_ended_in_order_makes_no_copies_either() {
    let span = Duration::from_secs(1);
    ride_out(span, |scene| {
        scene.server().signal("TERM");
        assert!(scene.server().wait().success(), "the server ends well");
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

#[test]
fn a_firewall_that_rejects_everything_is_ridden_out_by_a_stream() {
    let span = Duration::from_secs(3);
    ride_out(span, |scene| {
        scene.net.raise(Firewall::RejectsAll);
        pause_for(span);
        scene.net.heal();
    });
}

#[test]
fn a_cable_pulled_at_either_host_is_ridden_out_by_a_stream() {
    let span = Duration::from_secs(2);
    ride_out(2 * span, |scene| {
        for side in Side::BOTH {
            scene.net.link_down(side);
            pause_for(span);
            scene.net.link_up(side);
        }
    });
}

#[test]
fn a_host_that_changes_its_address_loses_nothing_of_a_stream() {
    let span = Duration::from_secs(2);
    ride_out(2 * span, |scene| {
        let [first, second] = [Side::Agent.ipv4(), "10.77.0.11"];
        scene.net.remove_address(Side::Agent, first);
        pause_for(span);
        scene.net.add_address(Side::Agent, second);
    });
}

#[test]
fn a_stream_whose_connection_a_firewall_has_forgotten_goes_on_over_another() {
    ride_out(Duration::from_secs(2), |scene| {
        scene.net.forget_connections();
        // The server still knows the old connection for a moment, until the new one carries the stream.
        scene.wait_until_server_says(&["has a newer connection"]);
    });
}

#[test]
fn a_servers_host_that_comes_back_without_its_connections_costs_a_stream_nothing() {
    let span = Duration::from_secs(2);
    survive(1, span, |scene| come_back_without_connections(scene, span));
}

#[test]
fn a_receiver_killed_and_started_again_at_once_misses_nothing_of_a_stream() {
    const KILLED: u64 = 12;
    let between = Duration::from_millis(500);
    let mut scene = Scene::up_over_tcp();
    let traffic = scene.send_as(AGENT, worth(BEFORE) + KILLED * worth(between), &[]);
    for life in 1..=KILLED {
        scene.wait_until_newest(AGENT, life * worth(between));
        scene.remoted().kill();
        scene.start_remoted_and_wait(&[]);
    }
    scene.expect_all(traffic, KILLED);
}

#[test]
fn a_stream_of_which_nothing_may_be_sent_again_brings_nothing_twice_and_says_what_may_be_missing() {
    let span = Duration::from_secs(2);
    let mut scene = Scene::empty_with_key().served(&[], &[]);
    scene.start_client(&["--resend", "never"]);
    let count = worth(BEFORE + 2 * span + AFTER);
    let mut traffic = scene.send_as(AGENT, count, &[]);
    scene.wait_until_accepted(AGENT, worth(BEFORE));
    // With the connection goes the knowledge of which datagrams have reached remoted.
    scene.server().kill();
    pause_for(span);
    scene.start_server(&[]);
    scene.wait_until_newest(AGENT, worth(BEFORE + span));
    scene.remoted().kill();
    scene.start_remoted(&[]);
    Scene::wait_until_sent(&mut traffic);
    scene.wait_until_newest(AGENT, count);
    let [received, confirmed, dropped, left] = scene.accounts();
    assert_eq!((received, confirmed + dropped, left), (count, count, 0));
    let received = scene.received(AGENT);
    assert_eq!((received.copies(), received.overtaken()), (0, 0), "{received:?}");
    let missing = count - received.took.len() as u64;
    assert!(missing <= dropped, "{missing} are missing and {dropped} are said to be: {received:?}");
    assert!(dropped <= COPIES_PER_OUTAGE_MAX * 2, "{dropped} were dropped: {received:?}");
}

#[test]
fn everything_started_in_the_wrong_order_finds_together_over_tcp() {
    let step = Duration::from_secs(1);
    let count = worth(2 * step + AFTER);
    // This scene is alone. The server would take the remoted of a scene beside it for its own in a container.
    let mut scene = Scene::empty();
    scene.make_key();
    scene.start_client(&[]);
    let traffic = scene.send_as(AGENT, count, &[]);
    pause_for(step);
    scene.start_server(&[]);
    pause_for(step);
    scene.start_remoted(&[]);
    scene.expect_all(traffic, 0);
}

#[test]
fn a_stream_over_a_link_of_a_megabit_loses_nothing_and_stays_with_its_connection() {
    let mut scene = Scene::up_over_tcp();
    // A burst of 660 kB takes some five seconds, twice as long as a connection may be silent.
    scene.net.narrow(125);
    let traffic = scene.send_as(AGENT, 4_000, &["--rate", "5000"]);
    scene.expect_all(traffic, 0);
    let lost = find_line(&scene.client().output(), &["connection lost"]);
    assert!(lost.is_err(), "{lost:?}");
}

#[test]
fn datagrams_of_the_largest_size_pass_whole() {
    let mut scene = Scene::up_over_tcp();
    let traffic = scene.send_as(AGENT, 200, &["--size", "65507"]);
    scene.expect_all(traffic, 0);
}
