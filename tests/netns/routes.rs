//! Routes that change under the datagrams: a black hole for a while, a link of a smaller MTU.

use std::time::Duration;

use crate::outages::ride_out;
use crate::scene::{AGENT, Scene, find_line, worth};
use crate::support::namespaces::Side;
use crate::support::pause_for;

/// The smallest MTU that IPv6 allows.
const MTU: u32 = 1_280;

#[test]
fn a_route_that_is_a_black_hole_for_a_second_is_ridden_out() {
    let span = Duration::from_secs(1);
    ride_out(1, span, |scene| {
        scene.net.forget_route(Side::Agent);
        pause_for(span);
        scene.net.find_route(Side::Agent);
    });
}

#[test]
fn a_datagram_that_a_router_throws_away_for_its_size_is_sent_again_and_no_other_is_taken_for_it() {
    let mut scene = Scene::empty();
    let server = scene.net.add_router(MTU);
    scene.start_remoted_and_wait(&[]);
    scene.start_server(&[]);
    scene.wait_until_up();
    scene.start_client(&["--server", server]);
    scene.wait_until_client_says(&["link up"]);
    // The agent sends large datagrams among small ones. When the router throws one away, the next datagram that is
    // sent finds the error. The agent sends slowly, so that the router's word comes before the next datagram is sent.
    // OSSEC has already accepted a datagram that overtakes one that is sent again.
    let count = 100;
    let traffic = scene.send_as(AGENT, count, &["--rate", "50", "--size", "60-1440", "--ping"]);
    scene.expect_all_and_replies(traffic, 1);
    let said = scene.client().output();
    assert!(find_line(&said, &["Message too long"]).is_ok(), "the router has said nothing: {said}");
    scene.expect_accounts(count);
}

#[test]
fn where_replies_stop_another_port_is_tried_and_what_is_not_confirmed_is_sent_again() {
    let mut scene = Scene::up();
    // Both agents are of one session, since neither has its id in front. One agent asks for a reply every 11 s, as an
    // agent does with its control messages. The other one sends.
    let ask = |scene: &mut Scene, number: u64, patience_ms: &str| {
        let start = number.to_string();
        let mut traffic = scene.send_as("900", 1, &["--ping", "--start", &start, "--linger-ms", patience_ms]);
        Scene::wait_until_sent(&mut traffic).get("replies")
    };
    let events = worth(Duration::from_secs(90));
    let mut traffic = scene.send_as(AGENT, events, &[]);
    let mut number = 0;
    let mut stale = None;
    while scene.received(AGENT).newest() < events {
        number += 1;
        assert!(number < 60, "it never arrives: {:?}", scene.received(AGENT));
        ask(&mut scene, number, "200");
        if number == 3 {
            scene.net.mislead(1_517);
            stale = Some(scene.received(AGENT).newest());
        }
        pause_for(Duration::from_secs(11));
    }
    assert_eq!(ask(&mut scene, number + 1, "60000"), 1, "replies come again");
    scene.wait_until_client_says(&["remoted's replies have stopped: sending from other UDP ports"]);
    Scene::wait_until_sent(&mut traffic);
    // Datagrams that were confirmed before anybody could know are lost. They are no more than the agent sent in the
    // time that a warning takes.
    let received = scene.received(AGENT);
    let after = stale.expect("it was misled") + worth(Duration::from_secs(50));
    let late = received.took.range(after..).count() as u64;
    assert_eq!(late, events + 1 - after, "lost after the change of ports: {received:?}");
    scene.wait_until_client_says(&["UDP to remoted seems good again"]);
}
