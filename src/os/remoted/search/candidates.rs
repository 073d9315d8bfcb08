//! The living processes whose names matter: they may be remoted, its analysis daemon, or required.

use std::path::Path;

use super::super::found::Companion;
use super::super::proc::{FileId, Proc};
use super::super::wanted::{Wanted, companion_of, is_companion, is_named};
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

    fn is_of(&self, proc: &Proc, pid: u32, comm: &[u8]) -> bool {
        match self {
            Self::Name(name) => is_named(comm, name),
            Self::Path(path, file) => proc.executes(pid, path, *file),
        }
    }
}

#[derive(Debug)]
pub(super) struct Candidate {
    comm: Vec<u8>,
    pub(super) process: Process,
    /// Whether the process may own remoted's socket.
    accepted: bool,
    /// The indices of the required names that the process has.
    required: Vec<usize>,
}

#[derive(Debug)]
pub(super) struct Candidates<'a> {
    proc: &'a Proc,
    all: Vec<Candidate>,
}

impl<'a> Candidates<'a> {
    pub(super) fn find(proc: &'a Proc, wanted: &Wanted) -> Self {
        let names = wanted.names.list();
        let accepted: Vec<Sought<'_>> = names.iter().map(Sought::new).collect();
        let required: Vec<Sought<'_>> = wanted.required.iter().map(Sought::new).collect();
        let looked_for = !accepted.is_empty() || !required.is_empty();
        let mut all: Vec<Candidate> = Vec::new();
        for pid in proc.pids().take_while(|_| looked_for) {
            let Some(comm) = proc.comm(pid) else { continue };
            let has = |name: &Sought| name.is_of(proc, pid, &comm);
            let accepted = accepted.iter().any(has);
            let required: Vec<usize> = (0..required.len()).filter(|&at| has(&required[at])).collect();
            let matters = accepted || is_companion(&comm) || !required.is_empty();
            if matters && all.iter().filter(|other| other.comm == comm).count() < PROCESSES_MAX {
                all.extend(proc.process(pid).map(|process| Candidate { comm, process, accepted, required }));
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
            let process = self.beside(Some(remoted), |candidate| is_named(&candidate.comm, name));
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
}
