//! Routes that change under the datagrams: a black hole for a while, a link of a smaller MTU.

use std::time::Duration;

use crate::outages::ride_out;
use crate::scene::{AGENT, Scene, find_line};
use crate::support::namespaces::Side;
use crate::support::pause_for;

/// The smallest that IPv6 allows.
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
    // Large ones among small ones: whichever is sent next finds the error of the one that the router threw away. Slowly, so that the router's word
    // comes before the next one is sent: what has overtaken a datagram that is sent again, OSSEC has accepted already.
    let count = 100;
    let traffic = scene.send_as(AGENT, count, &["--rate", "50", "--size", "60-1440", "--ping"]);
    scene.expect_all_and_replies(traffic, 1);
    let said = scene.client().output();
    assert!(find_line(&said, &["Message too long"]).is_ok(), "the router has said nothing: {said}");
    scene.expect_accounts(count);
}
