//! `towline sim`: replays one simulated world, searches many for a broken promise, compares a kept trace.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use towline_sim::{Run, Swarm, SwarmReport, TRACE_VERSION, run, swarm};

use crate::exit::{Code, Failure, Outcome};
use crate::out;

#[derive(Args)]
#[command(after_help = "\
A world is the very node that ships, several of them, in one thread with a clock of its own: disks that forget, fail, \
fill and rot, links that delay, clog and break, processes that crash, pause and come back, leaders that are superseded. \
Its seed decides everything. First faults and load, then all faults end, and then everything must be quiet again; every \
acknowledgement is held to what its level and window promise.

Examples:
  towline sim swarm --minutes 8
  towline sim run --seed 250
  towline sim run --seed 250 --trace world.txt && towline sim replay world.txt")]
pub(crate) struct SimArgs {
    #[command(subcommand)]
    command: SimCommand,
}

#[derive(Subcommand)]
enum SimCommand {
    /// Replay the world of one seed and print its trace
    #[command(after_help = RUN_HELP)]
    Run(RunArgs),
    /// Run worlds on all cores and print the line that replays each failure
    #[command(after_help = SWARM_HELP)]
    Swarm(SwarmArgs),
    /// Run the world of a kept trace again and say where it departs from it
    #[command(after_help = REPLAY_HELP)]
    Replay {
        /// What `sim run --trace` wrote
        trace: PathBuf,
    },
}

#[derive(Args)]
struct RunArgs {
    /// The world: a whole number, decimal or 0x...
    #[arg(long, value_parser = parse_seed)]
    seed: u64,
    /// Write the trace there instead of to standard output
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Print no trace
    #[arg(long, conflicts_with = "trace")]
    quiet: bool,
}

#[derive(Args)]
struct SwarmArgs {
    /// For how long (default: 1, unless --seeds is given)
    #[arg(long, value_name = "MINUTES", value_parser = parse_minutes)]
    minutes: Option<Duration>,
    /// How many worlds at most
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,
    /// The first seed
    #[arg(long, value_name = "SEED", default_value = "0", value_parser = parse_seed)]
    from: u64,
}

pub(crate) fn sim(args: SimArgs) -> Outcome {
    // A panic inside a world is a finding, told with its seed: its own message would only stand in between.
    std::panic::set_hook(Box::new(|_| {}));
    match args.command {
        SimCommand::Run(args) => run_one(&args),
        SimCommand::Swarm(args) => search(&args),
        SimCommand::Replay { trace } => replay(&trace),
    }
}

fn run_one(args: &RunArgs) -> Outcome {
    let world = run(args.seed, !args.quiet);
    if let Some(path) = &args.trace {
        write_trace(path, &world).with_context(|| format!("writing {}", path.display()))?;
    } else {
        let mut stdout = out::stdout();
        for line in &world.trace {
            writeln!(stdout, "{line}")?;
        }
        stdout.flush()?;
    }
    let Run { seed, hash, appends, faults, crashes, acks, .. } = &world;
    let acks: u64 = acks.iter().sum();
    out::line(&format!(
        "world {seed}: {appends} appends, {faults} faults, {crashes} crashes, {acks} acks, trace hash {hash:016x}"
    ))?;
    match &world.failure {
        None => Ok(out::line("every promise held")?),
        Some(failure) => Err(Failure::new(Code::Failed, anyhow!("world {seed} broke a promise: {failure}"))),
    }
}

fn search(args: &SwarmArgs) -> Outcome {
    // The seed past the last one has no number.
    if args.seeds.is_some_and(|seeds| args.from.checked_add(seeds.saturating_sub(1)).is_none()) {
        return Err(Failure::usage("--from and --seeds reach past the last seed, 18446744073709551615"));
    }
    let time = args.minutes.or(args.seeds.is_none().then_some(Duration::from_secs(60)));
    let which = Swarm { from: args.from, seeds: args.seeds, time };
    let report = swarm(which, |world| match &world.failure {
        None => true,
        // Nobody reads any more: the swarm may end.
        Some(failure) => {
            let first = failure.lines().next().unwrap_or_default();
            out::line(&format!("broken: {first}\nreplay: towline sim run --seed {}", world.seed)).is_ok()
        }
    });
    print_report(&report)?;
    let failed = report.failures.len();
    match (failed, report.worlds) {
        (0, 1..) => Ok(()),
        (0, _) => Err(Failure::usage("no world was run: give --minutes or --seeds more than 0")),
        _ => Err(Failure::new(Code::Failed, anyhow!("{failed} worlds broke a promise"))),
    }
}

fn print_report(report: &SwarmReport) -> Outcome {
    let SwarmReport { worlds, appends, faults, crashes, acks, seconds, threads, .. } = report;
    let rate = *worlds as f64 / seconds.max(0.001);
    out::line(&format!("{worlds} worlds in {seconds:.1} s on {threads} threads: {rate:.1} worlds/s"))?;
    out::line(&format!("{appends} appends, {faults} faults, {crashes} crashes"))?;
    let [off, local, written, on, applied] = acks;
    out::line(&format!(
        "acks: {off} off, {local} local, {written} remote_write, {on} on, {applied} remote_apply"
    ))?;
    let kinds: Vec<String> = report.fault_kinds.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
    out::line(&format!("faults: {}", kinds.join(", ")))?;
    let missing: Vec<&str> = report.marks.missing().into_iter().map(|mark| mark.text()).collect();
    let missing = if missing.is_empty() { "nothing".to_owned() } else { missing.join("; ") };
    out::line(&format!("never reached: {missing}"))?;
    if !report.too_quiet.is_empty() {
        out::line(&format!("worlds that saw too little: {:?}", report.too_quiet))?;
    }
    out::line(&format!("broken promises: {}", report.failures.len()))?;
    Ok(())
}

fn write_trace(path: &Path, world: &Run) -> std::io::Result<()> {
    let mut file = BufWriter::new(fs::File::create(path)?);
    writeln!(file, "{HEADER} version={TRACE_VERSION} seed={} hash={:016x}", world.seed, world.hash)?;
    for line in &world.trace {
        writeln!(file, "{line}")?;
    }
    file.flush()
}

fn replay(path: &Path) -> Outcome {
    Failure::unless_there(path)?;
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let no_trace = || Failure::usage(format!("{} is no trace of `towline sim run`", path.display()));
    let mut lines = text.lines();
    let header = lines.next().and_then(|line| line.strip_prefix(HEADER)).ok_or_else(no_trace)?;
    let field = |name: &str| header.split_whitespace().find_map(|word| word.strip_prefix(name));
    let version: u32 = field("version=").and_then(|version| version.parse().ok()).ok_or_else(no_trace)?;
    if version != TRACE_VERSION {
        return Err(Failure::usage(format!(
            "{} is of version {version}, and seeds mean worlds of version {TRACE_VERSION} here: run it with the \
             program that wrote it",
            path.display()
        )));
    }
    let seed = field("seed=").and_then(|seed| parse_seed(seed).ok()).ok_or_else(no_trace)?;
    let world = run(seed, true);
    let kept: Vec<&str> = lines.collect();
    // A line of a trace may hold line breaks of its own.
    let again: Vec<&str> = world.trace.iter().flat_map(|line| line.lines()).collect();
    let differs = (0..kept.len().max(again.len())).find(|at| kept.get(*at) != again.get(*at));
    match differs {
        None => Ok(out::line(&format!("world {seed} is the same, line for line ({} lines)", kept.len()))?),
        Some(at) if at == kept.len() => Err(Failure::new(
            Code::Failed,
            anyhow!(
                "{} is cut off after {at} of {} lines; so far world {seed} is the same",
                path.display(),
                again.len()
            ),
        )),
        Some(at) => Err(Failure::new(
            Code::Failed,
            anyhow!(
                "world {seed} departs from {} at line {}:\n  kept: {}\n  now:  {}",
                path.display(),
                at + 2,
                kept.get(at).unwrap_or(&"(the end)"),
                again.get(at).unwrap_or(&"(the end)")
            ),
        )),
    }
}

fn parse_seed(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| "a seed is a whole number below 2^64, decimal or 0x...".to_owned())
}

fn parse_minutes(text: &str) -> Result<Duration, String> {
    let minutes: f64 = text.parse().map_err(|_| "not a number of minutes".to_owned())?;
    if !(minutes > 0.0 && minutes <= 10_000.0) {
        return Err("minutes are above 0 and at most 10,000".to_owned());
    }
    Ok(Duration::from_secs_f64(minutes * 60.0))
}

const RUN_HELP: &str = "\
Example:
  towline sim run --seed 250 --trace world.txt

A line of the trace is an event at its simulated time. The last line counts appends, faults, crashes and acks, and hashes \
the trace: the same seed has the same hash. Exit code 0 when every promise held, 1 when one was broken.";
const SWARM_HELP: &str = "\
Examples:
  towline sim swarm --minutes 8
  towline sim swarm --from 1000 --seeds 500

Prints each broken promise with the command that replays it, then counts: appends, faults by kind, acks by level, and the \
rare paths that no world reached. Exit code 0 when every promise held, 1 when one was broken.";
const REPLAY_HELP: &str = "\
Example:
  towline sim replay world.txt

Exit code 0 when every line is the same; 1 at the first that is not (both are printed) or when the file is cut off; 2 when \
the file is no trace, or one of another version.";
/// How the file of a trace begins.
const HEADER: &str = "# towline sim trace";
