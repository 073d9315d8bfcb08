//! Becoming another user once the sockets are bound, and keeping of root's rights what is still needed.

use caps::securebits::set_keepcaps;
use caps::{CapSet, CapsHashSet};
use nix::errno::Errno;
use nix::sys::prctl::set_no_new_privs;
use nix::unistd::{Uid, User, initgroups, setgid, setuid};

/// A capability of Linux, by its name.
pub use caps::Capability as Right;

/// Makes this process another user's, with no rights but `kept`, as far as it has them.
///
/// To be called before threads are started: a thread inherits its rights, and those of threads that are there already are lost whole. The error
/// says what was attempted and why it failed.
pub fn become_user(name: &str, kept: &[Right]) -> Result<(), String> {
    let cannot = |what: &dyn std::fmt::Display| format!("cannot become the user {name:?}: {what}");
    let user =
        User::from_name(name).map_err(|error| cannot(&error))?.ok_or_else(|| cannot(&"there is no such user"))?;
    let group_name = std::ffi::CString::new(name).map_err(|error| cannot(&error))?;
    let had = caps::read(None, CapSet::Permitted).map_err(|error| cannot(&error))?;
    // For the change of user alone.
    set_keepcaps(true).map_err(|error| cannot(&error))?;
    initgroups(&group_name, user.gid).map_err(|error| match error {
        Errno::EPERM => cannot(&"only root can"),
        _ => cannot(&error),
    })?;
    setgid(user.gid).map_err(|error| cannot(&error))?;
    setuid(user.uid).map_err(|error| cannot(&error))?;
    set_keepcaps(false).map_err(|error| cannot(&error))?;
    let keep: CapsHashSet = kept.iter().copied().filter(|right| had.contains(right)).collect();
    for set in [CapSet::Effective, CapSet::Inheritable] {
        caps::clear(None, set).map_err(|error| cannot(&error))?;
    }
    for set in [CapSet::Permitted, CapSet::Effective] {
        caps::set(None, set, &keep).map_err(|error| cannot(&error))?;
    }
    set_no_new_privs().map_err(|error| cannot(&error))?;
    if Uid::effective() != user.uid || Uid::current() != user.uid {
        return Err(cannot(&"the system did not do it"));
    }
    log::info!("running as {name}");
    Ok(())
}
