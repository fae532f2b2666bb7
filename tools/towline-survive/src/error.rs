//! Why a run ended without a verdict.

use std::io;
use std::path::{Path, PathBuf};

use towline::client::ClientError;

/// Why a run could not be made or was given up. A broken promise is no error: it is a verdict.
#[derive(Debug, thiserror::Error)]
pub enum SurviveError {
    /// The options make no sense, or name a cell that does not exist.
    #[error("{0}")]
    Usage(String),
    /// This machine or this user cannot mount the file system that forgets.
    #[error("{0}; the survival runs need it to cut the power under real processes")]
    Mount(#[from] powercut::MountError),
    /// A link between two nodes could not be made.
    #[error("{0}")]
    Link(#[from] linkem::LinkError),
    /// A file or folder of the run.
    #[error("{path}: {what}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A node did not do what every healthy one does.
    #[error("node '{name}' {what}{said}")]
    Node {
        /// Its name.
        name: String,
        /// What it did instead.
        what: String,
        /// The last it said.
        said: String,
    },
    /// Something every healthy cluster does in time did not happen.
    #[error("{0}")]
    Late(String),
    /// A node could not be asked.
    #[error("{0}")]
    Client(#[from] ClientError),
    /// Told to stop.
    #[error("interrupted; nothing is left mounted or running")]
    Interrupted,
}

impl SurviveError {
    /// The exit code of a program that ends with it.
    pub fn exit_code(&self) -> u8 {
        match self {
            SurviveError::Usage(_) => 2,
            SurviveError::Interrupted => 130,
            _ => 1,
        }
    }

    pub(crate) fn file(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> SurviveError {
        let path = path.to_owned();
        move |source| SurviveError::File { path, what, source }
    }
}

pub(crate) type Result<T> = std::result::Result<T, SurviveError>;
