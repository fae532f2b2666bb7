//! Towline in three arrangements: over the socket, as the peers are reached; embedded in this process; and embedded
//! without standbys, as the log libraries are.

use super::{START_LIMIT, Setting, Spec, System, make_dir};
use crate::load::{DRAIN, Measured, Payloads, Recorder, Work, flood, measured, run_threads};
use crate::process::last_lines;
use anyhow::{Context, Result, bail};
use rustix::event::epoll;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use towline::client::{Client, ClientOptions, Completion, Outcome};
use towline::{Committed, Level, Log, Lsn, Shard, Ticket};
use towline_report::schema;

/// How the clients reach the primary, and what stands behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrangement {
    /// A primary process with two standbys, behind its socket.
    Socket,
    /// A primary in this process with two standbys.
    Embedded,
    /// A log in this process without standbys.
    Alone,
}

/// One arrangement.
pub(crate) struct Towline {
    setting: Setting,
    arrangement: Arrangement,
    running: Option<Running>,
}

struct Running {
    /// Stopped before the standbys: it ships what it has.
    primary: Primary,
    standbys: Vec<Node>,
}

enum Primary {
    Embedded(Log),
    Process(Node),
}

impl Towline {
    pub(crate) fn new(setting: &Setting, arrangement: Arrangement) -> Self {
        Self { setting: setting.clone(), arrangement, running: None }
    }

    fn start_standbys(&self, dir: &Path) -> Result<Vec<Node>> {
        let start = |name: &&str| {
            let mut arguments = vec!["standby".into(), "--dir".into(), dir.join(name).into()];
            arguments.extend(self.flags(name));
            Node::start(&self.setting.program, name, &arguments, dir)
        };
        STANDBYS.iter().map(start).collect()
    }

    fn flags(&self, name: &str) -> Vec<OsString> {
        let mut flags: Vec<OsString> = Vec::new();
        let mut flag = |name: &str, value: String| flags.push(format!("--{name}={value}").into());
        flag("listen", "127.0.0.1:0".into());
        flag("until-input-ends", "true".into());
        flag("name", name.into());
        flag("retention-bytes", RETENTION_BYTES.to_string());
        flag("prepare-segments", PREPARED.to_string());
        if let Some((primitive, depth)) = self.setting.flushing {
            flag("primitive", primitive.name().into());
            flag("flush-depth", depth.to_string());
        }
        flags
    }

    fn start_process(&self, dir: &Path, standbys: &[Node]) -> Result<Node> {
        let mut arguments: Vec<OsString> = vec!["primary".into(), "--dir".into(), dir.join("primary").into()];
        arguments.extend(self.flags("primary"));
        arguments.push(format!("--hold-bytes={RETENTION_BYTES}").into());
        arguments.push(format!("--sync-rule={RULE}").into());
        for standby in standbys {
            arguments.push(format!("--standby={}={}", standby.name, standby.address).into());
        }
        Node::start(&self.setting.program, "primary", &arguments, dir)
    }

    fn open(&self, dir: &Path, standbys: &[Node]) -> Result<Log> {
        let mut builder = Log::builder().name("primary");
        for standby in standbys {
            builder = builder.standby(&standby.name, standby.address);
        }
        if !standbys.is_empty() {
            builder = builder.sync_rule(RULE);
        }
        let alone = standbys.is_empty();
        let flushing = self.setting.flushing;
        let builder = builder.options(|options| {
            options.retention_bytes = RETENTION_BYTES;
            options.hold_bytes = RETENTION_BYTES;
            options.prepare_segments = if alone { PREPARED_ALONE } else { PREPARED };
            options.primitive = flushing.map(|(primitive, _)| primitive);
            options.flush_depth = flushing.map(|(_, depth)| depth);
        });
        builder.open(dir.join("primary")).context("the primary cannot start")
    }
}

impl System for Towline {
    fn name(&self) -> &'static str {
        "towline"
    }

    fn label(&self) -> String {
        match self.arrangement {
            Arrangement::Socket => "towline over the socket".into(),
            Arrangement::Embedded => "towline embedded".into(),
            Arrangement::Alone => "towline without standbys".into(),
        }
    }

    fn version(&self) -> String {
        env!("CARGO_PKG_VERSION").into()
    }

    fn points(&self, clients: &[u32]) -> Vec<Spec> {
        let mut points = Vec::new();
        for &clients in clients {
            match self.arrangement {
                Arrangement::Socket => {
                    for level in schema::Level::ALL {
                        points.push(Spec::socket(clients, level, RULE, "a connection for each client"));
                    }
                    if clients > 1 {
                        let one =
                            Spec::socket(clients, schema::Level::On, RULE, "all clients on one connection");
                        points.push(Spec { connections: Some(1), ..one });
                    }
                }
                Arrangement::Embedded => {
                    for level in schema::Level::ALL.into_iter().filter(|level| *level != schema::Level::Off) {
                        let spec = Spec::alone(clients, level, "tickets of one thread");
                        points.push(Spec { threads: None, standbys: 2, sync_rule: RULE, ..spec });
                    }
                }
                Arrangement::Alone => {
                    points.push(Spec::alone(clients, schema::Level::Local, "a thread per client"));
                    if clients > 1 {
                        let tickets = Spec::alone(clients, schema::Level::Local, "tickets of one thread");
                        points.push(Spec { threads: None, ..tickets });
                    }
                }
            }
        }
        if self.arrangement == Arrangement::Alone {
            points.push(Spec::alone(1, schema::Level::Off, "into the arena"));
        }
        points
    }

    fn start(&mut self, dir: &Path) -> Result<()> {
        make_dir(dir)?;
        let standbys = match self.arrangement {
            Arrangement::Alone => Vec::new(),
            _ => self.start_standbys(dir)?,
        };
        let primary = match self.arrangement {
            Arrangement::Socket => Primary::Process(self.start_process(dir, &standbys)?),
            _ => Primary::Embedded(self.open(dir, &standbys)?),
        };
        // One record through all of it: from then on it serves.
        let level = if standbys.is_empty() { Level::Local } else { Level::RemoteApply };
        match &primary {
            Primary::Process(node) => {
                let mut client = connect(node.address)?;
                client.submit(&[b"ready"], level, None)?;
                committed(client.recv_timeout(START_LIMIT)?)?;
            }
            Primary::Embedded(log) => {
                let ticket = log.append_within(b"ready", level, None, START_LIMIT)?;
                ticket.wait_timeout(START_LIMIT)?;
            }
        }
        if self.arrangement == Arrangement::Alone {
            wait_for_segments(&dir.join("primary/shard-0/segments"), PREPARED_ALONE as usize);
        }
        self.running = Some(Running { primary, standbys });
        Ok(())
    }

    fn measure(&mut self, spec: &Spec) -> Result<Measured> {
        let running = self.running.as_ref().context("it is not running")?;
        let setting = &self.setting;
        let level = core_level(spec.level);
        let clients = spec.clients as usize;
        match &running.primary {
            Primary::Process(node) => {
                let connections = spec.connections.unwrap_or(1).max(1) as usize;
                let open = (0..connections).map(|_| connect(node.address)).collect::<Result<Vec<_>>>()?;
                let mut trimmer = connect(node.address)?;
                measured(setting.warm_up, setting.duration, |timing| {
                    over_sockets(open, &mut trimmer, clients / connections, level, &setting.work(timing))
                })
            }
            Primary::Embedded(log) => measured(setting.warm_up, setting.duration, |timing| {
                let work = setting.work(timing);
                let trimmed = AtomicU64::new(0);
                if spec.level == schema::Level::Off {
                    return flood(&work, |payload| {
                        let ticket = log.append_within(payload, level, None, DRAIN)?;
                        trim(log, &trimmed, ticket.end());
                        Ok(())
                    });
                }
                if spec.threads.is_some() {
                    return run_threads(clients, &work, |_, payload| {
                        let committed = log.append_within(payload, level, None, DRAIN)?.wait()?;
                        trim(log, &trimmed, committed.end);
                        Ok(())
                    });
                }
                tickets(log, clients, level, &trimmed, &work)
            }),
        }
    }

    fn check(&mut self) -> Result<()> {
        let Some(running) = &mut self.running else { return Ok(()) };
        if let Primary::Process(node) = &mut running.primary {
            node.check()?;
        }
        running.standbys.iter_mut().try_for_each(Node::check)
    }

    fn stop(&mut self) -> Result<()> {
        let Some(running) = self.running.take() else { return Ok(()) };
        match running.primary {
            Primary::Embedded(log) => log.close().context("the primary did not stop cleanly")?,
            Primary::Process(node) => node.end()?,
        }
        running.standbys.into_iter().try_for_each(Node::end)
    }
}

/// So many outstanding tickets of this thread, which polls them and yields in between.
fn tickets(
    log: &Shard,
    clients: usize,
    level: Level,
    trimmed: &AtomicU64,
    work: &Work<'_>,
) -> Result<Recorder> {
    let mut recorder = Recorder::new();
    let mut payloads = Payloads::new(work.record_bytes, 0);
    // Acknowledgements of one level come in the order of the log.
    let mut waiting: VecDeque<(Ticket, Instant)> = VecDeque::with_capacity(clients);
    let mut last = Instant::now();
    loop {
        let over = work.is_over(Instant::now());
        if over && waiting.is_empty() {
            return Ok(recorder);
        }
        while !over && waiting.len() < clients {
            let since = Instant::now();
            waiting.push_back((log.append_within(payloads.next(), level, None, DRAIN)?, since));
        }
        let mut none = true;
        while let Some((ticket, since)) = waiting.front_mut() {
            let Some(outcome) = ticket.try_get() else { break };
            last = Instant::now();
            recorder.ack(&work.timing, *since, last);
            trim(log, trimmed, outcome?.end);
            waiting.pop_front();
            none = false;
        }
        if none {
            if last.elapsed() > DRAIN {
                bail!("no acknowledgement for {} s", DRAIN.as_secs());
            }
            std::thread::yield_now();
        }
    }
}

/// So many requests outstanding on each connection, all from this thread. It waits as the client does: it polls for
/// a while, then sleeps.
fn over_sockets(
    mut clients: Vec<Client>,
    trimmer: &mut Client,
    outstanding: usize,
    level: Level,
    work: &Work<'_>,
) -> Result<Recorder> {
    let mut recorder = Recorder::new();
    let mut payloads = Payloads::new(work.record_bytes, 0);
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).context("cannot poll")?;
    for (index, client) in clients.iter().enumerate() {
        let number = epoll::EventData::new_u64(index as u64);
        epoll::add(&poll, client, number, epoll::EventFlags::IN).context("cannot poll a connection")?;
    }
    let spin = ClientOptions::default().spin;
    // When each connection's requests were issued, by their number.
    let mut issued: Vec<VecDeque<(u64, Instant)>> = clients.iter().map(|_| VecDeque::new()).collect();
    let mut waiting = 0;
    let submit = |client: &mut Client, issued: &mut VecDeque<(u64, Instant)>, payload: &[u8]| -> Result<()> {
        let since = Instant::now();
        let request = client.submit(&[payload], level, None)?;
        client.flush()?;
        issued.push_back((request, since));
        Ok(())
    };
    for (client, issued) in clients.iter_mut().zip(&mut issued) {
        for _ in 0..outstanding {
            submit(client, issued, payloads.next())?;
            waiting += 1;
        }
    }
    let trimmed = AtomicU64::new(0);
    let mut events: Vec<epoll::Event> = Vec::with_capacity(clients.len().max(1));
    let mut idle_since = Instant::now();
    // Sending receives, too: what came meanwhile makes no socket readable any more.
    let mut ready: Vec<usize> = (0..clients.len()).collect();
    while waiting > 0 {
        let mut trim_below = None;
        for index in ready.drain(..) {
            while !issued[index].is_empty() {
                let Some(completion) = clients[index].try_recv()? else { break };
                let seen = Instant::now();
                let request = completion.request;
                let end = committed(completion)?.end;
                let place = issued[index].iter().position(|(number, _)| *number == request);
                let (_, since) =
                    place.and_then(|place| issued[index].remove(place)).context("an answer to no request")?;
                recorder.ack(&work.timing, since, seen);
                if due(&trimmed, end) {
                    trim_below = Some(end);
                }
                if work.is_over(seen) {
                    waiting -= 1;
                } else {
                    submit(&mut clients[index], &mut issued[index], payloads.next())?;
                }
            }
        }
        if let Some(below) = trim_below {
            trimmer.trim(below)?;
        }
        if waiting == 0 {
            break;
        }
        let now = Instant::now();
        let asleep = if now - idle_since < spin { Duration::ZERO } else { Duration::from_millis(100) };
        let timeout = rustix::event::Timespec { tv_sec: 0, tv_nsec: asleep.subsec_nanos().into() };
        events.clear();
        match epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot poll"),
        }
        if events.is_empty() {
            if now - idle_since > DRAIN {
                bail!("{waiting} requests were not acknowledged for {} s", DRAIN.as_secs());
            }
            std::thread::yield_now();
            continue;
        }
        ready.extend(events.iter().map(|event| event.data.u64() as usize));
        idle_since = Instant::now();
    }
    Ok(recorder)
}

fn committed(completion: Completion) -> Result<Committed> {
    match completion.outcome {
        Outcome::Committed(committed) => Ok(committed),
        Outcome::Refused(why) | Outcome::Indeterminate(why) => bail!("an append failed: {why}"),
    }
}

fn trim(log: &Shard, trimmed: &AtomicU64, end: Lsn) {
    if due(trimmed, end) {
        // A trim that is refused leaves the log longer; when that matters, the next append says so.
        let _ = log.trim(end);
    }
}

/// Half a segment further than the last trim; true for one caller.
fn due(trimmed: &AtomicU64, end: Lsn) -> bool {
    let last = trimmed.load(Ordering::Relaxed);
    end.0 >= last + TRIM_EVERY_BYTES
        && trimmed.compare_exchange(last, end.0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

fn connect(address: SocketAddr) -> Result<Client> {
    let options = ClientOptions { name: "compare".into(), ..ClientOptions::default() };
    Client::connect_with(address, 0, options).context("cannot connect to the primary")
}

fn wait_for_segments(dir: &Path, wanted: usize) {
    // A disk that is too slow for it only makes the figure worse.
    let deadline = Instant::now() + START_LIMIT;
    let count = || std::fs::read_dir(dir).map_or(0, |entries| entries.flatten().count());
    while count() < wanted && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn core_level(level: schema::Level) -> Level {
    match level {
        schema::Level::Off => Level::Off,
        schema::Level::Local => Level::Local,
        schema::Level::RemoteWrite => Level::RemoteWrite,
        schema::Level::On => Level::On,
        schema::Level::RemoteApply => Level::RemoteApply,
    }
}

/// A node of the `towline` program, ended when its input ends: also when this process is killed.
struct Node {
    name: String,
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

impl Node {
    fn start(program: &Path, name: &str, arguments: &[OsString], dir: &Path) -> Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let errors =
            std::fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let output = child.stdout.take();
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut node = Self { name: name.into(), child, address: nowhere, log };
        let (sender, ready) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let Some(output) = output else { return };
            // Read on after the address: a full pipe would stop the node.
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some(word) = line.split_whitespace().find_map(|word| word.strip_prefix("address=")) {
                    let _ = sender.send(word.parse());
                }
            }
        });
        match ready.recv_timeout(START_LIMIT) {
            Ok(address) => node.address = address.context("the node's address is none")?,
            Err(_) => bail!("towline {name} did not get ready: {}", last_lines(&node.log)),
        }
        Ok(node)
    }

    fn check(&mut self) -> Result<()> {
        if let Ok(Some(status)) = self.child.try_wait() {
            bail!("towline {} ended by itself ({status}): {}", self.name, last_lines(&self.log));
        }
        Ok(())
    }

    fn end(mut self) -> Result<()> {
        self.ask_to_end();
        match self.child.try_wait() {
            Ok(Some(status)) if status.success() => Ok(()),
            Ok(Some(status)) => bail!("towline {} ended with {status}: {}", self.name, last_lines(&self.log)),
            _ => bail!("towline {} did not end in time", self.name),
        }
    }

    fn ask_to_end(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
            let deadline = Instant::now() + Duration::from_secs(20);
            while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Asked first: a node that is killed leaves its shared-memory arena behind.
        self.ask_to_end();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const RULE: &str = "ANY 1 (a, b)";
const STANDBYS: [&str; 2] = ["a", "b"];
const RETENTION_BYTES: u64 = 4 << 30;
const PREPARED: u32 = 8;
/// For a second and a half of `off`.
const PREPARED_ALONE: u32 = 24;
const TRIM_EVERY_BYTES: u64 = 32 << 20;
