//! The network between client and server, as far as TCP goes: it carries bytes until it is told otherwise.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use socket2::SockRef;

/// The direction in which bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    ToServer,
    ToClient,
}

/// A port on which clients find the server.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    network: Arc<Network>,
    thread: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Network {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Ways on which nothing gets through.
    stalled: [bool; 2],
    /// Newcomers are turned away.
    refuses: bool,
    stops: bool,
    pairs: Vec<Pair>,
}

/// A connection of a client, the one to the server that belongs to it, and the threads between them.
#[derive(Debug)]
struct Pair {
    client: TcpStream,
    server: TcpStream,
    pumps: Vec<JoinHandle<()>>,
}

impl Proxy {
    /// Listens on `port`; carries to `server`.
    pub(crate) fn start(port: u16, server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("nobody else takes the port");
        let network = Arc::new(Network::default());
        let own = Arc::clone(&network);
        let body = move || own.accept(&listener, server);
        let thread = thread::Builder::new().name("proxy".into()).spawn(body).expect("a thread starts");
        Self { port, network, thread }
    }

    /// Ends all connections: `abruptly` with a reset, else as if both sides had closed. Nothing is stalled then.
    pub(crate) fn kill(&self, abruptly: bool) {
        self.network.kill(abruptly);
    }

    /// Tells one side of each connection that the other has nothing more to say.
    pub(crate) fn half_close(&self, way: Way) {
        for pair in &self.network.state.lock().pairs {
            let stream = match way {
                Way::ToServer => &pair.server,
                Way::ToClient => &pair.client,
            };
            let _ = stream.shutdown(Shutdown::Write);
        }
    }

    /// Whether bytes that go this way stay where they are.
    pub(crate) fn stall(&self, way: Way, stalled: bool) {
        self.network.state.lock().stalled[way as usize] = stalled;
        self.network.changed.notify_all();
    }

    /// Whether newcomers are turned away.
    pub(crate) fn refuse(&self, refuses: bool) {
        self.network.state.lock().refuses = refuses;
    }

    /// Ends everything and joins all threads.
    pub(crate) fn stop(self) {
        self.network.state.lock().stops = true;
        self.network.changed.notify_all();
        // Wakes the thread that waits for newcomers.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        let Self { network, thread, .. } = self;
        thread.join().expect("the proxy did not panic");
        network.kill(false);
    }
}

impl Network {
    fn accept(self: &Arc<Self>, listener: &TcpListener, server: u16) {
        for client in listener.incoming() {
            let (stops, refuses) = {
                let state = self.state.lock();
                (state.stops, state.refuses)
            };
            if stops {
                return;
            }
            let (Ok(client), false) = (client, refuses) else { continue };
            // While the server is away, its host answers with a refusal, and so does the proxy.
            let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { continue };
            self.connect(client, server);
        }
    }

    fn connect(self: &Arc<Self>, client: TcpStream, server: TcpStream) {
        let pump = |from: &TcpStream, to: &TcpStream, way: Way| {
            let (from, to) = (from.try_clone().expect("a descriptor"), to.try_clone().expect("a descriptor"));
            let network = Arc::clone(self);
            let body = move || network.pump(from, to, way);
            thread::Builder::new().name("pump".into()).spawn(body).expect("a thread starts")
        };
        let pumps = vec![pump(&client, &server, Way::ToServer), pump(&server, &client, Way::ToClient)];
        let ended = {
            let mut state = self.state.lock();
            state.pairs.push(Pair { client, server, pumps });
            let pairs = std::mem::take(&mut state.pairs);
            let (ended, live) = pairs.into_iter().partition(|pair| pair.pumps.iter().all(JoinHandle::is_finished));
            state.pairs = live;
            ended
        };
        join(ended);
    }

    /// Carries bytes until there are no more.
    fn pump(&self, mut from: TcpStream, mut to: TcpStream, way: Way) {
        let mut bytes = [0; 4_096];
        loop {
            let read = from.read(&mut bytes).unwrap_or(0);
            {
                let mut state = self.state.lock();
                while state.stalled[way as usize] && !state.stops {
                    self.changed.wait(&mut state);
                }
            }
            if read == 0 {
                break;
            }
            if to.write_all(&bytes[..read]).is_err() {
                let _ = from.shutdown(Shutdown::Read);
                break;
            }
        }
        // A reset is made by closing, not by saying good-bye first.
        let reset = SockRef::from(&to).linger().ok().flatten().is_some();
        if !reset {
            let _ = to.shutdown(Shutdown::Write);
        }
    }

    fn kill(&self, abruptly: bool) {
        let pairs = std::mem::take(&mut self.state.lock().pairs);
        for pair in &pairs {
            for stream in [&pair.client, &pair.server] {
                // Closing is a reset if unsent bytes are thrown away. The threads let go when there is nothing to
                // read.
                let linger = abruptly.then_some(Duration::ZERO);
                SockRef::from(stream).set_linger(linger).expect("an option of every socket");
                let end = if abruptly { Shutdown::Read } else { Shutdown::Both };
                // The connection may have ended already.
                let _ = stream.shutdown(end);
            }
        }
        join(pairs);
    }
}

/// Waits for the threads of connections that have ended.
fn join(pairs: Vec<Pair>) {
    for Pair { client, server, pumps } in pairs {
        for pump in pumps {
            pump.join().expect("it did not panic");
        }
        drop((client, server));
    }
}
