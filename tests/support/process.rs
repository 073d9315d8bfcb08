//! A process that ends with the test, and the system's account of it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;

use super::{namespaces, wait_until};

/// The last lines of a process's output that a failing test prints.
const TAIL_LINES: usize = 60;

/// A running process. When the value goes, so does the process. If the test is failing, the end of its output is
/// printed.
pub(crate) struct Process {
    child: Child,
    name: String,
    output: PathBuf,
}

impl Process {
    /// Starts `command`. Its output goes to the file `output`.
    pub(crate) fn start(mut command: Command, name: &str, output: PathBuf) -> Self {
        let file = File::create(&output).unwrap_or_else(|error| panic!("cannot create {}: {error}", output.display()));
        let second = file.try_clone().expect("a file can be opened twice");
        command.stdin(Stdio::null()).stdout(file).stderr(second);
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Self { child, name: name.to_owned(), output }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, by its name (`STOP`). The shell's own `kill` needs no package.
    pub(crate) fn signal(&self, signal: &str) {
        namespaces::run(Command::new("sh").args(["-c", &format!("kill -{signal} {}", self.child.id())]));
    }

    /// Ends the process at once, as a crash would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it is ours");
        self.child.wait().expect("it is ours");
    }

    /// Bounds the descriptors that the process may have from here on.
    pub(crate) fn limit_descriptors(&self, most: u32) {
        // Only the soft limit is set: it can be raised again.
        let limit = format!("--nofile={most}:");
        namespaces::run(Command::new("prlimit").args(["--pid", &self.child.id().to_string(), &limit]));
    }

    /// Waits until the process has ended by itself.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let (child, name) = (&mut self.child, &self.name);
        wait_until(&format!("{name} ends"), || child.try_wait().expect("it is ours").ok_or("it still runs".to_owned()))
    }

    /// Whether the process is still running.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("it is ours").is_none()
    }

    /// The output of the process so far.
    pub(crate) fn output(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// Resident memory in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        status_field(Path::new(&format!("/proc/{}", self.child.id())), "VmRSS:")
    }

    /// Time that the process has had a processor, in milliseconds.
    pub(crate) fn processor_ms(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it runs");
        // Behind the name, which may have blanks; a tick is 10 ms on every Linux.
        let fields: Vec<u64> = stat
            .rsplit(')')
            .next()
            .into_iter()
            .flat_map(str::split_ascii_whitespace)
            .map(|field| field.parse().unwrap_or(0))
            .collect();
        (fields[11] + fields[12]) * 10
    }

    /// Bytes that the process has had written to a disk.
    pub(crate) fn written_bytes(&self) -> u64 {
        let io = fs::read_to_string(format!("/proc/{}/io", self.child.id())).expect("it runs");
        let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
        line.and_then(|bytes| bytes.parse().ok()).expect("the system counts")
    }

    /// The system's account of each of the threads: the `status` files of `/proc`.
    pub(crate) fn thread_statuses(&self) -> Vec<String> {
        let status = |thread: PathBuf| fs::read_to_string(thread.join("status")).expect("it runs");
        self.threads().map(status).collect()
    }

    fn threads(&self) -> impl Iterator<Item = PathBuf> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("it runs");
        tasks.flatten().map(|task| task.path())
    }

    /// The number of switches to the threads since they started, of their own will or not.
    pub(crate) fn context_switches(&self) -> u64 {
        let both = ["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"];
        self.threads().map(|path| both.iter().map(|field| status_field(&path, field)).sum::<u64>()).sum()
    }
}

/// The number behind `field` in a `status` file of `/proc`.
fn status_field(directory: &Path, field: &str) -> u64 {
    let status = fs::read_to_string(directory.join("status")).unwrap_or_default();
    let value = status.lines().find_map(|line| line.strip_prefix(field));
    value.and_then(|value| value.split_ascii_whitespace().next()?.parse().ok()).unwrap_or(0)
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both calls fail if the process has ended already, which is just as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let output = self.output();
            let lines: Vec<&str> = output.lines().collect();
            let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
            eprintln!("---- {} ({} lines, the last ones):\n{}", self.name, lines.len(), tail.join("\n"));
        }
    }
}
