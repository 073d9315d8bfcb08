//! The client's spool, with the real program and real files: stops, kills, looks, damage, and disks that fail.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::Duration;

use nix::unistd::geteuid;

use crate::{BROKER, Role, agent, free_port, next, receiver, server, uninterrupted, wait_until};

/// A place for one test, removed at the end with everything in it.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("ossec-broker-loopback-spool-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap_or_else(|error| panic!("cannot make {}: {error}", path.display()));
        Self(path)
    }

    fn spool(&self) -> PathBuf {
        self.0.join("spool")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("it is text")
}

/// The ports of the client, the broker server and remoted.
#[derive(Clone, Copy)]
struct Ports {
    listen: u16,
    broker: u16,
    remoted: u16,
}

impl Ports {
    fn new(remoted: u16) -> Self {
        Self { listen: free_port(0), broker: free_port(0), remoted }
    }

    /// The words of a command that starts a client.
    fn words(self, spool: &Path, more: &[&str]) -> Vec<String> {
        let [listen, broker, remoted] =
            [self.listen, self.broker, self.remoted].map(|port| format!("127.0.0.1:{port}"));
        let ways = ["--listen", &listen, "--broker", &broker, "--server", &remoted, "--source-port", "0"];
        let words = [&["client", "--spool", text(spool)], &ways[..], more].concat();
        words.into_iter().map(str::to_owned).collect()
    }

    /// A client that has opened its spool.
    fn client(self, spool: &Path, more: &[&str]) -> Client {
        let words = self.words(spool, more);
        Client::of(Role::start(&words.iter().map(String::as_str).collect::<Vec<_>>()))
    }
}

/// A client, and its log.
struct Client {
    role: Role,
    lines: Receiver<String>,
    log: Vec<String>,
}

impl Client {
    /// Waits until the client has opened its spool: a signal that comes earlier just kills it.
    fn of(mut role: Role) -> Self {
        let lines = role.lines();
        let mut client = Self { role, lines, log: Vec::new() };
        client.wait_for(1, " of an earlier run");
        client
    }

    /// Waits until so many lines of the log say this, or more.
    fn wait_for(&mut self, count: usize, what: &str) {
        wait_until(&format!("the log says {count} times `{what}`"), || {
            if self.says(what) >= count { Ok(()) } else { Err(format!("{:#?}", self.log)) }
        });
    }

    /// The number of lines so far that say this.
    fn says(&mut self, what: &str) -> usize {
        self.log.extend(self.lines.try_iter());
        self.log.iter().filter(|line| line.contains(what)).count()
    }

    /// Stops the client, and returns its log.
    fn stop(mut self) -> String {
        let status = self.role.stop().status;
        self.log.extend(self.lines.iter());
        let log = self.log.join("\n");
        assert!(status.success(), "{log}");
        log
    }

    fn kill(mut self) -> String {
        let child = self.role.0.as_mut().expect("it runs");
        child.kill().expect("it is a child");
        child.wait().expect("it ends");
        self.log.extend(self.lines.iter());
        self.log.join("\n")
    }
}

/// A look that has begun, and what it prints.
struct Look {
    role: Role,
    output: ChildStdout,
}

impl Look {
    fn start(action: &str, spool: &Path) -> Self {
        let mut command = Command::new(BROKER);
        command.args(["spool", action, text(spool)]).stdin(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let output = child.stdout.take().expect("it is a pipe");
        Self { role: Role(Some(child)), output }
    }

    /// The exit code, and everything that is printed from here on.
    fn end(self) -> (Option<i32>, String) {
        let Self { mut role, mut output } = self;
        let mut log = role.0.as_mut().and_then(|child| child.stderr.take()).expect("it is a pipe");
        let read = move || {
            let mut printed = String::new();
            output.read_to_string(&mut printed).and_then(|_| log.read_to_string(&mut printed)).map(|_| printed)
        };
        let reading = thread::Builder::new().spawn(read).expect("a thread starts");
        let status = wait_until("the look ends", || role.has_ended().ok_or_else(|| "it goes on".to_owned()));
        (status.code(), reading.join().expect("it reads to the end").expect("it is text"))
    }
}

/// The exit code of `ossec-broker spool ACTION DIR`, and everything that it prints.
fn look(action: &str, spool: &Path) -> (Option<i32>, String) {
    Look::start(action, spool).end()
}

/// The number of datagrams in a spool, as `ls` says; an error is its words.
fn held(spool: &Path) -> Result<u64, String> {
    let (code, printed) = look("ls", spool);
    let last = printed.lines().last().unwrap_or_default();
    let count = last.split_once(" datagram").filter(|_| code == Some(0) && last.contains(" in all, "));
    count.and_then(|(count, _)| count.parse().ok()).ok_or(printed)
}

fn wait_until_held(spool: &Path, least: u64) {
    wait_until(&format!("{least} datagrams are on disk"), || match held(spool) {
        Ok(count) if count >= least => Ok(()),
        Ok(count) => Err(format!("{count} are")),
        Err(printed) => Err(printed),
    });
}

/// The datagrams that `cat` prints, without the greeting of `agent`: number and payload.
fn events(spool: &Path) -> Vec<(String, String)> {
    let (code, printed) = look("cat", spool);
    assert_eq!(code, Some(0), "{printed}");
    let event = |line: &str| {
        let [number, _time, _agent, length, payload] = line.splitn(5, ' ').collect::<Vec<_>>()[..] else {
            panic!("what does `cat` mean by `{line}`?")
        };
        // No payload here has a character that takes more than one.
        assert_eq!(length.parse(), Ok(payload.len()), "{line}");
        (number.to_owned(), payload.to_owned())
    };
    printed.lines().map(event).filter(|(_, payload)| payload != "hello").collect()
}

fn event(number: u32) -> String {
    format!("event {number:05}")
}

fn send(agent: &UdpSocket, numbers: std::ops::Range<u32>) {
    for number in numbers {
        agent.send(event(number).as_bytes()).expect("sent");
    }
}

/// Expects these events, in their order, and nothing else before the last one.
fn expect_events(receiver: &UdpSocket, numbers: impl IntoIterator<Item = u32>) {
    for number in numbers {
        assert_eq!(String::from_utf8_lossy(&next(receiver).0), event(number));
    }
}

/// Says that a part is not tested here. Not through a macro: libtest would keep it to itself.
fn say_untested(what: &str, why: &str) {
    let _ = writeln!(io::stderr(), "not tested, {}: {what}", why.trim());
}

#[test]
fn what_is_held_at_a_stop_is_sent_by_the_next_process_in_order_and_replies_come_back() {
    for transport in ["udp", "tcp"] {
        let place = Place::new();
        let (receiver, remoted) = receiver();
        let ports = Ports::new(remoted);
        let ways = ["--transport", transport];
        let client = ports.client(&place.spool(), &ways);
        let agent = agent(ports.listen);
        send(&agent, 0..300);
        agent.send(&[]).expect("a datagram of no length is one");
        agent.send(&vec![7; 65_507]).expect("the largest there is");
        // There is another stop before anybody takes the datagrams.
        assert!(client.stop().contains("kept in the spool: 303 datagrams"), "over {transport}");
        let log = ports.client(&place.spool(), &ways).stop();
        assert!(log.contains(": 303 datagrams") && log.contains("kept in the spool: 303 datagrams"), "{log}");

        let _server = server(ports.broker, remoted);
        let client = ports.client(&place.spool(), &ways);
        expect_events(&receiver, 0..300);
        assert_eq!(next(&receiver).0, Vec::<u8>::new());
        let (large, from) = next(&receiver);
        // Nothing more comes in, and the spool says all the same that nothing waits.
        wait_until("everything is confirmed", || match held(&place.spool()) {
            Ok(0) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        assert_eq!(large, vec![7; 65_507]);
        receiver.send_to(b"reply", from).expect("sent");
        let mut reply = [0; 16];
        assert_eq!(uninterrupted(|| agent.recv(&mut reply)).expect("a reply"), 5, "over {transport}");
        send(&agent, 300..310);
        expect_events(&receiver, 300..310);
        let log = client.stop();
        assert!(log.contains(" 0 left"), "{log}");
        assert_eq!(held(&place.spool()), Ok(0), "over {transport}");
    }
}

#[test]
fn a_spool_can_be_looked_at_while_a_client_runs_and_thrown_away_only_afterwards() {
    let place = Place::new();
    let spool = place.spool();
    let (_receiver, remoted) = receiver();
    let ports = Ports::new(remoted);
    let client = ports.client(&spool, &[]);
    let agent = agent(ports.listen);
    send(&agent, 0..50);
    wait_until_held(&spool, 51);
    let expect_all = || {
        let payloads: Vec<String> = events(&spool).into_iter().map(|(_, payload)| payload).collect();
        assert_eq!(payloads, (0..50).map(event).collect::<Vec<_>>());
        let (code, printed) = look("verify", &spool);
        assert!(code == Some(0) && printed.starts_with("51 datagrams") && !printed.contains("damaged"), "{printed}");
        let (code, printed) = look("ls", &spool);
        let from = format!("from {}, for ", agent.local_addr().expect("an address"));
        assert!(code == Some(0) && printed.starts_with("51 datagrams") && printed.contains(&from), "{printed}");
    };
    expect_all();
    let (code, printed) = look("purge", &spool);
    assert!(code == Some(1) && printed.contains("another process uses it"), "{printed}");
    expect_all();
    assert!(client.stop().contains("kept in the spool: 51 datagrams"));
    expect_all();

    let (code, printed) = look("purge", &spool);
    assert!(code == Some(0) && printed.starts_with("thrown away: 51 datagrams"), "{printed}");
    assert_eq!((held(&spool), events(&spool)), (Ok(0), Vec::new()));
    let log = ports.client(&spool, &[]).stop();
    assert!(log.contains("0 datagrams (0 bytes) of an earlier run"), "{log}");
}

/// A person reads the first page, and the client goes on meanwhile.
#[test]
fn a_look_ends_although_the_client_removes_everything_before_its_output_is_read() {
    // A look reads one part after the other, and the pipe takes much less than one.
    const BYTES: u64 = 6 << 20;
    const PAYLOAD: [u8; 2_000] = [b'x'; 2_000];
    let place = Place::new();
    let spool = place.spool();
    let (receiver, remoted) = receiver();
    let ports = Ports::new(remoted);
    let client = ports.client(&spool, &["--spool-size", "64MiB"]);
    let agent = agent(ports.listen);
    wait_until("enough is on disk", || {
        for _ in 0..50 {
            agent.send(&PAYLOAD).expect("sent");
        }
        let count = held(&spool)?;
        if count >= BYTES / PAYLOAD.len() as u64 { Ok(()) } else { Err(format!("{count} are")) }
    });
    let mut cat = Look::start("cat", &spool);
    cat.output.read_exact(&mut [0; 100]).expect("it prints");

    let _server = server(ports.broker, remoted);
    receiver.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
    wait_until("nothing is held", || {
        while receiver.recv(&mut [0; 1]).is_ok() {}
        match held(&spool) {
            Ok(0) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let (code, _) = cat.end();
    assert_eq!(code, Some(0));
    assert!(client.stop().contains(" 0 left"));
}

#[test]
fn looks_at_what_is_no_spool_say_so() {
    let place = Place::new();
    for action in ["ls", "cat", "verify", "purge"] {
        let (code, printed) = look(action, &place.spool());
        let says = format!("cannot use the spool {}: No such file", place.spool().display());
        assert!(code == Some(1) && printed.contains(&says) && printed.lines().count() == 1, "{action}: {printed}");
    }
    assert!(!place.spool().exists());
}

#[test]
fn a_second_client_with_the_same_spool_ends_and_the_first_one_goes_on() {
    let place = Place::new();
    let (receiver, remoted) = receiver();
    let ports = Ports::new(remoted);
    let _client = ports.client(&place.spool(), &[]);
    let second = Ports { listen: free_port(0), ..ports };
    let output = Command::new(BROKER).args(second.words(&place.spool(), &[])).output().expect("it runs");
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{log}");
    let errors: Vec<&str> = log.lines().filter(|line| !line.contains(" listening on ")).collect();
    let says = format!("ERROR cannot use the spool {}: another process uses it", place.spool().display());
    assert!(errors.len() == 1 && errors[0].ends_with(&says), "{log}");

    let _server = server(ports.broker, remoted);
    let agent = agent(ports.listen);
    send(&agent, 0..10);
    expect_events(&receiver, 0..10);
}

/// Changes a byte of the event with this number where it lies on disk.
fn damage(spool: &Path, number: u32) {
    let wanted = event(number);
    for entry in fs::read_dir(spool).expect("it is a folder") {
        let path = entry.expect("it can be read").path();
        let mut bytes = fs::read(&path).expect("it is ours");
        if let Some(at) = bytes.windows(wanted.len()).position(|window| window == wanted.as_bytes()) {
            bytes[at] ^= 0x20;
            return fs::write(&path, bytes).expect("it is ours");
        }
    }
    panic!("{wanted} lies nowhere in {}", spool.display());
}

#[test]
fn a_damaged_datagram_is_passed_over_and_told_and_all_others_arrive() {
    const DAMAGED: u32 = 17;
    let place = Place::new();
    let (receiver, remoted) = receiver();
    let ports = Ports::new(remoted);
    let client = ports.client(&place.spool(), &[]);
    let agent = agent(ports.listen);
    send(&agent, 0..50);
    assert!(client.stop().contains("kept in the spool: 51 datagrams"));
    assert_eq!(look("verify", &place.spool()).0, Some(0));
    damage(&place.spool(), DAMAGED);
    let (code, printed) = look("verify", &place.spool());
    // The record is its payload behind 24 bytes.
    assert!(code == Some(1) && printed.contains("damaged: 35 bytes in 1 of its files"), "{printed}");
    assert_eq!(held(&place.spool()), Ok(50));

    let _server = server(ports.broker, remoted);
    let client = ports.client(&place.spool(), &[]);
    expect_events(&receiver, (0..50).filter(|number| *number != DAMAGED));
    send(&agent, 50..52);
    expect_events(&receiver, 50..52);
    let log = client.stop();
    let told = log.matches("passing over 35 bytes that are damaged, in 1 segments").count();
    assert!(told == 1 && log.contains(": 50 datagrams") && log.contains(" 0 left"), "{log}");
}

#[test]
fn what_was_on_disk_survives_a_kill_while_more_comes_in() {
    const KILLS: u32 = 5;
    const MORE_EACH: u64 = 200;
    let place = Place::new();
    let spool = place.spool();
    let (receiver, remoted) = receiver();
    let ports = Ports::new(remoted);
    let (mut sent, mut safe) = (0, Vec::new());
    for kill in 1..=u64::from(KILLS) {
        let client = ports.client(&spool, &["--spool-sync", "always"]);
        let agent = agent(ports.listen);
        wait_until("more is on disk", || {
            send(&agent, sent..sent + 50);
            sent += 50;
            let count = held(&spool)?;
            if count >= kill * MORE_EACH { Ok(()) } else { Err(format!("{count} are")) }
        });
        safe = events(&spool);
        send(&agent, sent..sent + 100);
        sent += 100;
        let log = client.kill();
        assert!(!log.contains("cannot"), "{log}");
        let after = events(&spool);
        assert_eq!(after[..safe.len()], safe, "kill {kill}: nothing is gone, and nothing has come in between");
        safe = after;
    }

    // The numbers are in order, within a process and from one process to the next, and the events with them.
    let number = |text: &str| {
        let (generation, count) = text.split_once('.').expect("a number has two parts");
        (generation.parse::<u64>().expect("digits"), count.parse::<u64>().expect("digits"))
    };
    assert!(safe.is_sorted_by(|(one, _), (next, _)| number(one) < number(next)), "{safe:?}");
    assert!(safe.is_sorted_by(|(_, one), (_, next)| one < next), "{safe:?}");
    let generations: BTreeSet<u64> = safe.iter().map(|(text, _)| number(text).0).collect();
    assert_eq!(generations.len(), KILLS as usize);
    let _server = server(ports.broker, remoted);
    let client = ports.client(&spool, &[]);
    for (_, payload) in &safe {
        assert_eq!(String::from_utf8_lossy(&next(&receiver).0), *payload);
    }
    let log = client.stop();
    assert!(log.contains(" 0 left"), "{log}");
}

/// A client with its spool on a file system of its own, which only the client's namespace has. It goes with the
/// client.
struct Mounted {
    client: Client,
    /// The mounted folder, as others see it.
    root: PathBuf,
}

impl Mounted {
    /// Runs a script that mounts something over the folder `$0`, and becomes a client. `None` where that cannot be
    /// done; the output of the tests says why.
    fn start(place: &Place, script: &str, what: &str, ports: Ports, more: &[&str]) -> Option<Self> {
        if !geteuid().is_root() {
            say_untested(what, "only root can");
            return None;
        }
        let top = place.0.join("mounted");
        fs::create_dir(&top).expect("a new name");
        let unshared = |then: &[String]| {
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-c", &format!("set -e; {script}; exec \"$@\""), text(&top)]).args(then);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
            command
        };
        match unshared(&["true".to_owned()]).output() {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                say_untested(what, &String::from_utf8_lossy(&output.stderr));
                return None;
            }
            Err(error) => {
                say_untested(what, &error.to_string());
                return None;
            }
        }
        let words = [vec![BROKER.to_owned()], ports.words(&top.join("disk/spool"), more)].concat();
        let child = unshared(&words).spawn().expect("it was there a moment ago");
        let root = PathBuf::from(format!("/proc/{}/root{}", child.id(), text(&top)));
        Some(Self { client: Client::of(Role(Some(child))), root })
    }

    fn spool(&self) -> PathBuf {
        self.root.join("disk/spool")
    }

    /// Takes all the room that there is.
    fn fill(&self) {
        let mut filler = File::create(self.root.join("filler")).expect("there is room for a name");
        let full = (0..10_000).find_map(|_| filler.write_all(&[1; 512]).err()).expect("it is small");
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    }

    /// Gives back so many bytes of that room, or all of it.
    fn give_room(&self, bytes: Option<u64>) {
        let filler = File::options().write(true).open(self.root.join("filler")).expect("it was made");
        let length = filler.metadata().expect("it is open").len();
        filler.set_len(bytes.map_or(0, |bytes| length - bytes)).expect("it can be cut");
    }
}

/// A lock must not need room on the disk.
#[test]
fn a_client_that_began_on_a_full_disk_has_its_spool_for_itself_all_the_same() {
    // The folders and two other files take all the places that there are for files.
    let script = "mount -t tmpfs -o size=512k,mode=700,nr_inodes=5 none \"$0\"; \
        mkdir -m 700 \"$0\"/disk \"$0\"/disk/spool; touch \"$0\"/filler \"$0\"/other";
    let place = Place::new();
    let (_receiver, remoted) = receiver();
    let ports = Ports::new(remoted);
    let options = ["--spool-size", "1MiB", "--spool-sync", "always"];
    let Some(mut mounted) = Mounted::start(&place, script, "a disk without room for a lock", ports, &options) else {
        return;
    };
    mounted.client.wait_for(1, " WARN  cannot write the spool ");
    let agent = agent(ports.listen);
    send(&agent, 0..10);
    for name in ["filler", "other"] {
        fs::remove_file(mounted.root.join(name)).expect("it was made");
    }
    wait_until_held(&mounted.spool(), 11);
    let (code, printed) = look("purge", &mounted.spool());
    assert!(code == Some(1) && printed.contains("another process uses it"), "{printed}");
    assert_eq!(held(&mounted.spool()), Ok(11));
}

const CANNOT_WRITE: &str = " cannot write the spool ";
const WARNING: &str = " WARN  cannot write the spool ";
const AGAIN: &str = " INFO  can write the spool ";

/// Waits for so many failed attempts, and expects one warning: the other lines are shown only with `-v`.
fn expect_told_once(client: &mut Client, attempts: usize) {
    client.wait_for(attempts, CANNOT_WRITE);
    assert_eq!((client.says(WARNING), client.says(AGAIN)), (1, 0), "{:#?}", client.log);
}

/// Waits until all these events are on disk, and nothing but them.
fn wait_until_written(spool: &Path, numbers: std::ops::Range<u32>) {
    let expected: Vec<String> = numbers.map(event).collect();
    wait_until("all that is held is on disk", || {
        let payloads: Vec<String> = events(spool).into_iter().map(|(_, payload)| payload).collect();
        if payloads == expected { Ok(()) } else { Err(format!("{} are: {:?}", payloads.len(), payloads.last())) }
    });
}

#[test]
fn a_full_disk_is_told_once_costs_nothing_and_is_written_again_when_it_has_room() {
    const SOME_ROOM_BYTES: u64 = 150_000;
    let script = "mount -t tmpfs -o size=512k,mode=700 none \"$0\"; mkdir \"$0\"/disk";
    let place = Place::new();
    let (receiver, remoted) = receiver();
    let ports = Ports::new(remoted);
    let options = ["-v", "--spool-size", "1MiB", "--spool-sync", "always"];
    let Some(mut mounted) = Mounted::start(&place, script, "a full disk", ports, &options) else { return };
    let spool = mounted.spool();
    let agent = agent(ports.listen);
    send(&agent, 0..10);
    wait_until_written(&spool, 0..10);

    // More datagrams than there is room for stay in memory. The log says so once, and the client tries again and
    // again. The same holds when a part of them finds room.
    mounted.fill();
    send(&agent, 10..6_000);
    for (attempts, room) in [(4, Some(SOME_ROOM_BYTES)), (8, None)] {
        expect_told_once(&mut mounted.client, attempts);
        mounted.give_room(room);
    }
    mounted.client.wait_for(1, AGAIN);
    wait_until_written(&spool, 0..6_000);

    // The datagrams go on to remoted while nothing can be written.
    mounted.fill();
    send(&agent, 6_000..12_000);
    mounted.client.wait_for(2, WARNING);
    let server = server(ports.broker, remoted);
    expect_events(&receiver, 0..12_000);
    drop(server);
    mounted.give_room(None);
    send(&agent, 12_000..12_100);
    mounted.client.wait_for(2, AGAIN);
    // Earlier ones may still be there: no mark says yet that they are confirmed.
    let last: Vec<String> = (12_000..12_100).map(event).collect();
    wait_until("the last ones are on disk", || {
        let payloads: Vec<String> = events(&spool).into_iter().map(|(_, payload)| payload).collect();
        if payloads.ends_with(&last) { Ok(()) } else { Err(format!("{:?} is the last", payloads.last())) }
    });
    assert!(!mounted.client.stop().contains("lost with this stop"));
}

/// The disk is larger than the volume below it, as with thin provisioning. The kernel takes what is written into
/// memory, and the next sync fails.
#[test]
fn a_disk_whose_syncs_fail_is_told_once_and_is_written_again_when_it_is_well() {
    let script = "mount -t tmpfs -o size=1m,mode=700 none \"$0\"; truncate -s 16m \"$0\"/image; \
        mkfs.ext4 -q -O ^has_journal -b 4096 -N 64 \"$0\"/image; mkdir \"$0\"/disk; \
        mount -o loop,errors=continue \"$0\"/image \"$0\"/disk";
    let place = Place::new();
    let (_receiver, remoted) = receiver();
    let ports = Ports::new(remoted);
    let options = ["-v", "--spool-size", "1MiB"];
    let Some(mut mounted) = Mounted::start(&place, script, "a disk whose syncs fail", ports, &options) else {
        return;
    };
    let agent = agent(ports.listen);
    send(&agent, 0..10);
    wait_until_written(&mounted.spool(), 0..10);
    mounted.fill();
    send(&agent, 10..6_000);
    expect_told_once(&mut mounted.client, 4);
    mounted.give_room(None);
    mounted.client.wait_for(1, AGAIN);
    wait_until_written(&mounted.spool(), 0..6_000);
    assert!(!mounted.client.stop().contains("lost with this stop"));
}

/// A device that fails, as the client sees it: while this lives, strace ends its calls of one kind with an error.
/// (The device mapper makes devices that fail, but not each kernel has it, and it needs root.)
struct Failing(Role);

impl Failing {
    /// `None` where that cannot be done; the output of the tests says why.
    fn begin(client: &Client, call: &str) -> Option<Self> {
        let pid = client.role.0.as_ref().expect("it runs").id().to_string();
        let (trace, inject) = (format!("trace={call}"), format!("inject={call}:error=EIO"));
        let mut command = Command::new("strace");
        command.args(["-f", "-p", &pid, "-o", "/dev/null", "-e", &trace, "-e", &inject]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut strace = match child {
            Ok(child) => Role(Some(child)),
            Err(error) => {
                say_untested("a device that fails", &format!("cannot run strace: {error}"));
                return None;
            }
        };
        let lines = strace.lines();
        let mut said = Vec::new();
        let is_attached = wait_until("strace has the client", || {
            said.extend(lines.try_iter());
            if said.iter().any(|line| line.contains(" attached")) {
                Ok(true)
            } else if strace.has_ended().is_some() {
                Ok(false)
            } else {
                Err(format!("{said:?}"))
            }
        });
        if !is_attached {
            said.extend(lines.iter());
            say_untested("a device that fails", &said.join("; "));
            return None;
        }
        Some(Self(strace))
    }

    fn end(self) {
        self.0.stop();
    }
}

#[test]
fn a_device_that_cannot_be_written_is_told_once_costs_nothing_and_is_written_again_when_it_can() {
    let place = Place::new();
    let spool = place.spool();
    let (receiver, remoted) = receiver();
    let ports = Ports::new(remoted);
    let mut client = ports.client(&spool, &["-v", "--spool-sync", "always"]);
    let agent = agent(ports.listen);
    send(&agent, 0..10);
    wait_until_written(&spool, 0..10);
    let Some(failing) = Failing::begin(&client, "fdatasync") else { return };
    send(&agent, 10..500);
    expect_told_once(&mut client, 4);
    failing.end();
    client.wait_for(1, AGAIN);
    wait_until_written(&spool, 0..500);

    let Some(failing) = Failing::begin(&client, "fdatasync") else { return };
    send(&agent, 500..1_000);
    client.wait_for(2, WARNING);
    let _server = server(ports.broker, remoted);
    expect_events(&receiver, 0..1_000);
    failing.end();
    assert!(client.stop().contains(" 0 left"));
}

#[test]
fn a_device_that_cannot_be_read_is_told_once_and_everything_arrives_when_it_can() {
    const PAYLOAD_BYTES: usize = 1_000;
    const COUNT: u32 = 500;
    let place = Place::new();
    let (receiver, remoted) = receiver();
    let ports = Ports::new(remoted);
    // The memory takes only a small part of the datagrams: most lie on disk alone.
    let mut client = ports.client(&place.spool(), &["-v", "--buffer", "64KiB", "--spool-sync", "always"]);
    let agent = agent(ports.listen);
    let payload = |number: u32| event(number).repeat(PAYLOAD_BYTES / event(number).len()).into_bytes();
    for number in 0..COUNT {
        agent.send(&payload(number)).expect("sent");
        if number % 10 == 9 {
            wait_until_held(&place.spool(), u64::from(number));
        }
    }
    let Some(failing) = Failing::begin(&client, "pread64") else { return };
    let _server = server(ports.broker, remoted);
    let read_all = move || {
        for number in 0..COUNT {
            let bytes = next(&receiver).0;
            assert!(bytes == payload(number), "{number}: {}", bytes.escape_ascii());
        }
        receiver
    };
    let reading = thread::Builder::new().spawn(read_all).expect("a thread starts");
    client.wait_for(3, " cannot read the spool ");
    assert_eq!(client.says(" WARN  cannot read the spool "), 1, "{:#?}", client.log);
    assert!(!reading.is_finished(), "nothing had to be read");
    failing.end();
    let _receiver = reading.join().expect("all arrive, in order");
    client.wait_for(1, " INFO  can read the spool ");
    let log = client.stop();
    assert!(log.contains(" 0 dropped, 0 left"), "{log}");
}
