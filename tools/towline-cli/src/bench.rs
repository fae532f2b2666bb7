//! `towline bench`: measures what each commit level and window costs on this machine.

pub(crate) mod compare;

use std::alloc::System;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use towline::Level;
use towline_bench::{BenchError, BenchOptions, ClientKind, HostKind};

use crate::exit::{Code, Failure, Outcome};
use crate::units::{parse_bytes, parse_duration};

/// Counts, for the claim that a commit allocates nothing.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[derive(Args)]
#[command(after_help = "\
Examples:
  towline bench                                  the canonical run: floors, ladder, replay of real WAL, window sweep
  towline bench full                             every experiment but memory once: a quarter of an hour
  towline bench timeline                         every record timed at every watermark
  towline bench ladder --level local,on --clients 1,32 --repetitions 10
  towline bench window --link-rtt 5ms            the window sweep over a link of 5 ms
  towline bench ladder --standbys 2 --sync-rule 'ANY 1 (a, b)'
  towline bench ladder --remote far=10.0.0.2:7401   against a standby that runs elsewhere
  towline bench my-workload.toml                 a workload of your own
  towline bench compare                          PostgreSQL, etcd, NATS, Redis and log libraries beside Towline
  towline bench compare --help                   its own flags

Experiments: canonical, full, ladder, replay, window, rates, off, stream, memory, timeline, knee, stall, sync_rules,
standbys, rtt, shards, mixed, bursts, sizes, acceptance, or a TOML file. A flag that no experiment of the run can obey is refused. The run folder is printed at the end; its report.html needs no network.")]
pub(crate) struct BenchArgs {
    /// What to measure; without it the canonical run, at most three minutes
    experiment: Option<String>,
    /// Commit levels
    #[arg(long, value_name = "LEVEL", value_delimiter = ',')]
    level: Vec<Level>,
    /// Outstanding appends of the closed loops
    #[arg(long, value_name = "N", value_delimiter = ',')]
    clients: Vec<u32>,
    /// Who counts, as "ANY 1 (a, b)"; started standbys are called a, b, …
    #[arg(long, value_name = "RULE")]
    sync_rule: Option<String>,
    /// Standbys to start here
    #[arg(long, value_name = "N")]
    standbys: Option<u32>,
    /// A standby that runs elsewhere; may be repeated
    #[arg(long, value_name = "NAME=HOST:PORT")]
    remote: Vec<String>,
    /// Payload bytes of a record
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    record_bytes: Option<u64>,
    /// Appends per second of the open loops
    #[arg(long, value_name = "PER_S")]
    rate: Option<f64>,
    /// Measured time of each point
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    duration: Option<Duration>,
    /// How long a standby is stopped (memory, stall)
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    stopped: Option<Duration>,
    /// How often each point is measured
    #[arg(long, value_name = "N")]
    repetitions: Option<u32>,
    /// Shards of the primary
    #[arg(long, value_name = "N")]
    shards: Option<u16>,
    /// Round trip that an emulated link adds
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    link_rtt: Option<Duration>,
    /// Bytes per second of an emulated link
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    link_rate: Option<u64>,
    /// How the clients reach the log
    #[arg(long, value_enum)]
    client: Option<ClientName>,
    /// What carries the shard loops
    #[arg(long, value_enum)]
    host: Option<HostName>,
    /// What the run is called [default: as its workload]
    #[arg(long)]
    name: Option<String>,
    /// Where the logs live while it runs; emptied again [default: data]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Where run folders go [default: results]
    #[arg(long, value_name = "DIR")]
    results: Option<PathBuf>,
    /// Decides the order of the points and the arrivals
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Go through the page cache, where the file system has no direct I/O
    #[arg(long)]
    buffered: bool,
}

#[derive(ValueEnum, Debug, Clone, Copy)]
enum ClientName {
    /// Through the library, in this process
    Embedded,
    /// Over the socket, the primary in a process of its own
    Socket,
}

#[derive(ValueEnum, Debug, Clone, Copy)]
enum HostName {
    /// A plain thread per shard
    Thread,
    /// A task in a glommio executor
    Glommio,
}

pub(crate) fn bench(args: BenchArgs) -> Outcome {
    let outcome = towline_bench::run(&options(args)).map_err(failure)?;
    // Everything has been said by the run itself, and what was measured is kept.
    match outcome.exit_code() {
        0 => Ok(()),
        130 => {
            Err(Failure::new(Code::Interrupted, anyhow::anyhow!("interrupted; what was measured is kept")))
        }
        _ => Err(Failure::new(Code::Failed, anyhow::anyhow!("failed: {}", outcome.failures.join("; ")))),
    }
}

fn options(args: BenchArgs) -> BenchOptions {
    BenchOptions {
        experiment: args.experiment,
        levels: Some(args.level).filter(|levels| !levels.is_empty()),
        sync_rule: args.sync_rule,
        standbys: args.standbys,
        remote_standbys: args.remote,
        record_bytes: args.record_bytes,
        clients: Some(args.clients).filter(|clients| !clients.is_empty()),
        rate_per_s: args.rate,
        duration_ms: args.duration.map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
        stopped_ms: args.stopped.map(|stopped| u64::try_from(stopped.as_millis()).unwrap_or(u64::MAX)),
        repetitions: args.repetitions,
        shards: args.shards,
        link_rtt_us: args.link_rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
        link_rate_bytes_per_s: args.link_rate,
        client: args.client.map(|client| match client {
            ClientName::Embedded => ClientKind::Embedded,
            ClientName::Socket => ClientKind::Socket,
        }),
        host: args.host.map(|host| match host {
            HostName::Thread => HostKind::Thread,
            HostName::Glommio => HostKind::Glommio,
        }),
        name: args.name,
        dir: args.dir,
        results_dir: args.results,
        seed: args.seed,
        buffered: args.buffered,
        allocations: Some(|| ALLOCATOR.stats().allocations as u64),
        ..BenchOptions::default()
    }
}

fn failure(error: BenchError) -> Failure {
    let code = match error.exit_code() {
        2 => Code::Usage,
        130 => Code::Interrupted,
        _ => Code::Failed,
    };
    Failure::new(code, error)
}
