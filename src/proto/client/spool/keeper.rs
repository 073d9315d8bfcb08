//! Runs errands over a log: writes, syncs, reads back.

use super::folder::Folder;
use super::log::{Log, Trouble};
use super::record::Clock;
use super::records::Records;
use crate::proto::terms::Seq;

/// A segment that cannot be read is tried so often, once a second, before its datagrams count as lost.
const READS_TRIED_MAX: u32 = 10;

/// What there is to do for the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errand {
    /// Write the records.
    Write,
    /// Write the mark and the agents of the records, and nothing else.
    Mark,
    /// Make what was written as safe as promised.
    Sync,
    /// Read back datagrams from this number on, about so many bytes of payload.
    Read(Seq, usize),
    /// Nothing.
    Wait,
}

/// What came of an errand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<E> {
    /// Everything was done.
    Done,
    /// The records were read back: all below this number that can be.
    ReadBack(Seq),
    /// The spool has reached its bound. With its oldest segment every datagram below this number would go.
    Full(Seq),
    /// The folder says why not.
    Failed(E),
    /// What could not be read for so long is passed over from here on.
    GivenUp(E),
}

/// What came of an errand, and how much of everything held is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report<E> {
    /// What came of the errand.
    pub answer: Answer<E>,
    /// Every held datagram below this number is on disk.
    pub written: Seq,
    /// Every held datagram below this number is as safe as promised.
    pub durable: Seq,
}

/// A log, and what to do with it.
#[derive(Debug)]
pub struct Keeper<F> {
    log: Log<F>,
    /// What was written is synced; else the kernel is trusted to write it some time.
    syncs: bool,
    reads_failed: u32,
}

impl<F: Folder> Keeper<F> {
    /// Keeps this log, and syncs it when asked if `syncs`.
    pub const fn new(log: Log<F>, syncs: bool) -> Self {
        Self { log, syncs, reads_failed: 0 }
    }

    /// The log.
    pub const fn log(&mut self) -> &mut Log<F> {
        &mut self.log
    }

    /// Runs an errand. The `clock` is the present one.
    pub fn run(&mut self, errand: Errand, clock: Clock, records: &mut Records) -> Report<F::Error> {
        let answer = match errand {
            Errand::Write | Errand::Mark => self.write(errand, clock, records),
            Errand::Sync => self.sync(),
            Errand::Read(from, bytes) => self.read(from, bytes, records),
            Errand::Wait => Answer::Done,
        };
        Report { answer, written: self.log.written(), durable: self.log.durable() }
    }

    fn write(&mut self, errand: Errand, clock: Clock, records: &Records) -> Answer<F::Error> {
        self.log.set_clock(clock);
        self.log.set_stream(records.stream);
        let written = match errand {
            Errand::Mark => self.log.append_state(records),
            _ => self.log.append(records),
        };
        match written {
            Ok(()) => Answer::Done,
            Err(Trouble::Full) => Answer::Full(self.log.oldest_end()),
            Err(Trouble::Failed(error)) => Answer::Failed(error),
        }
    }

    fn sync(&mut self) -> Answer<F::Error> {
        if !self.syncs {
            self.log.trust();
            return Answer::Done;
        }
        self.log.sync().map_or_else(Answer::Failed, |()| Answer::Done)
    }

    fn read(&mut self, from: Seq, bytes: usize, records: &mut Records) -> Answer<F::Error> {
        match self.log.read(from, bytes, records) {
            Ok(through) => {
                self.reads_failed = 0;
                Answer::ReadBack(through)
            }
            Err(error) => {
                self.reads_failed += 1;
                if self.reads_failed < READS_TRIED_MAX {
                    return Answer::Failed(error);
                }
                self.reads_failed = 0;
                self.log.give_up();
                Answer::GivenUp(error)
            }
        }
    }
}
