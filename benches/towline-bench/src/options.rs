//! What a user can ask for: the flags of `towline bench`, checked before anything is started.

use crate::error::BenchError;
use crate::plan::{ClientKind, HostKind, Overrides};
use crate::workload::Workload;
use std::path::PathBuf;
use towline_core::types::Level;

/// A measurement as asked for. `Default` is the canonical run.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// A bundled workload (`ladder`, `replay`, `window`, …) or a TOML file; `None` is the canonical run.
    pub experiment: Option<String>,
    /// Commit levels.
    pub levels: Option<Vec<Level>>,
    /// Who counts, as `ANY 1 (a, b)`.
    pub sync_rule: Option<String>,
    /// Standbys to start.
    pub standbys: Option<u32>,
    /// Standbys that run elsewhere, as `name=host:port`.
    pub remote_standbys: Vec<String>,
    /// Payload bytes of a record.
    pub record_bytes: Option<u64>,
    /// Outstanding appends, closed loop.
    pub clients: Option<Vec<u32>>,
    /// Appends per second, open loop.
    pub rate_per_s: Option<f64>,
    /// Measured time of each point, ms.
    pub duration_ms: Option<u64>,
    /// How long a standby is stopped, ms (`memory`, `stall`).
    pub stopped_ms: Option<u64>,
    /// How often each point is measured.
    pub repetitions: Option<u32>,
    /// Shards of the primary.
    pub shards: Option<u16>,
    /// Round trip that an emulated link adds, µs.
    pub link_rtt_us: Option<u64>,
    /// Rate of an emulated link, bytes per second.
    pub link_rate_bytes_per_s: Option<u64>,
    /// How the client reaches the log.
    pub client: Option<ClientKind>,
    /// What hosts the primary's shards.
    pub host: Option<HostKind>,
    /// What the run is called; `None`: as its workload.
    pub name: Option<String>,
    /// Where logs live while it runs; `None`: `data` in the current folder.
    pub dir: Option<PathBuf>,
    /// Where run folders go; `None`: `results` in the current folder.
    pub results_dir: Option<PathBuf>,
    /// Decides order and arrivals; `None`: as the workload says.
    pub seed: Option<u64>,
    /// Through the page cache, where the file system has no direct I/O.
    pub buffered: bool,
    /// The command line, for the record.
    pub command: Vec<String>,
    /// Counts heap allocations of this process, where the program can.
    pub allocations: Option<fn() -> u64>,
}

impl Default for BenchOptions {
    fn default() -> Self {
        Self {
            experiment: None,
            levels: None,
            sync_rule: None,
            standbys: None,
            remote_standbys: Vec::new(),
            record_bytes: None,
            clients: None,
            rate_per_s: None,
            duration_ms: None,
            stopped_ms: None,
            repetitions: None,
            shards: None,
            link_rtt_us: None,
            link_rate_bytes_per_s: None,
            client: None,
            host: None,
            name: None,
            dir: None,
            results_dir: None,
            seed: None,
            buffered: false,
            command: std::env::args().collect(),
            allocations: None,
        }
    }
}

impl BenchOptions {
    /// The workload that these options ask for.
    ///
    /// # Errors
    /// [`BenchError::Usage`]: no such workload, a flag that contradicts another or that nothing obeys.
    pub fn workload(&self) -> Result<Workload, BenchError> {
        let mut remote = Vec::new();
        for text in &self.remote_standbys {
            remote.push(parse_remote(text)?);
        }
        let overrides = Overrides {
            levels: self.levels.clone(),
            clients: self.clients.clone(),
            sync_rule: self.sync_rule.clone(),
            standbys: self.standbys,
            remote,
            record_bytes: self.record_bytes,
            rate_per_s: self.rate_per_s,
            duration_ms: self.duration_ms,
            stopped_ms: self.stopped_ms,
            repetitions: self.repetitions,
            shards: self.shards,
            link_rtt_us: self.link_rtt_us,
            link_rate_bytes_per_s: self.link_rate_bytes_per_s,
            client: self.client,
            host: self.host,
        };
        let mut workload = match self.experiment.as_deref() {
            None => Workload::bundled("canonical", &overrides)?,
            Some(path) if path.ends_with(".toml") => Workload::load(path.as_ref(), &overrides)?,
            Some(name) => Workload::bundled(name, &overrides)?,
        };
        workload.seed = self.seed.unwrap_or(workload.seed);
        Ok(workload)
    }
}

fn parse_remote(text: &str) -> Result<(String, String), BenchError> {
    let refuse =
        |why: &str| Err(BenchError::Usage(format!("remote standby '{text}': {why}: use name=host:port")));
    let Some((name, address)) = text.split_once('=') else { return refuse("no name") };
    let Some((host, port)) = address.rsplit_once(':') else { return refuse("no port") };
    if name.is_empty() || host.is_empty() {
        return refuse("a part is empty");
    }
    if !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return refuse("the port is no number from 1 to 65535");
    }
    Ok((name.to_owned(), address.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remote_standbys_have_a_name_a_host_and_a_port() {
        assert_eq!(parse_remote("far=db.example:7401").unwrap(), ("far".into(), "db.example:7401".into()));
        for bad in ["far", "=h:1", "far=h", "far=:1", "far=h:0", "far=h:x", "far=h:70000"] {
            let error = parse_remote(bad).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains("name=host:port"), "{error}");
        }
    }

    #[test]
    fn a_workload_that_does_not_exist_is_refused_with_those_that_do() {
        let options = BenchOptions { experiment: Some("laddder".into()), ..BenchOptions::default() };
        let error = options.workload().unwrap_err().to_string();
        assert!(error.contains("laddder") && error.contains("canonical, ladder"), "{error}");
        assert!(BenchOptions { seed: Some(9), ..BenchOptions::default() }.workload().unwrap().seed == 9);
    }
}
