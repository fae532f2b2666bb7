//! NATS JetStream: three servers, a stream with three replicas in files, a connection for each client. Flushed for
//! every message where the version can; otherwise the default, which flushes every two minutes, marked not durable.

use super::{Absent, START_LIMIT, SURVIVES_ONE_NODE, Setting, Spec, System, client_runtime, make_dir};
use crate::load::{Measured, Session, measured, run_sessions};
use crate::process::{self, Process, find_program, parse_version, version_text, wait_until};
use anyhow::{Context, Result, bail};
use async_nats::jetstream::{self, stream};
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::time::Duration;
use towline_report::schema::Level;

/// Three servers.
pub(crate) struct Nats {
    setting: Setting,
    program: PathBuf,
    version: [u32; 3],
    running: Option<Running>,
}

struct Running {
    /// Of the server that leads the stream.
    port: u16,
    nodes: Vec<Process>,
}

impl Nats {
    pub(crate) fn find(setting: &Setting) -> Result<Self, Absent> {
        let absent = |why: String| Absent(format!("{why}: apt-get install nats-server"));
        let program = find_program("nats-server").ok_or_else(|| absent("NATS is not installed".into()))?;
        let said = process::output(&program, &["--version".into()], None)
            .map_err(|error| absent(format!("{error:#}")))?;
        let version = parse_version(&said).ok_or_else(|| absent(format!("no version in '{said}'")))?;
        if version < OLDEST {
            let (found, oldest) = (version_text(version), version_text(OLDEST));
            return Err(absent(format!("NATS {found} is too old, {oldest} or newer is needed")));
        }
        Ok(Self { setting: setting.clone(), program, version, running: None })
    }

    fn flushes(&self) -> bool {
        self.version >= HAS_SYNC_ALWAYS
    }
}

impl System for Nats {
    fn name(&self) -> &'static str {
        "nats"
    }

    fn version(&self) -> String {
        version_text(self.version)
    }

    fn points(&self, clients: &[u32]) -> Vec<Spec> {
        let spec = |clients: &u32| {
            if self.flushes() {
                return Spec::socket(*clients, Level::On, "majority of 3", "JetStream R3, file, sync always");
            }
            let how = "JetStream R3, file, as it comes: sync always needs version 2.10";
            Spec {
                durable: false,
                survives: SURVIVES_ONE_NODE,
                ..Spec::socket(*clients, Level::RemoteWrite, "majority of 3", how)
            }
        };
        clients.iter().map(spec).collect()
    }

    fn start(&mut self, dir: &Path) -> Result<()> {
        make_dir(dir)?;
        let ports = self.setting.ports.take(6)?;
        let (clients, routes) = ports.split_at(3);
        let all_routes: Vec<String> = routes.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let mut nodes = Vec::new();
        for server in 0..3 {
            let name = format!("n{server}");
            let sync = if self.flushes() { "sync_interval: always" } else { "" };
            let text = format!(
                "server_name: {name}\nlisten: 127.0.0.1:{}\njetstream {{ store_dir: {:?}\n{sync} }}\n\
                 cluster {{ name: beside\nlisten: 127.0.0.1:{}\nroutes: [{}] }}\n",
                clients[server],
                dir.join(&name),
                routes[server],
                all_routes.join(", ")
            );
            let path = dir.join(format!("{name}.conf"));
            std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            let arguments = ["-c".into(), path.into()];
            let log = dir.join(format!("{name}.log"));
            nodes.push(Process::start(&format!("nats {name}"), &self.program, &arguments, None, &log)?);
        }
        for (node, port) in nodes.iter_mut().zip(clients) {
            node.wait_until(START_LIMIT, || process::listens(*port))?;
        }
        let runtime = client_runtime()?;
        let mut leader = None;
        let mut why = String::from("no answer");
        let ready = || match runtime.block_on(make_stream(clients[0])) {
            Ok(name) => {
                leader = name.strip_prefix('n').and_then(|number| number.parse::<usize>().ok());
                leader.is_some()
            }
            Err(error) => {
                why = format!("{error:#}");
                false
            }
        };
        wait_until(START_LIMIT, ready, || nodes.iter_mut().try_for_each(Process::check))
            .with_context(|| format!("the stream could not be made: {why}"))?;
        let port = leader.and_then(|index| clients.get(index)).context("the stream has no leader")?;
        self.running = Some(Running { port: *port, nodes });
        Ok(())
    }

    fn measure(&mut self, spec: &Spec) -> Result<Measured> {
        let port = self.running.as_ref().context("it is not running")?.port;
        let runtime = client_runtime()?;
        let sessions = runtime.block_on(async {
            let mut sessions = Vec::new();
            for _ in 0..spec.clients {
                sessions.push(Publish { context: connect(port).await? });
            }
            Ok::<_, anyhow::Error>(sessions)
        })?;
        measured(self.setting.warm_up, self.setting.duration, |timing| {
            runtime.block_on(run_sessions(sessions, &self.setting.work(spec, timing)))
        })
    }

    fn check(&mut self) -> Result<()> {
        self.running.iter_mut().flat_map(|running| &mut running.nodes).try_for_each(Process::check)
    }

    fn stop(&mut self) -> Result<()> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        running.nodes.iter_mut().try_for_each(|node| node.end(Signal::TERM))
    }
}

struct Publish {
    context: jetstream::Context,
}

impl Session for Publish {
    async fn commit(&mut self, payload: &[u8]) -> Result<()> {
        let ack = self.context.publish(SUBJECT, payload.to_vec().into()).await?;
        ack.await?;
        Ok(())
    }
}

async fn connect(port: u16) -> Result<jetstream::Context> {
    let client = async_nats::connect(format!("nats://127.0.0.1:{port}")).await?;
    Ok(jetstream::new(client))
}

/// Makes the stream, or finds it; the name of the server that leads it, once all replicas are current.
async fn make_stream(port: u16) -> Result<String> {
    let context = connect(port).await?;
    let config = stream::Config {
        name: "beside".into(),
        subjects: vec![SUBJECT.into()],
        storage: stream::StorageType::File,
        num_replicas: 3,
        // The oldest go: a stream that grows for ever would fill the disk.
        max_bytes: 1 << 30,
        ..stream::Config::default()
    };
    let making = async {
        let mut stream = context.get_or_create_stream(config).await?;
        let info = stream.info().await?;
        let cluster = info.cluster.as_ref().context("the stream is not replicated")?;
        if cluster.replicas.len() != 2 || !cluster.replicas.iter().all(|replica| replica.current) {
            bail!("replicas are not current yet");
        }
        cluster.leader.clone().context("the stream has no leader yet")
    };
    tokio::time::timeout(Duration::from_secs(5), making).await.context("no answer within 5 s")?
}

const SUBJECT: &str = "beside.records";
const OLDEST: [u32; 3] = [2, 3, 0];
const HAS_SYNC_ALWAYS: [u32; 3] = [2, 10, 0];
