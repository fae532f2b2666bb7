//! The power cut as a program.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use powercut::{Cut, FaultChange, Mount, MountOptions, Remote, Status, Trouble, clean_dead_mounts};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// A file system that forgets, on command, what was not flushed.
///
/// Put your database on it, let it acknowledge work, cut the power, and see what it finds again:
///
///   mkdir below disk
///   powercut mount disk --over below &         # your database's files go to disk/
///   my-database --data disk/db &               # … write, remember what it acknowledged …
///   powercut cut disk                          # what was not flushed is gone, all I/O fails
///   kill -9 %2; powercut restore disk          # the machine comes up again
///   my-database --data disk/db                 # is everything acknowledged still there?
///   powercut unmount disk
///
/// Durable becomes only what a program asked for:
///
///   bytes   by fsync or fdatasync of the file; those of one write by O_DSYNC or
///           RWF_DSYNC. sync and syncfs do nothing here.
///   names   (made, removed, renamed) by fsync of their directory; fsync of the
///           file does not do it.
///
/// below/ holds exactly what is durable, as plain files; the rest is in the memory
/// of this process. `cut --keep 0.5 --seed 7` keeps a random half instead, as a disk
/// may that was writing: torn writes by sectors of 512 bytes, holes, renames that
/// happened or not. The same seed after the same work keeps the same.
///
/// O_DIRECT must be aligned; flock and mappings work; there are no extended
/// attributes. It mounts as root, or as any user where `fusermount3` (package fuse3)
/// is installed. Exit codes: 0 done, 1 it could not (and why), 2 a wrong argument.
#[derive(Parser)]
#[command(version, verbatim_doc_comment)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Mount at an empty directory and stay until it is unmounted
    ///
    /// Prints `mounted DIR over BELOW` when it can be used. Ctrl-C, SIGTERM and
    /// `powercut unmount` make everything durable, as a clean shutdown does, and
    /// unmount; SIGKILL is a cut that keeps nothing. A mount that a killed process left
    /// there is cleaned first.
    #[command(verbatim_doc_comment)]
    Mount(MountArguments),
    /// Cut the power: drop what was not flushed
    ///
    /// Until `restore`, all I/O answers EIO; what was open stays dead for ever.
    Cut {
        /// Where it is mounted
        mount: PathBuf,
        /// Probability, 0 to 1, that an unflushed sector, size or change of names had reached the disk
        #[arg(long, default_value_t = 0.0, value_parser = probability)]
        keep: f64,
        /// Seed of that choice; without one, that of the mount plus the number of cuts before
        #[arg(long)]
        seed: Option<u64>,
        /// Switch the power on again at once
        #[arg(long)]
        restore: bool,
    },
    /// Switch the power on again: what is durable can be seen
    Restore {
        /// Where it is mounted
        mount: PathBuf,
    },
    /// Make I/O fail, short, or slow
    Fault(FaultArguments),
    /// Show what is not flushed, and what was done so far
    Status {
        /// Where it is mounted
        mount: PathBuf,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Make everything durable and unmount
    Unmount {
        /// Where it is mounted
        mount: PathBuf,
    },
}

#[derive(Args)]
struct MountArguments {
    /// An empty directory to mount at
    dir: PathBuf,
    /// The directory that holds what is durable; made if it is missing
    #[arg(long, value_name = "BELOW")]
    over: PathBuf,
    /// Threads: requests that are served at the same time
    #[arg(long, default_value_t = 4)]
    threads: usize,
    /// Megabytes of unflushed data that are kept; more answers ENOSPC
    #[arg(long, value_name = "MB", default_value_t = 1024)]
    limit_mb: u64,
    /// What O_DIRECT must be aligned to, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 512)]
    alignment: u64,
    /// Flush BELOW with every flush: as slow as its disk, and safe from a real power cut
    #[arg(long)]
    flush_below: bool,
    /// Let other users in, with the usual permissions
    #[arg(long)]
    allow_other: bool,
    /// Seed of cuts that name none
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    troubles: Troubles,
}

#[derive(Args)]
struct FaultArguments {
    /// Where it is mounted
    mount: PathBuf,
    /// First take all troubles back
    #[arg(long)]
    clear: bool,
    #[command(flatten)]
    troubles: Troubles,
}

#[derive(Args)]
#[command(next_help_heading = "Troubles")]
struct Troubles {
    /// Reads answer EIO: not, with the next one, or with every one until it is taken back
    #[arg(long, value_name = "never|once|always", hide_possible_values = true)]
    eio_read: Option<Trouble>,
    /// Writes, truncations and allocations answer EIO
    #[arg(long, value_name = "never|once|always", hide_possible_values = true)]
    eio_write: Option<Trouble>,
    /// Flushes answer EIO; what they were to make durable never will be, also when a later flush succeeds
    #[arg(long, value_name = "never|once|always", hide_possible_values = true)]
    eio_fsync: Option<Trouble>,
    /// Writes of two sectors or more write only half; the kernel makes EIO of a direct one
    #[arg(long, value_name = "never|once|always", hide_possible_values = true)]
    short_write: Option<Trouble>,
    /// Room for all files together in bytes, or `none`; past it ENOSPC
    #[arg(long, value_name = "BYTES", value_parser = space)]
    space: Option<Space>,
    /// Added to each read, in microseconds
    #[arg(long, value_name = "US")]
    delay_read_us: Option<u64>,
    /// Added to each write, in microseconds
    #[arg(long, value_name = "US")]
    delay_write_us: Option<u64>,
    /// Added to each flush, in microseconds; a cut meanwhile may tear what is being flushed
    #[arg(long, value_name = "US")]
    delay_fsync_us: Option<u64>,
}

#[derive(Clone, Copy)]
struct Space(Option<u64>);

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("powercut: {}", message(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes; one that has been said with the error above it is not said again.
fn message(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |message, cause| {
        if message.is_empty() {
            cause
        } else if message.contains(&cause) {
            message
        } else {
            format!("{message}: {cause}")
        }
    })
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Mount(arguments) => mount(&arguments),
        Command::Cut { mount, keep, seed, restore } => {
            let report = Remote::find(&mount)?.cut(Cut { keep, seed }, restore)?;
            say(&format!(
                "cut: {} sectors and {} changes of names lost, {} and {} kept by chance (seed {}){}",
                report.sectors_lost,
                report.names_lost,
                report.sectors_kept,
                report.names_kept,
                report.seed,
                if restore { "; restored" } else { "; `powercut restore` switches the power on again" }
            ))
        }
        Command::Restore { mount } => Ok(Remote::find(&mount)?.restore()?),
        Command::Fault(arguments) => {
            let change = FaultChange { clear: arguments.clear, ..arguments.troubles.change() };
            Ok(Remote::find(&arguments.mount)?.change_faults(change)?)
        }
        Command::Status { mount, json } => {
            let status = Remote::find(&mount)?.status()?;
            if json { say(&serde_json::to_string_pretty(&status)?) } else { say(&describe(&status)) }
        }
        Command::Unmount { mount } => unmount(&mount),
    }
}

fn mount(arguments: &MountArguments) -> Result<()> {
    // Before the mount, so that no signal finds it without a handler.
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("signal handlers")?;
    for path in clean_dead_mounts(&arguments.dir)? {
        eprintln!("powercut: cleaned a dead mount at {}", path.display());
    }
    std::fs::create_dir_all(&arguments.over).with_context(|| arguments.over.display().to_string())?;
    let mut options = MountOptions {
        threads: arguments.threads,
        limit_bytes: arguments.limit_mb.saturating_mul(1 << 20),
        alignment: arguments.alignment,
        flush_backing: arguments.flush_below,
        allow_other: arguments.allow_other,
        seed: arguments.seed,
        ..MountOptions::default()
    };
    options.faults.apply(&arguments.troubles.change());
    let mount = Mount::start(&arguments.dir, &arguments.over, &options)?;
    say(&format!("mounted {} over {}", mount.mountpoint().display(), arguments.over.display()))?;
    let stopper = mount.stopper();
    let handle = signals.handle();
    let waiter = std::thread::spawn(move || {
        for _ in signals.forever() {
            stopper.stop();
        }
    });
    mount.wait();
    let result = mount.unmount();
    handle.close();
    // It only listens for signals; a panic there would be printed already.
    let _ = waiter.join();
    result.with_context(|| format!("unmounting {}", arguments.dir.display()))
}

fn unmount(path: &Path) -> Result<()> {
    match Remote::find(path) {
        Ok(remote) => Ok(remote.unmount()?),
        Err(error) => {
            // It may be one whose process was killed.
            let cleaned = clean_dead_mounts(path)?;
            if cleaned.is_empty() {
                return Err(error.into());
            }
            for path in cleaned {
                say(&format!("cleaned a dead mount at {}", path.display()))?;
            }
            Ok(())
        }
    }
}

fn describe(status: &Status) -> String {
    let counts = &status.counts;
    let mut lines = vec![
        format!("power       {}", if status.up { "on" } else { "off (`powercut restore` switches it on)" }),
        format!("files       {}, {} bytes", status.files, status.used_bytes),
        format!(
            "unflushed   {} bytes in {} files, {} changes of names",
            status.unflushed_bytes, status.unflushed_files, status.unflushed_names
        ),
        format!("memory      {} of {} bytes", status.memory_bytes, status.limit_bytes),
        format!(
            "so far      {} reads, {} writes ({} durable, {} bytes), {} fsyncs, {} of directories, {} cuts",
            counts.reads,
            counts.writes,
            counts.durable_writes,
            counts.bytes_written,
            counts.fsyncs,
            counts.directory_fsyncs,
            counts.cuts
        ),
    ];
    if status.faults != powercut::Faults::default() {
        lines.push(format!("troubles    {:?}", status.faults));
    }
    lines.join("\n")
}

/// A closed standard output is an error here; `println!` would panic.
fn say(text: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{text}").context("standard output")
}

impl Troubles {
    fn change(&self) -> FaultChange {
        FaultChange {
            clear: false,
            eio_read: self.eio_read,
            eio_write: self.eio_write,
            eio_fsync: self.eio_fsync,
            short_write: self.short_write,
            space_bytes: self.space.map(|space| space.0),
            delay_read_us: self.delay_read_us,
            delay_write_us: self.delay_write_us,
            delay_fsync_us: self.delay_fsync_us,
        }
    }
}

fn space(text: &str) -> Result<Space, String> {
    if text == "none" {
        return Ok(Space(None));
    }
    text.parse().map(|bytes| Space(Some(bytes))).map_err(|_| "a number of bytes, or none".to_owned())
}

fn probability(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|p| (0.0..=1.0).contains(p)).ok_or_else(|| "a number from 0 to 1".to_owned())
}
