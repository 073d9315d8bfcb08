//! Sockets that outlive a process: the agents' socket goes on taking datagrams in while no process reads it.
//!
//! They come from an init system (systemd's socket activation), or from the process before, which has replaced itself
//! by a newer program. Both pass descriptors from 3 on, with `LISTEN_FDS`, `LISTEN_PID` and `LISTEN_FDNAMES`:
//!
//! | name | socket |
//! |---|---|
//! | `ossec-broker-agents` | the agents' socket, which the process before had bound itself |
//! | `agent-…` | the socket of a session towards remoted; behind the hyphen stands the agent, as the spool has it |
//! | any other | the agents' socket, which an init system keeps |

use std::ffi::OsString;
use std::io;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use crossbeam_channel::bounded;
use listenfd::ListenFd;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sd_notify::NotifyState;
use thiserror::Error;

use crate::os::threads::{Cause, detach};
use crate::proto::client::spool::record::Agent;

/// A program that takes longer to say that it can go on cannot.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
const FIRST_DESCRIPTOR: i32 = 3;
const NAMES: &str = "LISTEN_FDNAMES";
const AGENTS: &str = "ossec-broker-agents";
const AGENT: &str = "agent-";
/// The system refuses longer strings in the environment: 128 KiB on Linux.
const NAMES_BYTES_MAX: usize = 96 * 1024;

/// Sockets were passed to this process that it cannot use.
#[derive(Debug, Error)]
#[error("cannot take over a socket: {0}")]
pub struct InheritError(Cause);

/// Sockets that were passed to this process.
#[derive(Debug, Default)]
pub struct Inherited {
    /// The agents' socket.
    pub agents: Option<UdpSocket>,
    /// An init system keeps the agents' socket: it must not be changed at the end.
    pub is_kept: bool,
    /// The sockets of sessions, each with its agent.
    pub upstreams: Vec<(Agent, UdpSocket)>,
}

impl Inherited {
    /// The sockets that the environment names. It comes before any thread is started, since it changes the
    /// environment.
    pub fn from_environment() -> Result<Self, InheritError> {
        let names = std::env::var(NAMES).unwrap_or_default();
        let (mut passed, mut inherited) = (ListenFd::from_env(), Self::default());
        let mut names = names.split(':');
        for at in 0..passed.len() {
            let name = names.next().unwrap_or_default();
            let socket = passed.take_udp_socket(at).map_err(|error| InheritError(error.into()))?;
            let Some(socket) = socket else {
                continue;
            };
            if let Some(agent) = name.strip_prefix(AGENT).and_then(Agent::from_text) {
                inherited.upstreams.push((agent, socket));
            } else if inherited.agents.replace(socket).is_some() {
                return Err(InheritError("there are several, and one is enough".into()));
            } else {
                inherited.is_kept = name != AGENTS;
            }
        }
        Ok(inherited)
    }
}

/// Tells systemd, where it waits for that, that the agents' socket is read.
pub fn tell_ready() {
    if let Err(error) = sd_notify::notify(false, &[NotifyState::Ready]) {
        log::debug!("cannot tell the init system that all is ready: {error}");
    }
}

/// A program that takes the place of this one.
#[derive(Clone, Debug)]
pub struct Image {
    path: PathBuf,
    arguments: Vec<OsString>,
}

/// Sockets for the program that takes the place of this one.
#[derive(Debug, Default)]
pub struct Legacy {
    names: String,
    descriptors: Vec<OwnedFd>,
}

impl Legacy {
    /// The agents' socket, which an init system keeps or not.
    pub fn new(agents: OwnedFd, is_kept: bool) -> Self {
        Self { names: if is_kept { "kept" } else { AGENTS }.into(), descriptors: vec![agents] }
    }

    /// Adds the socket of a session, if there is still room for its name.
    pub fn push(&mut self, agent: &Agent, socket: OwnedFd) {
        let name = format!(":{AGENT}{}", agent.to_text());
        if self.names.len() + name.len() <= NAMES_BYTES_MAX {
            self.names += &name;
            self.descriptors.push(socket);
        }
    }
}

impl Image {
    /// The program that stands where this one was started from, with the arguments of this one. `None` if the system
    /// does not tell the place.
    pub fn of_this_process() -> Option<Self> {
        let mut words = std::env::args_os();
        let named = words.next().map(PathBuf::from).filter(|path| path.components().count() > 1);
        // A link may point to another version later.
        let named = named.and_then(|path| std::path::absolute(path).ok()).filter(|path| path.exists());
        let path = named.or_else(|| std::env::current_exe().ok())?;
        Some(Self { path, arguments: words.collect() })
    }

    /// Where the program stands.
    pub fn path(&self) -> std::path::Display<'_> {
        self.path.display()
    }

    /// Asks the program whether it can go on where this one is: as a process that ends with 0 if it can.
    pub fn accepts(&self) -> Result<(), Cause> {
        let mut child = self.question().spawn()?;
        let id = Pid::from_raw(child.id().cast_signed());
        let (sender, ended) = bounded(1);
        detach("question", move || {
            let _ = sender.send(child.wait());
        })?;
        match ended.recv_timeout(ANSWER_WITHIN) {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(format!("it says no ({status})").into()),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => {
                kill(id, Signal::SIGKILL)?;
                Err(format!("it does not answer within {ANSWER_WITHIN:?}").into())
            }
        }
    }

    fn question(&self) -> Command {
        let mut command = Command::new(&self.path);
        let (role, rest) = self.arguments.split_at(self.arguments.len().min(1));
        command.args(role).args(["--accept-handover", env!("CARGO_PKG_VERSION")]).args(rest);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        for variable in ["LISTEN_FDS", "LISTEN_PID", NAMES] {
            command.env_remove(variable);
        }
        command
    }

    /// Becomes that program, with these variables more in its environment. Returns why it has not.
    pub fn replace(self, legacy: Legacy, variables: Vec<(&str, &str)>) -> io::Error {
        let mut command = Command::new(self.path);
        command.args(self.arguments).env("LISTEN_FDS", legacy.descriptors.len().to_string());
        command.envs(variables).env("LISTEN_PID", std::process::id().to_string()).env(NAMES, legacy.names);
        let mapping = |(parent_fd, child_fd)| FdMapping { parent_fd, child_fd };
        let mappings = legacy.descriptors.into_iter().zip(FIRST_DESCRIPTOR..).map(mapping).collect();
        match command.fd_mappings(mappings) {
            Ok(command) => command.exec(),
            Err(error) => io::Error::other(error),
        }
    }
}
