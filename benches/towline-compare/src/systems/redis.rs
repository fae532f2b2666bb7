//! Redis: a primary and two replicas that flush their append-only file for every write; a connection for each client.

use super::{Absent, START_LIMIT, Setting, Spec, System, client_runtime, make_dir};
use crate::load::{Measured, Session, measured, run_sessions};
use crate::process::{self, Process, find_program, parse_version, version_text, wait_until};
use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Client};
use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use towline_report::schema::Level;

/// A primary with two replicas.
pub(crate) struct Redis {
    setting: Setting,
    program: PathBuf,
    version: [u32; 3],
    running: Option<(u16, Vec<Process>)>,
}

impl Redis {
    pub(crate) fn find(setting: &Setting) -> Result<Self, Absent> {
        let absent = |why: String| Absent(format!("{why}: apt-get install redis-server"));
        let program = find_program("redis-server").ok_or_else(|| absent("Redis is not installed".into()))?;
        let said = process::output(&program, &["--version".into()], None)
            .map_err(|error| absent(format!("{error:#}")))?;
        let version = parse_version(&said).ok_or_else(|| absent(format!("no version in '{said}'")))?;
        if version < OLDEST {
            let (found, oldest) = (version_text(version), version_text(OLDEST));
            return Err(absent(format!("Redis {found} is too old, {oldest} or newer is needed")));
        }
        Ok(Self { setting: setting.clone(), program, version, running: None })
    }

    fn start_node(&self, name: &str, dir: &Path, port: u16, primary: Option<u16>) -> Result<Process> {
        make_dir(dir)?;
        let mut arguments: Vec<OsString> = vec!["--dir".into(), dir.into()];
        let port = port.to_string();
        let fixed = ["--port", &port, "--bind", "127.0.0.1", "--daemonize", "no", "--save", ""];
        // Rewriting the file would be load of another kind in the middle of a point.
        // The first replica would be waited for, for five seconds.
        let file = [
            "--repl-diskless-sync-delay",
            "0",
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
            "--auto-aof-rewrite-percentage",
            "0",
        ];
        arguments.extend(fixed.into_iter().chain(file).map(OsString::from));
        if let Some(primary) = primary {
            arguments.push("--replicaof".into());
            arguments.push(format!("127.0.0.1 {primary}").into());
        }
        Process::start(&format!("redis {name}"), &self.program, &arguments, None, &dir.with_extension("log"))
    }
}

impl System for Redis {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn version(&self) -> String {
        version_text(self.version)
    }

    fn points(&self, clients: &[u32]) -> Vec<Spec> {
        // WAIT counts replicas that have the write in memory.
        let wait = |clients: &u32| {
            Spec::socket(
                *clients,
                Level::RemoteWrite,
                WAIT,
                "appendfsync always, SET and WAIT 1 in one pipeline",
            )
        };
        let mut points: Vec<Spec> = clients.iter().map(wait).collect();
        if self.version >= HAS_WAITAOF {
            let waitaof = |clients: &u32| {
                Spec::socket(
                    *clients,
                    Level::On,
                    WAITAOF,
                    "appendfsync always, SET and WAITAOF 1 1 in one pipeline",
                )
            };
            points.extend(clients.iter().map(waitaof));
        }
        points
    }

    fn start(&mut self, dir: &Path) -> Result<()> {
        make_dir(dir)?;
        let ports = self.setting.ports.take(3)?;
        let mut nodes = vec![self.start_node("primary", &dir.join("primary"), ports[0], None)?];
        nodes[0].wait_until(START_LIMIT, || process::listens(ports[0]))?;
        for (name, port) in [("a", ports[1]), ("b", ports[2])] {
            nodes.push(self.start_node(name, &dir.join(name), port, Some(ports[0]))?);
        }
        let runtime = client_runtime()?;
        let ready = || runtime.block_on(online(ports[0])).is_ok_and(|count| count == 2);
        wait_until(START_LIMIT, ready, || nodes.iter_mut().try_for_each(Process::check))
            .context("the replicas did not come online")?;
        self.running = Some((ports[0], nodes));
        Ok(())
    }

    fn measure(&mut self, spec: &Spec) -> Result<Measured> {
        let port = self.running.as_ref().context("it is not running")?.0;
        let runtime = client_runtime()?;
        let aof = spec.sync_rule == WAITAOF;
        let sessions = runtime.block_on(async {
            let mut sessions = Vec::new();
            for client in 0..spec.clients {
                sessions.push(SetAndWait { connection: connect(port).await?, client, next: 0, aof });
            }
            Ok::<_, anyhow::Error>(sessions)
        })?;
        measured(self.setting.warm_up, self.setting.duration, |timing| {
            runtime.block_on(run_sessions(sessions, &self.setting.work(spec, timing)))
        })
    }

    fn check(&mut self) -> Result<()> {
        self.running.iter_mut().flat_map(|(_, nodes)| nodes).try_for_each(Process::check)
    }

    fn stop(&mut self) -> Result<()> {
        let Some((_, mut nodes)) = self.running.take() else { return Ok(()) };
        nodes.iter_mut().rev().try_for_each(|node| node.end(Signal::TERM))
    }
}

struct SetAndWait {
    connection: MultiplexedConnection,
    client: u32,
    next: u64,
    aof: bool,
}

impl Session for SetAndWait {
    async fn commit(&mut self, payload: &[u8]) -> Result<()> {
        self.next += 1;
        let key = format!("{}:{}", self.client, self.next % KEYS);
        let mut pipe = ::redis::pipe();
        pipe.cmd("SET").arg(key).arg(payload).ignore();
        if self.aof {
            pipe.cmd("WAITAOF").arg(1).arg(1).arg(WAIT_MS);
            let ((local, replicas),): ((i64, i64),) = pipe.query_async(&mut self.connection).await?;
            if local < 1 || replicas < 1 {
                bail!("WAITAOF counted {local} and {replicas} within {WAIT_MS} ms");
            }
        } else {
            pipe.cmd("WAIT").arg(1).arg(WAIT_MS);
            let (replicas,): (i64,) = pipe.query_async(&mut self.connection).await?;
            if replicas < 1 {
                bail!("no replica answered WAIT within {WAIT_MS} ms");
            }
        }
        Ok(())
    }
}

async fn connect(port: u16) -> Result<MultiplexedConnection> {
    let client = Client::open(("127.0.0.1", port))?;
    // The wait has a limit of its own.
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    Ok(client.get_multiplexed_async_connection_with_config(&config).await?)
}

async fn online(port: u16) -> Result<usize> {
    let mut connection = connect(port).await?;
    let info: String = ::redis::cmd("INFO").arg("replication").query_async(&mut connection).await?;
    Ok(info.lines().filter(|line| line.starts_with("slave") && line.contains("state=online")).count())
}

/// As a rule of the same strength would be written.
const WAIT: &str = "WAIT 1";
const WAITAOF: &str = "WAITAOF 1 1";
const WAIT_MS: u32 = 10_000;
/// Keys of each client: the data set stays small.
const KEYS: u64 = 1000;
const OLDEST: [u32; 3] = [5, 0, 0];
const HAS_WAITAOF: [u32; 3] = [7, 2, 0];
