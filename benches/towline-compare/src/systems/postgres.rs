//! PostgreSQL: a primary and two streaming standbys under the same sync rule, a connection for each client, and one
//! prepared transaction per commit that writes its payload into the log and nothing else.

use super::{Absent, START_LIMIT, Setting, Spec, System, client_runtime, make_dir};
use crate::load::{Measured, Session, measured, run_sessions};
use crate::process::{self, Process, User, find_program, parse_version, version_text, wait_until};
use anyhow::{Context, Result};
use rustix::process::Signal;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio_postgres::{Client, NoTls, Statement};
use towline_bench::process::last_lines;
use towline_report::schema::Level;

/// A primary with standbys `a` and `b`.
pub(crate) struct Postgres {
    setting: Setting,
    bin: PathBuf,
    version: [u32; 3],
    user: Option<User>,
    running: Option<Running>,
}

struct Running {
    port: u16,
    /// The primary first.
    nodes: Vec<Process>,
}

impl Postgres {
    pub(crate) fn find(setting: &Setting) -> Result<Self, Absent> {
        let absent = |why: String| Absent(format!("{why}: apt-get install postgresql"));
        let server = server_program().ok_or_else(|| absent("PostgreSQL is not installed".into()))?;
        let said = process::output(&server, &["--version".into()], None)
            .map_err(|error| absent(format!("{error:#}")))?;
        let version = parse_version(&said).ok_or_else(|| absent(format!("no version in '{said}'")))?;
        if version[0] < OLDEST {
            return Err(absent(format!(
                "PostgreSQL {} is too old, {OLDEST} or newer is needed",
                version_text(version)
            )));
        }
        let user = User::ordinary(&["postgres", "nobody"]).map_err(|error| Absent(format!("{error:#}")))?;
        // The other programs stand beside the server itself, which may be reached by a link.
        let server = server.canonicalize().unwrap_or(server);
        let bin = server.parent().map(Path::to_path_buf).unwrap_or_default();
        Ok(Self { setting: setting.clone(), bin, version, user, running: None })
    }

    /// Where it serves; for programs of its own that look at it.
    pub(crate) fn port(&self) -> Option<u16> {
        self.running.as_ref().map(|running| running.port)
    }

    /// A program that came with it.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    fn run(&self, program: &str, arguments: &[OsString]) -> Result<()> {
        process::output(&self.bin.join(program), arguments, self.user.as_ref()).map(drop)
    }

    fn start_node(&self, name: &str, dir: &Path) -> Result<Process> {
        let log = dir.with_extension("log");
        let arguments = ["-D".into(), dir.into()];
        Process::start(
            &format!("postgres {name}"),
            &self.bin.join("postgres"),
            &arguments,
            self.user.as_ref(),
            &log,
        )
    }

    async fn sessions(&self, port: u16, level: Level, clients: u32) -> Result<Vec<Commit>> {
        let mut sessions = Vec::new();
        for _ in 0..clients {
            let client = connect(port).await?;
            client.batch_execute(&format!("SET synchronous_commit = {level}")).await?;
            let statement = client.prepare(STATEMENT).await?;
            sessions.push(Commit { client, statement });
        }
        Ok(sessions)
    }
}

impl System for Postgres {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn version(&self) -> String {
        // Since version 10 the second number is the minor one.
        format!("{}.{}", self.version[0], self.version[1])
    }

    fn points(&self, clients: &[u32]) -> Vec<Spec> {
        let spec = |level, clients| Spec::socket(clients, level, RULE, "synchronous_commit as the level");
        Level::ALL.iter().flat_map(|level| clients.iter().map(|clients| spec(*level, *clients))).collect()
    }

    fn start(&mut self, dir: &Path) -> Result<()> {
        make_dir(dir)?;
        User::own(self.user.as_ref(), dir)?;
        let ports = self.setting.ports.take(3)?;
        let primary = dir.join("primary");
        let mut arguments: Vec<OsString> = vec!["-D".into(), primary.clone().into()];
        arguments.extend(["-U", "towline", "-A", "trust", "-E", "UTF8", "--no-sync"].map(OsString::from));
        self.run("initdb", &arguments).with_context(|| self.hint(dir))?;
        append(&primary.join("postgresql.conf"), &configuration(ports[0]))?;
        // A copy of a cluster that is not running is a base backup.
        for (index, name) in STANDBYS.iter().enumerate() {
            let standby = dir.join(name);
            self.run_any("cp", &["-a".into(), primary.clone().into(), standby.clone().into()])?;
            append(&standby.join("standby.signal"), "")?;
            append(
                &standby.join("postgresql.conf"),
                &standby_configuration(name, ports[0], ports[index + 1]),
            )?;
        }
        append(&primary.join("postgresql.conf"), &format!("synchronous_standby_names = '{RULE}'\n"))?;
        for file in STANDBYS.iter().map(|name| dir.join(name).join("standby.signal")) {
            User::own(self.user.as_ref(), &file)?;
        }
        let mut nodes = vec![self.start_node("primary", &primary)?];
        for name in STANDBYS {
            nodes.push(self.start_node(name, &dir.join(name))?);
        }
        let runtime = client_runtime()?;
        let mut why = String::from("no answer");
        let ready = wait_until(
            START_LIMIT,
            || match runtime.block_on(streaming(ports[0])) {
                Ok(count) if count == STANDBYS.len() as i64 => true,
                Ok(count) => {
                    why = format!("{count} of {} standbys stream", STANDBYS.len());
                    false
                }
                Err(error) => {
                    why = format!("{error:#}");
                    false
                }
            },
            || nodes.iter_mut().try_for_each(Process::check),
        );
        ready
            .with_context(|| format!("{why}; the primary said: {}", last_lines(&dir.join("primary.log"))))?;
        self.running = Some(Running { port: ports[0], nodes });
        Ok(())
    }

    fn measure(&mut self, spec: &Spec) -> Result<Measured> {
        let port = self.port().context("it is not running")?;
        let runtime = client_runtime()?;
        let sessions = runtime.block_on(self.sessions(port, spec.level, spec.clients))?;
        measured(self.setting.warm_up, self.setting.duration, |timing| {
            runtime.block_on(run_sessions(sessions, &self.setting.work(spec, timing)))
        })
    }

    fn check(&mut self) -> Result<()> {
        self.running.iter_mut().flat_map(|running| &mut running.nodes).try_for_each(Process::check)
    }

    fn stop(&mut self) -> Result<()> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        // The standbys first: a primary waits for those that count. SIGINT is its fast shutdown.
        running.nodes.iter_mut().rev().try_for_each(|node| node.end(Signal::INT))
    }
}

impl Postgres {
    fn run_any(&self, program: &str, arguments: &[OsString]) -> Result<()> {
        let found = find_program(program).with_context(|| format!("{program} is not installed"))?;
        process::output(&found, arguments, self.user.as_ref()).map(drop)
    }

    fn hint(&self, dir: &Path) -> String {
        let user =
            if self.user.is_some() { " as an ordinary user, who must be able to enter it" } else { "" };
        format!("cannot make a database in {}{user}: another --dir helps", dir.display())
    }
}

struct Commit {
    client: Client,
    statement: Statement,
}

impl Session for Commit {
    async fn commit(&mut self, payload: &[u8]) -> Result<()> {
        self.client.execute(&self.statement, &[&payload]).await?;
        Ok(())
    }
}

async fn connect(port: u16) -> Result<Client> {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(port).user("towline").dbname("postgres");
    config.connect_timeout(Duration::from_secs(5));
    let (client, connection) = config.connect(NoTls).await?;
    // It ends with its client; errors reach the client's calls.
    tokio::spawn(connection);
    Ok(client)
}

async fn streaming(port: u16) -> Result<i64> {
    let client = connect(port).await?;
    let row =
        client.query_one("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'", &[]).await?;
    Ok(row.try_get(0)?)
}

fn server_program() -> Option<PathBuf> {
    if let Some(found) = find_program("postgres") {
        return Some(found);
    }
    // Debian keeps the servers of several versions beside each other and none in the search path.
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let number = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let mut found: Vec<PathBuf> =
        versions.map(|entry| entry.path()).filter(|path| number(path).is_some()).collect();
    found.sort_by_key(|path| number(path));
    let server = found.pop()?.join("bin/postgres");
    server.is_file().then_some(server)
}

fn configuration(port: u16) -> String {
    // As it comes, but for room for the clients, and no checkpoint in the middle of a point.
    format!(
        "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = ''\nmax_connections = 300\n\
         wal_level = replica\nmax_wal_senders = 10\nwal_keep_size = '512MB'\nmax_wal_size = '4GB'\n\
         min_wal_size = '1GB'\ncheckpoint_timeout = '30min'\nautovacuum = off\nhot_standby = on\n"
    )
}

fn standby_configuration(name: &str, primary: u16, port: u16) -> String {
    format!(
        "port = {port}\ncluster_name = '{name}'\nprimary_conninfo = 'host=127.0.0.1 port={primary} user=towline \
         application_name={name}'\n"
    )
}

fn append(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Transactional, so that its commit is one; the answer is an LSN.
pub(crate) const STATEMENT: &str = "SELECT pg_logical_emit_message(true, 'towline', $1::bytea)";
pub(crate) const RULE: &str = "ANY 1 (a, b)";
const STANDBYS: [&str; 2] = ["a", "b"];
const OLDEST: u32 = 13;
