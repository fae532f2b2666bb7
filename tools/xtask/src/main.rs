//! What CI does, in Rust: `cargo xtask check` holds the sources against the architecture, `cargo xtask ci` runs
//! everything that must pass before a change is taken.

mod arrows;
mod bugs;
mod ci;
mod memlock;
mod picture;
mod sources;
mod text;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Checks of the architecture, and what CI runs")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Crate and module arrows, unsafe, file lengths, leftovers, the links and pictures of the documents.
    Check,
    /// Format, lints, checks, tests, doc tests, and a short real benchmark.
    Ci {
        /// Leave the benchmark out
        #[arg(long)]
        no_bench: bool,
    },
    /// Runs the tests against every bug on purpose; each must be caught. Writes results/bugs.md and bugs.json.
    Bugs(bugs::Options),
    /// The tests that lock memory or start programs, in the name of an ordinary user who may lock 8 MiB. Needs root.
    UserTests,
    /// Writes results/compare.png from a run of `towline bench compare`. Needs Chromium.
    Picture {
        /// The run's folder
        run: PathBuf,
    },
}

fn main() -> ExitCode {
    if let Some(code) = bugs::as_compiler() {
        return code;
    }
    let result = workspace_root().and_then(|root| match Args::parse().command {
        Command::Check => check(&root),
        Command::Ci { no_bench } => ci::run(&root, !no_bench),
        Command::Bugs(options) => bugs::run(&root, &options),
        Command::UserTests => memlock::run(&root),
        Command::Picture { run } => picture::run(&root, &run),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs every check and prints every finding before it fails, so that one run shows all there is to do.
fn check(root: &Path) -> Result<()> {
    let files = sources::collect(root)?;
    let mut findings = arrows::crate_arrows(root)?;
    findings.extend(arrows::module_arrows(&files));
    findings.extend(sources::findings(&files));
    findings.extend(sources::stale_exceptions(&files));
    findings.extend(sources::document_findings(root)?);
    for finding in &findings {
        eprintln!("{finding}");
    }
    anyhow::ensure!(findings.is_empty(), "{} finding(s) above", findings.len());
    println!("architecture: {} source files, no finding", files.len());
    Ok(())
}

fn workspace_root() -> Result<PathBuf> {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .map(Path::to_path_buf)
        .context("the workspace lies two folders above xtask")
}
