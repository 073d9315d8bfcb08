//! What an ordinary user of the server's host can make the server say of remoted: nothing.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use crate::scene::{AGENT, Scene, example, find_line};
use crate::support::namespaces::Side;
use crate::support::process::Process;
use crate::support::wait_until;

/// A user whom nothing belongs to.
const USER: u32 = 65_534;
/// More processes of one name than a search keeps.
const CROWD: usize = 80;
/// Datagrams of a scenario.
const COUNT: u64 = 300;

/// Copies a program under another name into a folder of the scene, for this user to run.
fn copy(scene: &Scene, program: &Path, folder: &str, name: &str, owner: u32) -> PathBuf {
    let folder = scene.directory.join(folder);
    let path = folder.join(name);
    let _ = fs::create_dir(&folder);
    fs::copy(program, &path).expect("it can be copied");
    for part in [&folder, &path] {
        fs::set_permissions(part, Permissions::from_mode(0o755)).expect("it is there");
        chown(part, Some(owner), Some(owner)).expect("root may");
    }
    path
}

/// Starts a program on the server's host as an ordinary user.
fn start_as_user(scene: &mut Scene, program: &Path, options: &[&str]) -> Process {
    let user = format!("--reuid={USER}");
    let program = program.to_str().expect("is plain text");
    let options = [&[&user, "--regid=65534", "--clear-groups", program][..], options].concat();
    scene.start(Side::Server, "setpriv".into(), "liar", &options)
}

/// A program of that user that calls itself remoted, on remoted's port, with these options.
fn start_false_remoted(scene: &mut Scene, options: &[&str]) -> Process {
    let before = scene.net.udp_sockets(Side::Server, 1514).len();
    let program = copy(scene, &example("ossec-remoted"), "liar", "ossec-remoted", USER);
    let liar = start_as_user(scene, &program, options);
    wait_until("the false remoted has its socket", || {
        let sockets = scene.net.udp_sockets(Side::Server, 1514).len();
        (sockets > before).then_some(()).ok_or_else(|| liar.output())
    });
    liar
}

/// An idle process with this name.
fn sleeper(scene: &Scene, folder: &str, name: &str, owner: u32) -> PathBuf {
    copy(scene, Path::new("/bin/sleep"), folder, name, owner)
}

/// Everything arrives, and the client sees no outage.
fn expect_no_outage(scene: &mut Scene) {
    let traffic = scene.send(COUNT, &["--rate", "60"]);
    scene.expect_all(traffic, 0);
    find_line(&scene.client().output(), &["link down"]).expect_err("nothing went down");
}

#[test]
fn a_crowd_of_namesakes_does_not_hide_remoted() {
    let mut scene = Scene::empty();
    let program = sleeper(&scene, "liar", "ossec-remoted", USER);
    let mut crowd: Vec<Process> = (0..CROWD).map(|_| start_as_user(&mut scene, &program, &["600"])).collect();
    scene = scene.served(&[], &[]);
    scene.start_client(&[]);
    expect_no_outage(&mut scene);
    assert!(crowd.iter_mut().all(Process::is_running), "they are all there");
    scene.wait_until_server_says(&["has an accepted name and does not count"]);
}

#[test]
fn a_false_remoted_beside_the_true_one_says_nothing_of_it() {
    let mut scene = Scene::empty();
    scene = scene.served(&["--listen", "0.0.0.0:1514"], &[]);
    let liar = start_false_remoted(&mut scene, &["--listen", "[::]:1514", "--only-v6"]);
    scene.start_client(&[]);
    scene.wait_until_server_says(&["has an accepted name and does not count"]);
    // It stops itself, and leaves unread what somebody sends to it.
    liar.signal("STOP");
    let sent = scene.net.command(Side::Server, "bash").args(["-c", "echo lie > /dev/udp/::1/1514"]).status();
    assert!(sent.is_ok_and(|status| status.success()), "it is sent");
    expect_no_outage(&mut scene);
}

#[test]
fn nothing_goes_to_a_false_remoted_while_the_true_one_is_away() {
    let mut scene = Scene::empty().served(&[], &[]);
    scene.start_client(&[]);
    scene.remoted().kill();
    scene.wait_until_client_says(&["link down"]);
    let mut liar = start_false_remoted(&mut scene, &[]);
    scene.wait_until_server_says(&["has an accepted name and does not count"]);
    let mut traffic = scene.send(COUNT, &[]);
    Scene::wait_until_sent(&mut traffic);
    assert!(!scene.check().status.success(), "remoted is away");
    liar.kill();
    scene.start_remoted_and_wait(&[]);
    scene.expect_all(traffic, 1);
}

#[test]
fn a_false_remoted_on_the_hosts_port_does_not_keep_one_in_a_container_from_being_seen() {
    let mut scene = Scene::empty();
    let mut liar = start_false_remoted(&mut scene, &[]);
    scene.start_server(&[]);
    scene.wait_until_server_says(&["has an accepted name and does not count"]);
    liar.kill();
    let journal = scene.directory.join("elsewhere");
    let options = ["--journal", journal.to_str().expect("is plain text")];
    let remoted = scene.start(Side::Agent, example("ossec-remoted"), "remoted elsewhere", &options);
    scene.wait_until_up();
    drop(remoted);
}

#[test]
fn a_false_analysis_daemon_neither_hides_that_the_true_one_is_gone_nor_ends_for_it() {
    let mut scene = Scene::empty();
    // In the folder of a program of root's, as OSSEC has both.
    let root = sleeper(&scene, "daemons", "ossec-analysisd", 0);
    let mut daemon = scene.start(Side::Server, root.clone(), "analysisd", &["600"]);
    let false_one = sleeper(&scene, "liar", "ossec-analysisd", USER);
    let mut liar = start_as_user(&mut scene, &false_one, &["600"]);
    scene = scene.served(&[], &[]);
    scene.start_client(&[]);
    liar.kill();
    expect_no_outage(&mut scene);
    let _liar = start_as_user(&mut scene, &false_one, &["600"]);
    daemon.kill();
    scene.wait_until_client_says(&["link down: remoted starting", "analysis"]);
    let _daemon = scene.start(Side::Server, root, "analysisd", &["600"]);
    let traffic = scene.send_as(AGENT, COUNT, &[]);
    scene.expect_all(traffic, 1);
}
