//! A made-up remoted: a UDP socket of this process that is closed, bound again and left unread as it is told.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, unbounded};
use parking_lot::Mutex;

use crate::gauge::Gauge;
use crate::ledger::Ledger;

/// The longest time that an order may wait for a datagram.
const TURN: Duration = Duration::from_millis(5);
/// One datagram in so many is answered.
const ANSWER_EVERY: u64 = 8;

/// The receiver and its thread.
#[derive(Debug)]
pub(crate) struct Remoted {
    pub(crate) ledger: Arc<Mutex<Ledger>>,
    orders: Sender<Order>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
enum Order {
    /// Close the socket, with whatever lies in it, and say when that is done.
    Close(Sender<()>),
    Open,
    /// Leave the socket unread.
    Rest,
    Read,
    /// Send a reply to this agent.
    Reply(String),
}

impl Remoted {
    pub(crate) fn start(port: u16) -> Self {
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let (orders, given) = unbounded();
        let body = {
            let ledger = Arc::clone(&ledger);
            move || Life { port, ledger, socket: None, reads: true }.run(&given)
        };
        let thread = thread::Builder::new().name("remoted".into()).spawn(body).expect("a thread starts");
        Self { ledger, orders, thread }
    }

    /// The port is closed when this returns.
    pub(crate) fn close(&self) {
        let (closed, done) = bounded(1);
        self.order(Order::Close(closed));
        done.recv().expect("the receiver runs");
    }

    pub(crate) fn open(&self) {
        self.order(Order::Open);
    }

    pub(crate) fn rest(&self) {
        self.order(Order::Rest);
    }

    pub(crate) fn read(&self) {
        self.order(Order::Read);
    }

    pub(crate) fn reply(&self, agent: &str) {
        self.order(Order::Reply(agent.to_owned()));
    }

    /// Ends the thread.
    pub(crate) fn stop(self) {
        drop(self.orders);
        self.thread.join().expect("the receiver did not panic");
    }

    fn order(&self, order: Order) {
        self.orders.send(order).expect("the receiver runs");
    }
}

/// The state that the thread owns.
struct Life {
    port: u16,
    ledger: Arc<Mutex<Ledger>>,
    socket: Option<UdpSocket>,
    reads: bool,
}

impl Life {
    fn run(mut self, orders: &Receiver<Order>) {
        self.open();
        loop {
            let order = if self.reads && self.socket.is_some() {
                self.read();
                orders.try_recv()
            } else {
                orders.recv().map_err(TryRecvError::from)
            };
            match order {
                Ok(Order::Close(closed)) => {
                    self.close();
                    // The thread that gave the order is waiting for it.
                    let _ = closed.send(());
                }
                Ok(Order::Open) => self.open(),
                Ok(Order::Rest) => self.reads = false,
                Ok(Order::Read) => self.reads = true,
                Ok(Order::Reply(agent)) => self.reply(&agent),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return self.close(),
            }
        }
    }

    fn open(&mut self) {
        let socket = UdpSocket::bind(("127.0.0.1", self.port)).expect("nobody else takes the port");
        socket.set_read_timeout(Some(TURN)).expect("a timeout");
        self.ledger.lock().begin_life();
        self.socket = Some(socket);
    }

    fn close(&mut self) {
        self.ledger.lock().drops += Gauge::new(self.port).drops();
        self.socket = None;
    }

    /// Reads one datagram, if one comes: `!017!agent counter filling`.
    fn read(&mut self) {
        let Some(socket) = &self.socket else { return };
        let mut bytes = [0; 2_048];
        let Ok((length, from)) = socket.recv_from(&mut bytes) else { return };
        let text = std::str::from_utf8(&bytes[..length]).expect("agents send text");
        let text = text.strip_prefix('!').and_then(|rest| rest.split_once('!')).map_or(text, |(_, rest)| rest);
        let mut words = text.split(' ');
        let (agent, counter) = (words.next().expect("a name"), words.next().expect("a counter"));
        let counter = counter.parse().expect("counters are numbers");
        self.ledger.lock().take(agent, counter, from);
        if counter.is_multiple_of(ANSWER_EVERY) {
            self.send(agent, from);
        }
    }

    fn reply(&self, agent: &str) {
        let upstream = self.ledger.lock().upstream(agent);
        if let Some(upstream) = upstream {
            self.send(agent, upstream);
        }
    }

    fn send(&self, agent: &str, to: SocketAddr) {
        // Replies may be lost, as without a broker.
        let _ = self.socket.as_ref().map(|socket| socket.send_to(agent.as_bytes(), to));
    }
}
