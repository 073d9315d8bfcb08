//! The port, the addresses and the processes to look for.

use std::net::IpAddr;

/// Each remoted and the analysis daemon that it needs: `ossec-remoted` drops messages 33 s after it lost its daemon.
const COMPANIONS: [(&str, &str); 2] = [("ossec-remoted", "ossec-analysisd"), ("wazuh-remoted", "wazuh-analysisd")];
/// Longest process name that the kernel keeps: TASK_COMM_LEN is 16, its zero included.
const COMM_BYTES_MAX: usize = 15;

/// The port, the addresses and the processes to look for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The UDP port of remoted.
    pub port: u16,
    /// Only sockets count that receive at one of these addresses; all, if there are none.
    pub addresses: Vec<IpAddr>,
    /// The processes that may own a socket.
    pub names: Names,
    /// Further processes that must run, by name or path, compared like [`Names::These`].
    pub required: Vec<String>,
}

/// The processes that are accepted as remoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Names {
    /// No process is looked for: every socket on the port in our network namespace counts.
    Any,
    /// Processes that run a program with one of these names, as nobody but root can make it. A name with a slash is
    /// the path of an executable, also of one in a container (`/proc/PID/root/…`, the folder where its file system
    /// is mounted): the process must run that very file.
    These(Vec<String>),
}

impl Default for Names {
    fn default() -> Self {
        Self::These(COMPANIONS.iter().map(|(remoted, _)| (*remoted).to_owned()).collect())
    }
}

impl Names {
    /// The accepted names; none where no process is looked for.
    pub fn list(&self) -> &[String] {
        match self {
            Self::Any => &[],
            Self::These(names) => names,
        }
    }
}

pub(super) fn companion_of(comm: &[u8]) -> Option<&'static str> {
    COMPANIONS.iter().find(|(remoted, _)| is_named(comm, remoted)).map(|(_, companion)| *companion)
}

/// The analysis daemon that the kernel would show like this.
pub(super) fn companion_named(comm: &[u8]) -> Option<&'static str> {
    COMPANIONS.iter().map(|(_, companion)| *companion).find(|companion| is_named(comm, companion))
}

/// Whether the kernel would show a process called `name` as `comm`.
pub(super) fn is_named(comm: &[u8], name: &str) -> bool {
    let name = name.as_bytes();
    comm == &name[..name.len().min(COMM_BYTES_MAX)]
}
