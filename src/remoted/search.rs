//! The search: one walk over `/proc`, some microseconds for each process there is.

use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::path::Path;

use super::proc::{Proc, READINGS, rows};
use super::{
    Companion, Family, Found, Holder, Names, PROCESSES_MAX, Place, SOCKETS_MAX, Table, View, Wanted, companion_of,
    is_named,
};
use crate::verdict::Owner;

/// A socket on the port, and where it is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sighting {
    pub(super) view: View,
    pub(super) family: Family,
    pub(super) inode: u64,
    /// The address that it is bound to.
    pub(super) address: IpAddr,
}

/// Looks for remoted and those that belong to it. Takes milliseconds: not for the serving loop.
pub fn search(wanted: &Wanted) -> Found {
    search_in(Path::new("/proc"), wanted)
}

/// Like [`search`], in a proc file system that is mounted, or imitated, elsewhere.
pub fn search_in(root: &Path, wanted: &Wanted) -> Found {
    let proc = Proc::at(root);
    let ours = sightings(&proc, View::Own, wanted.port).unwrap_or_default();
    let census = Census::take(&proc, wanted);
    let mut found = Found {
        required: wanted.required.iter().map(|name| census.first(name)).collect(),
        buffer_default: proc.rmem_default(),
        ..Found::default()
    };
    if wanted.names == Names::Any {
        found.port_alone = true;
        found.watch(&ours);
    } else {
        let accepted = census.accepted(&wanted.names);
        let claims: Vec<_> = accepted.map(|resident| Claim::of(resident, &proc, &ours, wanted.port)).collect();
        found.settle(&claims);
        let owner = claims.iter().find(|claim| found.is_held_by(claim.resident.process)).or(claims.first());
        found.companion = owner.map_or(Companion::NotExpected, |claim| census.companion_of(claim.resident));
    }
    found
}

impl Found {
    /// Takes over the claims to sockets of our own network namespace; if there are none, those to others.
    fn settle(&mut self, claims: &[Claim<'_>]) {
        let at_home = claims.iter().any(|claim| claim.sockets.iter().any(|socket| socket.view == View::Own));
        for claim in claims {
            let process = claim.resident.process;
            let sockets: Vec<_> =
                claim.sockets.iter().copied().filter(|socket| (socket.view == View::Own) == at_home).collect();
            if sockets.is_empty() {
                self.bare.push(process);
            } else {
                self.holders.push(Holder { process, proven: claim.proven });
                self.watch(&sockets);
            }
        }
        self.holders.sort_unstable_by_key(|holder| holder.process);
    }

    fn is_held_by(&self, process: Owner) -> bool {
        self.holders.iter().any(|holder| holder.process == process)
    }

    /// Adds sockets to the tables. One that two processes share, or that two of them see, is watched once.
    fn watch(&mut self, sockets: &[Sighting]) {
        for socket in sockets {
            let known = self.tables.iter().flat_map(|table| &table.inodes);
            if known.clone().any(|&inode| inode == socket.inode) || known.count() == SOCKETS_MAX {
                continue;
            }
            if socket.view == View::Own {
                self.places.push(Place { family: socket.family, address: socket.address.to_canonical() });
            }
            let of_socket = |table: &&mut Table| table.view == socket.view && table.family == socket.family;
            match self.tables.iter_mut().find(of_socket) {
                Some(table) => table.inodes.push(socket.inode),
                None => {
                    self.tables.push(Table { view: socket.view, family: socket.family, inodes: vec![socket.inode] });
                }
            }
        }
    }
}

/// A living process whose name matters.
#[derive(Debug)]
struct Resident {
    comm: Vec<u8>,
    process: Owner,
}

/// The living processes whose names matter.
#[derive(Debug)]
struct Census(Vec<Resident>);

impl Census {
    fn take(proc: &Proc, wanted: &Wanted) -> Self {
        let names = names_that_matter(wanted);
        let mut census = Self(Vec::new());
        for pid in proc.pids().take_while(|_| !names.is_empty()) {
            let Some(comm) = proc.comm(pid) else { continue };
            let matters = names.iter().any(|name| is_named(&comm, name));
            if matters && census.0.iter().filter(|resident| resident.comm == comm).count() < PROCESSES_MAX {
                census.0.extend(proc.process(pid).map(|process| Resident { comm, process }));
            }
        }
        census
    }

    /// The processes that may own remoted's socket.
    fn accepted(&self, names: &Names) -> impl Iterator<Item = &Resident> {
        self.0.iter().filter(|resident| names.listed().iter().any(|name| is_named(&resident.comm, name)))
    }

    /// Some process with this name.
    fn first(&self, name: &str) -> Option<Owner> {
        self.0.iter().find(|resident| is_named(&resident.comm, name)).map(|resident| resident.process)
    }

    /// The analysis daemon that belongs to a remoted.
    fn companion_of(&self, remoted: &Resident) -> Companion {
        match companion_of(&remoted.comm) {
            None => Companion::NotExpected,
            Some(name) => self.first(name).map_or(Companion::Missing, Companion::Seen),
        }
    }
}

/// Accepted names, those of their companions, and required ones.
fn names_that_matter(wanted: &Wanted) -> Vec<&str> {
    let accepted = wanted.names.listed().iter().map(String::as_str);
    let companions = accepted.clone().filter_map(|name| companion_of(name.as_bytes()));
    accepted.chain(companions).chain(wanted.required.iter().map(String::as_str)).collect()
}

/// The sockets on the port that a process of an accepted name owns.
#[derive(Debug)]
struct Claim<'a> {
    resident: &'a Resident,
    sockets: Vec<Sighting>,
    /// They were seen among its descriptors.
    proven: bool,
}

impl<'a> Claim<'a> {
    fn of(resident: &'a Resident, proc: &Proc, ours: &[Sighting], port: u16) -> Self {
        let pid = resident.process.pid;
        let its = match proc.shares_our_network(pid) {
            Some(true) => ours.to_vec(),
            Some(false) | None => sightings(proc, View::Of(pid), port).unwrap_or_else(|_| ours.to_vec()),
        };
        let visible = merge(ours, &its);
        let inodes: Vec<_> = visible.iter().map(|socket| socket.inode).collect();
        let (sockets, proven) = claimed(&visible, &its, proc.holds(pid, &inodes));
        Self { resident, sockets, proven }
    }
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
                listed.map(|row| Sighting { view, family, inode: row.inode, address: row.address }).collect();
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
