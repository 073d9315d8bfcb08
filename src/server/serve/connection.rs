//! One connection: the socket, and the conversation over it.

use std::collections::VecDeque;
use std::net::{IpAddr, Shutdown};
use std::time::Duration;

use mio::net::TcpStream;

use super::parting::{Close, Refused};
use crate::os::net;
use crate::os::net::framed::{Broken, Filled, Framed};
use crate::proto::server::conversation::{Access, Conversation, Garbage, Question, Request};
use crate::proto::server::delivery::{Delivery, Destination};
use crate::proto::wire::{Assembler, Features, Pong};
use crate::proto::{seal::Keys, terms::Verdict, time::Time};

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) framed: Framed,
    pub(super) address: IpAddr,
    pub(super) conversation: Conversation,
    is_keyed: bool,
    /// Questions without an answer, the oldest first; the conversation bounds their number. Each look answers one.
    questions: VecDeque<Question>,
    answered: Option<Time>,
    /// Where a client's datagrams arrive; known since its greeting.
    destination: Option<Destination>,
    /// The verdict that the client knows.
    known: Option<Verdict>,
}

impl Connection {
    pub(super) fn new(now: Time, stream: TcpStream, address: IpAddr, keys: Keys) -> Self {
        Self {
            is_keyed: !keys.is_empty(),
            framed: Framed::server(stream, keys),
            address,
            conversation: Conversation::new(now),
            questions: VecDeque::new(),
            answered: None,
            destination: None,
            known: None,
        }
    }

    /// The connection wants an answer. Whether it wanted none before.
    pub(super) fn ask(&mut self, question: Question) -> bool {
        self.questions.push_back(question);
        self.questions.len() == 1
    }

    /// The question to answer at this moment, and whether there are more. Nothing is answered before the last answer
    /// is `gap` old: so a client can put no more work on this server than it may, however much it asks.
    pub(super) fn next_question(&mut self, now: Time, gap: Duration) -> (Option<Question>, bool) {
        let due = self.answered.is_none_or(|answered| answered + gap <= now);
        let question = if due { self.questions.pop_front() } else { None };
        if question.is_some() {
            self.answered = Some(now);
        }
        (question, !self.questions.is_empty())
    }

    /// Reads and writes as much as the connection is ready for. Returns the requests that came in, also where it broke
    /// after them, and what reading has left behind.
    pub(super) fn attend(&mut self, now: Time, offers: Features) -> (Vec<Request>, Result<Filled, Close>) {
        let flushed = self.framed.flush();
        let (mut filled, mut heard) = self.hear(now, offers);
        if self.conversation.is_client() && self.framed.handle_greeted() && matches!(filled, Ok(Filled::More)) {
            // What it has sent behind its greeting, before an answer may find the connection broken.
            let (rest, more) = self.hear(now, offers);
            filled = rest;
            heard = heard.and_then(|requests| more.map(|more| [requests, more].concat()));
        }
        let flushed = flushed.and_then(|()| self.framed.flush());
        let requests = match heard {
            Ok(requests) => requests,
            Err(garbage) => return (Vec::new(), Err(Close::Garbage(garbage))),
        };
        self.destination = self.destination.or_else(|| self.find_destination());
        (requests, filled.and_then(|filled| flushed.map(|()| filled)).map_err(Close::Broken))
    }

    /// Reads as much as one pass takes, and what it says.
    fn hear(&mut self, now: Time, offers: Features) -> (Result<Filled, Broken>, Result<Vec<Request>, Garbage>) {
        let before = self.framed.read();
        let filled = self.framed.fill();
        if self.framed.read() > before {
            self.conversation.handle_alive(now);
        }
        let access = self.access(offers);
        let (input, output) = self.framed.ends();
        (filled, self.conversation.handle_input(now, access, input, output))
    }

    /// The features that the connection may use. Without a key anybody who reaches the port could speak to remoted in
    /// an agent's name: only a client on this host may.
    fn access(&self, offers: Features) -> Access {
        if self.is_keyed && !self.framed.is_sealed() {
            Access::KeyWanted
        } else {
            Access::Features(if self.framed.is_trusted(self.address) { offers } else { Features::NONE })
        }
    }

    fn find_destination(&self) -> Option<Destination> {
        let (target, streams) = self.conversation.target()?;
        let reached = self.framed.stream().local_addr().ok().map(|reached| reached.ip().to_canonical());
        Some(Destination::new(target, self.address, reached, streams, net::is_local))
    }

    pub(super) fn delivery(&self) -> Delivery {
        self.destination.map_or(Delivery::Direct(None), |destination| destination.delivery())
    }

    /// Whether a server that watches this port can say anything of use to the client. `at_home`: remoted is in the
    /// server's network namespace.
    pub(super) fn check_port(&self, watched: u16, at_home: bool) -> Result<(), Refused> {
        let mismatch = self.destination.and_then(|destination| destination.mismatch(watched, at_home));
        mismatch.map_or(Ok(()), |why| Err(Refused::Port(why)))
    }

    /// Whether this verdict is news to the client. From here on the client knows it.
    pub(super) fn learns(&mut self, verdict: Verdict) -> bool {
        self.conversation.is_client() && self.known.replace(verdict) != Some(verdict)
    }

    pub(super) fn answer(&mut self, pong: Pong) -> Result<(), Close> {
        self.known = Some(pong.verdict);
        self.conversation.answer(pong, self.framed.ends().1);
        self.framed.flush().map_err(Close::Broken)
    }

    /// Answers a plain request and ends this side: the answer must not be lost to a reset by unread bytes.
    pub(super) fn answer_plain(&mut self, now: Time, up: bool) -> Result<(), Close> {
        self.conversation.answer_plain(now, up, self.framed.ends().1);
        self.end()
    }

    /// Tells a client why its connection is of no use, and ends this side.
    pub(super) fn refuse(&mut self, now: Time, why: &Refused) -> Result<(), Close> {
        self.conversation.refuse(now, why.to_string(), self.framed.ends().1);
        self.end()
    }

    /// Writes what there is, and ends this side.
    pub(super) fn end(&mut self) -> Result<(), Close> {
        self.framed.flush().map_err(Close::Broken)?;
        let _ = self.framed.stream().shutdown(Shutdown::Write);
        Ok(())
    }

    /// Passes over what comes in. Whether the connection was closed at the other end, or is broken.
    pub(super) fn discard_input(&mut self) -> bool {
        let filled = self.framed.fill();
        *self.framed.ends().0 = Assembler::default();
        !matches!(filled, Ok(Filled::Dry | Filled::More))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::Ipv4Addr;

    use socket2::SockRef;

    use super::*;
    use crate::proto::wire::{Frame, Hello, Ping, Target, VERSION};

    /// A connection with this test at both ends.
    fn connected() -> (std::net::TcpStream, Connection) {
        let listener = net::listen("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let client = std::net::TcpStream::connect(address).expect("it listens");
        let (stream, _) = listener.accept().expect("it is connected");
        (client, Connection::new(net::now(), stream, address.ip(), Keys::from([])))
    }

    #[test]
    fn a_client_that_asks_without_a_pause_gets_one_answer_in_each_gap() {
        let (_client, mut connection) = connected();
        let (at, gap) = (Time::from_millis, Duration::from_millis(10));
        let ping = |number| Question::Ping(Ping { number, ..Ping::default() });
        assert_eq!(connection.next_question(at(0), gap), (None, false), "it asks nothing");
        assert!(connection.ask(ping(1)), "it wants an answer from here on");
        assert!(!connection.ask(ping(2)) && !connection.ask(ping(3)), "it does already");
        assert_eq!(connection.next_question(at(100), gap), (Some(ping(1)), true), "nobody waits for the first one");
        assert_eq!(connection.next_question(at(109), gap), (None, true), "its last answer is too young");
        assert_eq!(connection.next_question(at(110), gap), (Some(ping(2)), true), "in the order of the questions");
        assert_eq!(connection.next_question(at(111), Duration::from_millis(1)), (Some(ping(3)), false));
        assert!(connection.ask(ping(4)));
        assert_eq!(
            connection.next_question(at(900), gap),
            (Some(ping(4)), false),
            "one that asks at its leisure is answered at once"
        );
    }

    #[test]
    fn a_client_that_is_to_send_a_stream_asks_for_no_window_from_its_greeting_on() {
        for (offers, expected) in [
            (Features::STREAM, Delivery::Injected),
            (Features::NONE, Delivery::Direct(Some(Ipv4Addr::LOCALHOST.into()))),
        ] {
            let (mut client, mut connection) = connected();
            let target = Target { address: Some(Ipv4Addr::LOCALHOST.into()), port: 1_514 };
            let hello = Hello { version: VERSION, features: Features::STREAM, stream: 1, interval_ms: 1_000, target };
            let mut bytes = Vec::new();
            Frame::Hello(hello).encode(&mut bytes);
            client.write_all(&bytes).expect("it is connected");
            let deadline = net::now() + Duration::from_mins(1);
            while !connection.conversation.is_client() {
                assert!(net::now() < deadline, "the greeting does not come");
                connection.attend(net::now(), offers).1.expect("it lasts");
            }
            assert_eq!(connection.delivery(), expected);
        }
    }

    #[test]
    fn a_stranger_costs_little_whatever_it_sends_and_a_client_may_send_as_much_as_any() {
        let large = |length: u32| [&length.to_be_bytes()[..], &[12].repeat(70_000)].concat();
        // The beginning of a sealed connection, of a frame that is too long for a stranger, and of one that is not.
        for (bytes, ends) in [(b"OSBN".repeat(20_000), true), (large(66_000), true), (large(512), false)] {
            let (mut client, mut connection) = connected();
            client.set_nonblocking(true).expect("an option");
            let _ = client.write(&bytes).expect("there is room for some");
            let deadline = net::now() + Duration::from_mins(1);
            while connection.framed.read() < 64 {
                assert!(net::now() < deadline, "nothing comes");
                let (_, outcome) = connection.attend(net::now(), Features::NONE);
                assert_eq!(outcome.is_err(), ends && connection.framed.read() > 0, "{outcome:?}");
            }
            assert!(connection.framed.capacity() < 2_048, "{} bytes", connection.framed.capacity());
        }
    }

    #[test]
    fn what_came_before_a_connection_broke_is_heard() {
        let (mut client, mut connection) = connected();
        let hello =
            Hello { version: VERSION, features: Features::NONE, stream: 1, interval_ms: 1_000, target: Target::NONE };
        let (mut bytes, ping) = (Vec::new(), Ping { number: 7, ..Ping::default() });
        Frame::Hello(hello).encode(&mut bytes);
        Frame::Ping(ping).encode(&mut bytes);
        client.write_all(&bytes).expect("it is connected");
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("an option");
        // The drop makes a reset, behind the bytes that were sent.
        drop(client);
        let (requests, rest) = loop {
            match connection.attend(net::now(), Features::NONE) {
                (requests, Ok(Filled::Dry | Filled::More)) if requests.is_empty() => {}
                heard => break heard,
            }
        };
        assert_eq!(requests, [Request::Answer(Question::Ping(ping))]);
        assert!(matches!(rest, Err(Close::Broken(_))), "the end is told, too: {rest:?}");
    }
}
