//! etcd: three members, `put` at the leader, a connection for each client. The two calls that are needed are made
//! with the gRPC client crate itself: the client crates for etcd need a protocol compiler to be built.

use super::{Absent, START_LIMIT, Setting, Spec, System, client_runtime, make_dir};
use crate::load::{Measured, Session, measured, run_sessions};
use crate::process::{self, Process, find_program, parse_version, version_text, wait_until};
use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;
use towline_report::schema::Level;

/// Three members.
pub(crate) struct Etcd {
    setting: Setting,
    program: PathBuf,
    version: [u32; 3],
    running: Option<Running>,
}

struct Running {
    clients: Vec<u16>,
    nodes: Vec<Process>,
}

impl Etcd {
    pub(crate) fn find(setting: &Setting) -> Result<Self, Absent> {
        let absent = |why: String| Absent(format!("{why}: apt-get install etcd-server"));
        let program = find_program("etcd").ok_or_else(|| absent("etcd is not installed".into()))?;
        let said = process::output(&program, &["--version".into()], None)
            .map_err(|error| absent(format!("{error:#}")))?;
        let version = parse_version(&said).ok_or_else(|| absent(format!("no version in '{said}'")))?;
        if version < OLDEST {
            let (found, oldest) = (version_text(version), version_text(OLDEST));
            return Err(absent(format!("etcd {found} is too old, {oldest} or newer is needed")));
        }
        Ok(Self { setting: setting.clone(), program, version, running: None })
    }
}

impl System for Etcd {
    fn name(&self) -> &'static str {
        "etcd"
    }

    fn version(&self) -> String {
        version_text(self.version)
    }

    fn points(&self, clients: &[u32]) -> Vec<Spec> {
        // The leader's and one follower's disk make the majority of three.
        clients
            .iter()
            .map(|clients| Spec::socket(*clients, Level::On, "majority of 3", "put at the leader"))
            .collect()
    }

    fn start(&mut self, dir: &Path) -> Result<()> {
        make_dir(dir)?;
        let ports = self.setting.ports.take(6)?;
        let (clients, peers) = ports.split_at(3);
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let members: Vec<String> = (0..3).map(|member| format!("n{member}={}", url(peers[member]))).collect();
        let mut nodes = Vec::new();
        for member in 0..3 {
            let name = format!("n{member}");
            let data = dir.join(&name);
            let mut arguments: Vec<OsString> = vec!["--data-dir".into(), data.clone().into()];
            let mut flag = |flag: &str, value: String| {
                arguments.push(format!("--{flag}={value}").into());
            };
            flag("name", name.clone());
            flag("listen-client-urls", url(clients[member]));
            flag("advertise-client-urls", url(clients[member]));
            flag("listen-peer-urls", url(peers[member]));
            flag("initial-advertise-peer-urls", url(peers[member]));
            flag("initial-cluster", members.join(","));
            flag("initial-cluster-state", "new".into());
            flag("quota-backend-bytes", (8u64 << 30).to_string());
            flag("log-level", "error".into());
            let log = dir.join(format!("{name}.log"));
            nodes.push(Process::start(&format!("etcd {name}"), &self.program, &arguments, None, &log)?);
        }
        let runtime = client_runtime()?;
        let clients = clients.to_vec();
        let ready = || runtime.block_on(leader(&clients)).is_ok();
        wait_until(START_LIMIT, ready, || nodes.iter_mut().try_for_each(Process::check))
            .context("no leader was elected")?;
        self.running = Some(Running { clients, nodes });
        Ok(())
    }

    fn measure(&mut self, spec: &Spec) -> Result<Measured> {
        let running = self.running.as_ref().context("it is not running")?;
        let runtime = client_runtime()?;
        let sessions = runtime.block_on(async {
            let port = leader(&running.clients).await?;
            let mut sessions = Vec::new();
            for client in 0..spec.clients {
                sessions.push(Put { etcd: connect(port).await?, client, next: 0 });
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

struct Put {
    etcd: Grpc<Channel>,
    client: u32,
    next: u64,
}

impl Session for Put {
    async fn commit(&mut self, payload: &[u8]) -> Result<()> {
        self.next += 1;
        let key = format!("{}:{}", self.client, self.next % KEYS);
        let request = PutRequest { key: key.into_bytes(), value: payload.to_vec() };
        let _: PutResponse = call(&mut self.etcd, "/etcdserverpb.KV/Put", request).await?;
        Ok(())
    }
}

async fn connect(port: u16) -> Result<Grpc<Channel>> {
    let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))?.tcp_nodelay(true);
    Ok(Grpc::new(endpoint.connect().await?))
}

async fn call<Q, A>(etcd: &mut Grpc<Channel>, path: &'static str, request: Q) -> Result<A>
where
    Q: prost::Message + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
{
    etcd.ready().await?;
    let codec = ProstCodec::<Q, A>::default();
    let answer = etcd.unary(tonic::Request::new(request), PathAndQuery::from_static(path), codec).await?;
    Ok(answer.into_inner())
}

/// The client port of the member that leads, once all members answer.
async fn leader(clients: &[u16]) -> Result<u16> {
    let mut found = None;
    for port in clients {
        let mut etcd = connect(*port).await?;
        let status: StatusResponse =
            call(&mut etcd, "/etcdserverpb.Maintenance/Status", StatusRequest {}).await?;
        if status.leader == 0 {
            bail!("no leader yet");
        }
        if status.header.is_some_and(|header| header.member_id == status.leader) {
            found = Some(*port);
        }
    }
    found.context("no member says that it leads")
}

// The fields that are used, by their numbers in etcd's rpc.proto; others are skipped by the decoder.

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ResponseHeader {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

/// Keys of each client.
const KEYS: u64 = 1000;
const OLDEST: [u32; 3] = [3, 4, 0];
