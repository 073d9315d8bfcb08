//! Another user instead of root once the sockets are bound, with those of root's rights that are still needed.

use std::ffi::CString;

use caps::securebits::set_keepcaps;
use caps::{CapSet, CapsHashSet};
use nix::errno::Errno;
use nix::sys::prctl::{set_dumpable, set_no_new_privs};
use nix::unistd::{Uid, User, initgroups, setgid, setuid};
use thiserror::Error;

use crate::os::threads::Cause;

pub use caps::Capability as Right;

/// This process has not become the user of this name.
#[derive(Debug, Error)]
#[error("cannot become the user {0:?}: {1}")]
pub struct UserError(String, #[source] Cause);

/// Makes this process another user's, with no rights but `kept`, as far as it has them.
///
/// This comes before threads are started: a thread inherits its rights, and a thread that already runs loses all of
/// them.
pub fn become_user(name: &str, kept: &[Right]) -> Result<(), UserError> {
    change(name, kept).map_err(|why| UserError(name.into(), why))?;
    log::info!("running as {name}");
    Ok(())
}

fn become_other(name: &str, user: &User) -> Result<(), Cause> {
    let group_name = CString::new(name)?;
    // Rights would end with the change of the user.
    set_keepcaps(true)?;
    initgroups(&group_name, user.gid).map_err(|error| match error {
        Errno::EPERM => "only root can".into(),
        _ => Cause::from(error),
    })?;
    setgid(user.gid)?;
    setuid(user.uid)?;
    Ok(set_keepcaps(false)?)
}

/// Passes these rights on to the next program in the place of this one, as far as this process has them.
pub fn pass_on(rights: &[Right]) -> Result<(), Cause> {
    for &right in rights {
        if caps::has_cap(None, CapSet::Permitted, right)? {
            caps::raise(None, CapSet::Inheritable, right)?;
            caps::raise(None, CapSet::Ambient, right)?;
        }
    }
    Ok(())
}

/// Keeps the memory of this process from other processes of its user, and from core dumps: it has a key.
pub fn hide_memory() {
    if let Err(error) = set_dumpable(false) {
        log::debug!("other processes may look into this one: {error}");
    }
}

fn change(name: &str, kept: &[Right]) -> Result<(), Cause> {
    let user = User::from_name(name)?.ok_or("there is no such user")?;
    let had = caps::read(None, CapSet::Permitted)?;
    // The process before this one may have become that user.
    if Uid::current() != user.uid || Uid::effective() != user.uid {
        become_other(name, &user)?;
    }
    let keep: CapsHashSet = kept.iter().copied().filter(|right| had.contains(right)).collect();
    for set in [CapSet::Effective, CapSet::Inheritable] {
        caps::clear(None, set)?;
    }
    for set in [CapSet::Permitted, CapSet::Effective] {
        caps::set(None, set, &keep)?;
    }
    set_no_new_privs()?;
    if Uid::effective() == user.uid && Uid::current() == user.uid {
        Ok(())
    } else {
        Err("the system did not do it".into())
    }
}
