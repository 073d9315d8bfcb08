//! The scene of every test: remoted and the broker's server on one host, agent and client on the other.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;
use std::{env, fs};

use crate::support::directory::Directory;
use crate::support::journal::{Journal, Received};
use crate::support::namespaces::{Namespaces, Side};
use crate::support::process::Process;
use crate::support::wait_until;

/// Datagrams a second of an ordinary agent here.
pub(crate) const RATE: u64 = 500;
/// Datagrams that may reach remoted twice for each outage. remoted drops them, but each costs somebody a datagram's
/// work.
pub(crate) const COPIES_PER_OUTAGE_MAX: u64 = 200;
/// Datagrams that may reach remoted twice although nothing happened. A machine that stalls for longer than the lease
/// makes one window doubtful: half of remoted's buffer.
const COPIES_PER_STALL_MAX: u64 = 128;
/// Replies on their way when an outage begins are lost. Nobody keeps them, with the broker or without it.
const REPLIES_LOST_MAX: u64 = 200;
/// The id of the agent where there is only one.
pub(crate) const AGENT: &str = "001";

/// Two hosts and the things that run on them. The fields are dropped in this order: processes first, then the ground
/// they stand on.
pub(crate) struct Scene {
    client: Option<Process>,
    server: Option<Process>,
    remoted: Option<Process>,
    pub(crate) journal: Journal,
    pub(crate) net: Namespaces,
    pub(crate) directory: Directory,
    started: u32,
    /// The key, if there is one: the roles use it, and the client sends over tcp.
    key: Option<&'static str>,
    _turn: Turn,
}

/// Most scenes are alone on the machine. A scene without a lease may run beside others of its kind.
#[expect(dead_code, reason = "they are held, not looked at")]
enum Turn {
    Alone(RwLockWriteGuard<'static, ()>),
    Shared(RwLockReadGuard<'static, ()>),
}

static TURN: RwLock<()> = RwLock::new(());

/// An agent that sends.
pub(crate) struct Traffic {
    pub(crate) process: Process,
    id: String,
    count: u64,
}

/// The values that an agent, or a swarm, says at its end, by name.
pub(crate) struct Summary(pub(crate) String);

impl Summary {
    pub(crate) fn get(&self, name: &str) -> u64 {
        let mut words = self.0.split_ascii_whitespace();
        let value = words.find(|word| *word == name).and_then(|_| words.next()?.parse().ok());
        value.unwrap_or_else(|| panic!("it does not say `{name}` but: {}", self.0))
    }
}

impl Scene {
    /// Two hosts on which nothing runs yet.
    pub(crate) fn empty() -> Self {
        // A test that failed in its turn has cleaned up like any other.
        Self::in_turn(Turn::Alone(TURN.write().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Two hosts on which nothing runs yet, for transport tcp: with a key, and beside other scenes of this kind.
    pub(crate) fn empty_with_key() -> Self {
        let mut scene = Self::in_turn(Turn::Shared(TURN.read().unwrap_or_else(PoisonError::into_inner)));
        scene.make_key();
        scene
    }

    fn in_turn(turn: Turn) -> Self {
        let directory = Directory::new();
        let journal = Journal::new(directory.join("journal"));
        let net = Namespaces::new();
        Self { client: None, server: None, remoted: None, journal, net, directory, started: 0, key: None, _turn: turn }
    }

    /// Two hosts with everything running and the link up.
    pub(crate) fn up() -> Self {
        Self::empty().brought_up(&[])
    }

    /// Two hosts with everything running over transport tcp, with a key, and the link up.
    pub(crate) fn up_over_tcp() -> Self {
        Self::empty_with_key().brought_up(&[])
    }

    /// Starts everything, with options for the stand-in for remoted. The link comes up.
    pub(crate) fn brought_up(mut self, remoted: &[&str]) -> Self {
        self = self.served(remoted, &[]);
        self.start_client(&[]);
        self
    }

    /// remoted and a server that finds it up, with options for both.
    pub(crate) fn served(mut self, remoted: &[&str], server: &[&str]) -> Self {
        self.start_remoted_and_wait(remoted);
        self.start_server(server);
        self.wait_until_up();
        self
    }

    /// Makes a key for all roles that start from here on.
    pub(crate) fn make_key(&mut self) {
        let path = self.directory.join("key");
        let key = Command::new(broker()).arg("genkey").output().expect("it prints a key");
        fs::write(&path, key.stdout).expect("the directory is there");
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("the file is there");
        self.key = Some(path.to_str().expect("is plain text").to_owned().leak());
    }

    pub(crate) fn start_remoted(&mut self, options: &[&str]) {
        let journal = self.journal.path().to_str().expect("is plain text").to_owned();
        let options = [&["--journal", &journal], options].concat();
        self.start_receiver(example("ossec-remoted"), &options);
    }

    /// Starts remoted and waits until it has its socket. Before that, the broker server would take the socket of
    /// another scene's remoted for this one's.
    pub(crate) fn start_remoted_and_wait(&mut self, options: &[&str]) {
        self.start_remoted(options);
        wait_until("remoted has its socket", || {
            self.net.has_udp_socket(Side::Server, 1514).then_some(()).ok_or("it has none yet".to_owned())
        });
    }

    /// Starts one more remoted, with the same journal, and waits until it has its socket.
    pub(crate) fn start_second_remoted(&mut self, options: &[&str]) -> Process {
        let before = self.net.udp_sockets(Side::Server, 1514).len();
        let journal = self.journal.path().to_str().expect("is plain text").to_owned();
        let options = [&["--journal", &journal], options].concat();
        let second = self.start(Side::Server, example("ossec-remoted"), "second-remoted", &options);
        wait_until("the second remoted has its socket", || {
            let sockets = self.net.udp_sockets(Side::Server, 1514).len();
            (sockets > before).then_some(()).ok_or_else(|| format!("{sockets} on the port"))
        });
        second
    }

    /// Starts the program that stands in remoted's place.
    pub(crate) fn start_receiver(&mut self, program: PathBuf, options: &[&str]) {
        self.remoted = Some(self.start(Side::Server, program, "remoted", options));
    }

    pub(crate) fn start_server(&mut self, options: &[&str]) {
        let options = [&["server", "--settle", "200ms", "-v"], &self.key_options()[..], options].concat();
        self.server = Some(self.start(Side::Server, broker(), "server", &options));
    }

    /// Starts the server with a bound on the descriptors that it may have.
    pub(crate) fn start_server_with_descriptors(&mut self, most: &str) {
        let program = broker();
        let limit = format!("--nofile={most}");
        let options = [&limit, program.to_str().expect("is plain text"), "server", "--settle", "200ms", "-v"];
        self.server = Some(self.start(Side::Server, "prlimit".into(), "server", &options));
    }

    /// Connects to the broker's server so many times from the agent's host, and says nothing.
    pub(crate) fn connect_silently(&mut self, connections: usize) -> Process {
        let open = format!("exec {{fd}}<>/dev/tcp/{}/1517", Side::Server.ipv4());
        let script = format!("for i in $(seq {connections}); do {open} || exit 1; done; exec sleep 600");
        self.start(Side::Agent, "bash".into(), "silent", &["-c", &script])
    }

    /// Starts the client and waits until it has its socket for the agent. It need not have found the server by then.
    pub(crate) fn start_client(&mut self, options: &[&str]) {
        self.start_client_at(Side::Agent, options);
    }

    /// Starts the client through another program, which starts it with fewer rights or means.
    pub(crate) fn start_client_through(&mut self, program: &[&str], options: &[&str]) {
        let client = broker();
        let client = client.to_str().expect("is plain text");
        let own = [client, "client", "-v", "--server", Side::Server.ipv4()];
        let options = [&program[1..], &own, options].concat();
        self.client = Some(self.start(Side::Agent, program[0].into(), "client", &options));
        wait_until("the client listens", || {
            self.net.has_udp_socket(Side::Agent, 1514).then_some(()).ok_or("it has no socket yet".to_owned())
        });
    }

    /// Starts the client on either host.
    pub(crate) fn start_client_at(&mut self, side: Side, options: &[&str]) {
        let server: &[&str] = if options.contains(&"--server") { &[] } else { &["--server", Side::Server.ipv4()] };
        let way: &[&str] = if self.key.is_some() { &["--transport", "tcp"] } else { &[] };
        let options = [&["client", "-v"], server, way, &self.key_options(), options].concat();
        self.client = Some(self.start(side, broker(), "client", &options));
        let listen = options.iter().skip_while(|option| **option != "--listen").nth(1).unwrap_or(&"127.0.0.1:1514");
        let port = listen.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port is given");
        wait_until("the client listens", || {
            self.net.has_udp_socket(side, port).then_some(()).ok_or("it has no socket yet".to_owned())
        });
    }

    /// Makes room for one more client; the caller keeps this one alive.
    pub(crate) fn take_client(&mut self) -> Process {
        self.client.take().expect("the client was started")
    }

    pub(crate) fn remoted(&mut self) -> &mut Process {
        self.remoted.as_mut().expect("remoted was started")
    }

    pub(crate) fn server(&mut self) -> &mut Process {
        self.server.as_mut().expect("the server was started")
    }

    pub(crate) fn client(&mut self) -> &mut Process {
        self.client.as_mut().expect("the client was started")
    }

    /// Starts a program on one of the hosts. Its output goes to a file of its own.
    pub(crate) fn start(&mut self, side: Side, program: PathBuf, name: &str, options: &[&str]) -> Process {
        self.started += 1;
        let mut command = self.net.command(side, program);
        command.args(options);
        Process::start(command, name, self.directory.join(format!("{}-{name}", self.started)))
    }

    /// Starts the agent: `count` datagrams, each of which asks for a reply.
    pub(crate) fn send(&mut self, count: u64, options: &[&str]) -> Traffic {
        self.send_as(AGENT, count, &[&["--ping"], options].concat())
    }

    /// Starts an agent with an id of its own.
    pub(crate) fn send_as(&mut self, id: &str, count: u64, options: &[&str]) -> Traffic {
        let numbers = count.to_string();
        let options = [&["--agent", id, "--count", &numbers], options].concat();
        let process = self.start(Side::Agent, example("ossec-agent"), &format!("agent {id}"), &options);
        Traffic { process, id: id.to_owned(), count }
    }

    /// One heartbeat by `ossec-broker check`, from the agent's host.
    pub(crate) fn check(&self) -> Output {
        self.check_at(Side::Server.ipv4())
    }

    /// One heartbeat to a server that is known by that name.
    pub(crate) fn check_at(&self, name: &str) -> Output {
        let mut command = self.net.command(Side::Agent, broker());
        command.args(["check", "--broker", name]);
        command.args(self.key_options());
        command.output().expect("ip runs, as it did before")
    }

    /// Waits until the server answers that remoted is up.
    pub(crate) fn wait_until_up(&self) {
        wait_until("remoted is up", || {
            let output = self.check();
            output.status.success().then_some(()).ok_or_else(|| format!("{output:?}"))
        });
    }

    /// Waits until that many connections to the broker's server are established, as its host sees it.
    pub(crate) fn wait_until_connected(&self, count: usize) {
        wait_until(&format!("{count} connections are established"), || {
            let established = self.net.established();
            (established == count).then_some(()).ok_or_else(|| format!("{established} are"))
        });
    }

    /// Waits until remoted has accepted so many datagrams of that agent.
    pub(crate) fn wait_until_accepted(&mut self, id: &str, count: u64) {
        wait_until(&format!("{count} datagrams of agent {id} are accepted"), || {
            let received = self.journal.read().of(id);
            let enough = received.took.len() as u64 >= count;
            enough.then_some(()).ok_or_else(|| format!("{received:?}"))
        });
    }

    /// Waits until remoted has accepted that counter or a greater one.
    pub(crate) fn wait_until_newest(&mut self, id: &str, counter: u64) {
        wait_until(&format!("counter {counter} of agent {id} is accepted"), || {
            let received = self.journal.read().of(id);
            (received.newest() >= counter).then_some(()).ok_or_else(|| format!("{received:?}"))
        });
    }

    /// Waits until the receiver's socket has dropped so many datagrams.
    pub(crate) fn wait_until_dropped(&mut self, count: u64) {
        wait_until(&format!("the receiver's socket has dropped {count}"), || {
            let drops = self.drops();
            (drops >= count).then_some(()).ok_or_else(|| format!("{drops} so far"))
        });
    }

    /// Waits until remoted has read all that is in its socket's queue.
    pub(crate) fn wait_until_read(&mut self) {
        wait_until("the receiver's queue is empty", || {
            let queue = self.net.udp_queue(Side::Server, 1514);
            (queue == 0).then_some(()).ok_or_else(|| format!("{queue} bytes are in it"))
        });
    }

    /// Waits for the agent's end and returns what it says.
    pub(crate) fn wait_until_sent(traffic: &mut Traffic) -> Summary {
        assert!(traffic.process.wait().success(), "the agent fails");
        let summary = Summary(traffic.process.output());
        assert_eq!(summary.get("sent"), traffic.count, "the client's socket was away: {}", summary.0);
        summary
    }

    /// Waits until all datagrams have arrived, and holds them against the promise: nothing lost, nothing dropped by
    /// the receiver's socket, order kept, hardly any copies.
    pub(crate) fn expect_all(&mut self, mut traffic: Traffic, outages: u64) -> Summary {
        let summary = Self::wait_until_sent(&mut traffic);
        self.wait_until_accepted(&traffic.id, traffic.count);
        let copies_max = self.copies_max(outages);
        let received = self.received(&traffic.id);
        assert!(received.took.iter().copied().eq(1..=traffic.count), "strange counters: {received:?}");
        assert_eq!(received.overtaken(), 0, "order was not kept: {received:?}");
        assert!(received.copies() <= copies_max, "too many copies: {received:?}");
        assert_eq!(self.drops(), 0, "the receiver's socket overflowed: {:?}", self.received(&traffic.id));
        summary
    }

    /// Expects the same as `expect_all`, and the replies in order. Replies that an outage caught on their way may be
    /// missing; replies after it come again.
    pub(crate) fn expect_all_and_replies(&mut self, traffic: Traffic, outages: u64) {
        let count = traffic.count;
        let summary = self.expect_all(traffic, outages);
        assert_eq!(summary.get("reordered"), 0, "replies out of order: {}", summary.0);
        assert_eq!(summary.get("last"), count, "the last reply is missing: {}", summary.0);
        assert!(summary.get("replies") + REPLIES_LOST_MAX * outages >= count, "replies are missing: {}", summary.0);
    }

    /// Stops the client. Expects that its last words add up with all datagrams that the agents have sent.
    pub(crate) fn expect_accounts(&mut self, sent: u64) {
        assert_eq!(self.accounts(), [sent, sent, 0, 0], "received, confirmed, dropped, left");
    }

    /// Stops the client. Returns how many datagrams it has received, how many of these it has confirmed and dropped,
    /// and how many it has left.
    pub(crate) fn accounts(&mut self) -> [u64; 4] {
        let client = self.client();
        client.signal("TERM");
        assert!(client.wait().success(), "the client ends well");
        let said = find_line(&client.output(), &["stopped: "]).expect("it says what became of all datagrams");
        let numbers = said.rsplit("stopped: ").next().into_iter().flat_map(|sums| sums.split(", "));
        let numbers: Vec<u64> = numbers.filter_map(|sum| sum.split(' ').next()?.parse().ok()).collect();
        numbers.try_into().unwrap_or_else(|_| panic!("what does it mean by `{said}`?"))
    }

    /// The number of copies that are forgiven. Over tcp there are none unless a process died.
    pub(crate) const fn copies_max(&self, outages: u64) -> u64 {
        if self.key.is_some() { COPIES_PER_OUTAGE_MAX * outages } else { copies_max(outages) }
    }

    /// The options that roles are started with if there is a key.
    pub(crate) fn key_options(&self) -> Vec<&'static str> {
        self.key.iter().flat_map(|key| ["--psk-file", key]).collect()
    }

    pub(crate) fn received(&mut self, id: &str) -> &Received {
        self.journal.read().of(id)
    }

    /// The datagrams that the receiver's sockets dropped, in all lives.
    pub(crate) fn drops(&mut self) -> u64 {
        let live = self.net.udp_drops(Side::Server, 1514);
        live.max(self.journal.read().drops())
    }

    /// Waits until the server's log has a line with all of `words`.
    pub(crate) fn wait_until_server_says(&mut self, words: &[&str]) {
        let server = self.server();
        wait_until(&format!("the server says {words:?}"), || find_line(&server.output(), words));
    }

    /// Does something, and waits until the client's log has more lines with `words` than before that.
    pub(crate) fn wait_until_client_says_again(&mut self, words: &str, cause: impl FnOnce(&mut Self)) {
        let count = |client: &Process| client.output().matches(words).count();
        let before = count(self.client());
        cause(self);
        let client = self.client();
        wait_until(&format!("the client says {words} again"), || {
            (count(client) > before).then_some(()).ok_or_else(|| client.output())
        });
    }

    /// Waits until the client's log has a line with all of `words`.
    pub(crate) fn wait_until_client_says(&mut self, words: &[&str]) {
        let client = self.client();
        wait_until(&format!("the client says {words:?}"), || find_line(&client.output(), words));
    }
}

/// The number of copies that are forgiven.
pub(crate) const fn copies_max(outages: u64) -> u64 {
    COPIES_PER_OUTAGE_MAX * outages + COPIES_PER_STALL_MAX
}

/// The first line that has all of `words`.
pub(crate) fn find_line(text: &str, words: &[&str]) -> Result<String, String> {
    let line = text.lines().find(|line| words.iter().all(|word| line.contains(word)));
    line.map(str::to_owned).ok_or_else(|| format!("no line has {words:?}"))
}

/// Seconds of traffic at [`RATE`], in datagrams.
pub(crate) fn worth(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).expect("is a short span") * RATE / 1_000
}

/// The program under test.
pub(crate) fn broker() -> PathBuf {
    env!("CARGO_BIN_EXE_ossec-broker").into()
}

/// A program from `tests/stand-ins/`. Cargo puts them beside the tests: `target/PROFILE/examples` and
/// `target/PROFILE/deps`.
pub(crate) fn example(name: &str) -> PathBuf {
    let test = env::current_exe().expect("a test knows itself");
    let profile = test.parent().and_then(|deps| deps.parent()).expect("tests are in target/PROFILE/deps");
    let path = profile.join("examples").join(name);
    assert!(
        fs::exists(&path).is_ok_and(|exists| exists),
        "{} is missing: `cargo build --examples` makes it",
        path.display()
    );
    path
}
