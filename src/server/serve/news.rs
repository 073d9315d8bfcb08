//! What the log says of remoted, and when: at each change. Pure.

use crate::os::line::Line;
use crate::proto::server::judge::{Judge, Process, Sample};
use crate::proto::terms::{Incarnation, Port, Reason, Verdict};

#[derive(Debug, Default)]
pub(super) struct News {
    /// The verdict that was logged last.
    pub(super) verdict: Option<Verdict>,
    life: Incarnation,
    /// The owners of remoted's sockets when it was up.
    owners: Vec<Process>,
}

impl News {
    /// The line that the newest sample calls for: a changed verdict, or another life of a remoted that is up.
    pub(super) fn observe(&mut self, judge: &Judge, sample: &Sample) -> Option<Line> {
        let verdict = judge.verdict();
        let life = judge.incarnation();
        let restarted = verdict == Verdict::Up && std::mem::replace(&mut self.life, life) != life;
        if self.verdict.replace(verdict) == Some(verdict) && !restarted {
            return None;
        }
        let text = format!("remoted {verdict}");
        Some(match (verdict, &sample.missing) {
            (Verdict::Up, _) => self.up(judge, sample),
            (Verdict::Starting(Reason::Settling), _) => Line::info(text),
            (Verdict::Starting(Reason::RequiredMissing), Some(name)) => Line::warn(format!("{text}: {name}")),
            (Verdict::NoProcess(Port::Taken), _) => Line::warn(format!(
                "{text}: its owner has another name (--process NAME), or cannot be seen from here, as from \
                 a container or with hidepid (--process any; or run the server beside it, as root)"
            )),
            (_, _) => Line::warn(text),
        })
    }

    /// Names the owners of its sockets, and the owners that are gone: OSSEC up to 4.0 has a process for each
    /// `<remote>`.
    fn up(&mut self, judge: &Judge, sample: &Sample) -> Line {
        let before = std::mem::replace(&mut self.owners, sample.owners.clone());
        let (left, gone): (Vec<Process>, Vec<Process>) =
            before.into_iter().partition(|owner| self.owners.contains(owner));
        let buffer = judge.buffer().map_or_else(|| "unknown".into(), |bytes| bytes.to_string());
        // Without the right to look, its processes are not known.
        let who = if self.owners.is_empty() { String::new() } else { format!("{}, ", processes(&self.owners)) };
        let whom = match gone.len() {
            0 => String::new(),
            count => format!("; {} {} gone", processes(&gone), if count == 1 { "is" } else { "are" }),
        };
        let text = format!("remoted up: {who}receive buffer {buffer} bytes{whom}");
        // The processes that are left go on, and what they do not receive is lost.
        let partly = !gone.is_empty() && !left.is_empty();
        if partly { Line::warn(text) } else { Line::info(text) }
    }
}

/// `process 11`, `processes 11, 12`.
fn processes(owners: &[Process]) -> String {
    let pids: Vec<String> = owners.iter().map(|owner| owner.pid.to_string()).collect();
    format!("process{} {}", if pids.len() == 1 { "" } else { "es" }, pids.join(", "))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use log::Level;

    use super::*;
    use crate::proto::server::judge::{Presence, Socket};
    use crate::proto::time::Time;

    struct Bench {
        news: News,
        judge: Judge,
        at: u64,
    }

    impl Bench {
        fn new() -> Self {
            Self { news: News::default(), judge: Judge::new(Duration::from_secs(3)), at: 0 }
        }

        fn hear(&mut self, sample: &Sample) -> Option<(Level, String)> {
            self.at += 1;
            self.judge.handle_sample(Time::from_millis(self.at), sample);
            self.news.observe(&self.judge, sample).map(|line| (line.level, line.text))
        }
    }

    /// A sample of processes with a socket each.
    fn owned_by(pids: &[u32]) -> Sample {
        let socket = |pid: u32| Socket { inode: pid.into(), rx_queue: 0, drops: 0, buffer: Some(212_992) };
        Sample {
            presence: Presence::Running,
            sockets: pids.iter().copied().map(socket).collect(),
            owners: pids.iter().map(|&pid| Process { pid, start_ticks: 5 }).collect(),
            age: Some(Duration::from_hours(1)),
            companion: Some(true),
            missing: None,
            bindings: None,
        }
    }

    fn absent(presence: Presence) -> Sample {
        Sample { presence, sockets: Vec::new(), owners: Vec::new(), ..owned_by(&[]) }
    }

    fn line(level: Level, text: &str) -> Option<(Level, String)> {
        Some((level, text.to_owned()))
    }

    #[test]
    fn each_change_is_logged_once() {
        let mut bench = Bench::new();
        assert_eq!(bench.hear(&absent(Presence::NoProcess)), line(Level::Warn, "remoted no process"));
        assert_eq!(bench.hear(&absent(Presence::NoProcess)), None);
        let up = "remoted up: process 11, receive buffer 212992 bytes";
        assert_eq!(bench.hear(&owned_by(&[11])), line(Level::Info, up));
        assert_eq!(bench.hear(&owned_by(&[11])), None);
        let unknown = Sample { owners: Vec::new(), ..owned_by(&[11]) };
        let mut bench = Bench::new();
        assert_eq!(bench.hear(&unknown), line(Level::Info, "remoted up: receive buffer 212992 bytes"));
    }

    #[test]
    fn one_of_two_owners_that_is_gone_is_named_and_a_restart_names_whom_it_replaces() {
        let mut bench = Bench::new();
        let both = "remoted up: processes 11, 12, receive buffer 212992 bytes";
        assert_eq!(bench.hear(&owned_by(&[11, 12])), line(Level::Info, both));
        let one = "remoted up: process 12, receive buffer 212992 bytes; process 11 is gone";
        assert_eq!(bench.hear(&owned_by(&[12])), line(Level::Warn, one));
        assert_eq!(bench.hear(&absent(Presence::NoProcess)), line(Level::Warn, "remoted no process"));
        let restarted = "remoted up: process 13, receive buffer 212992 bytes; process 12 is gone";
        assert_eq!(bench.hear(&owned_by(&[13])), line(Level::Info, restarted));
        // The process is replaced without a look in between.
        let restarted = "remoted up: process 14, receive buffer 212992 bytes; process 13 is gone";
        assert_eq!(bench.hear(&owned_by(&[14])), line(Level::Info, restarted));
    }

    #[test]
    fn all_but_an_ordinary_start_is_a_warning() {
        let mut bench = Bench::new();
        let young = Sample { age: Some(Duration::ZERO), ..owned_by(&[11]) };
        assert_eq!(bench.hear(&young), line(Level::Info, "remoted starting"));
        let missing = Sample { missing: Some("ossec-db".into()), ..owned_by(&[11]) };
        let required = "remoted starting: a required process is missing: ossec-db";
        assert_eq!(bench.hear(&missing), line(Level::Warn, required));
        let alone = Sample { companion: Some(false), ..missing };
        assert_eq!(bench.hear(&alone), line(Level::Warn, "remoted starting: analysisd is gone"));
        let (level, text) = bench.hear(&absent(Presence::Taken)).expect("another verdict");
        assert!(level == Level::Warn && text.contains("--process any"), "{text}");
    }
}
