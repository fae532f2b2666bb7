//! Child processes that never outlive this one: ended by their own pid when dropped, on Ctrl-C and on a panic.

use crate::error::BenchError;
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A node in a process of its own.
pub struct Process {
    name: String,
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    log: PathBuf,
    stopped: bool,
}

impl Process {
    /// Starts this very program with `arguments` and waits until it says `ready address=HOST:PORT`. What it writes to
    /// standard error goes to `<dir>/<name>.log`.
    ///
    /// # Errors
    /// It cannot be started, or was not ready in time.
    pub fn start(name: &str, arguments: &[OsString], dir: &Path) -> Result<Self, BenchError> {
        let program = std::env::current_exe()
            .map_err(|error| BenchError::failed(format!("node '{name}': cannot find this program"), error))?;
        Self::start_program(&program, name, arguments, dir)
    }

    /// The same with another `towline` program.
    ///
    /// # Errors
    /// It cannot be started, or was not ready in time.
    pub fn start_program(
        program: &Path,
        name: &str,
        arguments: &[OsString],
        dir: &Path,
    ) -> Result<Self, BenchError> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            BenchError::failed(format!("node '{name}': {what}"), error)
        };
        let log_path = dir.join(format!("{name}.log"));
        let log = std::fs::File::create(&log_path).map_err(|source| BenchError::File {
            what: "cannot write",
            path: log_path.clone(),
            source,
        })?;
        let mut child = Command::new(program)
            .args(arguments)
            // The node sees the end of its input when this process is gone, however it went.
            .stdin(Stdio::piped())
            // Ctrl-C is for this process, which then ends its children in order.
            .process_group(0)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(|error| failed("cannot be started", &error))?;
        remember(child.id());
        let output = child.stdout.take();
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        // From here on the drop ends it.
        let mut process =
            Self { name: name.to_owned(), child, address: nowhere, log: log_path.clone(), stopped: false };
        let (sender, ready) = channel();
        std::thread::spawn(move || {
            let Some(output) = output else { return };
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some(address) = parse_ready(&line) {
                    let _ = sender.send(address);
                }
                // Read on: a full pipe would stop the node.
            }
        });
        match ready.recv_timeout(START_LIMIT) {
            Ok(address) => process.address = address,
            Err(why) => {
                let state = match why {
                    RecvTimeoutError::Timeout => format!("was not ready within {} s", START_LIMIT.as_secs()),
                    RecvTimeoutError::Disconnected => "ended before it was ready".to_owned(),
                };
                return Err(failed(&state, &last_lines(&log_path)));
            }
        }
        Ok(process)
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// An error when it has ended by itself, with its last words.
    ///
    /// # Errors
    /// It has.
    pub fn check(&mut self) -> Result<(), BenchError> {
        match self.child.try_wait() {
            Ok(Some(status)) => Err(BenchError::failed(
                format!("node '{}' ended by itself ({status})", self.name),
                last_lines(&self.log),
            )),
            _ => Ok(()),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops it where it stands (SIGSTOP) until [`resume`](Self::resume).
    pub(crate) fn stop(&mut self) -> Result<(), BenchError> {
        self.signal(Signal::STOP)?;
        self.stopped = true;
        Ok(())
    }

    /// Lets it go on (SIGCONT).
    pub(crate) fn resume(&mut self) -> Result<(), BenchError> {
        self.signal(Signal::CONT)?;
        self.stopped = false;
        Ok(())
    }

    /// Asks it to end cleanly (SIGTERM) and waits.
    ///
    /// # Errors
    /// It did not end in time, or not cleanly.
    pub fn end(mut self) -> Result<(), BenchError> {
        if self.stopped {
            self.resume()?;
        }
        self.signal(Signal::TERM)?;
        let deadline = Instant::now() + END_LIMIT;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => {
                    return Err(BenchError::Failed(format!("node '{}' ended with {status}", self.name)));
                }
                Ok(None) if Instant::now() > deadline => {
                    return Err(BenchError::Failed(format!(
                        "node '{}' did not end within {} s of SIGTERM",
                        self.name,
                        END_LIMIT.as_secs()
                    )));
                }
                Ok(None) => std::thread::sleep(Duration::from_millis(5)),
                Err(error) => return Err(BenchError::failed(format!("node '{}'", self.name), error)),
            }
        }
    }

    fn signal(&self, signal: Signal) -> Result<(), BenchError> {
        // Not waited for yet, so its pid still is its own.
        kill_process(Pid::from_child(&self.child), signal)
            .map_err(|errno| BenchError::failed(format!("node '{}': cannot be signalled", self.name), errno))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Asked first: a node that is killed leaves its shared-memory arena behind, for the next start in its directory.
        if let Ok(None) = self.child.try_wait() {
            let _ = self.signal(Signal::CONT);
            let _ = self.signal(Signal::TERM);
            let deadline = Instant::now() + LEAVE_LIMIT;
            while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        forget(self.child.id());
    }
}

/// Kills every child that is still there. For the way out that runs no destructors.
pub fn kill_all() {
    for pid in CHILDREN.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        if let Some(pid) = i32::try_from(*pid).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// A child that was started elsewhere in this program: [`kill_all`] knows it from now on.
pub fn remember(pid: u32) {
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner).push(pid);
}

/// It has been waited for: its number may belong to another process by now.
pub fn forget(pid: u32) {
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner).retain(|known| *known != pid);
}

static CHILDREN: Mutex<Vec<u32>> = Mutex::new(Vec::new());

fn parse_ready(line: &str) -> Option<SocketAddr> {
    let mut words = line.split_whitespace();
    (words.next() == Some("ready")).then_some(())?;
    words.find_map(|word| word.strip_prefix("address="))?.parse().ok()
}

/// The end of a log file, in one line.
pub fn last_lines(path: &Path) -> String {
    last_words(&std::fs::read_to_string(path).unwrap_or_default())
}

/// The end of what a program said, in one line.
pub fn last_words(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let tail = lines[lines.len().saturating_sub(5)..].join("; ");
    let short: String = tail.chars().take(MOST_WORDS).collect();
    if short.is_empty() { "it said nothing".into() } else { short }
}

/// Characters of an error: a stack trace is no help in one line.
const MOST_WORDS: usize = 800;

/// A new directory is measured first, which takes a second on a slow disk many.
const START_LIMIT: Duration = Duration::from_secs(60);
/// For a node whose measurement has failed.
const LEAVE_LIMIT: Duration = Duration::from_secs(3);
/// A clean end flushes and seals everything accepted.
const END_LIMIT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_says_ready_is_found_whatever_else_it_says() {
        let address = "127.0.0.1:7401".parse().ok();
        assert_eq!(parse_ready("ready address=127.0.0.1:7401"), address);
        assert_eq!(parse_ready("ready name=a address=127.0.0.1:7401 shards=1"), address);
        for other in
            ["", "address=127.0.0.1:1", "ready", "ready address=nowhere", "already address=127.0.0.1:1"]
        {
            assert_eq!(parse_ready(other), None, "{other}");
        }
    }

    #[test]
    fn a_node_that_ends_before_it_is_ready_is_told_with_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        // This program is the test harness: it lists its tests and ends, without ever being ready.
        let Err(error) = Process::start("a", &["--list".into()], dir.path()) else { panic!("ready?") };
        assert!(
            error.to_string().contains("node 'a'") && error.to_string().contains("before it was ready"),
            "{error}"
        );
        assert!(CHILDREN.lock().unwrap().is_empty());
    }
}
