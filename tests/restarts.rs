//! Roles that start and stop, again and again, in one process: nothing may be left behind.
//!
//! `STARTS=1000 cargo test --release --test restarts` does it a thousand times.

#[path = "support/census.rs"]
mod census;
#[path = "support/ports.rs"]
mod ports;
#[path = "support/role.rs"]
mod role;
#[path = "support/uninterrupted.rs"]
mod uninterrupted;
#[path = "support/wait.rs"]
#[expect(dead_code, reason = "no scenario here has a span of its own")]
mod wait;

use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use census::Census;
use ports::free_port;
use role::{Lines, Role, Trace};
use uninterrupted::uninterrupted;
use wait::wait_until;

const STARTS_DEFAULT: u64 = 60;
/// The longest time that a datagram may take.
const DEADLINE: Duration = Duration::from_mins(1);

/// The stage that the roles have reached when they are stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// The test has waited for nothing: the threads are about to start.
    Short,
    /// A datagram has arrived, and its answer.
    Useful,
    /// A datagram has arrived, and its answer; and sent datagrams are drained at the stop.
    Drained,
}

const LIVES: [Life; 4] = [Life::Useful, Life::Short, Life::Drained, Life::Useful];

/// The ports, and the stand-ins at both ends of the broker.
struct Bench {
    listen: String,
    broker: u16,
    source: String,
    remoted: UdpSocket,
}

impl Bench {
    fn new() -> Self {
        let remoted = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        remoted.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        let (listen, source) = (format!("127.0.0.1:{}", free_port(0)), free_port(4).to_string());
        Self { listen, broker: free_port(0), source, remoted }
    }

    fn start_server(&self) -> Role {
        let (listen, remoted) = (format!("127.0.0.1:{}", self.broker), self.remoted());
        let server = ["server", "--listen", &listen, "--remoted", &remoted, "--process", "any", "--settle", "0"];
        let role = Role::start(&server);
        wait_until("the server listens", || TcpStream::connect(&listen).map(drop).map_err(|error| error.to_string()));
        role
    }

    /// `host` is the server's: a name costs a thread that nobody joins.
    fn start_client(&self, transport: &str, host: &str, drain: &str) -> Role {
        let (broker, remoted) = (format!("{host}:{}", self.broker), self.remoted());
        let ends = ["--listen", &self.listen, "--broker", &broker, "--server", &remoted];
        let values = ["--transport", transport, "--source-port", &self.source, "--drain", drain];
        Role::start(&[&["client"], &ends[..], &values].concat())
    }

    fn remoted(&self) -> String {
        self.remoted.local_addr().expect("an address").to_string()
    }

    /// A datagram goes from an agent to the receiver, and an answer back.
    fn exchange(&self, number: u64) {
        let agent = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        agent.set_read_timeout(Some(Duration::from_millis(5))).expect("a timeout");
        agent.connect(&self.listen).expect("connected");
        let (event, mut bytes) = (number.to_be_bytes(), [0; 16]);
        // Until the client listens, a datagram is refused, and the next call says so.
        wait_until("the client takes a datagram", || {
            agent.send(&event).map_err(|error| error.to_string())?;
            match uninterrupted(|| agent.recv(&mut bytes)) {
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Err(error.to_string()),
                Ok(_) | Err(_) => Ok(()),
            }
        });
        let (_, upstream) = loop {
            let (length, from) = uninterrupted(|| self.remoted.recv_from(&mut bytes)).expect("it arrives");
            // A datagram that was held at an earlier stop is gone with its client. Copies of earlier datagrams are not
            // gone.
            if bytes[..length] == event {
                break (length, from);
            }
        };
        agent.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        self.remoted.send_to(&event, upstream).expect("sent");
        let length = uninterrupted(|| agent.recv(&mut bytes)).expect("an answer comes back");
        assert_eq!(bytes[..length], event);
    }

    fn live(&self, number: u64) {
        let _trace = Trace(format!("life {number}"));
        let life = LIVES[number as usize % LIVES.len()];
        let drain = if life == Life::Drained { "60s" } else { "0" };
        let host = if number.is_multiple_of(3) { "localhost" } else { "127.0.0.1" };
        let transport = if (number / LIVES.len() as u64).is_multiple_of(2) { "udp" } else { "tcp" };
        let (server, client) = (self.start_server(), self.start_client(transport, host, drain));
        if life != Life::Short {
            self.exchange(number);
        }
        // Upstream stops first, or downstream stops first: neither may wait for the other.
        let [first, second] =
            if number % 8 < 4 || life == Life::Drained { [client, server] } else { [server, client] };
        first.stop();
        second.stop();
        let words = Lines::newest("stopped: ").expect("the client has said good-bye");
        assert!(life != Life::Drained || words.ends_with(" 0 left"), "{words}");
    }
}

#[test]
fn starts_and_stops_leave_no_descriptor_and_no_thread_behind() {
    let starts = std::env::var("STARTS").map_or(STARTS_DEFAULT, |text| text.parse().expect("STARTS is a number"));
    let bench = Bench::new();
    // Things that the process makes once and keeps are there after the first life of each kind.
    (0..2 * LIVES.len() as u64).for_each(|number| bench.live(number));
    let before = Census::take();
    for number in 0..starts {
        bench.live(number);
        if number.is_multiple_of(50) {
            before.wait_until_restored();
        }
    }
    before.wait_until_restored();
}
