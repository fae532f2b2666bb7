//! `towline probe`: what a directory's device can do, before a log is trusted to it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use towline_runtime::storage::Layout;
use towline_uring::floor::{
    Limits, Peer, Place, SCRATCH_PREFIX, Samples, durable_write, durable_writes_per_s, pair_commit,
    round_trip, sequential_write, stream,
};
use towline_uring::primitive::{Primitive, Race, race};
use towline_uring::{FileMode, rename_durable};

use crate::exit::{Code, Failure, Outcome};
use crate::log::shard_dirs;
use crate::out;

#[derive(Args)]
#[command(after_help = "\
Examples:
  towline probe --dir data/p      a log's directory: the result is remembered there
  towline probe --dir /mnt/nvme   any directory: measured, nothing is left behind (nor by Ctrl-C)

Races the ways to make a write durable, finds how many flushes are worth keeping in flight, and measures the floors: \
what the bare machine does, without any of Towline's logic. Takes a few seconds.

To hold the durable write against fio: lay the file out first (unwritten extents cost twice as much), then write it anew.
  fio --name=f --filename=DIR/fio --size=64m --bs=1m --rw=write --ioengine=psync --end_fsync=1
  fio --name=f --filename=DIR/fio --size=64m --bs=4k --rw=write --ioengine=io_uring --direct=1 \\
      --iodepth=1 --sync=dsync --overwrite=1 --time_based --runtime=5
and delete DIR/fio. fio sleeps while it waits: where 'waiting' says spinning, the floor is lower by a wake-up. \
'towline bench compare' does the same and keeps the figures.")]
pub(crate) struct ProbeArgs {
    /// A directory on the device; it must exist
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Measure through the page cache, as a node with --buffered would write
    #[arg(long)]
    buffered: bool,
}

/// The hidden subcommand with which a measurement starts its second process.
pub(crate) const PEER_COMMAND: &str = "__floor-peer";

pub(crate) fn probe(args: ProbeArgs) -> Outcome {
    if !args.dir.is_dir() {
        return Err(Failure::usage(format!("--dir {}: is not a directory that exists", args.dir.display())));
    }
    let _leftovers = Leftovers::watch(&args.dir)?;
    let mode = if args.buffered { FileMode::Buffered } else { FileMode::Direct };
    let place = Place::new(&args.dir, mode);
    let failed = |what: &'static str| {
        let dir = args.dir.display().to_string();
        move |error| Failure::new(Code::Failed, anyhow::Error::new(error).context(format!("{dir}: {what}")))
    };
    out::note("towline: racing the ways to make a write durable");
    let raced = race(&place, RACE_TIME).map_err(failed("the race of durability primitives"))?;
    out::line(&race_table(&raced).to_string())?;
    out::line(&format!("best: {}, {} flushes in flight\n", raced.best.name(), raced.flush_depth))?;

    out::note("towline: measuring the floors");
    let peer = Peer { args: vec![PEER_COMMAND.to_owned()] };
    let mut table = new_table(&["floor", "p50", "p99", "rate", "waiting"]);
    let durable = durable_write(&place, LIMITS).map_err(failed("durable writes"))?;
    table.add_row(latency_row("durable 4 KiB write", &durable));
    let deep = durable_writes_per_s(&place, 32, LIMITS).map_err(failed("durable writes, 32 in flight"))?;
    table.add_row(rate_row(
        "durable 4 KiB writes, 32 in flight",
        format!("{:.0}/s", deep.per_s),
        &deep.waiting.to_string(),
    ));
    let disk = sequential_write(&place, LIMITS).map_err(failed("sequential writes"))?;
    table.add_row(rate_row(
        "sequential writes",
        format!("{:.2} GB/s", disk.per_s / 1e9),
        &disk.waiting.to_string(),
    ));
    let trip = round_trip(&peer, LIMITS).map_err(failed("round trips"))?;
    table.add_row(latency_row("round trip to a second process", &trip));
    let net = stream(&peer, LIMITS).map_err(failed("streaming"))?;
    table.add_row(rate_row(
        "stream to a second process",
        format!("{:.2} GB/s", net.per_s / 1e9),
        &net.waiting.to_string(),
    ));
    let pair = pair_commit(&place, &place, &peer, LIMITS).map_err(failed("pair commits"))?;
    table.add_row(latency_row("commit here and in a second process", &pair));
    let (p50_ns, p99_ns) = towline_bench::append_copy_ns(LIMITS.time / 4);
    table.add_row([
        "copy and CRC of 256 B".to_owned(),
        micros_fine(p50_ns),
        micros_fine(p99_ns),
        format!("{:.0}/s", 1e9 / p50_ns.max(1) as f64),
        String::new(),
    ]);
    out::line(&table.to_string())?;
    remember(&args.dir, &raced)
}

/// The files that floors are measured in are removed when they have been: here those of a measurement that was ended,
/// by a signal now, or by force at another time.
struct Leftovers {
    dir: PathBuf,
}

impl Leftovers {
    fn watch(dir: &Path) -> Result<Leftovers, Failure> {
        let leftovers = Leftovers { dir: dir.to_owned() };
        leftovers.remove();
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        let watched = Leftovers { dir: dir.to_owned() };
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let Some(signal) = signals.forever().next() else { return };
            out::note("towline: interrupted; nothing is remembered");
            watched.remove_with(std::process::id());
            std::process::exit(128 + signal);
        })?;
        Ok(leftovers)
    }

    fn remove(&self) {
        self.remove_with(0);
    }

    /// Removes the files of processes that are gone, and of this one.
    fn remove_with(&self, own: u32) {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let pid = name.strip_prefix(SCRATCH_PREFIX).and_then(|rest| rest.split('-').next());
            let Some(pid) = pid.and_then(|pid| pid.parse::<u32>().ok()) else { continue };
            if pid == own || !Path::new(&format!("/proc/{pid}")).exists() {
                // Nobody's any more; one that cannot be removed was not promised to be.
                let _ = std::fs::remove_file(&path);
            }
        }
    }
}

impl Drop for Leftovers {
    /// The second process of the measurement may have been ended.
    fn drop(&mut self) {
        self.remove();
    }
}

/// Puts the result where nodes look for it, when the directory is a log's.
fn remember(dir: &Path, raced: &Race) -> Outcome {
    let Ok(shards) = shard_dirs(dir) else {
        out::line("not a log's directory: nothing is remembered")?;
        return Ok(());
    };
    for shard in shards {
        write_calibration(&shard, raced)
            .with_context(|| format!("{}: the calibration cannot be written", shard.display()))?;
        out::line(&format!("remembered in {}; the node's next start uses it", shard.display()))?;
    }
    Ok(())
}

/// The file as a node reads it (towline-runtime, storage/calibration).
#[derive(Serialize)]
struct CalibrationFile {
    primitive: &'static str,
    flush_depth: u32,
    device: String,
    measured_at: String,
    durable_write_ns: BTreeMap<&'static str, u64>,
    durable_writes_per_s: BTreeMap<String, u64>,
}

fn write_calibration(shard: &Path, raced: &Race) -> anyhow::Result<()> {
    let (single, by_depth) = raced.results.split_at(raced.results.len().min(Primitive::ALL.len()));
    // A shard flushes in its ring: where a helper thread would win, the better ring primitive is next.
    let in_ring = single.iter().filter(|result| result.primitive != Primitive::Flusher);
    let best = in_ring.min_by_key(|result| result.p50_ns).map(|result| result.primitive);
    let best = if raced.best == Primitive::Flusher { best.unwrap_or(Primitive::ALL[0]) } else { raced.best };
    let device = std::fs::metadata(shard)?.dev();
    let file = CalibrationFile {
        primitive: best.name(),
        flush_depth: raced.flush_depth,
        device: format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device)),
        measured_at: towline_report::utc_now_rfc3339(),
        durable_write_ns: single.iter().map(|result| (result.primitive.name(), result.p50_ns)).collect(),
        durable_writes_per_s: by_depth.iter().map(|r| (format!("{:02}", r.depth), r.per_s as u64)).collect(),
    };
    let layout = Layout::new(shard);
    let temp = layout.calibration().with_added_extension("tmp");
    let mut text = File::create(&temp)?;
    text.write_all(toml::to_string(&file)?.as_bytes())?;
    // Durable before the name exists: a crash leaves the old file or the whole new one.
    text.sync_all()?;
    rename_durable(&temp, &layout.calibration())?;
    Ok(())
}

fn race_table(raced: &Race) -> Table {
    let mut table = new_table(&["durable 4 KiB write by", "in flight", "p50", "p99", "per second"]);
    for result in &raced.results {
        table.add_row([
            result.primitive.name().to_owned(),
            result.depth.to_string(),
            micros(result.p50_ns),
            micros(result.p99_ns),
            format!("{:.0}", result.per_s),
        ]);
    }
    table
}

fn latency_row(name: &str, samples: &Samples) -> [String; 5] {
    let rate = if samples.ns.is_empty() {
        String::new()
    } else {
        format!("{:.0}/s", 1e9 / samples.quantile_ns(0.5).max(1) as f64)
    };
    [
        name.to_owned(),
        micros(samples.quantile_ns(0.5)),
        micros(samples.quantile_ns(0.99)),
        rate,
        samples.waiting.to_string(),
    ]
}

fn rate_row(name: &str, rate: String, waiting: &str) -> [String; 5] {
    [name.to_owned(), String::new(), String::new(), rate, waiting.to_owned()]
}

fn micros(ns: u64) -> String {
    format!("{:.1} µs", ns as f64 / 1000.0)
}

/// For what takes nanoseconds.
fn micros_fine(ns: u64) -> String {
    format!("{:.3} µs", ns as f64 / 1000.0)
}

fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

const RACE_TIME: Duration = Duration::from_secs(2);
const LIMITS: Limits = Limits { samples: 5_000, time: Duration::from_millis(700) };
