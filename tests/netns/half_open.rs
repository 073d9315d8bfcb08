//! Connections of which one end does not know that they are gone, or never says anything.

use std::time::Duration;

use crate::outages::ride_out;
use crate::scene::{AGENT, Scene, worth};
use crate::support::pause_for;

/// Connections that are opened and say nothing.
const SILENT: usize = 600;

#[test]
fn a_servers_host_that_comes_back_without_its_connections_costs_nothing() {
    let span = Duration::from_secs(2);
    ride_out(1, span, |scene| come_back_without_connections(scene, span));
}

/// The server's host crashes, and is there again after `span`.
pub(crate) fn come_back_without_connections(scene: &mut Scene, span: Duration) {
    scene.net.cut();
    scene.server().kill();
    // Nothing from the end of that host gets out, either at this moment or when the link is healed.
    scene.net.forget_sockets();
    pause_for(span);
    scene.start_server(&[]);
    scene.net.heal();
}

#[test]
fn a_connection_that_a_firewall_has_forgotten_is_not_waited_for() {
    ride_out(1, Duration::ZERO, |scene| {
        scene.net.forget_connections();
        // The server still knows the old connection.
        scene.wait_until_connected(2);
    });
}

#[test]
fn hundreds_of_silent_connections_keep_nobody_from_working_and_are_closed() {
    let count = worth(Duration::from_secs(3));
    let mut scene = Scene::empty();
    scene.start_remoted(&[]);
    scene.start_server(&[]);
    scene.wait_until_up();
    let _silent = scene.connect_silently(SILENT);
    scene.wait_until_connected(SILENT);
    scene.start_client(&[]);
    let traffic = scene.send_as(AGENT, count, &["--ping"]);
    scene.expect_all_and_replies(traffic, 0);
    // The client's connection is left.
    scene.wait_until_connected(1);
}
