//! An imitation of `/proc`.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::unistd::geteuid;

pub(super) const OUR_NETWORK: &str = "net:[4026531840]";
pub(super) const OUR_USERS: &str = "user:[4026531837]";
pub(super) const CONTAINER: &str = "net:[4026532574]";

/// A directory that is removed when the test ends.
pub(super) struct Tree {
    root: PathBuf,
}

impl Tree {
    /// A system without processes and sockets.
    pub(super) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ossec-broker-proc-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let tree = Self { root: std::env::temp_dir().join(name) };
        tree.write("sys/net/core/rmem_default", "425984\n");
        tree.link("self/ns/net", OUR_NETWORK);
        tree.link("self/ns/user", OUR_USERS);
        tree.udp("net/udp", &[]);
        tree.udp("net/udp6", &[]);
        tree
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// A sleeping process in our network namespace that started `pid` ticks after boot and has these sockets open.
    pub(super) fn process(&self, pid: u32, comm: &str, inodes: &[u64]) {
        self.process_in(OUR_NETWORK, pid, comm, inodes);
        self.link(&format!("{pid}/net"), "../net");
    }

    /// A sleeping process in another network namespace. The test has yet to make its `net`.
    pub(super) fn process_in(&self, network: &str, pid: u32, name: &str, inodes: &[u64]) {
        let comm = &name[..name.len().min(15)];
        self.write(&format!("{pid}/comm"), format!("{comm}\n"));
        self.write(&format!("{pid}/cmdline"), "/var/ossec/bin/ossec-remoted\0-f\0");
        self.state(pid, comm, 'S', u64::from(pid));
        self.executes(pid, &format!("bin/{name}"));
        self.belongs_to(pid, geteuid().as_raw());
        self.link(&format!("{pid}/ns/user"), OUR_USERS);
        self.link(&format!("{pid}/root"), "/");
        self.link(&format!("{pid}/ns/net"), network);
        self.link(&format!("{pid}/fd/0"), "/dev/null");
        self.link(&format!("{pid}/fd/1"), "pipe:[1]");
        for (index, inode) in inodes.iter().enumerate() {
            self.link(&format!("{pid}/fd/{}", index + 3), format!("socket:[{inode}]"));
        }
    }

    /// Sets the executable of a process: a file that is made, which nobody else may write to.
    pub(super) fn executes(&self, pid: u32, path: &str) {
        self.write(path, "a program");
        self.link(&format!("{pid}/exe"), self.root.join(path));
    }

    pub(super) fn belongs_to(&self, pid: u32, user: u32) {
        self.write(&format!("{pid}/status"), format!("Name:\tx\nUmask:\t0022\nUid:\t{user}\t{user}\t0\t0\n"));
    }

    /// Sets the process namespace and the root directory of a process.
    pub(super) fn lives_in(&self, pid: u32, pids: &str, root: &str) {
        self.link(&format!("{pid}/ns/pid"), pids);
        self.link(&format!("{pid}/root"), root);
    }

    pub(super) fn state(&self, pid: u32, comm: &str, state: char, start_ticks: u64) {
        let line = format!(
            "{pid} ({comm}) {state} 1 1 1 0 -1 4194560 101 0 0 0 0 0 0 0 20 0 1 0 {start_ticks} 3133440 393\n"
        );
        self.write(&format!("{pid}/stat"), &line);
    }

    /// A table of sockets: port, state, rx_queue, inode, drops.
    pub(super) fn udp(&self, path: &str, rows: &[(u16, u8, u64, u64, u32)]) {
        self.udp_at(path, &"0".repeat(if path.ends_with('6') { 32 } else { 8 }), rows);
    }

    /// A table of sockets that are bound to this address.
    pub(super) fn udp_at(&self, path: &str, address: &str, rows: &[(u16, u8, u64, u64, u32)]) {
        let mut table =
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
                .to_owned();
        for (port, state, rx_queue, inode, drops) in rows {
            let columns = [
                format!("   0: {address}:{port:04X} {address}:0000 {state:02X} 00000000:{rx_queue:08X}"),
                format!("00:00000000 00000000     0        0 {inode} 2 00000000b85f6373 {drops}\n"),
            ];
            table += &columns.join(" ");
        }
        self.write(path, &table);
    }

    pub(super) fn remove(&self, path: &str) {
        let path = self.root.join(path);
        let is_dir = fs::symlink_metadata(&path).is_ok_and(|file| file.is_dir());
        if is_dir { fs::remove_dir_all(path) } else { fs::remove_file(path) }.expect("it was there");
    }

    pub(super) fn link(&self, path: &str, target: impl AsRef<Path>) {
        let path = self.parent_of(path);
        let _ = fs::remove_file(&path);
        symlink(target, path).expect("a new link");
    }

    pub(super) fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.parent_of(path);
        fs::write(&path, text).expect("a file");
        fs::set_permissions(path, Permissions::from_mode(0o644)).expect("it is ours");
    }

    fn parent_of(&self, path: &str) -> PathBuf {
        let path = self.root.join(path);
        let folder = path.parent().expect("below the root");
        fs::create_dir_all(folder).expect("a directory");
        fs::set_permissions(folder, Permissions::from_mode(0o755)).expect("it is ours");
        path
    }
}

/// An address as the kernel shows it: words in the byte order of this machine.
pub(super) fn hexadecimal(octets: &[u8]) -> String {
    let word = |bytes: &[u8]| u32::from_ne_bytes(bytes.try_into().expect("four bytes"));
    octets.chunks(4).map(|bytes| format!("{:08X}", word(bytes))).collect::<Vec<_>>().concat()
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}
