//! A primary with its standbys, as processes of their own, behind emulated links where a workload asks for them.

use crate::count::free_bytes;
use crate::echo;
use crate::error::BenchError;
use crate::plan::Experiment;
use crate::process::{self, Process};
use crate::target::Primary;
use linkem::{Link, LinkConfig};
use std::ffi::OsString;
use std::net::ToSocketAddrs;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use towline_core::types::Level;
use towline_core::types::limits::SEGMENT_BYTES;
use towline_uring::primitive::Primitive;

/// Sizes of the primary's log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodeSizes {
    /// How far the log may reach past the last trim.
    pub(crate) retention_bytes: u64,
    /// How far a late standby holds trimming back. As far as the retention: then appends wait for a late standby, and
    /// none is told to resynchronise in the middle of a measurement.
    pub(crate) hold_bytes: u64,
    /// Segments prepared ahead.
    pub(crate) prepare_segments: u32,
    /// Through the page cache.
    pub(crate) buffered: bool,
    /// The way and depth of flushing, raced once for the whole run: nodes that each ran a short race of their own
    /// could come to different answers, and points would not be comparable.
    pub(crate) durability: Option<(Primitive, usize)>,
    /// The standbys keep the log and apply nothing.
    pub(crate) log_only: bool,
}

impl NodeSizes {
    /// What most experiments need: room for a standby that is late for a few seconds.
    pub(crate) fn usual(dir: &Path, buffered: bool, durability: Option<(Primitive, usize)>) -> Self {
        // A fifth each for the primary and up to three standbys, and something left.
        let fifth = free_bytes(dir).unwrap_or(u64::MAX) / 5;
        let retention_bytes = (8 << 30).min(fifth).max(4 * SEGMENT_BYTES);
        Self {
            retention_bytes,
            hold_bytes: retention_bytes,
            prepare_segments: 8,
            buffered,
            durability,
            log_only: false,
        }
    }
}

/// A running cluster. Dropping it kills its processes and removes its directories.
pub(crate) struct Cluster {
    /// `None` once it is closed.
    primary: Option<Primary>,
    pub(crate) standbys: Vec<StandbyNode>,
    dir: PathBuf,
    counting: usize,
    settle_level: Level,
}

/// A standby that was started here.
pub(crate) struct StandbyNode {
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    /// `None` once it has been ended.
    pub(crate) process: Option<Process>,
}

impl Cluster {
    /// Starts everything below `dir` and waits until the whole cluster streams.
    pub(crate) fn start(
        experiment: &Experiment,
        link_rtt_us: u64,
        sizes: &NodeSizes,
        dir: &Path,
        allocations: Option<fn() -> u64>,
    ) -> Result<RunningCluster, BenchError> {
        std::fs::create_dir_all(dir).map_err(|source| BenchError::File {
            what: "cannot make",
            path: dir.to_owned(),
            source,
        })?;
        // From here on a drop removes what was made.
        let mut cluster = Cluster {
            primary: None,
            standbys: Vec::new(),
            dir: dir.to_owned(),
            counting: 0,
            settle_level: if experiment.sync_rule.is_some() { Level::On } else { Level::Local },
        };
        let mut links = Vec::new();
        let mut addresses = Vec::new();
        for name in experiment.standby_names().into_iter().take(experiment.standbys as usize) {
            let node = start_standby(&name, experiment, sizes, dir)?;
            let address =
                node.process.as_ref().map_or_else(String::new, |process| process.address.to_string());
            cluster.standbys.push(node);
            addresses.push((name, address));
        }
        addresses.extend(experiment.remote.iter().cloned());
        if link_rtt_us > 0 || experiment.link_rate_bytes_per_s.is_some() {
            for (name, address) in &mut addresses {
                let link = start_link(name, address, link_rtt_us, experiment.link_rate_bytes_per_s)?;
                *address = link.local_addr().to_string();
                links.push(link);
            }
        }
        cluster.counting = if experiment.sync_rule.is_some() { addresses.len() } else { 0 };
        let primary = Primary::start(experiment, sizes, &addresses, &dir.join("primary"), dir, allocations)?;
        cluster.primary = Some(primary);
        let link_rtt_measured_us =
            if links.is_empty() { None } else { Some(echo::round_trip_us(link_rtt_us)?) };
        let running = RunningCluster { cluster, _links: links, link_rtt_measured_us };
        running.settle()?;
        Ok(running)
    }
}

/// A cluster with its links; the links go last.
pub(crate) struct RunningCluster {
    pub(crate) cluster: Cluster,
    _links: Vec<Link>,
    link_rtt_measured_us: Option<f64>,
}

impl RunningCluster {
    /// The primary under test.
    pub(crate) fn primary(&self) -> Result<&Primary, BenchError> {
        self.cluster.primary.as_ref().ok_or_else(|| BenchError::Failed("the primary has been stopped".into()))
    }

    /// Standbys that may count.
    pub(crate) fn counting(&self) -> usize {
        self.cluster.counting
    }

    /// Round trip through a link like those in use, µs, p50; `None` without links.
    pub(crate) fn link_rtt_measured_us(&self) -> Option<f64> {
        self.link_rtt_measured_us
    }

    /// The primary's directory.
    pub(crate) fn primary_dir(&self) -> PathBuf {
        self.cluster.dir.join("primary")
    }

    /// Waits until nothing of an earlier load is on its way: everything is flushed here and on the standbys that
    /// count, and the others have caught up as far as they do within a while.
    pub(crate) fn settle(&self) -> Result<(), BenchError> {
        let primary = self.primary()?;
        primary
            .settle(self.cluster.settle_level, SETTLE_LIMIT)
            .map_err(|error| BenchError::Failed(format!("{error}{}", self.last_words())))?;
        let deadline = Instant::now() + CATCH_UP_LIMIT;
        loop {
            let status = primary.status()?;
            let late = status
                .shards
                .iter()
                .flat_map(|shard| &shard.node.standbys)
                .any(|standby| standby.state != "streaming" || standby.lag_bytes > SETTLED_LAG_BYTES);
            if !late || Instant::now() > deadline {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What the standbys said last, for an error: their logs are removed with the cluster.
    fn last_words(&self) -> String {
        let words = |standby: &StandbyNode| {
            let log = self.cluster.dir.join(format!("{}.log", standby.name));
            format!("; '{}' said: {}", standby.name, process::last_lines(&log))
        };
        self.cluster.standbys.iter().map(words).collect()
    }

    /// Hands out the first standby that was started here, to be stopped and let go on, until it is given back.
    pub(crate) fn take_standby(&mut self) -> Option<Process> {
        self.cluster.standbys.first_mut().and_then(|node| node.process.take())
    }

    /// Takes the first standby back.
    pub(crate) fn give_back(&mut self, process: Process) {
        if let Some(node) = self.cluster.standbys.first_mut() {
            node.process = Some(process);
        }
    }

    /// Stops the primary cleanly, then the standbys. The directories stay until the drop.
    pub(crate) fn stop(&mut self) -> Result<(), BenchError> {
        if let Some(primary) = self.cluster.primary.take() {
            primary.close()?;
        }
        for standby in &mut self.cluster.standbys {
            if let Some(process) = standby.process.take() {
                process.end()?;
            }
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The processes first: they hold files below.
        self.primary = None;
        self.standbys.clear();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn start_standby(
    name: &str,
    experiment: &Experiment,
    sizes: &NodeSizes,
    dir: &Path,
) -> Result<StandbyNode, BenchError> {
    let own = dir.join(name);
    let mut arguments: Vec<OsString> = vec!["standby".into(), "--dir".into(), own.clone().into()];
    let mut flag = |flag: &str, value: String| arguments.push(format!("--{flag}={value}").into());
    flag("listen", "127.0.0.1:0".into());
    flag("until-input-ends", "true".into());
    flag("name", name.into());
    flag("shards", experiment.shards.to_string());
    flag("host", experiment.host.as_str().into());
    flag("retention-bytes", sizes.retention_bytes.to_string());
    flag("prepare-segments", sizes.prepare_segments.to_string());
    if let Some((primitive, depth)) = sizes.durability {
        flag("primitive", primitive.name().into());
        flag("flush-depth", depth.to_string());
    }
    if sizes.buffered {
        flag("buffered", "true".into());
    }
    if sizes.log_only {
        flag("log-only", "true".into());
    }
    let process = Process::start(name, &arguments, dir)?;
    Ok(StandbyNode { name: name.to_owned(), dir: own, process: Some(process) })
}

fn start_link(
    name: &str,
    address: &str,
    rtt_us: u64,
    rate_bytes_per_s: Option<u64>,
) -> Result<Link, BenchError> {
    let failed =
        |error: &dyn std::fmt::Display| BenchError::failed(format!("link to standby '{name}'"), error);
    let mut targets = address.to_socket_addrs().map_err(|error| failed(&error))?;
    let target = targets.next().ok_or_else(|| failed(&format!("'{address}' has no address")))?;
    let mut config = LinkConfig::new(target).with_rtt(Duration::from_micros(rtt_us));
    if let Some(rate) = rate_bytes_per_s.and_then(NonZeroU64::new) {
        config = config.with_rate(rate);
    }
    Link::start(config).map_err(|error| failed(&error))
}

/// A first append waits for standbys to be dialled and to adopt the log.
const SETTLE_LIMIT: Duration = Duration::from_secs(30);
/// After that the next point starts, whatever lags.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(20);
/// A seal or two.
const SETTLED_LAG_BYTES: u64 = 64 << 10;
