//! Towline in four arrangements: over the socket, as the peers are reached; embedded in this process; and embedded
//! without standbys, as the log libraries are, with a fresh log for `off`.

use super::sockets::{committed, connect, over_sockets};
use super::{START_LIMIT, Setting, Spec, System, make_dir};
use crate::load::{Measured, measured};
use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::path::Path;
use std::sync::atomic::Ordering;
use towline::{Level, Log};
use towline_bench::load::{Recorder, Work, closed, flood, threads};
use towline_bench::process::Process;
use towline_bench::{BenchError, Embedded, OffRoom, wait_for_segments};
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
    /// The same, with a fresh log and segments for all that one thread appends without waiting for its disk.
    Off,
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
    standbys: Vec<Process>,
}

enum Primary {
    Embedded(Log),
    Process(Process),
}

impl Towline {
    pub(crate) fn new(setting: &Setting, arrangement: Arrangement) -> Self {
        Self { setting: setting.clone(), arrangement, running: None }
    }

    fn start_standbys(&self, dir: &Path) -> Result<Vec<Process>> {
        let start = |name: &&str| -> Result<Process> {
            let mut arguments = vec!["standby".into(), "--dir".into(), dir.join(name).into()];
            arguments.extend(self.flags(name));
            Ok(Process::start_program(&self.setting.program, name, &arguments, dir)?)
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

    fn start_process(&self, dir: &Path, standbys: &[Process]) -> Result<Process> {
        let mut arguments: Vec<OsString> = vec!["primary".into(), "--dir".into(), dir.join("primary").into()];
        arguments.extend(self.flags("primary"));
        arguments.push(format!("--hold-bytes={RETENTION_BYTES}").into());
        arguments.push(format!("--sync-rule={RULE}").into());
        for standby in standbys {
            arguments.push(format!("--standby={}={}", standby.name(), standby.address).into());
        }
        Ok(Process::start_program(&self.setting.program, "primary", &arguments, dir)?)
    }

    fn open(&self, dir: &Path, standbys: &[Process]) -> Result<Log> {
        let mut builder = Log::builder().name("primary");
        for standby in standbys {
            builder = builder.standby(standby.name(), standby.address);
        }
        if !standbys.is_empty() {
            builder = builder.sync_rule(RULE);
        }
        let flushing = self.setting.flushing;
        let (segments, retention_bytes) = self.room(dir)?;
        let builder = builder.options(|options| {
            options.retention_bytes = retention_bytes;
            options.hold_bytes = retention_bytes;
            options.prepare_segments = segments;
            options.primitive = flushing.map(|(primitive, _)| primitive);
            options.flush_depth = flushing.map(|(_, depth)| depth);
        });
        let log = builder.open(dir.join("primary")).context("the primary cannot start")?;
        wait_for_segments(&[dir.join("primary")], segments, |_| {
            if self.setting.stop.load(Ordering::Relaxed) { Err(BenchError::Interrupted) } else { Ok(()) }
        })?;
        Ok(log)
    }

    /// Segments to prepare, and how far the log may reach.
    fn room(&self, dir: &Path) -> Result<(u32, u64)> {
        if self.arrangement != Arrangement::Off {
            return Ok((PREPARED, RETENTION_BYTES));
        }
        let time = self.setting.warm_up + self.setting.duration;
        let room = OffRoom::on(dir, time, self.setting.disk_bytes_per_s)?;
        Ok((room.segments, room.retention_bytes))
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
            Arrangement::Off => "towline at off".into(),
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
                Arrangement::Off => {}
            }
        }
        if self.arrangement == Arrangement::Off {
            points.push(Spec::alone(
                1,
                schema::Level::Off,
                "into the arena, segments prepared before the clock",
            ));
        }
        points
    }

    fn start(&mut self, dir: &Path) -> Result<()> {
        make_dir(dir)?;
        let standbys = match self.arrangement {
            Arrangement::Alone | Arrangement::Off => Vec::new(),
            Arrangement::Socket | Arrangement::Embedded => self.start_standbys(dir)?,
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
        self.running = Some(Running { primary, standbys });
        Ok(())
    }

    fn measure(&mut self, spec: &Spec) -> Result<Measured> {
        let running = self.running.as_ref().context("it is not running")?;
        let setting = &self.setting;
        let clients = spec.clients as usize;
        let work = |timing| Work { trim: self.arrangement != Arrangement::Off, ..setting.work(spec, timing) };
        match &running.primary {
            Primary::Process(node) => {
                let connections = spec.connections.unwrap_or(1).max(1) as usize;
                let open = (0..connections).map(|_| connect(node.address)).collect::<Result<Vec<_>>>()?;
                let mut trimmer = connect(node.address)?;
                measured(setting.warm_up, setting.duration, |timing| {
                    let work = work(timing);
                    let recorder = over_sockets(open, &mut trimmer, clients / connections, &work)?;
                    not_weaker(recorder, work.level)
                })
            }
            Primary::Embedded(log) => measured(setting.warm_up, setting.duration, |timing| {
                let (own, work) = (Embedded(log.shards()), work(timing));
                let recorder = match (spec.level, spec.threads) {
                    (schema::Level::Off, _) => flood::run(&own, &work, flood::SAMPLE_EVERY, None)?.0,
                    (_, Some(_)) => threads::run(&own, &work, clients)?,
                    (_, None) => closed::run(&own, &work, clients)?,
                };
                not_weaker(recorder, work.level)
            }),
        }
    }

    fn check(&mut self) -> Result<()> {
        let Some(running) = &mut self.running else { return Ok(()) };
        if let Primary::Process(node) = &mut running.primary {
            node.check()?;
        }
        running.standbys.iter_mut().try_for_each(|node| -> Result<()> { Ok(node.check()?) })
    }

    fn stop(&mut self) -> Result<()> {
        let Some(running) = self.running.take() else { return Ok(()) };
        match running.primary {
            Primary::Embedded(log) => log.close().context("the primary did not stop cleanly")?,
            Primary::Process(node) => node.end()?,
        }
        running.standbys.into_iter().try_for_each(|node| -> Result<()> { Ok(node.end()?) })
    }
}

/// A row of a level is of that level: a log without its rule would acknowledge at a weaker one.
fn not_weaker(recorder: Recorder, level: Level) -> Result<Recorder> {
    let weaker = Level::ALL.iter().filter(|other| **other < level);
    let count: u64 = weaker.map(|weaker| recorder.achieved[*weaker as usize]).sum();
    if count > 0 {
        bail!("{count} acknowledgements were weaker than {level}");
    }
    Ok(recorder)
}

const RULE: &str = "ANY 1 (a, b)";
const STANDBYS: [&str; 2] = ["a", "b"];
const RETENTION_BYTES: u64 = 4 << 30;
const PREPARED: u32 = 8;
