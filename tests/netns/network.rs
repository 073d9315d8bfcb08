//! A network that changes or loses packets under 500 datagrams a second: another address, a twentieth of all packets
//! lost.

use std::time::Duration;

use crate::outages::ride_out;
use crate::scene::{AGENT, Scene, worth};
use crate::support::namespaces::Side;
use crate::support::pause_for;

/// Addresses that the agent's host has one after the other. (remoted itself would know the agent by its address,
/// unless its key is `any` or CIDR. The stand-in goes by the text of the datagram.)
const ADDRESSES: [&str; 3] = ["10.77.0.1", "10.77.0.11", "10.77.0.12"];

#[test]
fn a_host_that_changes_its_address_loses_nothing_and_gets_its_replies() {
    let span = Duration::from_secs(1);
    ride_out(2, 3 * span, |scene| {
        // The host has no address for a while, then goes from one address to the next.
        scene.net.remove_address(Side::Agent, ADDRESSES[0]);
        pause_for(span);
        scene.net.add_address(Side::Agent, ADDRESSES[1]);
        pause_for(2 * span);
        scene.net.remove_address(Side::Agent, ADDRESSES[1]);
        scene.net.add_address(Side::Agent, ADDRESSES[2]);
    });
}

#[test]
fn a_twentieth_of_all_packets_lost_costs_no_more_than_these_datagrams() {
    let (before, lossy, after) =
        (worth(Duration::from_secs(1)), worth(Duration::from_secs(6)), worth(Duration::from_secs(3)));
    let mut scene = Scene::up();
    let mut traffic = scene.send_as(AGENT, before + lossy, &[]);
    scene.wait_until_accepted(AGENT, before);
    scene.net.lose(5);
    Scene::wait_until_sent(&mut traffic);
    let lost = scene.net.lose_no_more();
    // All datagrams after the loss arrive, and their replies come back.
    let start = before + lossy + 1;
    let mut traffic = scene.send_as(AGENT, after, &["--ping", "--start", &start.to_string()]);
    let summary = Scene::wait_until_sent(&mut traffic);
    scene.wait_until_newest(AGENT, start + after - 1);
    let received = scene.received(AGENT);
    assert_eq!(received.took.range(start..).count() as u64, after, "lost after the loss: {received:?}");
    assert_eq!(summary.get("replies"), after, "replies are missing: {}", summary.0);
    // OSSEC refuses overtaken datagrams, so that a single lost datagram cannot be made good. But the network must have
    // lost each datagram that remoted has not accepted. Losses by the client's order or accounting would come on top.
    let missing = start + after - 1 - received.took.len() as u64;
    assert!(lost > 0 && missing <= lost, "{missing} are missing, the network lost {lost}: {received:?}");
    assert!(lost <= (before + lossy) / 5, "it lost far more than a twentieth: {lost}");
    assert_eq!(scene.drops(), 0);
    scene.expect_accounts(start + after - 1);
}
