//! A line of the log, before it is logged.

use log::Level;

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Line {
    pub level: Level,
    pub text: String,
}

impl Line {
    /// A line about the course of things.
    pub fn info(text: impl Into<String>) -> Self {
        Self { level: Level::Info, text: text.into() }
    }

    /// A line about a trouble.
    pub fn warn(text: impl Into<String>) -> Self {
        Self { level: Level::Warn, text: text.into() }
    }
}
