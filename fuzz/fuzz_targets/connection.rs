//! `server::conversation` and the windows behind it: what any number of bytes and events from clients lead to.
//!
//! The plan is a list of steps, each begun by a byte: see `Server::step`. There are four connections at a time.
//!
//! * What is understood, answered and refused is what a model says that reads everything from the beginning each time.
//! * Nothing is kept but the beginning of a frame; whoever says garbage or is silent for too long is closed.
//! * The windows granted never sum to more than half of remoted's buffer, and whoever gets none is told when to ask again.
#![no_main]

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use ossec_broker::server::conversation::{Conversation, Request, SILENCE_MAX, UNANSWERED_MAX, question};
use ossec_broker::time::Time;
use ossec_broker::verdict::{ClientId, Room, Windows};
use ossec_broker::wire::{
    Assembler, FRAME_BYTES_MAX, Frame, Hello, Incarnation, Ping, Pong, Refusal, VERSION, Verdict, Welcome,
};
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
    ids: ClientId,
    windows: Windows,
    room: Room,
}

impl Server {
    fn new() -> Self {
        let now = Time::from_millis(1_000_000);
        let conns = (0..CONNECTIONS).map(|at| Conn::new(now, ClientId::from(at))).collect();
        let room = Room { buffer: BUFFER, queue: 0, overflows: false, reads: true };
        Self { now, conns, current: 0, ids: ClientId::from(CONNECTIONS), windows: Windows::default(), room }
    }

    fn step(&mut self, step: u8, plan: &mut Plan<'_>) {
        let low = step & 0xf;
        match step {
            0..0xc0 => self.hear(plan.take(usize::from(step) + 1)),
            0xc0..0xd0 => self.current = usize::from(low % CONNECTIONS),
            0xd0..0xe0 => self.answer(low & 1 == 1),
            0xe0..0xf0 => self.pass(Duration::from_millis(1 << low)),
            0xf0..0xf4 => self.room.queue = u64::from(u16::from_be_bytes([plan.byte(), plan.byte()])) * 8,
            0xf4..0xf8 => (self.room.overflows, self.room.reads) = (low & 1 == 1, low & 2 == 0),
            0xf8..0xfc => self.windows.handle_queue(self.now, self.room.queue, self.room.overflows),
            0xfc.. => self.close_if(self.current, |conn| !conn.conversation.awaits_last_answer()),
        }
    }

    /// Bytes come in from the current connection.
    fn hear(&mut self, bytes: &[u8]) {
        let conn = &mut self.conns[self.current];
        let understood = conn.hear(self.now, bytes);
        conn.check(self.now);
        self.close_if(self.current, |_| !understood);
    }

    /// The current connection's oldest request is answered.
    fn answer(&mut self, up: bool) {
        let conn = &mut self.conns[self.current];
        let Some(request) = conn.requests.pop_front() else {
            return;
        };
        match request {
            Request::Plain => conn.answer_plain(self.now, up),
            Request::Ping(ping) => {
                let question = question(conn.id, conn.address(), &ping);
                let grant = self.windows.handle_request(self.now, question, self.room);
                assert!(grant.window > 0 || grant.ask_again > Duration::ZERO || !question.wants, "left without advice");
                assert!(grant.window <= BUFFER / 2, "{grant:?}");
                let active = u32::try_from(self.windows.active(self.now)).expect("few clients");
                conn.answer(pong(ping.number, grant.window, active));
            }
        }
        conn.check(self.now);
        let booked = self.windows.booked(self.now);
        assert!(booked <= BUFFER / 2, "{booked} of {BUFFER} bytes are granted");
    }

    /// Time passes; the silent are closed.
    fn pass(&mut self, span: Duration) {
        self.now = self.now + span;
        for at in 0..self.conns.len() {
            let now = self.now;
            self.close_if(at, |conn| conn.conversation.deadline() <= now);
        }
    }

    /// Another connection comes in the place of one that is closed.
    fn close_if(&mut self, at: usize, closed: impl Fn(&Conn) -> bool) {
        if closed(&self.conns[at]) {
            self.windows.handle_gone(self.conns[at].id);
            self.conns[at] = Conn::new(self.now, self.ids);
            self.ids += 1;
        }
    }
}

/// A connection, and what the model says of it.
struct Conn {
    conversation: Conversation,
    input: Assembler,
    output: Vec<u8>,
    requests: VecDeque<Request>,
    id: ClientId,
    /// When something came in last.
    heard: Time,
    model: Model,
}

impl Conn {
    fn new(now: Time, id: ClientId) -> Self {
        Self {
            conversation: Conversation::new(now),
            input: Assembler::default(),
            output: Vec::new(),
            requests: VecDeque::new(),
            id,
            heard: now,
            model: Model::default(),
        }
    }

    /// Two connections for each address.
    fn address(&self) -> IpAddr {
        IpAddr::from([10, 0, 0, (self.id % 4 / 2) as u8])
    }

    /// Whether it may stay.
    fn hear(&mut self, now: Time, bytes: &[u8]) -> bool {
        self.heard = now;
        self.input.push(bytes);
        let heard = self.conversation.handle_input(now, &mut self.input, &mut self.output);
        let expected = self.model.hear(bytes);
        assert_eq!(heard.as_ref().ok(), expected.as_ref(), "after {:?}: {heard:?}", self.model.said);
        self.requests.extend(heard.iter().flatten());
        heard.is_ok()
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
    /// The line end of its plain request.
    plain: Option<&'static [u8]>,
    heartbeats: usize,
    unanswered: usize,
}

impl Model {
    /// The requests in what has come in; `None`: garbage.
    fn hear(&mut self, bytes: &[u8]) -> Option<Vec<Request>> {
        if self.plain.is_some() {
            return Some(Vec::new());
        }
        self.said.extend_from_slice(bytes);
        let ends = [&b""[..], b"\n", b"\r\n"];
        self.plain = ends.into_iter().find(|end| self.said == [b"ping", *end].concat());
        if self.plain.is_some() {
            return Some(vec![Request::Plain]);
        }
        if b"ping\r\n".starts_with(&self.said) {
            return Some(Vec::new());
        }
        let (frames, sound) = frames(&self.said);
        let mut frames = frames.into_iter();
        match frames.next() {
            None => return sound.then(Vec::new),
            Some(Frame::Hello(Hello { version: VERSION, .. })) if !self.greeted => {
                self.greeted = true;
                Frame::Welcome(Welcome { version: VERSION, features: 0 }).encode(&mut self.told);
            }
            Some(Frame::Hello(Hello { version: VERSION, .. })) => {}
            Some(Frame::Hello(Hello { version, .. })) => {
                let text = format!("this server speaks version {VERSION} of the protocol, not {version}");
                Frame::Refusal(Refusal { text }).encode(&mut self.told);
                return None;
            }
            Some(_) => return None,
        }
        let pings: Option<Vec<Ping>> =
            frames.map(|frame| if let Frame::Ping(ping) = frame { Some(ping) } else { None }).collect();
        let fresh = pings?.split_off(self.heartbeats);
        self.heartbeats += fresh.len();
        self.unanswered += fresh.len();
        (sound && self.unanswered <= UNANSWERED_MAX).then(|| fresh.into_iter().map(Request::Ping).collect())
    }
}

/// All frames in bytes, and whether no error ends them.
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

fn pong(number: u64, window: u64, active: u32) -> Pong {
    Pong {
        number,
        verdict: Verdict::Up,
        incarnation: Incarnation(1),
        pid: 1,
        read: 0,
        queue: 0,
        drops: 0,
        window,
        gap_us: 1_000,
        ask_again_ms: 0,
        active,
    }
}
