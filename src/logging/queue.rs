//! From a thread that logs to standard error, without a wait for its reader.
//!
//! ```text
//!   any thread ──line──► queue (bounded) ──► thread `log` ──write──► standard error
//! ```
//!
//! A full pipe, a paused terminal or a stuck supervisor make a write to standard error wait for ever. Here only the
//! thread `log` waits. When the queue is full, further lines are left out and counted. The count stands in the log
//! where the lines would have stood.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError, after, bounded, select};

/// Lines that wait to be written: an hour of a bad day without `-v`, in some 100 KiB.
const LINES_MAX: usize = 1_024;
/// How long the end of the process waits for the last lines to be read.
const FINISH_MAX: Duration = Duration::from_secs(1);
const UNREAD: &str = "standard error was not read fast enough";

/// An order for the thread `log`.
#[derive(Debug)]
enum Entry {
    Line {
        text: Vec<u8>,
        /// Lines that were left out right before this one.
        left_out: u64,
    },
    /// When everything before this is written, the sender is dropped.
    Finish(Sender<()>),
}

/// The end of the queue where lines go in. Each call of `write` is a whole line.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    entries: Sender<Entry>,
    left_out: Arc<AtomicU64>,
}

/// The end of the queue where lines come out.
#[derive(Debug)]
pub(super) struct Lines {
    entries: Receiver<Entry>,
    left_out: Arc<AtomicU64>,
}

pub(super) fn queue() -> (Queue, Lines) {
    let (sender, entries) = bounded(LINES_MAX);
    let left_out = Arc::new(AtomicU64::new(0));
    (Queue { entries: sender, left_out: Arc::clone(&left_out) }, Lines { entries, left_out })
}

impl Queue {
    /// Waits until every logged line is written, for as long as a person who ends a process has patience.
    pub(super) fn finish(&self) {
        let late = after(FINISH_MAX);
        let (done, finished) = bounded(0);
        select! {
            send(self.entries, Entry::Finish(done)) -> _ => {}
            recv(late) -> _ => return,
        }
        select! {
            recv(finished) -> _ => {}
            recv(late) -> _ => {}
        }
    }
}

impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let left_out = self.left_out.swap(0, Ordering::Relaxed);
        if self.entries.try_send(Entry::Line { text: line.to_vec(), left_out }).is_err() {
            self.left_out.fetch_add(left_out + 1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// Writes lines until nobody can log any more. `note` makes a line of a text.
    pub(super) fn write_to(&self, out: impl Write, note: impl Fn(&str) -> Vec<u8>) {
        let mut pen = Pen { out, note, lost: 0, why: String::new() };
        loop {
            let entry = match self.entries.try_recv() {
                Ok(entry) => entry,
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => {
                    // The reader has caught up, and perhaps no thread logs anything for hours.
                    pen.leave_out(self.left_out.swap(0, Ordering::Relaxed));
                    let Ok(entry) = self.entries.recv() else {
                        return;
                    };
                    entry
                }
            };
            match entry {
                Entry::Line { text, left_out } => {
                    pen.leave_out(left_out);
                    pen.write(&text);
                }
                Entry::Finish(_done) => pen.leave_out(self.left_out.swap(0, Ordering::Relaxed)),
            }
        }
    }
}

struct Pen<W, N> {
    out: W,
    note: N,
    /// Lines that could not be written, and why.
    lost: u64,
    why: String,
}

impl<W: Write, N: Fn(&str) -> Vec<u8>> Pen<W, N> {
    /// Writes a line. If that fails, as on a full disk, the next line that is written has a note before it.
    fn write(&mut self, line: &[u8]) {
        let mut text = if self.lost > 0 { (self.note)(&left_out(self.lost, &self.why)) } else { Vec::new() };
        text.extend_from_slice(line);
        match self.out.write_all(&text) {
            Ok(()) => self.lost = 0,
            Err(error) => {
                self.lost += 1;
                self.why = error.to_string();
            }
        }
    }

    fn leave_out(&mut self, count: u64) {
        if count > 0 {
            self.write(&(self.note)(&left_out(count, UNREAD)));
        }
    }
}

fn left_out(count: u64, why: &str) -> String {
    if count == 1 { format!("1 line was left out: {why}") } else { format!("{count} lines were left out: {why}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(text: &str) -> Vec<u8> {
        format!("[{text}]\n").into_bytes()
    }

    fn log(queue: &mut Queue, numbers: std::ops::Range<usize>) {
        for number in numbers {
            queue.write_all(format!("{number}\n").as_bytes()).expect("logging never fails");
        }
    }

    /// A disk that is full for the next `failures` writes.
    struct Disk {
        written: Vec<u8>,
        failures: u32,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.failures > 0 {
                self.failures -= 1;
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.written.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_finds_no_place_is_counted_where_it_would_have_stood() {
        let (mut queue, lines) = queue();
        log(&mut queue, 0..LINES_MAX + 3);
        let Ok(Entry::Line { text, left_out: 0 }) = lines.entries.recv() else { panic!("the oldest comes first") };
        assert_eq!(text, b"0\n");
        log(&mut queue, LINES_MAX + 3..LINES_MAX + 5);
        drop(queue);
        let mut written = Vec::new();
        lines.write_to(&mut written, note);
        let written = String::from_utf8(written).expect("text");
        let end: Vec<&str> = written.lines().skip(LINES_MAX - 2).collect();
        let note = format!("[3 lines were left out: {UNREAD}]");
        assert_eq!(end, ["1023", &note, "1027"], "the one that came last finds the queue full again");
    }

    #[test]
    fn what_was_left_out_last_is_told_at_the_end() {
        let (mut queue, lines) = queue();
        log(&mut queue, 0..LINES_MAX + 1);
        std::thread::scope(|scope| {
            let ending = scope.spawn(move || queue.finish());
            let mut written = Vec::new();
            lines.write_to(&mut written, note);
            ending.join().expect("it does not wait for ever");
            let written = String::from_utf8(written).expect("text");
            assert!(written.ends_with(&format!("1023\n[1 line was left out: {UNREAD}]\n")), "{written}");
        });
    }

    #[test]
    fn the_end_does_not_wait_for_whoever_does_not_read() {
        let (mut queue, lines) = queue();
        log(&mut queue, 0..LINES_MAX);
        queue.finish();
        lines.entries.recv().expect("a line");
        queue.finish();
        assert_eq!(lines.entries.len(), LINES_MAX);
    }

    #[test]
    fn what_a_full_disk_swallowed_is_told_when_there_is_room_again() {
        let (mut queue, lines) = queue();
        log(&mut queue, 0..4);
        drop(queue);
        let mut disk = Disk { written: Vec::new(), failures: 2 };
        lines.write_to(&mut disk, note);
        let why = io::Error::from(io::ErrorKind::StorageFull);
        assert_eq!(String::from_utf8_lossy(&disk.written), format!("[2 lines were left out: {why}]\n2\n3\n"));
    }
}
