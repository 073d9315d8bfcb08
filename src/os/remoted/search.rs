//! The search: one walk over `/proc`, some microseconds for each process there is.

use std::io::{self, ErrorKind};
use std::path::Path;

use super::diag::Diag;
use super::proc::{FileId, Proc, READINGS, Surroundings, rows};
use super::{
    COMPANIONS, Companion, Family, Found, Holder, Names, PROCESSES_MAX, SOCKETS_MAX, View, Wanted, companion_of,
    is_named,
};
use crate::proto::server::judge::{Owner, Place, Places};

/// A socket on the port, and where it is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sighting {
    pub(super) view: View,
    pub(super) inode: u64,
    pub(super) place: Place,
}

/// Looks for remoted again and again.
#[derive(Debug)]
pub struct Searcher {
    wanted: Wanted,
    /// Kept: where the kernel cannot be asked, each attempt may make it look for a module.
    diag: Diag,
}

impl Searcher {
    /// One that has not looked.
    pub fn new(wanted: Wanted) -> Self {
        Self { diag: Diag::new(wanted.port), wanted }
    }

    /// Looks for remoted and those that belong to it. Takes milliseconds: not for the serving loop.
    pub fn search(&mut self) -> Found {
        let mut v6 = Vec::new();
        // What it cannot tell counts as a dual-stack socket.
        self.diag.dump(Family::V6, &mut v6);
        let v6_only = v6.iter().filter(|sight| sight.place == Place::AllOfV6);
        let v6_only: Vec<u64> = v6_only.map(|sight| sight.socket.inode).collect();
        look_for(Path::new("/proc"), &self.wanted, &v6_only)
    }
}

/// Searches once.
pub fn search(wanted: &Wanted) -> Found {
    Searcher::new(wanted.clone()).search()
}

/// Like [`search`], in a proc file system that is mounted, or imitated, elsewhere.
pub fn search_in(root: &Path, wanted: &Wanted) -> Found {
    look_for(root, wanted, &[])
}

/// `v6_only`: those sockets of our own network namespace that take nothing of IPv4.
fn look_for(root: &Path, wanted: &Wanted, v6_only: &[u64]) -> Found {
    let proc = Proc::at(root);
    let mut ours = sightings(&proc, View::Own, wanted.port).unwrap_or_default();
    for socket in ours.iter_mut().filter(|socket| v6_only.contains(&socket.inode)) {
        socket.place = Place::AllOfV6;
    }
    let census = Census::take(&proc, wanted);
    let mut found = Found { buffer_default: proc.rmem_default(), ..Found::default() };
    found.know(&ours);
    if wanted.names == Names::Any {
        found.port_alone = true;
        found.watch(&narrowed(&ours, &ours, wanted));
        found.required = census.required(wanted, None);
    } else {
        let claims: Vec<_> = census.accepted().map(|resident| Claim::of(resident, &proc, &ours, wanted)).collect();
        found.settle(&proc, &claims);
        let owner = claims.iter().find(|claim| found.is_held_by(claim.resident.process)).or(claims.first());
        let owner = owner.map(|claim| claim.resident);
        found.companion = owner.map_or(Companion::NotExpected, |owner| census.companion_of(owner));
        found.required = census.required(wanted, owner);
    }
    let listed = |counts: bool| -> Vec<Place> {
        let ours = ours.iter().filter(|socket| found.watched.contains(&(View::Own, socket.inode)) == counts);
        ours.map(|socket| socket.place).collect()
    };
    found.places = Places { remoted: listed(true), strangers: listed(false) };
    found
}

impl Found {
    /// Takes over the claims to sockets of our own network namespace; if there are none, those to others.
    fn settle(&mut self, proc: &Proc, claims: &[Claim<'_>]) {
        let at_home = claims.iter().any(|claim| claim.sockets.iter().any(|socket| socket.view == View::Own));
        let mut first: Option<Surroundings> = None;
        for claim in claims {
            let process = claim.resident.process;
            self.know(&claim.visible);
            let sockets: Vec<_> =
                claim.sockets.iter().copied().filter(|socket| (socket.view == View::Own) == at_home).collect();
            if !sockets.is_empty() {
                self.holders.push(Holder { process, proven: claim.proven });
                self.watch(&sockets);
                let its = proc.surroundings(process.pid);
                self.scattered |= !first.get_or_insert_with(|| its.clone()).are_beside(&its);
            } else if claim.is_elsewhere {
                self.elsewhere.push(process);
            } else if claim.sockets.is_empty() {
                self.bare.push(process);
            }
        }
        self.holders.sort_unstable_by_key(|holder| holder.process);
    }

    fn is_held_by(&self, process: Owner) -> bool {
        self.holders.iter().any(|holder| holder.process == process)
    }

    /// Adds sockets to those that are known.
    fn know(&mut self, sockets: &[Sighting]) {
        for socket in sockets {
            if !self.known.contains(&socket.inode) && self.known.len() < SOCKETS_MAX {
                self.known.push(socket.inode);
            }
        }
    }

    /// Adds sockets to those that are watched. One that two processes share, or that two of them see, is watched once.
    fn watch(&mut self, sockets: &[Sighting]) {
        for socket in sockets {
            let is_known = self.watched.iter().any(|(_, inode)| *inode == socket.inode);
            if !is_known && self.watched.len() < SOCKETS_MAX {
                self.watched.push((socket.view, socket.inode));
            }
        }
    }
}

/// A name that is looked for; `file`: what lies at the path that it is.
#[derive(Debug)]
struct Sought {
    name: String,
    file: Option<FileId>,
}

impl Sought {
    fn new(name: String) -> Self {
        Self { file: is_path(&name).then(|| Proc::file(Path::new(&name))).flatten(), name }
    }

    fn is_of(&self, proc: &Proc, pid: u32, comm: &[u8]) -> bool {
        if is_path(&self.name) { proc.executes(pid, &self.name, self.file) } else { is_named(comm, &self.name) }
    }
}

/// A name with a slash is the path of an executable.
fn is_path(name: &str) -> bool {
    name.contains('/')
}

/// A living process whose name matters.
#[derive(Debug)]
struct Resident {
    comm: Vec<u8>,
    process: Owner,
    /// It may own remoted's socket.
    accepted: bool,
    /// Which of the required names it has.
    required: Vec<usize>,
}

/// The living processes whose names matter.
#[derive(Debug)]
struct Census<'a> {
    proc: &'a Proc,
    residents: Vec<Resident>,
}

impl<'a> Census<'a> {
    fn take(proc: &'a Proc, wanted: &Wanted) -> Self {
        let sought = |names: &[String]| names.iter().cloned().map(Sought::new).collect::<Vec<_>>();
        let mut residents: Vec<Resident> = Vec::new();
        let (accepted, required) = (sought(wanted.names.listed()), sought(&wanted.required));
        let looked_for = !accepted.is_empty() || !required.is_empty();
        for pid in proc.pids().take_while(|_| looked_for) {
            let Some(comm) = proc.comm(pid) else { continue };
            let has = |name: &Sought| name.is_of(proc, pid, &comm);
            let is_accepted = accepted.iter().any(has);
            let is_companion = COMPANIONS.iter().any(|(_, companion)| is_named(&comm, companion));
            let required: Vec<usize> = (0..required.len()).filter(|&at| has(&required[at])).collect();
            let matters = is_accepted || is_companion || !required.is_empty();
            if matters && residents.iter().filter(|resident| resident.comm == comm).count() < PROCESSES_MAX {
                let process = proc.process(pid);
                residents.extend(process.map(|process| Resident { comm, process, accepted: is_accepted, required }));
            }
        }
        Self { proc, residents }
    }

    /// The processes that may own remoted's socket.
    fn accepted(&self) -> impl Iterator<Item = &Resident> {
        self.residents.iter().filter(|resident| resident.accepted)
    }

    /// Who has each required name: a process beside remoted, where that is found.
    fn required(&self, wanted: &Wanted, remoted: Option<&Resident>) -> Vec<Option<Owner>> {
        let has = |at: usize| move |resident: &&Resident| resident.required.contains(&at);
        (0..wanted.required.len()).map(|at| self.beside(remoted, has(at))).collect()
    }

    /// The analysis daemon that belongs to a remoted.
    fn companion_of(&self, remoted: &Resident) -> Companion {
        match companion_of(&remoted.comm) {
            None => Companion::NotExpected,
            Some(name) => {
                let process = self.beside(Some(remoted), |resident| is_named(&resident.comm, name));
                process.map_or(Companion::Missing, Companion::Seen)
            }
        }
    }

    /// The first process like this that may belong to the same OSSEC as a remoted.
    fn beside(&self, remoted: Option<&Resident>, is: impl Fn(&&Resident) -> bool) -> Option<Owner> {
        let home = remoted.map(|remoted| self.proc.surroundings(remoted.process.pid));
        let is_beside = |resident: &&Resident| {
            home.as_ref().is_none_or(|home| home.are_beside(&self.proc.surroundings(resident.process.pid)))
        };
        self.residents.iter().filter(is).find(is_beside).map(|resident| resident.process)
    }
}

/// The sockets on the port that a process of an accepted name owns.
#[derive(Debug)]
struct Claim<'a> {
    resident: &'a Resident,
    /// Those that receive at the addresses which are wanted.
    sockets: Vec<Sighting>,
    /// It owns some, but none of those.
    is_elsewhere: bool,
    /// They were seen among its descriptors.
    proven: bool,
    /// All sockets on the port that it could own.
    visible: Vec<Sighting>,
}

impl<'a> Claim<'a> {
    fn of(resident: &'a Resident, proc: &Proc, ours: &[Sighting], wanted: &Wanted) -> Self {
        let pid = resident.process.pid;
        let its = match proc.shares_our_network(pid) {
            Some(true) => ours.to_vec(),
            Some(false) | None => sightings(proc, View::Of(pid), wanted.port).unwrap_or_else(|_| ours.to_vec()),
        };
        let visible = merge(ours, &its);
        let inodes: Vec<_> = visible.iter().map(|socket| socket.inode).collect();
        let (owned, proven) = claimed(&visible, &its, proc.holds(pid, &inodes));
        let sockets = narrowed(&owned, &visible, wanted);
        Self { resident, is_elsewhere: sockets.is_empty() && !owned.is_empty(), sockets, proven, visible }
    }
}

/// Those of the sockets that get what is sent to a wanted address; all of them, where none is named.
fn narrowed(sockets: &[Sighting], visible: &[Sighting], wanted: &Wanted) -> Vec<Sighting> {
    let gets = |socket: &Sighting| {
        let strangers = visible.iter().filter(|other| other.view == socket.view).map(|other| other.place).collect();
        let places = Places { remoted: vec![socket.place], strangers };
        wanted.addresses.is_empty() || wanted.addresses.iter().any(|&address| places.receive_at(address).is_ok())
    };
    sockets.iter().copied().filter(gets).collect()
}

/// Which of the `visible` sockets are a process's own, given what could be learnt of its descriptors; and whether that
/// is proven.
///
/// Where they may not be read, whatever is on the port in its own network namespace (`its`) counts.
pub(super) fn claimed(visible: &[Sighting], its: &[Sighting], held: io::Result<Vec<u64>>) -> (Vec<Sighting>, bool) {
    let among = |inodes: &[u64]| visible.iter().copied().filter(|socket| inodes.contains(&socket.inode)).collect();
    match held {
        Ok(held) => (among(&held), true),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            (among(&its.iter().map(|socket| socket.inode).collect::<Vec<_>>()), false)
        }
        // The process ended meanwhile.
        Err(_) => (Vec::new(), true),
    }
}

/// All of `first`, and what of `second` is not among them. Inodes of sockets are unique across network namespaces.
fn merge(first: &[Sighting], second: &[Sighting]) -> Vec<Sighting> {
    let further = second.iter().filter(|socket| first.iter().all(|known| known.inode != socket.inode));
    first.iter().chain(further).copied().collect()
}

/// The sockets on the port in one network namespace.
///
/// # Errors
/// Where neither table can be read. One alone can be missing: there is no `udp6` without IPv6.
fn sightings(proc: &Proc, view: View, port: u16) -> io::Result<Vec<Sighting>> {
    let mut text = Vec::new();
    let mut read = |family| -> io::Result<Vec<Sighting>> {
        let mut sockets = Vec::new();
        for _ in 0..READINGS {
            proc.read_table(view, family, &mut text)?;
            let listed = rows(&text).filter(|row| row.receives_on(port)).take(SOCKETS_MAX);
            let listed: Vec<_> =
                listed.map(|row| Sighting { view, inode: row.inode, place: Place::of(row.address, false) }).collect();
            sockets = merge(&sockets, &listed);
        }
        Ok(sockets)
    };
    match (read(Family::V4), read(Family::V6)) {
        (Ok(mut v4), Ok(v6)) => {
            v4.extend(v6);
            Ok(v4)
        }
        (Ok(sockets), Err(_)) | (Err(_), Ok(sockets)) => Ok(sockets),
        (Err(error), Err(_)) => Err(error),
    }
}
