//! Ends and beginnings of the client: its spool keeps what it holds, and its sockets stay where another process takes
//! over.

use std::process::Command;

use crate::scene::{AGENT, Scene, Traffic, broker, example, find_line};
use crate::support::namespaces::Side;
use crate::support::process::Process;
use crate::support::wait_until;

/// Datagrams of an outage.
const HELD: u64 = 1_500;

/// Ends of the client in one scenario: `ROUNDS`, or 4.
fn rounds() -> u64 {
    std::env::var("ROUNDS").map_or(4, |text| text.parse().expect("ROUNDS is a number"))
}

/// An agent that sends 2,000 datagrams a second, twice as many as the rounds need.
fn send_through(scene: &mut Scene) -> Traffic {
    scene.send(2_000 * rounds(), &["--rate", "2000"])
}

/// The path of the scene's spool.
pub(crate) fn spool(scene: &Scene) -> String {
    scene.directory.join("spool").to_str().expect("is plain text").to_owned()
}

/// The number of datagrams in a spool, as `ossec-broker spool` says.
fn on_disk(path: &str) -> u64 {
    let output = Command::new(broker()).args(["spool", "ls", path]).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    find_line(&said, &[" in all, "]).ok().and_then(|line| line.split(' ').next()?.parse().ok()).unwrap_or(0)
}

/// Waits until so many datagrams lie in the spool.
pub(crate) fn wait_until_on_disk(path: &str, count: u64) {
    wait_until(&format!("{count} datagrams are on disk"), || {
        let some = on_disk(path);
        (some == count).then_some(()).ok_or_else(|| format!("{some} are"))
    });
}

/// What is held is there after the client has ended in this way, in an outage.
fn holds_through(mut scene: Scene, sync: &str, end: impl FnOnce(&mut Scene)) {
    let path = spool(&scene);
    let options = ["--spool", &path, "--spool-sync", sync];
    scene.start_client(&options);
    let mut traffic = scene.send_as(AGENT, HELD, &[]);
    Scene::wait_until_sent(&mut traffic);
    end(&mut scene);
    scene.start_client(&options);
    scene.wait_until_client_says(&["1500 datagrams", "of an earlier run"]);
    scene = scene.served(&[], &[]);
    scene.expect_all(traffic, 0);
    scene.expect_accounts(HELD);
}

fn stop(scene: &mut Scene) {
    let client = scene.client();
    client.signal("TERM");
    assert!(client.wait().success(), "the client ends well");
    find_line(&client.output(), &["kept in the spool: 1500 datagrams"]).expect("it says what is kept");
}

#[test]
fn what_is_held_outlives_a_stop() {
    holds_through(Scene::empty(), "never", stop);
}

#[test]
fn what_is_held_outlives_a_stop_over_tcp() {
    holds_through(Scene::empty_with_key(), "interval", stop);
}

#[test]
fn what_is_held_outlives_a_kill() {
    holds_through(Scene::empty(), "always", |scene| {
        wait_until_on_disk(&spool(scene), HELD);
        scene.client().kill();
    });
}

#[test]
fn what_is_held_outlives_a_kill_over_tcp() {
    holds_through(Scene::empty_with_key(), "always", |scene| {
        wait_until_on_disk(&spool(scene), HELD);
        scene.client().kill();
    });
}

#[test]
fn a_kill_in_the_middle_of_an_outage_loses_the_newest_alone() {
    let mut scene = Scene::empty();
    let path = spool(&scene);
    let options = ["--spool", &path, "--spool-sync", "interval"];
    scene.start_client(&options);
    let mut traffic = scene.send_as(AGENT, HELD, &[]);
    let before = wait_until("some datagrams are on disk", || {
        Some(on_disk(&path)).filter(|&some| some > 0).ok_or_else(|| "none".into())
    });
    scene.client().kill();
    let kept = on_disk(&path);
    assert!(kept >= before, "{kept} of {before}");
    assert!(traffic.process.wait().success(), "the agent goes on, and is refused");
    scene.start_client(&options);
    scene = scene.served(&[], &[]);
    scene.wait_until_newest(AGENT, kept);
    let received = scene.received(AGENT);
    assert!(received.took.iter().copied().eq(1..=kept), "exactly what was on disk, in order: {received:?}");
}

#[test]
fn a_stop_over_tcp_costs_no_copy_while_the_server_lives_on() {
    let mut scene = Scene::empty_with_key();
    let path = spool(&scene);
    scene = scene.served(&["--rate", "1000"], &[]);
    let options = ["--spool", &path, "--drain", "0"];
    scene.start_client(&options);
    // The server has most of them, and remoted does not read so fast.
    let mut traffic = scene.send_as(AGENT, 3_000, &["--rate", "10000"]);
    Scene::wait_until_sent(&mut traffic);
    let client = scene.client();
    client.signal("TERM");
    assert!(client.wait().success(), "the client ends well");
    scene.start_client(&options);
    scene.expect_all(traffic, 0);
}

/// How often datagrams may have to be sent again. Over udp that is also so where a process ends with datagrams under
/// way, which on a loaded machine happens each time.
fn disturbances(scene: &Scene, outage: bool) -> u64 {
    u64::from(outage) + if scene.key_options().is_empty() { rounds() } else { 0 }
}

/// Lets the client replace itself while an agent sends, and while remoted is away for a moment.
fn replaces_itself(mut scene: Scene, spool: bool, outage: bool) {
    let path = self::spool(&scene);
    let options: &[&str] = if spool { &["--spool", &path] } else { &[] };
    scene = scene.served(&[], &[]);
    scene.start_client(options);
    let traffic = send_through(&mut scene);
    for round in 1..=rounds() {
        scene.wait_until_newest(AGENT, round * 1_000);
        if outage && round == 2 {
            scene.remoted().kill();
            scene.wait_until_client_says(&["link down"]);
        }
        let client = scene.client();
        let before = client.output().matches("handing over to").count();
        client.signal("USR2");
        wait_until("another program has taken over", || {
            let output = client.output();
            let after = output.rsplit("handing over to").next().is_some_and(|rest| rest.contains("listening on"));
            let again = output.matches("handing over to").count() > before;
            (again && after).then_some(()).ok_or(output)
        });
        if outage && round == 2 {
            scene.start_remoted(&[]);
        }
    }
    assert!(scene.client().is_running(), "it is the same process");
    let disturbances = disturbances(&scene, outage);
    scene.expect_all_and_replies(traffic, disturbances);
}

#[test]
fn a_client_with_a_spool_replaces_itself_under_load() {
    replaces_itself(Scene::empty(), true, false);
}

#[test]
fn a_client_with_a_spool_replaces_itself_under_load_over_tcp() {
    replaces_itself(Scene::empty_with_key(), true, false);
}

#[test]
fn a_client_without_a_spool_replaces_itself_under_load() {
    replaces_itself(Scene::empty(), false, false);
}

#[test]
fn a_client_without_a_spool_replaces_itself_under_load_over_tcp() {
    replaces_itself(Scene::empty_with_key(), false, false);
}

#[test]
fn a_client_with_a_spool_replaces_itself_in_an_outage() {
    replaces_itself(Scene::empty(), true, true);
}

#[test]
fn a_client_with_a_spool_replaces_itself_in_an_outage_over_tcp() {
    replaces_itself(Scene::empty_with_key(), true, true);
}

#[test]
fn a_client_without_a_spool_does_not_replace_itself_in_an_outage() {
    let mut scene = Scene::empty();
    scene.start_client(&[]);
    let mut traffic = scene.send_as(AGENT, HELD, &[]);
    Scene::wait_until_sent(&mut traffic);
    scene.client().signal("USR2");
    scene.wait_until_client_says(&["not handing over", "the link is down", "going on"]);
    scene = scene.served(&[], &[]);
    scene.expect_all(traffic, 0);
}

#[test]
fn a_client_whose_program_has_gone_does_not_replace_itself() {
    let mut scene = Scene::empty();
    let program = scene.directory.join("ossec-broker");
    std::fs::copy(broker(), &program).expect("it is copied");
    let arguments = ["client", "-v", "--server", Side::Server.ipv4()];
    let mut client = scene.start(Side::Agent, program.clone(), "client", &arguments);
    wait_until("it listens", || find_line(&client.output(), &["listening on"]));
    std::fs::remove_file(&program).expect("it is there");
    client.signal("USR2");
    wait_until("it says why not", || find_line(&client.output(), &["not handing over", "going on"]));
    // A program that does not know the question, and one that never answers.
    for (script, why) in [("exit 2", "it says no"), ("sleep 600", "it does not answer")] {
        let before = client.output().matches("not handing over").count();
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("it is written");
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("it is there");
        client.signal("USR2");
        wait_until(&format!("it says that {why}"), || {
            let output = client.output();
            let again = output.matches("not handing over").count() > before;
            if again { find_line(&output, &["not handing over", why]).map(|_| ()) } else { Err(output) }
        });
    }
    assert!(client.is_running(), "it goes on");
}

/// Starts the client with a socket that stays while no client runs.
fn activate(scene: &mut Scene, options: &[&str]) -> Process {
    let program = broker();
    let program = program.to_str().expect("is plain text");
    let key = scene.key_options();
    let way: &[&str] = if key.is_empty() { &[] } else { &["--transport", "tcp"] };
    let own = ["127.0.0.1:1514", program, "client", "-v", "--server", Side::Server.ipv4()];
    let options = [&own[..], way, &key, options].concat();
    let activator = scene.start(Side::Agent, example("socket-activate"), "activator", &options);
    wait_until("the client listens", || find_line(&activator.output(), &["listening on"]));
    activator
}

/// Ends the client that was started last with this signal, and waits until the next one listens.
fn end_activated(activator: &Process, signal: &str) {
    let output = activator.output();
    let id = output.lines().rev().find_map(|line| line.strip_prefix("started ")).expect("it was started");
    let starts = output.matches("listening on").count();
    assert!(Command::new("kill").args([&format!("-{signal}"), id]).status().expect("kill").success());
    wait_until("the next client listens", || {
        let output = activator.output();
        (output.matches("listening on").count() > starts).then_some(()).ok_or(output)
    });
}

fn is_started_with_its_socket(mut scene: Scene, outage: bool) {
    let path = spool(&scene);
    scene = scene.served(&[], &[]);
    let activator = activate(&mut scene, &["--spool", &path]);
    let traffic = send_through(&mut scene);
    for round in 1..=rounds() {
        scene.wait_until_newest(AGENT, round * 1_000);
        if outage && round == 2 {
            scene.remoted().kill();
            wait_until("the link is down", || find_line(&activator.output(), &["link down"]));
        }
        end_activated(&activator, "TERM");
        if outage && round == 2 {
            scene.start_remoted(&[]);
        }
    }
    let disturbances = disturbances(&scene, outage);
    scene.expect_all_and_replies(traffic, disturbances);
    drop(activator);
}

#[test]
fn a_socket_that_stays_loses_nothing_between_two_clients() {
    is_started_with_its_socket(Scene::empty(), false);
}

#[test]
fn a_socket_that_stays_loses_nothing_between_two_clients_over_tcp() {
    is_started_with_its_socket(Scene::empty_with_key(), false);
}

#[test]
fn a_socket_that_stays_loses_nothing_between_two_clients_in_an_outage() {
    is_started_with_its_socket(Scene::empty(), true);
}

#[test]
fn a_socket_that_stays_loses_nothing_between_two_clients_in_an_outage_over_tcp() {
    is_started_with_its_socket(Scene::empty_with_key(), true);
}
