//! Transport tcp: acknowledgements in; what may be sent, where to go on and what is confirmed out.
//!
//! ```text
//!    no connection ──connected──► attached ──resume──► going ──resume──┐
//!          ▲                          │                 │ ▲────────────┘ (remoted was started anew)
//!          └────────────gone──────────┴──────gone───────┘
//! ```
//!
//! * **Release.** What may be sent is bounded by the window of the newest [`Resume`] or [`Ack`]; there is no lease. TCP loses nothing while the
//!   connection lasts, so a heartbeat says only what people and the log want to know, and whether the connection is alive.
//! * **Confirm.** The server acknowledges what remoted has read. Nothing else confirms.
//! * **Go on.** When a connection has gone nobody here knows how much arrived. The server knows, and says where to go on: with what it has not
//!   injected into the present remoted. Only a server that was started anew does not know: then from the oldest that is not acknowledged.
//!
//! * **Nobody else.** A server that knows of datagrams in this stream which this process has not sent knows them from another one that has the same
//!   memory, a guest that was cloned while it ran. What it says then is of somebody else, and the client goes on under another name.
//!
//! A connection is silent when nothing has come in for `--timeout` (longer on a path that takes longer) although an answer is due, and when the other host has acknowledged nothing
//! meanwhile: over a narrow link an answer may take long behind the data. That the system took what was written says nothing: it takes some
//! hundred kilobytes for a host that is gone.

use std::collections::VecDeque;
use std::time::Duration;

use super::rtt::RoundTrip;
use super::{Flight, GAP_MIN, HEARTBEATS_MAX, Permit, Probe, Settings, Standing, Work};
use crate::proto::terms::{Seq, Verdict};
use crate::proto::time::Time;
use crate::proto::wire::{Ack, Pong, Resume};

/// The state of the way to the broker server. See the head of this file.
#[derive(Debug)]
pub struct Stream {
    settings: Settings,
    rtt: RoundTrip,
    connection: Option<Connection>,
    connections: u64,
    heartbeats: u64,
    epoch: u64,
    /// Everything that was ever sent is below.
    furthest: Seq,
}

/// Another process has sent something in this stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign;

#[derive(Debug)]
struct Connection {
    id: u64,
    /// Heartbeats under way, the oldest first: number and beginning.
    outstanding: VecDeque<(u64, Time)>,
    last_begun: Option<Time>,
    /// When something came in last, or was acknowledged by the other host.
    last_alive: Time,
    verdict: Option<Verdict>,
    going: Option<Going>,
    gap: Duration,
    /// The server said that something has changed.
    nudged: bool,
}

/// The server has said where to go on.
#[derive(Clone, Copy, Debug)]
struct Going {
    /// The server's number of it.
    epoch: u32,
    window: u64,
}

/// From where everything is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resumption {
    /// The next to send.
    pub from: Seq,
    /// What is below may have reached remoted.
    pub reached: Seq,
}

impl Stream {
    /// A stream without a connection.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            rtt: RoundTrip::default(),
            connection: None,
            connections: 0,
            heartbeats: 0,
            epoch: 0,
            furthest: Seq(0),
        }
    }

    /// The current epoch; it ends when the connection does, and with each [`Resume`].
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What the frames of this epoch must say; `None` while nothing may be sent.
    pub fn server_epoch(&self) -> Option<u32> {
        self.going().map(|going| going.epoch)
    }

    /// How long a heartbeat may take.
    pub fn lease(&self) -> Duration {
        self.rtt.patience(self.settings)
    }

    /// A connection was made and greeted in `round_trip`. One that was there before is given up.
    pub fn handle_connected(&mut self, now: Time, round_trip: Duration) {
        self.handle_disconnected();
        self.rtt.handle_path(round_trip);
        self.connections += 1;
        self.connection = Some(Connection {
            id: self.connections,
            outstanding: VecDeque::new(),
            last_begun: None,
            last_alive: now,
            verdict: None,
            going: None,
            gap: GAP_MIN,
            nudged: false,
        });
    }

    /// The connection is gone, whatever the reason.
    pub fn handle_disconnected(&mut self) {
        if self.connection.take().is_some() {
            self.epoch += 1;
        }
    }

    /// The server says where to go on. `digest`: of the last datagram below that, where it is held.
    pub fn handle_resume(
        &mut self,
        resume: &Resume,
        flight: Flight,
        digest: Option<u64>,
    ) -> Result<Option<Resumption>, Foreign> {
        let is_other = digest.is_some_and(|ours| resume.digest != 0 && resume.digest != ours);
        if is_other || resume.from.is_some_and(|from| from > self.furthest(flight)) {
            return Err(Foreign);
        }
        let Some(connection) = &mut self.connection else {
            return Ok(None);
        };
        connection.going = Some(Going { epoch: resume.epoch, window: resume.window });
        self.epoch += 1;
        // It may have heard of more before another server had this client begin anew; and what is confirmed is not here any more.
        let from = resume.from.map_or(flight.oldest, |from| from.clamp(flight.oldest, flight.next));
        Ok(Some(Resumption { from, reached: resume.reached }))
    }

    /// Remoted has read something.
    pub fn handle_ack(&mut self, ack: &Ack, flight: Flight) -> Result<Option<Seq>, Foreign> {
        if ack.read > self.furthest(flight) {
            return Err(Foreign);
        }
        let Some(going) = self.connection.as_mut().and_then(|connection| connection.going.as_mut()) else {
            return Ok(None);
        };
        going.window = ack.window;
        Ok(Some(ack.read.min(flight.next)).filter(|&read| read > flight.oldest))
    }

    const fn furthest(&mut self, flight: Flight) -> Seq {
        if flight.next.0 > self.furthest.0 {
            self.furthest = flight.next;
        }
        self.furthest
    }

    /// Something came in over the connection at this time, or was acknowledged by the other host.
    pub fn handle_alive(&mut self, now: Time) {
        if let Some(connection) = &mut self.connection {
            connection.last_alive = connection.last_alive.max(now);
        }
    }

    /// Begins a heartbeat. `None` without a connection or with [`HEARTBEATS_MAX`] under way.
    pub fn begin(&mut self, now: Time, flight: Flight) -> Option<Probe> {
        let lease = self.lease();
        let connection = self.connection.as_mut().filter(|c| c.outstanding.len() < HEARTBEATS_MAX)?;
        self.heartbeats += 1;
        connection.outstanding.push_back((self.heartbeats, now));
        connection.last_begun = Some(now);
        connection.nudged = false;
        Some(Probe {
            number: self.heartbeats,
            connection: connection.id,
            epoch: self.epoch,
            begun: now,
            lease,
            usual: self.rtt.smoothed(),
            released: flight.next,
        })
    }

    /// The answer to a heartbeat came in.
    pub fn handle_pong(&mut self, now: Time, probe: &Probe, pong: &Pong) {
        let Some(connection) = self.connection.as_mut().filter(|c| c.id == probe.connection) else {
            return;
        };
        self.rtt.handle_sample(now.since(probe.begun), Duration::MAX);
        while connection.outstanding.front().is_some_and(|&(number, _)| number <= probe.number) {
            connection.outstanding.pop_front();
        }
        connection.last_alive = now;
        connection.verdict = Some(pong.verdict);
        connection.gap = Duration::from_micros(u64::from(pong.gap_us)).min(self.settings.interval).max(GAP_MIN);
    }

    /// The server said, unasked, that its verdict has changed. All that it says comes in its order, so this is what holds; a heartbeat will tell
    /// the rest.
    pub const fn handle_notice(&mut self, verdict: Verdict) {
        if let Some(connection) = &mut self.connection {
            connection.verdict = Some(verdict);
            connection.nudged = true;
        }
    }

    /// What may be sent at this moment. Nothing while remoted is away: at the server it would be out of reach of `--max-age` and `--rate`.
    pub fn permit(&self) -> Option<Permit> {
        self.connection.as_ref().filter(|connection| connection.verdict == Some(Verdict::Up))?;
        let window = self.going()?.window;
        Some(Permit { until: Time::FAR, window, single: false, epoch: self.epoch })
    }

    /// When the next heartbeat should begin; `None` if none can.
    pub fn next_heartbeat(&self, work: Work) -> Option<Time> {
        let connection = self.connection.as_ref().filter(|c| c.outstanding.len() < HEARTBEATS_MAX)?;
        let Some(last) = connection.last_begun else {
            return Some(connection.last_alive);
        };
        // Where nothing was asked nothing is silent: while something is under way, that must not be for long.
        let interval = self.settings.interval.min(if work.under_way { self.lease() } else { Duration::MAX });
        Some(last + if connection.nudged { connection.gap } else { interval })
    }

    /// When [`Self::is_silent`] has something new to say.
    pub fn next_deadline(&self, now: Time) -> Option<Time> {
        let silent = self.silent_from().filter(|&from| from >= now);
        silent.map(|at| at + Duration::from_micros(1))
    }

    /// The connection is not to be waited for.
    pub fn is_silent(&self, now: Time) -> bool {
        self.silent_from().is_some_and(|from| now > from)
    }

    /// What stands between the client and remoted at this moment.
    pub fn standing(&self, now: Time) -> Standing {
        let Some(connection) = &self.connection else {
            return Standing::Unreachable;
        };
        if self.is_silent(now) {
            return Standing::Unanswered;
        }
        match (connection.verdict, connection.going) {
            (None, _) | (Some(Verdict::Up), None) => Standing::Unanswered,
            (Some(Verdict::Up), Some(_)) => Standing::Up,
            (Some(verdict), _) => Standing::Remote(verdict),
        }
    }

    fn going(&self) -> Option<Going> {
        self.connection.as_ref()?.going
    }

    fn silent_from(&self) -> Option<Time> {
        let connection = self.connection.as_ref()?;
        let &(_, due) = connection.outstanding.front()?;
        Some(due.max(connection.last_alive) + self.lease())
    }
}
