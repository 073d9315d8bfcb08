//! Texts in place of a run.

/// What is printed when there is nothing to run.
#[derive(Debug, PartialEq, Eq)]
pub enum Usage {
    /// `--help` or `--version`: on standard output, exit code 0.
    Asked(String),
    /// Wrong arguments: on standard error, exit code 2.
    Wrong(String),
}

pub(super) fn wrong(text: impl std::fmt::Display) -> Usage {
    Usage::Wrong(format!("{text}\n"))
}
