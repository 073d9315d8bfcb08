//! The file with the pre-shared keys: the first one is used, all are accepted.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, geteuid};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::os::threads::Cause;
use crate::proto::seal::{Key, KeyTextError, Keys};

/// A file of keys is a few lines; a longer file is none.
const FILE_BYTES_MAX: u64 = 4_096;
/// Most keys in a file: each is tried.
const KEYS_MAX: usize = 16;
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

/// Reads the keys, of which there is one at least.
pub fn load(path: &Path) -> Result<Keys, KeyError> {
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
    // All of it at once, so that no copy of it is left behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX as usize + 1));
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(unfit("it is too long for a file of keys".into()));
    }
    keys_from(&bytes).map_err(unfit)
}

/// Reads the key that a client uses: the first one.
pub fn load_first(path: &Path) -> Result<Key, KeyError> {
    load(path).map(|keys| keys[0].clone())
}

/// Keys, one a line; lines that are blank or begin with `#` say nothing.
fn keys_from(bytes: &[u8]) -> Result<Keys, Cause> {
    let mut keys = Vec::new();
    for (line, number) in bytes.split(|&byte| byte == b'\n').zip(1..) {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let key = std::str::from_utf8(line).map_err(|_| KeyTextError::Digits).and_then(Key::from_text);
        keys.push(key.map_err(|why| format!("line {number}: {why}"))?);
    }
    match keys.len() {
        0 => Err(KeyTextError::Empty.into()),
        1..=KEYS_MAX => Ok(keys.into()),
        _ => Err(format!("it has more than {KEYS_MAX} keys").into()),
    }
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
    fn a_file_may_have_several_keys_and_the_first_is_used() {
        let [one, two] = [(); 2].map(|()| generate().expect("the system gives random numbers"));
        let file = |text: String| Scratch::new(&text, 0o600);
        let (first, second) = (one.to_text(), two.to_text());
        let both = file(format!("# of May\n{first}\r\n\n  {second}\n"));
        assert_eq!(load(&both.0).expect("they are keys")[..], [one.clone(), two]);
        assert_eq!(load_first(&both.0).ok(), Some(one));
        let why = refusal(&file(format!("{first}\n# of June\nsecret\n")).0);
        assert!(why.contains("line 3: not 64") && !why.contains("secret") && !why.contains(&first), "{why}");
        assert!(refusal(&file("# nothing\n".into()).0).contains("empty"));
        let many = |count: usize| file((first.clone() + "\n").repeat(count));
        assert!(load(&many(KEYS_MAX).0).is_ok() && refusal(&many(KEYS_MAX + 1).0).contains("more than 16"));
        assert!(refusal(&file("#".repeat(5_000)).0).contains("too long"));
    }

    #[test]
    fn a_key_is_read_unless_everybody_may() {
        let key = generate().expect("the system gives random numbers");
        for (text, mode) in [(key.to_text() + "\n", 0o600), (key.to_text(), 0o640)] {
            assert_eq!(load_first(&Scratch::new(&text, mode).0).ok(), Some(key.clone()));
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
