//! Another user instead of root once the sockets are bound, with those of root's rights that are still needed.

use std::ffi::{CString, NulError};

use caps::errors::CapsError;
use caps::securebits::set_keepcaps;
use caps::{CapSet, CapsHashSet};
use nix::errno::Errno;
use nix::sys::prctl::set_no_new_privs;
use nix::unistd::{Uid, User, initgroups, setgid, setuid};
use thiserror::Error;

/// A capability of Linux, by its name.
pub use caps::Capability as Right;

/// This process has not become the user of this name.
#[derive(Debug, Error)]
#[error("cannot become the user {user:?}: {source}")]
pub struct UserError {
    user: String,
    source: Cause,
}

/// Why the user was not changed.
#[derive(Debug, Error)]
enum Cause {
    #[error("there is no such user")]
    Unknown,
    #[error("only root can")]
    NotRoot,
    #[error("the system did not do it")]
    NotDone,
    #[error(transparent)]
    Name(#[from] NulError),
    #[error(transparent)]
    System(#[from] Errno),
    #[error(transparent)]
    Rights(#[from] CapsError),
}

/// Makes this process another user's, with no rights but `kept`, as far as it has them.
///
/// This comes before threads are started: a thread inherits its rights, and a thread that already runs loses all of
/// them.
///
/// # Errors
/// The user does not exist, the process may not change its user, or the system refuses a step.
pub fn become_user(name: &str, kept: &[Right]) -> Result<(), UserError> {
    change(name, kept).map_err(|source| UserError { user: name.into(), source })?;
    log::info!("running as {name}");
    Ok(())
}

fn change(name: &str, kept: &[Right]) -> Result<(), Cause> {
    let user = User::from_name(name)?.ok_or(Cause::Unknown)?;
    let group_name = CString::new(name)?;
    let had = caps::read(None, CapSet::Permitted)?;
    // Rights would end with the change of the user.
    set_keepcaps(true)?;
    initgroups(&group_name, user.gid).map_err(|error| match error {
        Errno::EPERM => Cause::NotRoot,
        _ => error.into(),
    })?;
    setgid(user.gid)?;
    setuid(user.uid)?;
    set_keepcaps(false)?;
    let keep: CapsHashSet = kept.iter().copied().filter(|right| had.contains(right)).collect();
    for set in [CapSet::Effective, CapSet::Inheritable] {
        caps::clear(None, set)?;
    }
    for set in [CapSet::Permitted, CapSet::Effective] {
        caps::set(None, set, &keep)?;
    }
    set_no_new_privs()?;
    if Uid::effective() == user.uid && Uid::current() == user.uid { Ok(()) } else { Err(Cause::NotDone) }
}
