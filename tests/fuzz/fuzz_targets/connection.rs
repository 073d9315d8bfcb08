//! `server::conversation` and the `ServerCore` behind it, with any number of bytes and events from clients.
//!
//! The plan is a list of steps, each begun by a byte: see `Server::step`. There are four connections at a time.
//!
//! * A model reads everything from the beginning each time. The server understands, answers and refuses the same.
//! * The server keeps only the beginning of a frame. It closes a connection that says garbage or is silent for
//!   too long.
//! * The windows granted never sum to more than half of remoted's buffer. A client that gets none is told when to ask
//!   again.
#![no_main]

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use ossec_broker::proto::server::ServerCore;
use ossec_broker::proto::server::conversation::{
    Access, Conversation, Question, Request, SILENCE_MAX, UNANSWERED_MAX,
};
use ossec_broker::proto::server::delivery::Delivery;
use ossec_broker::proto::server::judge::{Presence, Process, Sample, Socket};
use ossec_broker::proto::terms::ConnectionId;
use ossec_broker::proto::terms::{LEASE_MAX, Verdict};
use ossec_broker::proto::time::Time;
use ossec_broker::proto::wire::{Assembler, FRAME_BYTES_MAX, Features, Frame, Hello, Pong, Refusal, VERSION, Welcome};
use ossec_broker_fuzz::Plan;

const BUFFER: u64 = 212_992;
const CONNECTIONS: u8 = 4;
const LENGTH_BYTES: usize = 4;

fuzz_target!(|data: &[u8]| {
    let mut server = Server::new();
    let mut plan = Plan::new(data);
    while let Some(step) = plan.pop() {
        server.step(step, &mut plan);
    }
});

struct Server {
    now: Time,
    conns: Vec<Conn>,
    current: usize,
    ids: ConnectionId,
    core: ServerCore,
    sample: Sample,
    /// The windows that were granted, each with its connection and its end.
    granted: Vec<(ConnectionId, u64, Time)>,
}

impl Server {
    fn new() -> Self {
        let now = Time::from_millis(1_000_000);
        let conns = (0..CONNECTIONS).map(|at| Conn::new(now, ConnectionId::from(at))).collect();
        let sample = Sample {
            presence: Presence::Running,
            sockets: vec![Socket { inode: 1, rx_queue: 0, drops: 0, buffer: Some(BUFFER) }],
            owners: vec![Process { pid: 1, start_ticks: 1 }],
            age: None,
            companion: None,
            missing: None,
            bindings: None,
        };
        let mut core = ServerCore::new(Duration::ZERO, 500);
        core.handle_sample(now, &sample, None, false);
        Self { now, conns, current: 0, ids: ConnectionId::from(CONNECTIONS), core, sample, granted: Vec::new() }
    }

    fn step(&mut self, step: u8, plan: &mut Plan<'_>) {
        let low = step & 0xf;
        match step {
            0..0xc0 => self.hear(plan.take(usize::from(step) + 1)),
            0xc0..0xd0 => self.current = usize::from(low % CONNECTIONS),
            0xd0..0xe0 => self.answer(low & 1 == 1),
            0xe0..0xf0 => self.pass(Duration::from_millis(1 << low)),
            0xf0..0xf4 => {
                self.look(u64::from(u16::from_be_bytes([plan.byte(), plan.byte()])) * 8, 0, Presence::Running);
            }
            0xf4..0xf8 => self.look(self.sample.sockets[0].rx_queue, u32::from(low & 1), Presence::Running),
            0xf8..0xfc => self.look(self.sample.sockets[0].rx_queue, 0, Presence::Stopped),
            0xfc.. => self.close_if(self.current, |conn| !conn.conversation.awaits_last_answer()),
        }
    }

    /// The server looks at remoted: so much lies in its socket, and so many datagrams did not fit.
    fn look(&mut self, queue: u64, drops: u32, presence: Presence) {
        let socket = &mut self.sample.sockets[0];
        (socket.rx_queue, socket.drops) = (queue, socket.drops.wrapping_add(drops));
        self.sample.presence = presence;
        self.core.handle_sample(self.now, &self.sample, None, false);
        while let Some(volley) = self.core.poll(self.now) {
            let count = volley.payloads.len();
            self.core.handle_injected(count);
        }
        while let Some((connection, _)) = self.core.poll_frame() {
            assert!(self.conns.iter().any(|conn| conn.id == connection && conn.attached), "{connection} is told");
        }
    }

    /// Bytes come in from the current connection.
    fn hear(&mut self, bytes: &[u8]) {
        let conn = &mut self.conns[self.current];
        let requests = conn.hear(self.now, bytes);
        conn.check(self.now);
        let Some(requests) = requests else {
            return self.close_if(self.current, |_| true);
        };
        for request in requests {
            if !self.take(request) {
                return self.close_if(self.current, |_| true);
            }
        }
    }

    /// Does what the current connection asks for. Returns whether the connection may stay.
    fn take(&mut self, request: Request) -> bool {
        let conn = &mut self.conns[self.current];
        match request {
            Request::Answer(question) => conn.questions.push_back(question),
            Request::Attach(stream, attach) => {
                conn.attached = true;
                let address = attach.source.unwrap_or(conn.address());
                let before = self.core.handle_attach(self.now, conn.id, stream, address, attach.once);
                if let Some(at) = self.conns.iter().position(|conn| Some(conn.id) == before) {
                    self.close_if(at, |_| true);
                }
            }
            Request::Session(session) => return self.core.handle_session(conn.id, session).is_ok(),
            Request::Data(data) => return self.core.handle_data(conn.id, data).is_ok(),
        }
        true
    }

    /// The current connection's oldest request is answered.
    fn answer(&mut self, up: bool) {
        let conn = &mut self.conns[self.current];
        let Some(question) = conn.questions.pop_front() else {
            return;
        };
        match question {
            Question::Plain => conn.answer_plain(self.now, up),
            Question::Ping(ping) => {
                let pong = self.core.handle_ping(
                    self.now,
                    conn.id,
                    conn.address(),
                    Delivery::Direct(None),
                    &ping,
                    Duration::from_millis(1),
                );
                let advice = pong.window > 0 || pong.ask_again_ms > 0;
                assert!(
                    advice || conn.attached || ping.unsent == 0 || pong.verdict != Verdict::Up,
                    "left without advice"
                );
                let lease = Duration::from_millis(u64::from(ping.lease_ms)).min(LEASE_MAX);
                self.granted.push((conn.id, pong.window, self.now + lease));
                conn.answer(pong);
            }
        }
        conn.check(self.now);
        self.granted.retain(|(_, window, expires)| *window > 0 && *expires > self.now);
        let mut booked = BTreeMap::new();
        for &(client, window, _) in &self.granted {
            let most: &mut u64 = booked.entry(client).or_default();
            *most = window.max(*most);
        }
        let booked: u64 = booked.values().sum();
        assert!(booked <= BUFFER / 2, "{booked} of {BUFFER} bytes are granted");
    }

    /// Time passes. The server closes silent connections.
    fn pass(&mut self, span: Duration) {
        self.now = self.now + span;
        for at in 0..self.conns.len() {
            let now = self.now;
            self.close_if(at, |conn| conn.conversation.deadline() <= now);
        }
    }

    /// Puts another connection in the place of a connection that is closed.
    fn close_if(&mut self, at: usize, closed: impl Fn(&Conn) -> bool) {
        if closed(&self.conns[at]) {
            self.core.handle_gone(self.now, self.conns[at].id);
            self.conns[at] = Conn::new(self.now, self.ids);
            self.ids += 1;
        }
    }
}

/// A connection, and its model.
struct Conn {
    conversation: Conversation,
    input: Assembler,
    output: Vec<u8>,
    questions: VecDeque<Question>,
    /// It carries a stream, or has carried one.
    attached: bool,
    id: ConnectionId,
    /// The moment when something last came in.
    heard: Time,
    model: Model,
}

impl Conn {
    fn new(now: Time, id: ConnectionId) -> Self {
        Self {
            conversation: Conversation::new(now),
            input: Assembler::default(),
            output: Vec::new(),
            questions: VecDeque::new(),
            attached: false,
            id,
            heard: now,
            model: Model::default(),
        }
    }

    /// Two connections for each address.
    fn address(&self) -> IpAddr {
        IpAddr::from([10, 0, 0, (self.id % 4 / 2) as u8])
    }

    /// The requests of the connection; `None` if it is to be closed.
    fn hear(&mut self, now: Time, bytes: &[u8]) -> Option<Vec<Request>> {
        self.heard = now;
        self.input.push(bytes);
        let heard =
            self.conversation.handle_input(now, Access::Features(Features::STREAM), &mut self.input, &mut self.output);
        let expected = self.model.hear(bytes);
        assert_eq!(heard.as_ref().ok(), expected.as_ref(), "after {:?}: {heard:?}", self.model.said);
        heard.ok()
    }

    fn answer(&mut self, pong: Pong) {
        self.conversation.answer(pong, &mut self.output);
        self.model.unanswered -= 1;
        Frame::Pong(pong).encode(&mut self.model.told);
    }

    fn answer_plain(&mut self, now: Time, up: bool) {
        self.conversation.answer_plain(now, up, &mut self.output);
        let word: &[u8] = if up { b"pong" } else { b"ossec_not_found" };
        self.model.told.extend_from_slice(word);
        self.model.told.extend_from_slice(self.model.plain.unwrap_or_default());
    }

    fn check(&mut self, now: Time) {
        assert!(self.input.rest().len() < LENGTH_BYTES + FRAME_BYTES_MAX, "a whole frame is left behind");
        assert_eq!(self.output, self.model.told);
        assert_eq!(self.conversation.is_client(), self.model.greeted);
        assert!(self.conversation.deadline() <= self.heard + SILENCE_MAX, "{now:?}");
        if self.model.plain.is_some() {
            assert!(self.input.rest().is_empty(), "what follows a plain request is not kept");
        }
    }
}

/// Reads all that a connection has said from the beginning each time.
#[derive(Default)]
struct Model {
    said: Vec<u8>,
    told: Vec<u8>,
    greeted: bool,
    /// The stream that it may carry.
    stream: Option<u128>,
    /// The line end of its plain request.
    plain: Option<&'static [u8]>,
    /// Requests that were made.
    requests: usize,
    unanswered: usize,
}

impl Model {
    /// The requests in the bytes that have come in; `None` for garbage.
    fn hear(&mut self, bytes: &[u8]) -> Option<Vec<Request>> {
        if self.plain.is_some() {
            return Some(Vec::new());
        }
        self.said.extend_from_slice(bytes);
        let ends = [&b""[..], b"\n", b"\r\n"];
        self.plain = ends.into_iter().find(|end| self.said == [b"ping", *end].concat());
        if self.plain.is_some() {
            return Some(vec![Request::Answer(Question::Plain)]);
        }
        if b"ping\r\n".starts_with(&self.said) {
            return Some(Vec::new());
        }
        let (frames, sound) = frames(&self.said);
        let mut frames = frames.into_iter();
        match frames.next() {
            None => return sound.then(Vec::new),
            Some(Frame::Hello(Hello { version: VERSION, features, stream, .. })) => {
                let streams = features.has(Features::STREAM);
                self.stream = streams.then_some(stream);
                if !std::mem::replace(&mut self.greeted, true) {
                    let features = if streams { Features::STREAM } else { Features::NONE };
                    Frame::Welcome(Welcome { version: VERSION, features }).encode(&mut self.told);
                }
            }
            Some(Frame::Hello(Hello { version, .. })) => {
                let text = format!("this server speaks version {VERSION} of the protocol, not {version}");
                Frame::Refusal(Refusal { text }).encode(&mut self.told);
                return None;
            }
            Some(_) => return None,
        }
        let requests: Option<Vec<Request>> = frames
            .map(|frame| match (frame, self.stream) {
                (Frame::Ping(ping), _) => Some(Request::Answer(Question::Ping(ping))),
                (Frame::Attach(attach), Some(stream)) => Some(Request::Attach(stream, attach)),
                (Frame::Session(session), Some(_)) => Some(Request::Session(session)),
                (Frame::Data(data), Some(_)) => Some(Request::Data(data)),
                _ => None,
            })
            .collect();
        let fresh = requests?.split_off(self.requests);
        self.requests += fresh.len();
        self.unanswered +=
            fresh.iter().filter(|request| matches!(request, Request::Answer(Question::Ping(_)))).count();
        (sound && self.unanswered <= UNANSWERED_MAX).then_some(fresh)
    }
}

/// All frames in `bytes`, and whether they end without an error.
fn frames(bytes: &[u8]) -> (Vec<Frame>, bool) {
    let (mut assembler, mut frames) = (Assembler::default(), Vec::new());
    assembler.push(bytes);
    loop {
        match assembler.next_frame() {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return (frames, true),
            Err(_) => return (frames, false),
        }
    }
}
