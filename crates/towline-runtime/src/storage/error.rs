//! Why a directory cannot be opened: what, where, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use towline_core::types::{Geometry, LogId, Lsn, Span};

use towline_uring::FileError;

use super::steps::Stopped;

/// Why a shard's directory was refused. Nothing was lost: the directory is as it was found.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The path is something else.
    #[error("{path}: is not a directory; give the path of a directory, it is created when absent")]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// There is no directory, and the caller did not want one to be made.
    #[error("{path}: holds no log")]
    Absent {
        /// The path.
        path: PathBuf,
    },
    /// Another process has it, or the kernel has not finished the writes of one that ended.
    #[error("{path}: is in use by another process{}; stop that one first", holder_text(*.holder))]
    Locked {
        /// The path.
        path: PathBuf,
        /// Its process id, when it wrote one.
        holder: Option<u32>,
    },
    /// The directory or its file system cannot be written.
    #[error(
        "{path}: cannot be written ({source}); a node writes to its directory even while it only follows"
    )]
    ReadOnly {
        /// The path.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// No room.
    #[error("{path}: no space left ({source}); free some, at least two segments are needed")]
    Full {
        /// The path.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The file system cannot do what a log needs.
    #[error(
        "{path}: this file system cannot write past the page cache ({why}); use another one, or --buffered, \
         which is slower"
    )]
    NoDirectWrites {
        /// The path.
        path: PathBuf,
        /// What it answered.
        why: String,
    },
    /// Somebody else's files.
    #[error("{path}: holds files that are not a log's ({names}); give an empty directory or one of its own")]
    ForeignFiles {
        /// The path.
        path: PathBuf,
        /// Some of their names.
        names: String,
    },
    /// Written by a newer program, or by one before the first release.
    #[error("{path}: has format {found}, this program reads {supported}; {}", format_advice(*found, *supported))]
    OtherFormat {
        /// The path.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The one known here.
        supported: u32,
    },
    /// Another log's directory.
    #[error("{path}: belongs to log {found}, not to {wanted}; give that log's own directory")]
    OtherLog {
        /// The path.
        path: PathBuf,
        /// Its log.
        found: LogId,
        /// The log that was asked for.
        wanted: LogId,
    },
    /// Another node's or shard's directory.
    #[error("{path}: belongs to {found}, not to {wanted}; give the node its own directory")]
    OtherNode {
        /// The path.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Who asked.
        wanted: String,
    },
    /// The log was made with other sizes.
    #[error(
        "{path}: was made with segments of {} and {} bytes in flight, not {} and {}; these are fixed in a log",
        .found.segment_bytes, .found.in_flight_bytes, .wanted.segment_bytes, .wanted.in_flight_bytes
    )]
    OtherGeometry {
        /// The path.
        path: PathBuf,
        /// Its sizes.
        found: Geometry,
        /// The sizes asked for.
        wanted: Geometry,
    },
    /// Sizes that no log can have.
    #[error("{why}")]
    BadOptions {
        /// Which, and what is allowed.
        why: String,
    },
    /// Durable bytes of the log are damaged or missing.
    #[error(
        "{path}: durable bytes {} to {} of the log are damaged: {why}; nothing was cut, `towline log verify` \
         shows more, `towline log repair` fetches a copy of the range from another node",
        .span.start, .span.end
    )]
    Corrupt {
        /// The file or directory.
        path: PathBuf,
        /// Which bytes of the log.
        span: Span,
        /// What was found.
        why: String,
    },
    /// The identity or the meta block is damaged.
    #[error(
        "{path}: is damaged: {why}; nothing was changed, restore the file or make the node anew from its peers"
    )]
    DamagedFile {
        /// The file.
        path: PathBuf,
        /// What was found.
        why: String,
    },
    /// Anything else the kernel refused.
    #[error("{path}: cannot {action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A test stopped it.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl OpenError {
    /// The program's exit code for it: 2 usage, 3 corruption, 1 otherwise.
    pub fn exit_code(&self) -> u8 {
        match self {
            OpenError::Corrupt { .. } | OpenError::DamagedFile { .. } => 3,
            OpenError::BadOptions { .. } | OpenError::OtherGeometry { .. } => 2,
            _ => 1,
        }
    }

    /// Sorts a failed call into the answer its reader needs.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> OpenError {
        let path = path.to_owned();
        match source.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::ROFS | Errno::ACCESS | Errno::PERM) => OpenError::ReadOnly { path, source },
            Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => OpenError::Full { path, source },
            Some(Errno::NOTDIR) => OpenError::NotADirectory { path },
            _ => OpenError::Io { action, path, source },
        }
    }

    /// The same for a data file.
    pub(crate) fn file(error: FileError) -> OpenError {
        match error {
            FileError::DirectUnsupported { path, why } => {
                OpenError::NoDirectWrites { path, why: why.to_owned() }
            }
            FileError::Io { path, what, source } => OpenError::io(what, &path, source),
        }
    }

    pub(crate) fn corrupt(path: &Path, start: Lsn, end: Lsn, why: impl Into<String>) -> OpenError {
        OpenError::Corrupt { path: path.to_owned(), span: Span::new(start, end), why: why.into() }
    }
}

fn holder_text(holder: Option<u32>) -> String {
    holder.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

fn format_advice(found: u32, supported: u32) -> &'static str {
    match found > supported {
        true => "use a newer program",
        false => "a program from before the first release wrote it: make the node anew from its peers",
    }
}
