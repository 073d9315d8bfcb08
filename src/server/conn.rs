//! One client's connection: the socket, and the conversation over it.

use std::collections::VecDeque;
use std::net::{IpAddr, Shutdown};
use std::time::Duration;

use mio::net::TcpStream;

use crate::os::net;
use crate::os::net::framed::{Broken, Filled, Framed};
use crate::proto::seal::Key;
use crate::proto::server::conversation::{Access, Conversation, Garbage, Question, Request};
use crate::proto::server::delivery::Delivery;
use crate::proto::server::delivery::Destination;
use crate::proto::terms::ConnectionId;
use crate::proto::terms::Verdict;
use crate::proto::time::Time;
use crate::proto::wire::{Assembler, Features, Pong};

/// A connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) framed: Framed,
    pub(super) address: IpAddr,
    pub(super) id: ConnectionId,
    /// The server has a key.
    keyed: bool,
    conversation: Conversation,
    /// What it asks and was not told yet, the oldest first; the conversation bounds how much. It is told one answer at a time.
    asked: VecDeque<Question>,
    answered: Option<Time>,
    /// Where a client's datagrams arrive; known since its greeting.
    destination: Option<Destination>,
    /// What a client was told of remoted last.
    told: Option<Verdict>,
}

/// Why a connection is to be closed.
#[derive(Debug)]
pub(super) enum Close {
    /// It was closed at the other end.
    Ended,
    /// It said something that it must not say.
    Garbage(Garbage),
    /// It said nothing for too long.
    Silent,
    /// Its client has made another one.
    Replaced,
    /// It broke.
    Broken(Broken),
}

impl From<Broken> for Close {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

impl Conn {
    pub(super) fn new(now: Time, stream: TcpStream, address: IpAddr, id: ConnectionId, key: Option<Key>) -> Self {
        let keyed = key.is_some();
        let (framed, conversation) = (Framed::server(stream, key), Conversation::new(now));
        Self {
            framed,
            address,
            id,
            keyed,
            conversation,
            asked: VecDeque::new(),
            answered: None,
            destination: None,
            told: None,
        }
    }

    /// It wants an answer. Whether it wanted none before.
    pub(super) fn ask(&mut self, question: Question) -> bool {
        self.asked.push_back(question);
        self.asked.len() == 1
    }

    /// What it is to be answered at this moment, and whether it asks for more. It gets no answer before the last one is `gap` old: then it can put
    /// no more work on this server than it was told to, however much it asks.
    pub(super) fn next_question(&mut self, now: Time, gap: Duration) -> (Option<Question>, bool) {
        let due = self.answered.is_none_or(|answered| answered + gap <= now);
        let question = if due { self.asked.pop_front() } else { None };
        if question.is_some() {
            self.answered = Some(now);
        }
        (question, !self.asked.is_empty())
    }

    /// Reads and writes what the connection is ready for. The requests that came in, and what reading has left behind: also where it broke, what
    /// had come before is heard.
    pub(super) fn attend(
        &mut self,
        now: Time,
        offers: Features,
    ) -> Result<(Vec<Request>, Result<Filled, Broken>), Close> {
        let flushed = self.framed.flush();
        let before = self.framed.read();
        let filled = self.framed.fill();
        if self.framed.read() > before {
            self.conversation.handle_alive(now);
        }
        let access = self.access(offers);
        let (input, output) = self.framed.ends();
        let heard = self.conversation.handle_input(now, access, input, output);
        let flushed = flushed.and_then(|()| self.framed.flush());
        Ok((heard.map_err(Close::Garbage)?, filled.and_then(|filled| flushed.map(|()| filled))))
    }

    /// One that closes its sending side after a plain request still wants the answer.
    pub(super) const fn awaits_last_answer(&self) -> bool {
        self.conversation.awaits_last_answer()
    }

    /// What it may do. Without a key anybody who reaches the port could speak to remoted in an agent's name: only whoever is on this host may.
    fn access(&self, offers: Features) -> Access {
        if self.keyed && !self.framed.is_sealed() {
            Access::KeyWanted
        } else {
            Access::Features(if self.framed.is_trusted(self.address) { offers } else { Features::NONE })
        }
    }

    /// When it is closed unless something comes in.
    pub(super) const fn deadline(&self) -> Time {
        self.conversation.deadline()
    }

    /// It is a client of ours, greeted.
    pub(super) const fn is_client(&self) -> bool {
        self.conversation.is_client()
    }

    /// It has not said what it is.
    pub(super) const fn is_stranger(&self) -> bool {
        self.conversation.is_stranger()
    }

    /// It has greeted: looks up where its datagrams arrive.
    pub(super) fn note_destination(&mut self) {
        let Some((target, streams)) = self.conversation.target() else {
            return;
        };
        let reached = self.framed.stream().local_addr().ok().map(|reached| reached.ip().to_canonical());
        self.destination = Some(Destination::new(target, self.address, reached, streams, net::is_local));
    }

    /// How its datagrams come to remoted.
    pub(super) fn delivery(&self) -> Delivery {
        self.destination.map_or(Delivery::Direct(None), |destination| destination.delivery())
    }

    /// Why this server is not the one that it should ask.
    pub(super) fn mismatch(&self, watched: u16, at_home: bool) -> Option<String> {
        self.destination?.mismatch(watched, at_home)
    }

    /// A client is told this of remoted unasked: whether that is news to it.
    pub(super) fn is_told(&mut self, verdict: Verdict) -> bool {
        self.is_client() && self.told.replace(verdict) != Some(verdict)
    }

    /// Answers a heartbeat.
    pub(super) fn answer(&mut self, pong: Pong) -> Result<(), Close> {
        self.told = Some(pong.verdict);
        self.conversation.answer(pong, self.framed.ends().1);
        Ok(self.framed.flush()?)
    }

    /// Answers a plain request and ends the own side: the answer must not be lost to a reset by what is still to be read.
    pub(super) fn answer_plain(&mut self, now: Time, up: bool) -> Result<(), Close> {
        self.conversation.answer_plain(now, up, self.framed.ends().1);
        self.say_last()
    }

    /// Tells a client why its connection is of no use, and ends the own side.
    pub(super) fn refuse(&mut self, now: Time, text: String) -> Result<(), Close> {
        self.conversation.refuse(now, text, self.framed.ends().1);
        self.say_last()
    }

    /// Passes over what comes in. Whether it was closed at the other end, or is broken.
    pub(super) fn is_over(&mut self) -> bool {
        let filled = self.framed.fill();
        *self.framed.ends().0 = Assembler::default();
        !matches!(filled, Ok(Filled::Dry | Filled::More))
    }

    /// Writes what there is, and ends the own side.
    pub(super) fn say_last(&mut self) -> Result<(), Close> {
        self.framed.flush()?;
        let _ = self.framed.stream().shutdown(Shutdown::Write);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::Ipv4Addr;

    use socket2::SockRef;

    use super::*;
    use crate::os::net;
    use crate::proto::wire::{Frame, Hello, Ping, Target, VERSION};

    /// A connection on both ends of which this test stands.
    fn connected() -> (std::net::TcpStream, Conn) {
        let listener = net::listen("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let client = std::net::TcpStream::connect(address).expect("it listens");
        let (stream, _) = listener.accept().expect("it is connected");
        (client, Conn::new(net::now(), stream, address.ip(), 1, None))
    }

    #[test]
    fn a_client_that_asks_without_a_pause_gets_one_answer_in_each_gap() {
        let (_client, mut conn) = connected();
        let (at, gap) = (Time::from_millis, Duration::from_millis(10));
        let ping = |number| Question::Ping(Ping { number, ..Ping::default() });
        assert_eq!(conn.next_question(at(0), gap), (None, false), "it asks nothing");
        assert!(conn.ask(ping(1)), "it wants an answer from here on");
        assert!(!conn.ask(ping(2)) && !conn.ask(ping(3)), "it does already");
        assert_eq!(conn.next_question(at(100), gap), (Some(ping(1)), true), "nobody waits for the first one");
        assert_eq!(conn.next_question(at(109), gap), (None, true), "its last answer is too young");
        assert_eq!(conn.next_question(at(110), gap), (Some(ping(2)), true), "in the order of the questions");
        assert_eq!(conn.next_question(at(111), Duration::from_millis(1)), (Some(ping(3)), false));
        assert!(conn.ask(ping(4)));
        assert_eq!(
            conn.next_question(at(900), gap),
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
            let (mut client, mut conn) = connected();
            let target = Target { address: Some(Ipv4Addr::LOCALHOST.into()), port: 1_514 };
            let hello = Hello { version: VERSION, features: Features::STREAM, stream: 1, interval_ms: 1_000, target };
            let mut bytes = Vec::new();
            Frame::Hello(hello).encode(&mut bytes);
            client.write_all(&bytes).expect("it is connected");
            let deadline = net::now() + Duration::from_mins(1);
            while !conn.is_client() {
                assert!(net::now() < deadline, "the greeting does not come");
                conn.attend(net::now(), offers).expect("it makes sense").1.expect("it lasts");
            }
            conn.note_destination();
            assert_eq!(conn.delivery(), expected);
        }
    }

    #[test]
    fn what_came_before_a_connection_broke_is_heard() {
        let (mut client, mut conn) = connected();
        let hello =
            Hello { version: VERSION, features: Features::NONE, stream: 1, interval_ms: 1_000, target: Target::NONE };
        let (mut bytes, ping) = (Vec::new(), Ping { number: 7, ..Ping::default() });
        Frame::Hello(hello).encode(&mut bytes);
        Frame::Ping(ping).encode(&mut bytes);
        client.write_all(&bytes).expect("it is connected");
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("an option");
        // A reset, behind what it has sent.
        drop(client);
        let (requests, left) = loop {
            match conn.attend(net::now(), Features::NONE).expect("it makes sense") {
                (requests, Ok(Filled::Dry)) if requests.is_empty() => {}
                heard => break heard,
            }
        };
        assert_eq!(requests, [Request::Answer(Question::Ping(ping))]);
        assert!(left.is_err(), "the end is told, too: {left:?}");
    }
}
