//! The end of the client: the datagrams that it still delivers, and its words about the rest.

use crate::scene::{AGENT, Scene, find_line};

#[test]
fn a_stop_with_the_link_down_says_what_is_left() {
    let count = 300;
    let mut scene = Scene::empty();
    scene.start_client(&[]);
    let mut traffic = scene.send_as(AGENT, count, &[]);
    Scene::wait_until_sent(&mut traffic);
    let client = scene.client();
    client.signal("TERM");
    assert!(client.wait().success(), "the client ends well");
    let said = find_line(&client.output(), &["300"]);
    assert!(said.is_ok(), "it does not say that 300 datagrams are left");
}

#[test]
fn a_stop_with_the_link_up_delivers_what_is_held() {
    deliver_at_a_stop(Scene::empty());
}

#[test]
fn a_stop_with_the_link_up_delivers_what_is_held_over_tcp() {
    deliver_at_a_stop(Scene::empty_with_key());
}

fn deliver_at_a_stop(mut scene: Scene) {
    let count = 2_000;
    scene.start_remoted_and_wait(&["--rate", "1000"]);
    scene.start_server(&[]);
    scene.wait_until_up();
    scene.start_client(&["--drain", "60s"]);
    let mut traffic = scene.send_as(AGENT, count, &["--rate", "10000"]);
    Scene::wait_until_sent(&mut traffic);
    let client = scene.client();
    client.signal("TERM");
    assert!(client.wait().success(), "the client ends well");
    scene.expect_all(traffic, 0);
}

#[test]
fn a_stop_reads_the_socket_empty_first() {
    let count = 200;
    let mut scene = Scene::up();
    let traffic = scene.send_as(AGENT, count, &[]);
    scene.expect_all(traffic, 0);
    scene.client().signal("STOP");
    let mut traffic = scene.send_as(AGENT, count, &["--start", &(count + 1).to_string()]);
    Scene::wait_until_sent(&mut traffic);
    // The signal is pending when the client runs again: it finds stop and datagrams at once.
    let client = scene.client();
    client.signal("TERM");
    client.signal("CONT");
    assert!(client.wait().success(), "the client ends well");
    scene.wait_until_accepted(AGENT, 2 * count);
}
