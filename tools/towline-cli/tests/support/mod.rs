//! Real `towline` processes for tests: started, killed, stopped and looked at; ended by their own pid whatever happens.

// Each test file uses its own part.
#![allow(dead_code, unreachable_pub)]
// A helper that fails is a test that fails.
#![allow(clippy::unwrap_used, clippy::new_without_default)]

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Nothing a healthy node does takes longer, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A folder on a real disk, removed at the end.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Folder {
        Folder(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

impl Drop for Folder {
    /// A killed standby leaves its arena in shared memory, where its next start would take it over; there is none.
    fn drop(&mut self) {
        let entries =
            |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        for shard in entries(self.path()).flat_map(|node| entries(&node).collect::<Vec<_>>()) {
            let identity = std::fs::read_to_string(shard.join("identity")).unwrap_or_default();
            let value =
                |key: &str| identity.lines().find_map(|line| line.strip_prefix(key)).map(str::to_owned);
            if let (Some(node), Some(number)) = (value("node = "), value("shard = ")) {
                let _ = std::fs::remove_file(format!("/dev/shm/towline-{node}-{number}"));
            }
        }
    }
}

/// How a node is started. The sizes are small, so that a suite of nodes fits an ordinary machine, and nothing is
/// calibrated, so that a start takes milliseconds.
#[derive(Clone)]
pub struct NodePlan {
    role: &'static str,
    name: String,
    dir: PathBuf,
    listen: String,
    flags: Vec<String>,
}

impl NodePlan {
    pub fn primary(dir: impl Into<PathBuf>) -> NodePlan {
        NodePlan::new("primary", "primary", dir)
    }

    pub fn standby(name: &str, dir: impl Into<PathBuf>) -> NodePlan {
        NodePlan::new("standby", name, dir)
    }

    fn new(role: &'static str, name: &str, dir: impl Into<PathBuf>) -> NodePlan {
        let flags = ["--arena-bytes=4M", "--retention-bytes=256M", "--primitive=dsync", "--flush-depth=4"];
        let mut plan = NodePlan {
            role,
            name: name.to_owned(),
            dir: dir.into(),
            listen: "127.0.0.1:0".to_owned(),
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        };
        if role == "primary" {
            plan.flags.push("--segment-bytes=8M".to_owned());
        }
        plan
    }

    /// A flag given before with another value is replaced; standbys add up.
    pub fn flag(mut self, flag: impl Into<String>) -> NodePlan {
        let flag = flag.into();
        let key = |flag: &str| flag.split('=').next().unwrap_or_default().to_owned();
        self.flags.retain(|old| key(old) == "--standby" || key(old) != key(&flag));
        self.flags.push(flag);
        self
    }

    /// Ships to a running standby.
    pub fn ships_to(self, standby: &Node) -> NodePlan {
        let flag = format!("--standby={}={}", standby.name(), standby.address());
        self.flag(flag)
    }

    /// Listens where `node` did: for a restart that peers and clients are to find again.
    pub fn at(mut self, address: SocketAddr) -> NodePlan {
        self.listen = address.to_string();
        self
    }

    /// Where it listens, or will.
    pub fn listen_address(&self) -> &str {
        &self.listen
    }

    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![self.role.to_owned(), format!("--dir={}", self.dir.display())];
        arguments.push(format!("--name={}", self.name));
        arguments.push(format!("--listen={}", self.listen));
        arguments.extend(self.flags.iter().cloned());
        arguments
    }

    /// Starts the node and waits until it says that it is ready.
    pub fn start(&self) -> Node {
        Node::start(self.clone())
    }

    /// Starts a node that is expected to refuse; returns how it ended.
    pub fn refused(&self) -> Output {
        let arguments = self.arguments();
        towline(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

/// A running node. Dropping it kills it.
pub struct Node {
    plan: NodePlan,
    child: Child,
    address: SocketAddr,
    said: Arc<Said>,
}

impl Node {
    fn start(plan: NodePlan) -> Node {
        let mut child = command()
            .args(plan.arguments())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Arc::new(Said::default());
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let keep = Arc::clone(&said);
        // Read on to the end: a full pipe would stop the node.
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).for_each(|line| keep.add(line)));
        let (sender, receiver) = std::sync::mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let ready = receiver.recv_timeout(PATIENCE);
        let address = ready.as_deref().ok().and_then(ready_address);
        let Some(address) = address else {
            // Not a `Node` yet, so nobody else would end it.
            let _ = child.kill();
            let status = child.wait();
            panic!("{} '{}' said {ready:?} and ended with {status:?}; {}", plan.role, plan.name, said.all());
        };
        Node { plan, child, address, said }
    }

    pub fn name(&self) -> &str {
        &self.plan.name
    }

    pub fn dir(&self) -> &Path {
        &self.plan.dir
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has written to standard error so far.
    pub fn said(&self) -> String {
        self.said.all()
    }

    /// Waits until it has said something.
    pub fn wait_said(&self, text: &str) {
        assert!(
            self.said.wait_for(text, PATIENCE),
            "'{}' never said '{text}', but: {}",
            self.name(),
            self.said()
        );
    }

    /// SIGKILL, and waits for the end. The plan is for the restart: at the same address.
    pub fn kill(mut self) -> NodePlan {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.plan.clone().at(self.address)
    }

    /// SIGTERM, and waits for the end, which has to be clean.
    pub fn stop(self) -> NodePlan {
        let plan = self.plan.clone().at(self.address);
        let said = Arc::clone(&self.said);
        let status = self.stop_with(Signal::TERM);
        assert_eq!(status.code(), Some(0), "{}", said.all());
        plan
    }

    /// A signal, and waits for the end.
    pub fn stop_with(mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        wait_end(&mut self.child).unwrap_or_else(|| panic!("'{}' did not end: {}", self.name(), self.said()))
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid() as i32).unwrap(), signal).unwrap();
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// What it says of itself.
    pub fn status(&self) -> Value {
        let output = self.ask("status", &["--json"]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Waits until its first shard's status is as wanted.
    pub fn wait_status(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if wanted(&status["shards"][0]["node"]) {
                return status["shards"][0]["node"].clone();
            }
            assert!(Instant::now() < deadline, "'{}': never {what}: {status:#} {}", self.name(), self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until it takes appends.
    pub fn wait_leading(&self) {
        self.wait_status("leading", |node| node["role"]["primary"].is_object());
    }

    /// Waits until its n-th standby follows the live log and has flushed all of it.
    pub fn wait_caught_up(&self, standby: usize) {
        self.wait_status("caught up", |node| {
            let peer = &node["standbys"][standby];
            peer["state"] == "streaming" && peer["lag_bytes"] == 0
        });
    }

    /// Runs a client command against it.
    pub fn ask(&self, subcommand: &str, flags: &[&str]) -> Output {
        self.ask_with(subcommand, flags, b"")
    }

    /// Runs a client command against it, with input.
    pub fn ask_with(&self, subcommand: &str, flags: &[&str], input: &[u8]) -> Output {
        let address = format!("--address={}", self.address);
        let arguments: Vec<&str> = [subcommand, &address].into_iter().chain(flags.iter().copied()).collect();
        towline_with(&arguments, input)
    }

    /// Appends lines at a level; each has to be acknowledged. Returns what was printed, a line a record.
    pub fn append(&self, level: &str, lines: &[String]) -> Vec<String> {
        let input = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        let output = self.ask_with("append", &["--level", level], input.as_bytes());
        assert_eq!(output.status.code(), Some(0), "{} {}", text(&output.stderr), self.said());
        text(&output.stdout).lines().map(str::to_owned).collect()
    }

    /// The records that are safe, in order: once everything flushed is.
    pub fn tail(&self) -> Vec<String> {
        let output = self.ask("tail", &[]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout).lines().map(str::to_owned).collect()
    }

    /// Everything it has flushed.
    pub fn tail_unsafe(&self) -> Vec<String> {
        let output = self.ask("tail", &["--unsafe-too"]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout).lines().map(str::to_owned).collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended already; its pid is ours until it has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A `towline append` that runs while a test does other things.
pub struct Appender {
    child: Child,
    input: Option<ChildStdin>,
    acks: Arc<Mutex<VecDeque<String>>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Appender {
    pub fn start(node: &Node, flags: &[&str]) -> Appender {
        let mut child = command()
            .arg("append")
            .arg(format!("--address={}", node.address()))
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let acks = Arc::new(Mutex::new(VecDeque::new()));
        let keep = Arc::clone(&acks);
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let reader = std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).for_each(|line| keep.lock().unwrap().push_back(line));
        });
        Appender { input: child.stdin.take(), child, acks, reader: Some(reader) }
    }

    /// Gives it a line; false when it has ended.
    pub fn send(&mut self, line: &str) -> bool {
        self.input.as_mut().is_some_and(|input| writeln!(input, "{line}").is_ok())
    }

    /// What it has printed so far: the n-th line is the end of the n-th record.
    pub fn acks(&self) -> Vec<String> {
        self.acks.lock().unwrap().iter().cloned().collect()
    }

    pub fn wait_acks(&self, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.acks.lock().unwrap().len() < count {
            assert!(
                Instant::now() < deadline,
                "{count} acks never came: {:?}",
                self.acks.lock().unwrap().len()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends its input and waits for it. Returns its exit code and all it printed.
    pub fn finish(mut self) -> (Option<i32>, Vec<String>) {
        drop(self.input.take());
        let status = wait_end(&mut self.child).expect("an append ends when its input does");
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        let acks = self.acks();
        (status.code(), acks)
    }
}

impl Drop for Appender {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `towline` to its end.
pub fn towline(arguments: &[&str]) -> Output {
    towline_with(arguments, b"")
}

/// Runs `towline` to its end, with input.
pub fn towline_with(arguments: &[&str], input: &[u8]) -> Output {
    let mut program = command();
    program.args(arguments);
    run(program, input)
}

/// Runs a program to its end, with input; one that does not end by itself is ended, and the test fails.
pub fn run(mut program: Command, input: &[u8]) -> Output {
    let mut child =
        program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // The program may end before it has read everything: that is its right.
    let feeder = std::thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let ended = Arc::new((Mutex::new(false), Condvar::new()));
    let watch = Arc::clone(&ended);
    let pid = Pid::from_raw(child.id() as i32).unwrap();
    let watchdog = std::thread::spawn(move || {
        let (done, changed) = &*watch;
        let (done, _) = changed.wait_timeout_while(done.lock().unwrap(), PATIENCE, |done| !*done).unwrap();
        if !*done {
            // Still ours: it has not been waited for.
            let _ = kill_process(pid, Signal::KILL);
        }
    });
    let output = child.wait_with_output().unwrap();
    *ended.0.lock().unwrap() = true;
    ended.1.notify_all();
    watchdog.join().unwrap();
    feeder.join().unwrap();
    assert!(output.status.code().is_some(), "{program:?} did not end by itself: {}", text(&output.stderr));
    output
}

/// That a program ended with this code, said all of these, and did not panic.
#[track_caller]
pub fn assert_refused(output: &Output, code: i32, words: &[&str]) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "'{word}' is not in: {said}");
    }
    assert!(!said.contains("panicked") && !said.contains("backtrace"), "{said}");
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Numbered lines: each says which it is.
pub fn numbered(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| format!("record {number}")).collect()
}

/// The program, with nothing of the caller's that would change what it says.
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_towline"));
    // What a panic would print has to be found by the tests, whatever the caller's environment.
    command.env("RUST_BACKTRACE", "0");
    command
}

fn ready_address(line: &str) -> Option<SocketAddr> {
    let mut words = line.strip_prefix("ready ")?.split(' ');
    words.find_map(|word| word.strip_prefix("address=")?.parse().ok())
}

fn wait_end(child: &mut Child) -> Option<ExitStatus> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

/// Lines that a node has written.
#[derive(Default)]
struct Said {
    lines: Mutex<Vec<String>>,
    more: Condvar,
}

impl Said {
    fn add(&self, line: String) {
        self.lines.lock().unwrap().push(line);
        self.more.notify_all();
    }

    fn all(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    fn wait_for(&self, text: &str, timeout: Duration) -> bool {
        let lines = self.lines.lock().unwrap();
        let absent = |lines: &mut Vec<String>| !lines.iter().any(|line| line.contains(text));
        !self.more.wait_timeout_while(lines, timeout, absent).unwrap().1.timed_out()
    }
}
