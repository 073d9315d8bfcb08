//! The place where remoted receives, and the place where a client's datagrams go: socket, address and port.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::scene::{AGENT, Scene, broker, example, find_line};
use crate::support::namespaces::Side;
use crate::support::process::Process;
use crate::support::wait_until;

/// A second address of the server's host.
const SECOND: &str = "10.77.0.3";
const SECOND_REMOTED: &str = "10.77.0.3:1514";
/// The source port of a client's first session.
const SOURCE_PORT: u16 = 1_517;
/// Datagrams of a test here.
const COUNT: u64 = 200;

/// Two remoteds, each for an address of its own, and a server with these options that finds both.
fn two_remoteds(server: &[&str]) -> (Scene, Process) {
    let mut scene = Scene::empty();
    scene.net.add_address(Side::Server, SECOND);
    scene.start_remoted_and_wait(&["--listen", &format!("{}:1514", Side::Server.ipv4())]);
    let second = scene.start_second_remoted(&["--listen", SECOND_REMOTED]);
    scene.start_server(server);
    scene.wait_until_up();
    (scene, second)
}

#[test]
fn where_remoted_does_not_receive_nothing_is_sent_and_the_client_says_why() {
    let (v4, v6) = (format!("{}:1514", Side::Server.ipv4()), format!("[{}]", Side::Server.ipv6()));
    for (remoted, server, why) in [
        (&["--listen", "0.0.0.0:1514"][..], v6.as_str(), "it receives IPv4 alone"),
        (&["--listen", "[::]:1514", "--only-v6"], Side::Server.ipv4(), "it receives IPv6 alone"),
        (&["--listen", &v4], SECOND, "it receives at others alone"),
    ] {
        let scene = Scene::empty();
        scene.net.add_address(Side::Server, SECOND);
        let mut scene = scene.served(remoted, &[]);
        scene.net.count_datagrams(Side::Server, SOURCE_PORT);
        scene.start_client(&["--server", server]);
        let mut traffic = scene.send(COUNT, &[]);
        Scene::wait_until_sent(&mut traffic);
        scene.wait_until_client_says(&["link down: remoted no socket at the address", why]);
        assert!(scene.check().status.success(), "to people it is up");
        assert_eq!(scene.net.counted_datagrams(Side::Server), 0, "{why}");
        // As soon as a program receives there, all datagrams come.
        scene.remoted().kill();
        scene.start_remoted_and_wait(&[]);
        scene.expect_all(traffic, 0);
    }
}

#[test]
fn behind_a_translation_of_addresses_the_address_that_the_connection_reaches_counts() {
    let mut scene = Scene::empty().served(&["--listen", &format!("{}:1514", Side::Server.ipv4())], &[]);
    let translated = "10.99.0.9";
    scene.net.translate_destination(Side::Server, translated);
    scene.start_client(&["--server", translated]);
    let traffic = scene.send(COUNT, &[]);
    scene.expect_all(traffic, 0);
}

#[test]
fn of_two_remoteds_the_death_of_one_holds_its_clients_alone_and_the_log_names_it() {
    let (mut scene, mut second) = two_remoteds(&[]);
    scene.start_client(&["--server", SECOND]);
    let traffic = scene.send(COUNT, &[]);
    scene.expect_all(traffic, 0);
    let pid = second.id().to_string();
    second.kill();
    scene.wait_until_server_says(&["WARN", "remoted up", &format!("process {pid} is gone")]);
    let mut traffic = scene.send_as(AGENT, COUNT, &["--start", &(COUNT + 1).to_string()]);
    Scene::wait_until_sent(&mut traffic);
    scene.wait_until_client_says(&["link down: remoted no socket", "it receives at others alone"]);
    assert!(scene.check().status.success(), "the other one is up");
    let _first = scene.take_client();
    scene.start_client(&["--listen", "127.0.0.1:2514"]);
    let other = scene.send_as("002", COUNT, &["--server", "127.0.0.1:2514"]);
    scene.expect_all(other, 1);
    let _second = scene.start_second_remoted(&["--listen", SECOND_REMOTED]);
    scene.wait_until_accepted(AGENT, 2 * COUNT);
}

#[test]
fn a_server_of_one_address_says_down_when_its_remoted_is_dead_though_another_lives() {
    let (scene, mut second) = two_remoteds(&["--remoted", SECOND_REMOTED]);
    second.kill();
    wait_until("check says down", || {
        let output = scene.check();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let down = output.status.code() == Some(1) && text.contains("no socket");
        down.then_some(()).ok_or(text)
    });
}

#[test]
fn a_socket_of_remoted_that_comes_later_and_is_not_read_proves_nothing() {
    let scene = Scene::empty();
    scene.net.add_address(Side::Server, SECOND);
    let mut scene = scene.served(&["--listen", &format!("{}:1514", Side::Server.ipv4())], &[]);
    let _hangs = scene.start_second_remoted(&["--listen", SECOND_REMOTED, "--stall-ms", "3600000", "--every-ms", "0"]);
    scene.start_client(&["--server", SECOND]);
    scene.wait_until_client_says(&["link up"]);
    let mut traffic = scene.send(COUNT, &[]);
    Scene::wait_until_sent(&mut traffic);
    scene.wait_until_client_says(&["remoted stalled"]);
    let client = scene.client();
    client.signal("TERM");
    assert!(client.wait().success(), "the client ends well");
    find_line(&client.output(), &[&format!("{COUNT} received, 0 confirmed")]).expect("it confirms nothing");
    assert_eq!(scene.drops(), 0, "the socket overflowed");
}

#[test]
fn a_client_that_means_another_port_is_refused_and_both_sides_name_the_two() {
    let server = format!("{}:1515", Side::Server.ipv4());
    // The scenes come one after the other: each has the turn.
    for scene in [Scene::empty, Scene::empty_with_key] {
        let mut scene = scene().served(&[], &[]);
        scene.start_client(&["--server", &server]);
        scene.wait_until_client_says(&["refuses", "1515", "1514"]);
        scene.wait_until_server_says(&["refused", Side::Agent.ipv4(), "1515", "1514"]);
    }
}

#[test]
fn a_server_that_cannot_see_who_has_the_port_says_so() {
    let mut scene = Scene::empty();
    scene.start_remoted_and_wait(&[]);
    let program = broker();
    let options = ["--pid", "--fork", "--kill-child", "--mount-proc", program.to_str().expect("is plain text")];
    let options = [&options[..], &["server", "-v"]].concat();
    let mut server = scene.start(Side::Server, PathBuf::from("unshare"), "server", &options);
    wait_until("check names the port", || {
        let output = scene.check();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.contains("its port is taken").then_some(()).ok_or(text)
    });
    find_line(&server.output(), &["WARN", "port is taken", "--process any"]).expect("the log says what to do");
    server.kill();
}

/// Waits until `ossec-broker check` on the agent's host ends with this code.
fn wait_until_checked(scene: &Scene, code: i32) {
    wait_until(&format!("check ends with {code}"), || {
        let mut check: Command = scene.net.command(Side::Agent, broker());
        let output = check.args(["check", "--broker", "127.0.0.1"]).output().expect("ip runs, as it did before");
        (output.status.code() == Some(code)).then_some(()).ok_or_else(|| format!("{output:?}"))
    });
}

#[test]
fn of_remoteds_in_two_containers_the_one_that_is_named_by_its_path_counts() {
    let mut scene = Scene::empty();
    let folder = scene.directory.join("container");
    fs::create_dir_all(&folder).expect("the directory is ours");
    let named = folder.join("ossec-remoted");
    fs::copy(example("ossec-remoted"), &named).expect("the example is there");
    let path = named.to_str().expect("is plain text");
    // Neither remoted is in the server's network namespace: the server runs on the agent's host.
    scene.start_remoted_and_wait(&[]);
    let mut container = scene.start(Side::Server, PathBuf::from("unshare"), "container", &["--net", path]);
    let options = ["server", "--settle", "0", "-v"];
    let mut server = scene.start(Side::Agent, broker(), "server", &options);
    wait_until("the server warns", || find_line(&server.output(), &["WARN", "cannot be of one OSSEC", "--process"]));
    wait_until_checked(&scene, 0);
    server.kill();
    let options = [&options[..], &["--process", path]].concat();
    let _server = scene.start(Side::Agent, broker(), "server", &options);
    wait_until_checked(&scene, 0);
    container.kill();
    wait_until_checked(&scene, 1);
    assert!(scene.remoted().is_running(), "the other one lives");
}
