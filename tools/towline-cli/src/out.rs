//! Standard output that may be closed at any time: by `head`, by a pager, by a script that has seen enough.

use std::io::{self, BufWriter, StdoutLock, Write};
use std::process::ExitCode;

/// A buffered standard output. Every write can fail with a broken pipe, which ends the program quietly
/// (see [`crate::exit::Failure::report`]); `println!` would panic.
pub(crate) fn stdout() -> BufWriter<StdoutLock<'static>> {
    BufWriter::new(io::stdout().lock())
}

/// Prints one line and flushes it.
pub(crate) fn line(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    stdout.flush()
}

/// One line on standard error. A closed standard error must not end a node.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// What clap has to say: help and version are no failure, all else is wrong usage.
pub(crate) fn clap_message(error: &clap::Error) -> ExitCode {
    // The text is for a person; there is nothing to do when nobody reads it.
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(crate::exit::Code::Usage as u8) } else { ExitCode::SUCCESS }
}
