//! The made-up system around the client: the broker server, remoted, and agents.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use ossec_broker::proto::client::buffer::Tally;
use ossec_broker::proto::client::{ClientCore, Snapshot};
use ossec_broker::proto::server::streams::Streams;
use ossec_broker::proto::terms::ConnectionId;
use ossec_broker::proto::terms::{Incarnation, Port, Reading, Verdict};
use ossec_broker::proto::time::Time;
use ossec_broker::proto::wire::{Features, Frame, Notice, Ping, Pong, VERSION, Welcome};
use shuttle::rand::Rng;

use crate::os::net::udp::Inside;
use crate::os::net::{TcpStream, UdpSocket};
use crate::world::{World, percent, thread_rng};

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Datagrams of a schedule.
pub(crate) const DATAGRAMS: u8 = 4;
/// Faults in a schedule. After them all is well, and the end can be reached.
const FAULTS_MAX: u32 = 4;

std::thread_local! {
    static SYSTEM: RefCell<Option<Arc<System>>> = const { RefCell::new(None) };
}

/// The made-up system. See [`World`] for why no thread waits for its locks.
#[derive(Debug, Default)]
pub(crate) struct System(Mutex<State>);

#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each says another thing of the world")]
struct State {
    core: Option<Arc<shuttle::sync::Mutex<ClientCore>>>,
    agents: Option<UdpSocket>,
    upstreams: Vec<Weak<Mutex<Inside>>>,
    connections: Vec<TcpStream>,
    /// Connections that carry streams, by the number that the server gave them.
    carriers: Vec<TcpStream>,
    faults: u32,
    /// Numbers of datagrams as they were accepted, the greatest last.
    accepted: Vec<u8>,
    /// The client has returned.
    over: bool,
    farewell: Option<Snapshot>,
    /// Datagrams that were on no disk at the end.
    lost: Tally,
    has_disk: bool,
    may_pause: bool,
    /// There is a disk, and it has never failed.
    disk_is_sound: bool,
}

impl System {
    pub(crate) fn begin() -> Arc<Self> {
        let system = Arc::new(Self::default());
        SYSTEM.set(Some(Arc::clone(&system)));
        system
    }

    pub(crate) fn here() -> Arc<Self> {
        SYSTEM.with_borrow(|system| Arc::clone(system.as_ref().expect("a schedule has begun")))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().expect("nobody panics with it")
    }

    pub(crate) fn open_agents(&self, socket: &UdpSocket) {
        self.state().agents = Some(socket.clone());
    }

    pub(crate) fn open_upstream(&self, socket: &UdpSocket) {
        self.state().upstreams.push(socket.downgrade());
    }

    pub(crate) fn open_connection(&self, stream: &TcpStream) {
        self.state().connections.push(stream.clone());
    }

    /// Whether something may go wrong. If so, it counts as a fault.
    pub(crate) fn may_fail(&self) -> bool {
        let mut state = self.state();
        let may = state.faults < FAULTS_MAX && percent(10);
        state.faults += u32::from(may);
        may
    }

    /// remoted reads a datagram. It accepts a number greater than the last one; any other number must be known.
    pub(crate) fn arrive(&self, payload: &[u8]) {
        let mut state = self.state();
        let number = *payload.last().expect("none is empty");
        if state.accepted.last().is_none_or(|&last| number > last) {
            state.accepted.push(number);
        } else {
            assert!(state.accepted.contains(&number), "{number} was overtaken: {:?}", state.accepted);
        }
    }

    pub(crate) fn has_all(&self) -> bool {
        self.state().accepted.len() == usize::from(DATAGRAMS)
    }

    /// The client has made its core.
    pub(crate) fn keep_relay(&self, core: &Arc<shuttle::sync::Mutex<ClientCore>>) {
        self.state().core = Some(Arc::clone(core));
    }

    pub(crate) fn core(&self) -> Option<Arc<shuttle::sync::Mutex<ClientCore>>> {
        self.state().core.clone()
    }

    /// Datagrams of agents wait for the client.
    pub(crate) fn is_agents_unread(&self) -> bool {
        self.state().agents.as_ref().is_some_and(UdpSocket::is_unread)
    }

    /// The number of datagrams of agents that wait for the client.
    pub(crate) fn agents_unread(&self) -> u64 {
        self.state().agents.as_ref().map_or(0, UdpSocket::unread)
    }

    /// The client has begun to hand over: it may pause.
    pub(crate) fn note_handover(&self) {
        self.state().may_pause = true;
    }

    pub(crate) fn may_pause(&self) -> bool {
        self.state().may_pause
    }

    pub(crate) fn has_disk(&self) -> bool {
        self.state().has_disk
    }

    /// Replies or reports wait for the client.
    pub(crate) fn is_upstream_unread(&self) -> bool {
        self.state().upstreams.iter().filter_map(UdpSocket::upgrade).any(|socket| socket.is_overlooked())
    }

    pub(crate) fn is_upstream(&self, socket: &UdpSocket) -> bool {
        self.state().upstreams.iter().filter_map(UdpSocket::upgrade).any(|upstream| upstream.is(socket))
    }

    /// A connection takes no datagrams at the moment.
    pub(crate) fn is_congested(&self) -> bool {
        self.state().connections.iter().any(|stream| !stream.is_gone() && stream.is_full())
    }

    /// The last words of the client.
    pub(crate) fn farewell(&self) -> Option<Snapshot> {
        self.state().farewell
    }

    pub(crate) fn say_farewell(&self, snapshot: Snapshot, lost: Tally) {
        let mut state = self.state();
        (state.farewell, state.lost) = (Some(snapshot), lost);
    }

    /// The disk of the spool has failed, or begins.
    pub(crate) fn note_disk(&self, is_sound: bool) {
        let mut state = self.state();
        (state.has_disk, state.disk_is_sound) = (true, is_sound);
    }

    /// Whether datagrams were lost with the stop although the disk of the spool never failed.
    pub(crate) fn has_lost_with_sound_disk(&self) -> bool {
        let state = self.state();
        state.disk_is_sound && state.lost.datagrams > 0
    }

    pub(crate) fn end(&self) {
        self.state().over = true;
        World::here().notify();
    }

    /// Sends the datagrams: sometimes together, sometimes after a while.
    pub(crate) fn be_agent(&self) {
        let world = World::here();
        let socket = world.sleep(None, || self.state().agents.clone()).expect("nothing else ends this sleep");
        let from = SocketAddr::new(CLIENT, 4_000);
        for number in 1..=DATAGRAMS {
            let pause_ms = [0, 0, 1, 70, 300, 1_500][thread_rng().gen_range(0..6)];
            world.sleep(Some(Duration::from_millis(pause_ms)), || None::<()>);
            // Two agents, one of them behind a key that is bound to no address.
            let from = if number % 2 == 0 { SocketAddr::new(from.ip(), 4_001) } else { from };
            let name: &[u8] = if number % 2 == 0 { b"!7!" } else { b"" };
            socket.deliver(from, &[name, &[number]].concat());
        }
    }

    /// Returns when everything has arrived, or earlier.
    pub(crate) fn wait_for_a_stop(&self) {
        if percent(70) {
            World::here().sleep(None, || (self.has_all() || self.state().over).then_some(()));
        }
    }

    /// Answers heartbeats until the end.
    pub(crate) fn be_server(&self) {
        let world = World::here();
        // The moment until which remoted is away.
        let mut away: Option<Time> = None;
        let mut streams = Streams::default();
        streams.handle_sample(Incarnation(1), Reading::default());
        loop {
            let wait = away.map(|until| until.since(world.seen()));
            world.sleep(wait, || {
                let state = self.state();
                (state.over || state.connections.iter().any(TcpStream::calls)).then_some(())
            });
            if self.state().over {
                return;
            }
            let now = world.look();
            if away.take_if(|until| *until <= now).is_some() {
                let connections = self.state().connections.clone();
                for stream in connections {
                    stream.answer(Frame::Notice(Notice { verdict: Verdict::Up }));
                }
            }
            let connections = self.state().connections.clone();
            for stream in connections {
                stream.accept();
                while let Some(frame) = stream.ask() {
                    self.answer(&stream, &frame, &mut away, &mut streams);
                }
            }
            if away.is_none() {
                self.inject(&mut streams);
            }
            self.tell(&mut streams);
            self.state().connections.retain(|stream| !stream.is_gone());
        }
    }

    /// Over transport tcp, remoted reads injected datagrams at once.
    fn inject(&self, streams: &mut Streams) {
        while let Some(volley) = streams.poll(u64::MAX, usize::MAX) {
            let count = volley.payloads.len();
            volley.payloads.iter().for_each(|payload| self.arrive(payload));
            streams.handle_injected(count);
        }
        streams.handle_sample(Incarnation(1), Reading::default());
    }

    fn tell(&self, streams: &mut Streams) {
        while let Some((connection, told)) = streams.poll_frame() {
            let stream = self.state().carriers[connection as usize].clone();
            stream.answer(told);
        }
    }

    /// The number of a connection that carries a stream.
    fn carrier(&self, stream: &TcpStream) -> ConnectionId {
        let mut state = self.state();
        let at = state.carriers.iter().position(|carrier| carrier.is_same(stream));
        let at = at.unwrap_or_else(|| {
            state.carriers.push(stream.clone());
            state.carriers.len() - 1
        });
        at as ConnectionId
    }

    fn answer(&self, stream: &TcpStream, frame: &Frame, away: &mut Option<Time>, streams: &mut Streams) {
        let world = World::here();
        let ping = match frame {
            Frame::Hello(hello) => {
                let features = Features(hello.features.0 & Features::STREAM.0);
                return stream.answer(Frame::Welcome(Welcome { version: VERSION, features }));
            }
            Frame::Attach(_) => {
                // There is one client.
                if let Some(before) = streams.handle_attach(world.look(), self.carrier(stream), 1, CLIENT, false) {
                    self.state().carriers[before as usize].close();
                }
                return;
            }
            Frame::Session(session) => {
                return streams.handle_session(self.carrier(stream), *session).expect("attached");
            }
            Frame::Data(data) => return streams.handle_data(self.carrier(stream), data.clone()).expect("in order"),
            Frame::Ping(ping) => ping,
            other => panic!("no client sends {other:?}"),
        };
        if self.may_fail() {
            match thread_rng().gen_range(0..3) {
                0 => {
                    streams.handle_gone(world.look(), self.carrier(stream));
                    return stream.close();
                }
                // The answer is late.
                1 => _ = world.sleep(Some(Duration::from_millis(thread_rng().gen_range(50..400))), || None::<()>),
                _ => *away = Some(world.look() + Duration::from_millis(thread_rng().gen_range(1..600))),
            }
        }
        stream.answer(Frame::Pong(pong(ping, away.is_none())));
    }
}

fn pong(ping: &Ping, up: bool) -> Pong {
    let window = if up { [0, 832, 832, 2_000, 100_000][thread_rng().gen_range(0..5)] } else { 0 };
    Pong {
        number: ping.number,
        verdict: if up { Verdict::Up } else { Verdict::NoProcess(Port::Free) },
        incarnation: Incarnation(1),
        pid: 1,
        read: 0,
        queue: 0,
        drops: 0,
        window,
        gap_us: 1_000,
        ask_again_ms: if up && ping.unsent > 0 && window == 0 { 5 } else { 0 },
        active: 1,
    }
}
