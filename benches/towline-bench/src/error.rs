//! What can go wrong in a measurement: one variant per decision of the caller.

use std::path::PathBuf;

/// Why a measurement could not be made. The text says what, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A flag or a key that cannot be obeyed; nothing was started.
    #[error("{0}")]
    Usage(String),
    /// The machine cannot do it, or something that was started failed.
    #[error("{0}")]
    Failed(String),
    /// A file or folder.
    #[error("{what} {}: {source}", path.display())]
    File {
        /// What was tried, as `cannot make`.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Ctrl-C, before anything was worth keeping.
    #[error("interrupted: what was running has been stopped")]
    Interrupted,
}

impl BenchError {
    /// A failure with a cause.
    pub(crate) fn failed(what: impl std::fmt::Display, cause: impl std::fmt::Display) -> Self {
        Self::Failed(format!("{what}: {cause}"))
    }

    /// The program's exit code: 2 for usage, 130 for Ctrl-C, 1 for the rest.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Interrupted => 130,
            Self::Failed(_) | Self::File { .. } => 1,
        }
    }
}
