//! The file with the pre-shared key.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, geteuid};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::os::threads::Cause;
use crate::proto::seal::Key;

/// A key file is one line; a larger file is none.
const FILE_BYTES_MAX: u64 = 1_024;
/// The permissions that make a key file useless: everybody's, and the group's to write.
const REFUSED_MODE: u32 = 0o027;

/// Why there is no key.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum KeyError {
    #[error("there is no key {path}: `ossec-broker genkey` makes one", path = .0.display())]
    Missing(PathBuf),
    #[error("cannot read the key {path}: {1}", path = .0.display())]
    Read(PathBuf, #[source] io::Error),
    #[error("cannot use the key {path}: {1}", path = .0.display())]
    Unfit(PathBuf, #[source] Cause),
    #[error("cannot make a key: {0}")]
    Random(#[from] getrandom::Error),
}

/// Reads the key.
pub fn load(path: &Path) -> Result<Key, KeyError> {
    let cannot = |error: io::Error| match error.kind() {
        ErrorKind::NotFound => KeyError::Missing(path.into()),
        _ => KeyError::Read(path.into(), error),
    };
    let unfit = |why: Cause| KeyError::Unfit(path.into(), why);
    let file = File::open(path).map_err(cannot)?;
    let metadata = file.metadata().map_err(cannot)?;
    if metadata.is_dir() {
        return Err(cannot(ErrorKind::IsADirectory.into()));
    }
    let (owner, user) = (metadata.uid(), geteuid());
    if !is_trusted(Uid::from_raw(owner), user) {
        let trusted = if user.is_root() { "root".into() } else { format!("root or to user {user}, that runs this") };
        return Err(unfit(format!("it belongs to user {owner}, and must belong to {trusted}").into()));
    }
    if metadata.permissions().mode() & REFUSED_MODE != 0 {
        return Err(unfit("others may read or write it; chmod 600 it".into()));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX as usize));
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(cannot)?;
    Key::from_text(&String::from_utf8_lossy(&bytes)).map_err(|why| unfit(why.into()))
}

/// A file's owner knows the key and can change it at any time, whatever the permissions say.
const fn is_trusted(owner: Uid, user: Uid) -> bool {
    owner.is_root() || owner.as_raw() == user.as_raw()
}

/// A key that nobody has.
pub fn generate() -> Result<Key, KeyError> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *bytes)?;
    Ok(Key::new(*bytes))
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

    /// The error that says why the key is not used.
    fn refusal(path: &Path) -> String {
        load(path).expect_err("it is not used").to_string()
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
        assert!(refusal(&key.0).contains("belongs to user 4711"));
    }

    #[test]
    fn a_key_is_read_unless_everybody_may() {
        let key = generate().expect("the system gives random numbers");
        for (text, mode) in [(key.to_text() + "\n", 0o600), (key.to_text(), 0o640)] {
            assert_eq!(load(&Scratch::new(&text, mode).0).ok(), Some(key.clone()));
        }
        let refused = refusal(&Scratch::new(&key.to_text(), 0o644).0);
        assert!(refused.contains("others may read or write it") && !refused.contains(&key.to_text()), "{refused}");
        assert!(!refusal(&Scratch::new("secret", 0o600).0).contains("secret"));
        assert!(refusal(&Scratch::new("\u{fffd}", 0o600).0).contains("genkey"));
        let missing = refusal(Path::new("/nowhere"));
        assert!(missing.contains("/nowhere") && missing.contains("genkey"), "{missing}");
        assert!(refusal(&std::env::temp_dir()).contains("directory"));
        assert!(load(&Scratch::new(&key.to_text(), 0o660).0).is_err());
        assert_ne!(generate().ok(), Some(key));
    }
}
