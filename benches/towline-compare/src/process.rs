//! Processes of other systems: started as an ordinary user, never outliving this one, ended by their own pid.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use towline_bench::process::{forget, last_lines, last_words, remember};

/// A process that was started here. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program` as `user` (`None`: as this process), what it says going to `log`.
    pub(crate) fn start(
        name: &str,
        program: &Path,
        arguments: &[OsString],
        user: Option<&User>,
        log: &Path,
    ) -> Result<Self> {
        let output = std::fs::File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let errors = output.try_clone().with_context(|| format!("cannot write {}", log.display()))?;
        let child = command(program, arguments, user)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            // Ctrl-C is for this process, which then ends its children in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("{name}: cannot start {}", program.display()))?;
        remember(child.id());
        Ok(Self { name: name.into(), child, log: log.into() })
    }

    /// An error when it has ended, with its last words.
    pub(crate) fn check(&mut self) -> Result<()> {
        if let Ok(Some(status)) = self.child.try_wait() {
            bail!("{} ended by itself ({status}): {}", self.name, last_lines(&self.log));
        }
        Ok(())
    }

    /// Waits until `ready` says so, as long as the process lives and at most `limit`.
    pub(crate) fn wait_until(&mut self, limit: Duration, ready: impl FnMut() -> bool) -> Result<()> {
        let name = self.name.clone();
        let log = self.log.clone();
        wait_until(limit, ready, || self.check())
            .with_context(|| format!("{name} did not get ready: {}", last_lines(&log)))
    }

    /// Asks it to end and waits; kills it when it does not.
    pub(crate) fn end(&mut self, signal: Signal) -> Result<()> {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return Ok(());
        }
        // Not waited for yet, so its pid still is its own.
        kill_process(Pid::from_child(&self.child), signal)
            .with_context(|| format!("{}: cannot be signalled", self.name))?;
        let deadline = Instant::now() + END_LIMIT;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill();
        bail!("{} did not end within {} s and was killed", self.name, END_LIMIT.as_secs())
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill();
        }
        forget(self.child.id());
    }
}

/// Runs a short command to its end; what it printed, or an error with what it complained about.
pub(crate) fn output(program: &Path, arguments: &[OsString], user: Option<&User>) -> Result<String> {
    said(program, command(program, arguments, user).stdin(Stdio::null()).output())
}

/// The same for one of several seconds: asked to end, too, when `stop` is set.
pub(crate) fn output_until(program: &Path, arguments: &[OsString], stop: &AtomicBool) -> Result<String> {
    let child = command(program, arguments, None)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C is for this process.
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let (id, pid, ended) = (child.id(), Pid::from_child(&child), AtomicBool::new(false));
    remember(id);
    let output = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Acquire) {
                if stop.load(Ordering::Relaxed) {
                    // Gone already is as good.
                    let _ = kill_process(pid, Signal::INT);
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let output = child.wait_with_output();
        ended.store(true, Ordering::Release);
        output
    });
    forget(id);
    if stop.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    said(program, output)
}

fn said(program: &Path, output: std::io::Result<std::process::Output>) -> Result<String> {
    let output = output.with_context(|| format!("cannot start {}", program.display()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if !output.status.success() {
        let said = format!("{} {}", text(&output.stderr), text(&output.stdout));
        bail!("{} failed ({}): {}", program.display(), output.status, last_words(&said));
    }
    // Some print their measurements as complaints.
    Ok(format!("{}\n{}", text(&output.stdout), text(&output.stderr)))
}

/// Tries until it is so; asks `alive` in between.
pub(crate) fn wait_until(
    limit: Duration,
    mut ready: impl FnMut() -> bool,
    mut alive: impl FnMut() -> Result<()>,
) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !ready() {
        alive()?;
        if Instant::now() > deadline {
            bail!("nothing within {} s", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Whether somebody listens there.
pub(crate) fn listens(port: u16) -> bool {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()
}

/// Where the peers listen, on loopback.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ports {
    /// Any that are free.
    Free,
    /// These and the following.
    From(u16),
}

impl Ports {
    /// `count` ports that nobody listens on now.
    pub(crate) fn take(self, count: u16) -> Result<Vec<u16>> {
        let mut held = Vec::new();
        for index in 0..count {
            let wanted = match self {
                Self::Free => 0,
                Self::From(first) => first.checked_add(index).context("there is no port past 65535")?,
            };
            let listener = TcpListener::bind(("127.0.0.1", wanted)).with_context(|| {
                format!("port {wanted} is taken by another program: end it, or leave out --first-port")
            })?;
            held.push(listener);
        }
        held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
    }
}

/// An ordinary user, for systems that refuse to run as root.
#[derive(Debug, Clone)]
pub(crate) struct User {
    uid: u32,
    gid: u32,
}

impl User {
    /// `None` when this process is not root: then its own user does. Else the first of `names` that exists.
    pub(crate) fn ordinary(names: &[&str]) -> Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let users = std::fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
        let found = names.iter().find_map(|name| parse_user(&users, name));
        Ok(Some(
            found.with_context(|| format!("it refuses to run as root, and no user of {names:?} exists"))?,
        ))
    }

    /// Gives it a folder.
    pub(crate) fn own(user: Option<&Self>, dir: &Path) -> Result<()> {
        if let Some(user) = user {
            chown(dir, Some(user.uid), Some(user.gid))
                .with_context(|| format!("cannot give {} away", dir.display()))?;
        }
        Ok(())
    }
}

fn parse_user(users: &str, name: &str) -> Option<User> {
    users.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [found, _, uid, gid, ..] = fields[..] else { return None };
        if found != name {
            return None;
        }
        Some(User { uid: uid.parse().ok()?, gid: gid.parse().ok()? })
    })
}

/// A program of the search path.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// `[major, minor, patch]` from the first word of `text` that begins with a number and has a dot.
pub(crate) fn parse_version(text: &str) -> Option<[u32; 3]> {
    let word = text
        .split_whitespace()
        .map(|word| word.trim_start_matches(['v', '=']))
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.'))?;
    let mut numbers = word.split('.').map(|part| {
        let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    });
    let major = numbers.next()??;
    Some([major, numbers.next().flatten().unwrap_or(0), numbers.next().flatten().unwrap_or(0)])
}

/// A version as it is written.
pub(crate) fn version_text([major, minor, patch]: [u32; 3]) -> String {
    format!("{major}.{minor}.{patch}")
}

fn command(program: &Path, arguments: &[OsString], user: Option<&User>) -> Command {
    // setpriv lets the kernel end the child with this process, however it went.
    if let Some(setpriv) = find_program("setpriv") {
        let mut command = Command::new(setpriv);
        if let Some(User { uid, gid }) = user {
            command.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}")).arg("--clear-groups");
        }
        command.arg("--pdeathsig=KILL").arg("--").arg(program).args(arguments);
        return command;
    }
    let mut command = Command::new(program);
    if let Some(User { uid, gid }) = user {
        command.uid(*uid).gid(*gid);
    }
    command.args(arguments);
    command
}

/// A clean end writes a checkpoint.
const END_LIMIT: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_however_they_are_said() {
        assert_eq!(parse_version("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)"), Some([15, 14, 0]));
        assert_eq!(parse_version("etcd Version: 3.4.23\nGit SHA: Not"), Some([3, 4, 23]));
        assert_eq!(parse_version("nats-server: v2.9.10"), Some([2, 9, 10]));
        assert_eq!(parse_version("Redis server v=7.0.15 sha=00000000:0"), Some([7, 0, 15]));
        assert_eq!(parse_version("no version at all"), None);
    }

    #[test]
    fn a_port_that_is_taken_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let error = Ports::From(port).take(1).unwrap_err();
        assert!(error.to_string().contains(&format!("port {port} is taken")), "{error}");
        let free = Ports::Free.take(3).unwrap();
        assert_eq!(free.iter().collect::<std::collections::HashSet<_>>().len(), 3);
    }

    #[test]
    fn a_process_that_ends_by_itself_is_told_with_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let shell = find_program("sh").unwrap();
        let arguments = ["-c".into(), "echo no room; exit 3".into()];
        let mut process = Process::start("peer", &shell, &arguments, None, &log).unwrap();
        let error = process.wait_until(Duration::from_secs(10), || false).unwrap_err();
        let text = format!("{error:#}");
        assert!(
            text.contains("peer") && text.contains("no room") && text.contains("exit status: 3"),
            "{text}"
        );
    }

    #[test]
    fn a_command_ends_with_the_run() {
        let sleep = find_program("sleep").unwrap();
        let began = Instant::now();
        let error = output_until(&sleep, &["60".into()], &AtomicBool::new(true)).unwrap_err();
        assert_eq!(error.to_string(), "interrupted");
        assert!(began.elapsed() < Duration::from_secs(20));
        let echo = find_program("echo").unwrap();
        assert_eq!(output_until(&echo, &["so".into()], &AtomicBool::new(false)).unwrap().trim(), "so");
    }

    #[test]
    fn a_dropped_process_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let sleep = find_program("sleep").unwrap();
        let log = dir.path().join("log");
        let process = Process::start("sleeper", &sleep, &["60".into()], None, &log).unwrap();
        let pid = process.child.id();
        drop(process);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn users_are_found_by_name() {
        let users = "root:x:0:0::/root:/bin/sh\npostgres:x:102:104::/var:/bin/sh\n";
        let user = parse_user(users, "postgres").unwrap();
        assert_eq!((user.uid, user.gid), (102, 104));
        assert!(parse_user(users, "post").is_none());
    }
}
