//! The file with the pre-shared key.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use nix::unistd::{Uid, geteuid};

use crate::proto::seal::Key;

/// A key file is one line; more is none.
const FILE_BYTES_MAX: u64 = 1_024;
/// Permissions of everybody, and of the group to write.
const OTHERS: u32 = 0o027;

/// Reads the key.
///
/// # Errors
/// Says which file, and why: it cannot be read, it is somebody else's, everybody may read it, it holds no key.
pub fn load(path: &Path) -> Result<Key, String> {
    let cannot = |error: std::io::Error| format!("cannot read the key {}: {error}", path.display());
    let file = File::open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => format!("there is no key {}: `ossec-broker genkey` makes one", path.display()),
        _ => cannot(error),
    })?;
    let metadata = file.metadata().map_err(cannot)?;
    if metadata.is_dir() {
        return Err(cannot(ErrorKind::IsADirectory.into()));
    }
    if !is_trusted(Uid::from_raw(metadata.uid()), geteuid()) {
        let own = geteuid();
        let whose = if own.is_root() { "root".to_string() } else { format!("root or to user {own}, that runs this") };
        let (path, owner) = (path.display(), metadata.uid());
        return Err(format!("cannot use the key {path}: it belongs to user {owner}, and must belong to {whose}"));
    }
    if metadata.permissions().mode() & OTHERS != 0 {
        return Err(format!("cannot use the key {}: others may read or write it; chmod 600 it", path.display()));
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(cannot)?;
    Key::from_text(&String::from_utf8_lossy(&bytes))
        .map_err(|why| format!("cannot use the key {}: {why}", path.display()))
}

/// Whoever owns the file knows the key and can change it at any time, whatever its permissions say.
const fn is_trusted(owner: Uid, own: Uid) -> bool {
    owner.is_root() || owner.as_raw() == own.as_raw()
}

/// A key that nobody has.
///
/// # Errors
/// The system gives no random numbers.
pub fn generate() -> Result<Key, String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| format!("cannot make a key: {error}"))?;
    Ok(Key::new(bytes))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::os::net;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(text: &str, mode: u32) -> Self {
            let path =
                std::env::temp_dir().join(format!("ossec-broker-key-{}-{:x}", std::process::id(), net::random()));
            fs::write(&path, text).expect("a file");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("permissions");
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    #[test]
    fn a_key_file_belongs_to_root_or_to_who_runs_this() {
        let [root, user, other] = [0, 1_000, 1_001].map(Uid::from_raw);
        assert!(is_trusted(root, root) && is_trusted(user, user) && is_trusted(root, user));
        assert!(!is_trusted(user, root) && !is_trusted(other, user));
        if !geteuid().is_root() {
            return;
        }
        // Only root can give a file away.
        let key = Scratch::new(&generate().expect("the system gives random numbers").to_text(), 0o600);
        std::os::unix::fs::chown(&key.0, Some(4_711), None).expect("root may");
        assert!(load(&key.0).is_err_and(|why| why.contains("belongs to user 4711")));
    }

    #[test]
    fn a_key_is_read_unless_everybody_may() {
        let key = generate().expect("the system gives random numbers");
        assert_eq!(load(&Scratch::new(&(key.to_text() + "\n"), 0o600).0), Ok(key.clone()));
        assert_eq!(load(&Scratch::new(&key.to_text(), 0o640).0), Ok(key.clone()));
        let refused = load(&Scratch::new(&key.to_text(), 0o644).0);
        assert!(refused.is_err_and(|why| why.contains("others may read or write it") && !why.contains(&key.to_text())));
        assert!(load(&Scratch::new("secret", 0o600).0).is_err_and(|why| !why.contains("secret")));
        assert!(load(&Scratch::new("\u{fffd}", 0o600).0).is_err_and(|why| why.contains("genkey")));
        assert!(load(Path::new("/nowhere")).is_err_and(|why| why.contains("/nowhere") && why.contains("genkey")));
        assert!(load(&std::env::temp_dir()).is_err_and(|why| why.contains("directory")));
        assert!(load(&Scratch::new(&key.to_text(), 0o660).0).is_err());
        assert_ne!(generate(), Ok(key));
    }
}
