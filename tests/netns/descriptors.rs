//! A broker server that runs out of file descriptors.

use std::time::Duration;

use crate::outages::ride_out;
use crate::scene::{AGENT, Scene, Traffic, find_line, worth};
use crate::support::{pause_for, wait_until};

/// The descriptors that the server may open. It keeps some of them for looking at remoted.
const DESCRIPTORS: &str = "64";
/// Far more connections than that. When the server closes silent ones, others take their places, for longer than the
/// test needs.
const SILENT: usize = 400;
/// The agent behind the newcomer.
const NEWCOMER: &str = "002";

#[test]
fn a_server_that_cannot_open_anything_for_a_while_costs_nothing() {
    let span = Duration::from_secs(3);
    ride_out(1, span, |scene| {
        // The server cannot even open the files that tell it of remoted: its clients hold their datagrams.
        scene.server().limit_descriptors(4);
        pause_for(span);
        scene.server().limit_descriptors(1_024);
    });
}

#[test]
fn a_server_without_descriptors_goes_on_with_its_client_and_answers_newcomers_later() {
    let count = worth(Duration::from_secs(5));
    let mut scene = Scene::empty();
    scene.start_remoted(&[]);
    scene.start_server_with_descriptors(DESCRIPTORS);
    scene.wait_until_up();
    scene.start_client(&[]);
    let traffic = scene.send_as(AGENT, count, &["--ping"]);
    scene.wait_until_accepted(AGENT, worth(Duration::from_secs(1)));
    let mut silent = scene.connect_silently(SILENT);
    wait_until("no descriptors are left", || find_line(&scene.server().output(), &["no descriptors were left"]));
    // This client comes too late: it holds the datagrams of its agent.
    let first = scene.take_client();
    scene.start_client(&["--listen", "127.0.0.1:1515"]);
    let newcomer = scene.send_as(NEWCOMER, worth(Duration::from_secs(1)), &["--server", "127.0.0.1:1515"]);
    // The client that was there before is served all the while.
    scene.expect_all_and_replies(traffic, 0);
    assert_eq!(scene.received(NEWCOMER).took.len(), 0, "there was a descriptor left");
    silent.kill();
    scene.expect_all(newcomer, 0);
    drop(first);
}

/// Agents with ids of their own behind a client that `program` starts. Each agent gets all its datagrams through.
/// `expect` looks at the result of one agent.
fn serve_agents(
    agents: u64,
    program: &[&str],
    options: &[&str],
    words: &[&str],
    expect: impl Fn(&mut Scene, Traffic),
) {
    let each = 20;
    let mut scene = Scene::empty().served(&[], &[]);
    scene.start_client_through(program, options);
    let ids: Vec<String> = (1..=agents).map(|agent| format!("!{agent:03}!")).collect();
    let traffics: Vec<_> = ids.iter().map(|id| scene.send_as(id, each, &["--ping", "--rate", "5"])).collect();
    for traffic in traffics {
        expect(&mut scene, traffic);
    }
    scene.wait_until_client_says(words);
    scene.expect_accounts(agents * each);
}

fn all_and_replies(scene: &mut Scene, traffic: Traffic) {
    scene.expect_all_and_replies(traffic, 0);
}

#[test]
fn more_agents_than_descriptors_take_turns_and_nobody_waits() {
    // A reply that comes when its agent's socket has given way to another's is lost.
    let expect = |scene: &mut Scene, traffic| assert!(scene.expect_all(traffic, 0).get("replies") > 0);
    serve_agents(48, &["prlimit", "--nofile=48"], &[], &["no descriptors for more than"], expect);
}

#[test]
fn where_the_wanted_ports_are_used_up_sessions_have_others() {
    let options = ["--source-port", "65533"];
    serve_agents(6, &["env"], &options, &["no UDP port from 65533 upward", "in use"], all_and_replies);
}

#[test]
fn a_wanted_port_that_needs_rights_is_replaced_by_another() {
    let program = ["setpriv", "--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service"];
    serve_agents(
        2,
        &program,
        &["--source-port", "514"],
        &["no UDP port from 514 upward", "Permission denied"],
        all_and_replies,
    );
}
