//! The living processes whose names matter: they may be remoted, its analysis daemon, or required.

use std::path::Path;

use super::super::found::{Companion, Found};
use super::super::proc::{FileId, Proc};
use super::super::vouch::Doubt;
use super::super::wanted::{Wanted, companion_named, companion_of, is_named};
use crate::proto::server::judge::Process;

/// Most processes of one name that are looked at: OSSEC runs one for each `<remote>` entry.
pub(in crate::os::remoted) const PROCESSES_MAX: usize = 64;

#[derive(Debug)]
enum Sought<'a> {
    Name(&'a str),
    /// The path of an executable, and the file that is there.
    Path(&'a str, Option<FileId>),
}

impl<'a> Sought<'a> {
    fn new(name: &'a String) -> Self {
        if name.contains('/') { Self::Path(name, Proc::file(Path::new(name))) } else { Self::Name(name) }
    }

    /// Whether a process is one of these; a doubt where only its name says so.
    fn is(&self, proc: &Proc, pid: u32, comm: &[u8]) -> Result<bool, Doubt> {
        match self {
            Self::Name(name) if is_named(comm, name) => {
                proc.vouch(pid, name).map_or(Ok(false), |vouched| vouched.map(|()| true))
            }
            Self::Name(_) => Ok(false),
            Self::Path(path, file) => Ok(proc.executes(pid, path, *file)),
        }
    }
}

#[derive(Debug)]
pub(super) struct Candidate {
    comm: Vec<u8>,
    pub(super) process: Process,
    /// Whether the process may own remoted's socket.
    accepted: bool,
    /// The name of the process is to be believed.
    is_vouched: bool,
    /// The indices of the required names that the process has.
    required: Vec<usize>,
}

#[derive(Debug)]
pub(super) struct Candidates<'a> {
    proc: &'a Proc,
    all: Vec<Candidate>,
}

impl<'a> Candidates<'a> {
    /// Finds them, and notes in `found` which processes have an accepted name and do not count.
    pub(super) fn find(proc: &'a Proc, wanted: &Wanted, found: &mut Found) -> Self {
        let names = wanted.names.list();
        let accepted: Vec<Sought<'_>> = names.iter().map(Sought::new).collect();
        let required: Vec<Sought<'_>> = wanted.required.iter().map(Sought::new).collect();
        let looked_for = !accepted.is_empty() || !required.is_empty();
        let mut all: Vec<Candidate> = Vec::new();
        for pid in proc.pids().take_while(|_| looked_for) {
            let Some(comm) = proc.comm(pid) else { continue };
            let mut is = |sought: &Sought<'_>| {
                sought.is(proc, pid, &comm).unwrap_or_else(|doubt| {
                    found.doubt(pid, doubt);
                    false
                })
            };
            let accepted = accepted.iter().any(&mut is);
            let required: Vec<usize> = (0..required.len()).filter(|&at| is(&required[at])).collect();
            let is_vouched = companion_named(&comm).is_some_and(|name| is(&Sought::Name(name)));
            let matters = accepted || is_vouched || !required.is_empty();
            if matters && all.iter().filter(|other| other.comm == comm).count() < PROCESSES_MAX {
                all.extend(proc.process(pid).map(|process| Candidate {
                    comm,
                    process,
                    accepted,
                    is_vouched,
                    required,
                }));
            }
        }
        Self { proc, all }
    }

    /// The processes that may own remoted's socket.
    pub(super) fn accepted(&self) -> impl Iterator<Item = &Candidate> {
        self.all.iter().filter(|candidate| candidate.accepted)
    }

    /// A process with each required name: one beside remoted, where that is found.
    pub(super) fn required(&self, wanted: &Wanted, remoted: Option<&Candidate>) -> Vec<Option<Process>> {
        let has = |at: usize| move |candidate: &&Candidate| candidate.required.contains(&at);
        (0..wanted.required.len()).map(|at| self.beside(remoted, has(at))).collect()
    }

    pub(super) fn companion_of(&self, remoted: &Candidate) -> Companion {
        companion_of(&remoted.comm).map_or(Companion::NotExpected, |name| {
            let is = |candidate: &&Candidate| candidate.is_vouched && is_named(&candidate.comm, name);
            let process = self.beside(Some(remoted), is).or_else(|| self.in_its_container(remoted, name));
            process.map_or(Companion::Missing, Companion::Seen)
        })
    }

    /// The first process like this that may belong to the same OSSEC as a remoted.
    fn beside(&self, remoted: Option<&Candidate>, is: impl Fn(&&Candidate) -> bool) -> Option<Process> {
        let home = remoted.map(|remoted| self.proc.surroundings(remoted.process.pid));
        let is_beside = |candidate: &&Candidate| {
            home.as_ref().is_none_or(|home| home.are_beside(&self.proc.surroundings(candidate.process.pid)))
        };
        self.all.iter().filter(is).find(is_beside).map(|candidate| candidate.process)
    }

    /// A process of this name that executes a file beside remoted's, where that is in a container: only a path can
    /// have named it, and nobody outside gets there.
    fn in_its_container(&self, remoted: &Candidate, name: &str) -> Option<Process> {
        let its = remoted.process.pid;
        if self.proc.shares(its, "ns/mnt") != Some(false) {
            return None;
        }
        let mut named = self.proc.pids().filter(|&pid| self.proc.comm(pid).is_some_and(|comm| is_named(&comm, name)));
        named.find(|&pid| self.proc.is_of_one_folder(pid, its)).and_then(|pid| self.proc.process(pid))
    }
}
