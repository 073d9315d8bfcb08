//! Programs of other people: netcat asks for remoted, logger sends to rsyslogd.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::process::Stdio;

use crate::scene::{Scene, example};
use crate::support::namespaces::Side;
use crate::support::wait_until;

impl Scene {
    /// `echo ping | nc SERVER 1517`, as an administrator types it.
    fn ask_with_netcat(&self) -> String {
        let mut command = self.net.command(Side::Agent, "nc");
        command.args(["-N", Side::Server.ipv4(), "1517"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut nc = command.spawn().expect("ip runs, as it did before");
        nc.stdin.take().expect("is a pipe").write_all(b"ping\n").expect("nc reads its input");
        let output = nc.wait_with_output().expect("nc ends");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn start_rsyslogd(&mut self) {
        let (config, pid) = (self.directory.join("rsyslog.conf"), self.directory.join("rsyslogd.pid"));
        let received = self.directory.join("received");
        let text = format!(
            "module(load=\"imudp\")\n\
             input(type=\"imudp\" port=\"1514\")\n\
             template(name=\"raw\" type=\"string\" string=\"%msg%\\n\")\n\
             action(type=\"omfile\" file=\"{}\" template=\"raw\")\n",
            received.display()
        );
        fs::write(&config, text).expect("the directory is ours");
        // A killed rsyslogd leaves its pid file, and the next one may find its own number in it.
        let _ = fs::remove_file(&pid);
        let [config, pid] = [config, pid].map(|path| path.to_str().expect("is plain text").to_owned());
        self.start_receiver("rsyslogd".into(), &["-n", "-f", &config, "-i", &pid]);
    }

    /// Sends numbered messages with `logger`, one datagram each.
    fn log(&self, numbers: impl Iterator<Item = u32>) {
        for number in numbers {
            let mut command = self.net.command(Side::Agent, "logger");
            command.args([
                "--udp",
                "--server",
                "127.0.0.1",
                "--port",
                "1514",
                "--rfc3164",
                &format!("message {number}"),
            ]);
            assert!(command.status().expect("ip runs, as it did before").success(), "logger fails (is it installed?)");
        }
    }

    /// Waits until rsyslogd has written the messages 1 to `last`. Some of them may be there twice.
    fn wait_until_logged(&self, last: u32) {
        let path = self.directory.join("received");
        wait_until(&format!("messages 1 to {last} are written"), || {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let numbers = text.lines().filter_map(|line| line.trim().strip_prefix("message ")?.parse().ok());
            let missing: Vec<u32> = {
                let written: BTreeSet<u32> = numbers.collect();
                (1..=last).filter(|number| !written.contains(number)).collect()
            };
            missing.is_empty().then_some(()).ok_or_else(|| format!("{missing:?} are missing"))
        });
    }
}

#[test]
fn netcat_gets_pong_or_ossec_not_found() {
    let mut scene = Scene::up();
    assert_eq!(scene.ask_with_netcat(), "pong");
    scene.remoted().kill();
    assert_eq!(scene.ask_with_netcat(), "ossec_not_found");
}

#[test]
fn check_tells_up_from_down_from_unreachable() {
    let mut scene = Scene::up();
    assert_eq!(scene.check().status.code(), Some(0));
    scene.remoted().kill();
    assert_eq!(scene.check().status.code(), Some(1));
    scene.server().kill();
    assert_eq!(scene.check().status.code(), Some(2));
}

#[test]
fn a_killed_rsyslogd_gets_every_message_of_logger() {
    let mut scene = Scene::empty();
    scene.start_rsyslogd();
    scene.start_server(&["--process", "rsyslogd"]);
    scene.wait_until_up();
    scene.start_client(&[]);
    scene.log(1..=50);
    // All messages are written. rsyslogd would lose a message that it had read and not yet written when it is killed,
    // broker or not.
    scene.wait_until_logged(50);
    scene.remoted().kill();
    scene.log(51..=100);
    scene.start_rsyslogd();
    scene.log(101..=150);
    scene.wait_until_logged(150);
}

#[test]
fn the_servers_log_says_what_becomes_of_remoted_though_nobody_asks() {
    let mut scene = Scene::empty();
    // This test has its own program: the programs of other tests would count as remoteds in containers.
    let program = scene.directory.join("ossec-remoted");
    fs::copy(example("ossec-remoted"), &program).expect("the directory is ours");
    scene.start_server(&["--process", program.to_str().expect("is plain text")]);
    scene.wait_until_server_says(&["remoted no process"]);
    scene.start_receiver(program, &[]);
    scene.wait_until_server_says(&["remoted up", "process"]);
}
