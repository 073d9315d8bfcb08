//! The journal of the stand-in for remoted, added up over all its lives.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// The journal file, and the sum of the lines read so far.
pub(crate) struct Journal {
    path: PathBuf,
    offset: u64,
    tally: Tally,
}

/// The sum of a journal.
#[derive(Default)]
pub(crate) struct Tally {
    agents: BTreeMap<String, Received>,
    /// Drops at the sockets of earlier lives, and at the socket of the present life.
    drops: (u64, u64),
    /// The number of times that the receiver was started.
    pub(crate) lives: u64,
}

/// The datagrams that came from one agent.
#[derive(Default)]
pub(crate) struct Received {
    /// Counters accepted at least once, in any life.
    pub(crate) took: BTreeSet<u64>,
    again: u64,
    /// Counters refused because a newer one had been accepted in that life.
    late: BTreeSet<u64>,
}

impl Received {
    /// Datagrams that came once more: refused, or accepted again by a receiver that had forgotten them.
    pub(crate) fn copies(&self) -> u64 {
        self.again + self.late.intersection(&self.took).count() as u64
    }

    /// Counters lost for ever because a newer one overtook them.
    pub(crate) fn overtaken(&self) -> usize {
        self.late.difference(&self.took).count()
    }

    /// The greatest counter accepted; 0 if there is none.
    pub(crate) fn newest(&self) -> u64 {
        self.took.last().copied().unwrap_or(0)
    }
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (took, copies, overtaken) = (self.took.len(), self.copies(), self.overtaken());
        write!(f, "{took} accepted ({}), {copies} copies, {overtaken} overtaken", Runs(&self.took))
    }
}

/// Counters as runs: `1-500 512-800`.
struct Runs<'a>(&'a BTreeSet<u64>);

impl fmt::Display for Runs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        const RUNS_MAX: usize = 20;
        let starts = self.0.iter().filter(|&&counter| !self.0.contains(&counter.wrapping_sub(1)));
        let ends = self.0.iter().filter(|&&counter| !self.0.contains(&(counter + 1)));
        for (index, (start, end)) in starts.zip(ends).enumerate() {
            match index {
                0 => write!(f, "{start}-{end}")?,
                1..RUNS_MAX => write!(f, " {start}-{end}")?,
                _ => return write!(f, " …"),
            }
        }
        Ok(())
    }
}

impl Journal {
    /// The journal at `path`, which need not exist yet.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, offset: 0, tally: Tally::default() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the new lines and returns the sum.
    pub(crate) fn read(&mut self) -> &mut Tally {
        let mut text = String::new();
        match File::open(&self.path) {
            Ok(mut file) => {
                file.seek(SeekFrom::Start(self.offset)).expect("the journal is a file");
                file.read_to_string(&mut text).expect("the journal is text");
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => panic!("cannot read {}: {error}", self.path.display()),
        }
        // The last line may be in the middle of being written.
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        self.offset += whole.len() as u64;
        for line in whole.lines() {
            self.tally.add(line);
        }
        &mut self.tally
    }
}

impl Tally {
    /// The datagrams that came from that agent.
    pub(crate) fn of(&mut self, agent: &str) -> &Received {
        self.agents.entry(agent.to_owned()).or_default()
    }

    /// Datagrams that the kernel dropped because the receiver's buffer was full, as of the last tenth of a second.
    pub(crate) fn drops(&self) -> u64 {
        self.drops.0 + self.drops.1
    }

    fn add(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let number =
            |word: &str| word.parse::<u64>().unwrap_or_else(|_| panic!("what does the journal mean by `{line}`?"));
        match words[..] {
            ["life", _] => {
                self.lives += 1;
                self.drops = (self.drops(), 0);
            }
            ["drops", count] => self.drops.1 = number(count),
            ["took", agent, counter] => {
                let received = self.agents.entry(agent.to_owned()).or_default();
                received.again += u64::from(!received.took.insert(number(counter)));
            }
            ["copy", agent, _] => self.agents.entry(agent.to_owned()).or_default().again += 1,
            ["late", agent, counter] => {
                self.agents.entry(agent.to_owned()).or_default().late.insert(number(counter));
            }
            ["other", _] => {}
            _ => panic!("what does the journal mean by `{line}`?"),
        }
    }
}
