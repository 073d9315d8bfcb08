//! The way back: replies reach the agent, in order, at the port that it has by then. The link may also be IPv6.

use std::time::Duration;

use crate::scene::{AGENT, RATE, Scene, worth};
use crate::support::namespaces::Side;

#[test]
fn a_push_of_1250_datagrams_comes_back_whole_and_in_order() {
    let mut scene = Scene::up();
    let traffic = scene.send(worth(Duration::from_secs(1)), &["--push", "1250"]);
    let summary = scene.expect_all(traffic, 0);
    assert_eq!(summary.get("pushed"), 1250);
    assert_eq!(summary.get("push_reordered"), 0);
}

#[test]
fn an_agent_that_opens_new_ports_gets_its_replies_there() {
    let (count, every) = (2_000, 200);
    let mut scene = Scene::up();
    let traffic = scene.send(count, &["--reconnect-every", &every.to_string()]);
    let summary = scene.expect_all(traffic, 0);
    // With each port that it closes, the agent gives up the replies that are still on their way to the port. If
    // replies were sent to an old port, nine tenths would be missing.
    assert!(summary.get("replies") >= count * 8 / 10, "most replies come back");
    assert_eq!(summary.get("reordered"), 0);
    assert_eq!(summary.get("last"), count);
}

#[test]
fn two_agents_with_ids_share_a_client_and_get_their_own_replies() {
    // A key `any` makes the agent write its id in front. The id tells sessions from one address apart.
    let mut scene = Scene::up();
    let ids = ["!002!", "!003!"];
    let agents = ids.map(|id| scene.send_as(id, 2 * RATE, &["--ping"]));
    for agent in agents {
        scene.expect_all_and_replies(agent, 0);
    }
}

#[test]
fn the_link_may_be_ipv6() {
    let mut scene = Scene::empty();
    scene.start_remoted(&[]);
    scene.start_server(&[]);
    scene.wait_until_up();
    scene.start_client(&["--server", Side::Server.ipv6(), "--listen", "[::1]:1514"]);
    let traffic = scene.send_as(AGENT, worth(Duration::from_secs(3)), &["--ping", "--server", "[::1]:1514"]);
    scene.expect_all_and_replies(traffic, 0);
}
