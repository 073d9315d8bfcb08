//! What the system says of remoted.
//!
//! ```text
//!   slow, on a thread of its own             fast, up to 1,000 times a second
//!   search ───────────────────────► Found ─► Inspector::sample ─────────────► Sample
//!   walks /proc: who has the name,           looks at what was found alone:
//!   and whose is the socket                  /proc/PID/stat, SOCK_DIAG
//! ```
//!
//! A process counts when it has an accepted name *and* owns an unconnected UDP socket on the port. Neither alone is
//! enough: another program can sit on the port, and a remoted that failed to bind it is no use. The search looks in
//! our own network namespace first, then in that of the process (a remoted in a container). A look shows all sockets
//! on the port: one that the search has not seen calls for another search.
//!
//! Guarantees: nothing that the system does makes this room panic, hang or grow without bound. A process id that was
//! given to another process is not taken for the old one, because its start time differs. What cannot be read counts
//! as not there (a process hidden by the mount option `hidepid`).
//!
//! Left out on purpose: pid files (stale after `kill -9`), `ossec-control status` (fails when any daemon is down, and
//! deletes files), the arguments of processes (an editor that has a file of remoted's open bears its name there), and
//! every judgement: that is the verdict's.

pub mod backlog;
// These two are public for `tests/fuzz/` alone.
#[doc(hidden)]
pub mod diag;
#[doc(hidden)]
pub mod proc;
mod sample;
mod search;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use crate::proto::server::judge::{Owner, Place, Places, Presence, Sample, Socket};
use crate::proto::terms::Receives;

pub use sample::Inspector;
pub use search::{Searcher, search, search_in};

/// Each remoted and the analysis daemon that it cannot work without (`ossec-remoted` drops messages 33 s after it lost
/// its own).
const COMPANIONS: [(&str, &str); 2] = [("ossec-remoted", "ossec-analysisd"), ("wazuh-remoted", "wazuh-analysisd")];

/// Longest process name that the kernel keeps: TASK_COMM_LEN is 16, its zero included.
const COMM_BYTES_MAX: usize = 15;

/// Most processes of one name that are looked at: OSSEC runs one for each `<remote>` entry.
const PROCESSES_MAX: usize = 64;

/// Most sockets on the port that are looked at in one table: remoted has one, a group of SO_REUSEPORT at most one for
/// each core.
const SOCKETS_MAX: usize = 256;

/// The processes that are accepted as remoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Names {
    /// No process is looked for: whatever is bound to the port in our own network namespace counts.
    Any,
    /// These: a name is compared with `/proc/PID/comm`, which the kernel cuts after 15 bytes. One with a slash is the
    /// path of an executable, also of one in a container (`/proc/PID/root/…`, the folder where its file system is
    /// mounted): the process must run that very file.
    These(Vec<String>),
}

impl Names {
    /// The names looked for; none where any will do.
    fn listed(&self) -> &[String] {
        match self {
            Self::Any => &[],
            Self::These(names) => names,
        }
    }
}

impl Default for Names {
    fn default() -> Self {
        Self::These(COMPANIONS.iter().map(|(remoted, _)| (*remoted).to_owned()).collect())
    }
}

/// What to look for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The UDP port of remoted.
    pub port: u16,
    /// Only sockets count that receive at one of these addresses; all, if there are none.
    pub addresses: Vec<IpAddr>,
    /// Who may own it.
    pub names: Names,
    /// Further processes that must run, by name, compared as those of [`Names::These`].
    pub required: Vec<String>,
}

/// What a search found: all that [`Inspector::sample`] then watches. The default is "nothing searched yet".
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Who owns the sockets, in order of process id.
    holders: Vec<Holder>,
    /// Processes of an accepted name that own none.
    bare: Vec<Owner>,
    /// Processes of an accepted name that own sockets on the port, but none that receives at [`Wanted::addresses`].
    elsewhere: Vec<Owner>,
    /// The sockets that qualify, and through whose eyes each is seen; each comes once.
    watched: Vec<(View, u64)>,
    /// The inodes of all sockets on the port that the search saw, whosever they are.
    known: Vec<u64>,
    /// Where the sockets of our own network namespace receive, as the newest look shows them.
    places: Places,
    /// No process was looked for: [`Names::Any`].
    port_alone: bool,
    companion: Companion,
    /// Who has each name of [`Wanted::required`], in its order.
    required: Vec<Option<Owner>>,
    /// The holders cannot all belong to one OSSEC.
    scattered: bool,
    /// Bytes of receive buffer that a socket gets which asks for none; stands in where a table does not tell.
    buffer_default: u64,
}

/// A process that owns, or must be taken to own, a socket on the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Holder {
    process: Owner,
    /// The socket was seen among its descriptors; otherwise they may not be read, and name and port had to do.
    proven: bool,
}

/// The analysis daemon that belongs to remoted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Companion {
    /// None belongs to a process of that name.
    #[default]
    NotExpected,
    Missing,
    Seen(Owner),
}

/// Through whose eyes a table of sockets is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    /// Our own network namespace.
    Own,
    /// The network namespace of the process with this id.
    Of(u32),
}

/// The address family of a socket. A dual-stack one is listed as `V6` alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    const BOTH: [Self; 2] = [Self::V4, Self::V6];
}

/// A socket on the port as one look shows it, whosever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Its figures.
    pub socket: Socket,
    /// What it is bound to.
    place: Place,
}

impl Found {
    /// Whether there is a socket to watch. If not, only another search can find one.
    pub fn qualifies(&self) -> bool {
        !self.watched.is_empty()
    }

    /// Whether `/proc/PID/fd` of a process with an accepted name may not be read, so that name and port had to do.
    ///
    /// Without being root it takes CAP_DAC_READ_SEARCH to open that directory, and CAP_SYS_PTRACE to follow the links
    /// in it. Remoted's own user may not: what `setuid` has changed is not dumpable, and its `/proc/PID` belongs to
    /// root.
    pub fn fd_unreadable(&self) -> bool {
        self.holders.iter().any(|holder| !holder.proven)
    }

    /// Whether remoted's socket is one of our own network namespace.
    pub fn is_at_home(&self) -> bool {
        self.watched.iter().any(|(view, _)| *view == View::Own)
    }

    /// The processes that count together as remoted although they cannot belong to one OSSEC, as two in two
    /// containers. None otherwise.
    pub fn scattered(&self) -> Vec<u32> {
        let holders = self.holders.iter().filter(|_| self.scattered);
        holders.map(|holder| holder.process.pid).collect()
    }

    /// Keeps where the sockets receive, as a look shows it.
    pub fn note_places(&mut self, sample: &Sample) {
        if let Some(places) = &sample.places {
            self.places.clone_from(places);
        }
    }

    /// Whether what is sent to this address of our own host and remoted's port reaches one of its sockets.
    ///
    /// # Errors
    /// Where they receive instead, for people.
    pub fn receives_at(&self, target: IpAddr) -> Result<(), String> {
        if self.qualifies() && !self.is_at_home() {
            return Err("is in another network namespace, a container: start the server there".into());
        }
        let instead = match self.places.receive_at(target) {
            Ok(()) => return Ok(()),
            Err(instead) => instead,
        };
        Err(match (instead, self.places.remoted.first()) {
            (Receives::Ipv4Alone, _) => "receives IPv4 alone".into(),
            (Receives::Ipv6Alone, _) => "receives IPv6 alone".into(),
            (Receives::Elsewhere, Some(Place::One(address))) => {
                format!("receives at {address} alone (--remoted at the server says where to inject)")
            }
            (Receives::Elsewhere, _) => "does not receive there: another program's socket does".into(),
            (Receives::Nowhere, _) => "has no socket".into(),
        })
    }

    /// Leaves out what is in other network namespaces: where remoted was seen at home, what stands elsewhere is
    /// another host's.
    #[must_use]
    pub fn at_home(self) -> Self {
        if self.is_at_home() {
            return self;
        }
        Self {
            holders: Vec::new(),
            watched: Vec::new(),
            places: Places::default(),
            companion: Companion::NotExpected,
            scattered: false,
            ..self
        }
    }

    /// Whether `sample`, taken of this, calls for another search: something that was found is gone, or has not been
    /// found yet.
    pub fn is_outdated_by(&self, sample: &Sample) -> bool {
        self.is_lost_in(sample) || sample.companion == Some(false) || sample.missing.is_some()
    }

    /// Whether remoted itself, or a part of it, is not where it was found.
    pub fn is_lost_in(&self, sample: &Sample) -> bool {
        let running = matches!(sample.presence, Presence::Running | Presence::Stopped);
        let owners = self.holders.iter().filter(|holder| holder.proven).count();
        !running || sample.sockets.len() < self.watched.len() || sample.owners.len() < owners
    }
}

/// The analysis daemon that belongs to a process with this name.
fn companion_of(comm: &[u8]) -> Option<&'static str> {
    COMPANIONS.iter().find(|(remoted, _)| is_named(comm, remoted)).map(|(_, companion)| *companion)
}

/// Whether the kernel would show a process called `name` as `comm`.
fn is_named(comm: &[u8], name: &str) -> bool {
    let name = name.as_bytes();
    comm == &name[..name.len().min(COMM_BYTES_MAX)]
}
