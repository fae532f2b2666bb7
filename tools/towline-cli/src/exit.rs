//! How the program ends: a code that a script can act on, and a message that says what, where and what to do.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use towline::client::ClientError;
use towline_core::format::RefusalCode;

/// What a script may conclude from the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// Something failed; nothing in doubt.
    Failed = 1,
    /// The command line or the configuration is wrong: also a named path that does not exist, a shard that the node does
    /// not have, sizes that are not the log's.
    Usage = 2,
    /// The log is damaged, or a directory is not what it should be.
    Corrupt = 3,
    /// A node cannot be reached or cannot serve, or an append may have been written or not.
    Unavailable = 4,
    /// Ctrl-C, as a shell counts it.
    Interrupted = 130,
    /// SIGTERM, likewise.
    Terminated = 143,
}

/// An error with its exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    pub(crate) error: anyhow::Error,
}

/// What every command returns.
pub(crate) type Outcome = Result<(), Failure>;

impl Failure {
    pub(crate) fn new(code: Code, error: impl Into<anyhow::Error>) -> Failure {
        Failure { code, error: error.into() }
    }

    pub(crate) fn usage(text: impl Into<String>) -> Failure {
        Failure::new(Code::Usage, anyhow::Error::msg(text.into()))
    }

    /// A path that was named has to be there: one that is not is wrong usage, whatever was to be done with it.
    pub(crate) fn unless_there(path: &Path) -> Outcome {
        match path.try_exists() {
            Ok(false) => Err(Failure::usage(format!("{}: does not exist", path.display()))),
            // What cannot be looked at says so itself when it is opened.
            _ => Ok(()),
        }
    }

    /// The error and its causes; one that has been said with the error above it is not said again.
    pub(crate) fn message(&self) -> String {
        let mut message = String::new();
        for cause in self.error.chain().map(ToString::to_string) {
            if message.is_empty() {
                message = cause;
            } else if !message.contains(&cause) {
                message = format!("{message}: {cause}");
            }
        }
        message
    }

    /// Prints the message, except where nobody reads standard output any more: then the end is quiet.
    pub(crate) fn report(&self) -> ExitCode {
        let broken_pipe = self
            .error
            .chain()
            .filter_map(|cause| cause.downcast_ref::<io::Error>())
            .any(|error| error.kind() == io::ErrorKind::BrokenPipe);
        if broken_pipe && self.code == Code::Failed {
            return ExitCode::SUCCESS;
        }
        // Standard error may be closed too; there is nobody left to tell.
        let _ = writeln!(io::stderr(), "towline: {}", self.message());
        ExitCode::from(self.code as u8)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::new(Code::Failed, error)
    }
}

/// Only for standard input and output; what a node's directory answers has codes of its own.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::new(Code::Failed, error)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        let code = match &error {
            ClientError::Connect { source, .. } if source.kind() == io::ErrorKind::InvalidInput => {
                Code::Usage
            }
            // What was asked for is gone from the log: asking again is in vain.
            ClientError::Refused { address, code: RefusalCode::Resync, message } => {
                return Failure::new(Code::Failed, anyhow::anyhow!("{address}: {message}"));
            }
            // Nothing that time heals.
            ClientError::Refused { code: RefusalCode::NoShard, .. } => Code::Usage,
            ClientError::Refused {
                code: RefusalCode::Version | RefusalCode::OtherLog | RefusalCode::OtherGeometry,
                ..
            } => Code::Failed,
            ClientError::Connect { .. }
            | ClientError::Silent { .. }
            | ClientError::Refused { .. }
            | ClientError::Lost { .. }
            | ClientError::Indeterminate(_)
            | ClientError::Timeout(_) => Code::Unavailable,
            ClientError::Rejected(_)
            | ClientError::Protocol { .. }
            | ClientError::Full { .. }
            | ClientError::Idle => Code::Failed,
            ClientError::Invalid(_) => Code::Usage,
        };
        // Not as a source of another error: a lost connection must not pass for a closed standard output.
        Failure::new(code, anyhow::Error::msg(error.to_string()))
    }
}
