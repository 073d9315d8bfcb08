//! The reader of a plan from the fuzzer's bytes, which all targets share.

/// The fuzzer's bytes, read from the front. Missing bytes are zero.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a>(&'a [u8]);

impl<'a> Plan<'a> {
    /// Starts at the first byte.
    pub const fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// The next byte; `None` at the end.
    pub fn pop(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    /// The next byte, or zero.
    pub fn byte(&mut self) -> u8 {
        self.pop().unwrap_or(0)
    }

    /// So many bytes, or as many as are left.
    pub fn take(&mut self, bytes: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(bytes.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Everything that is left.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }
}
