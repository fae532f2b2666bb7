//! `towline log`: look at a directory without opening it as a node, and repair a damaged log. Only `repair` writes,
//! and only what belongs where it is damaged.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use towline::Lsn;
use towline_core::format::{BatchHeader, BatchKind, RecordKind, decode_rule, record_bytes};
use towline_core::log::recovery::{BatchView, ScanError, Step, Verdict};
use towline_core::types::{LogId, Term};
use towline_runtime::shard_number;
use towline_runtime::storage::{LogReader, OpenError, Steps, records, repair_log};

use crate::client::{Format, print_record};
use crate::exit::{Code, Failure, Outcome};
use crate::out;
use crate::units::{parse_lsn, show_bytes};

#[derive(Args)]
#[command(after_help = "\
Examples:
  towline log inspect data/p         whose it is, its terms, segments, watermarks, what it holds
  towline log verify data/p          every CRC, the hash chain, counts, terms; exit code 3 for damage
  towline log dump data/p --format json | head
  towline log inspect data/p/shard-1 one shard of several
  towline log repair data/p --from 10.0.0.2:7401
                                     replaces damaged durable bytes by those of a running node

A directory that a node has open is refused; --force reads it anyway, and its end may then lie anywhere in the tail.")]
pub(crate) struct LogArgs {
    #[command(subcommand)]
    command: LogCommand,
}

#[derive(Subcommand)]
enum LogCommand {
    /// Identity, terms, segments, and what the log holds
    #[command(after_help = INSPECT_HELP)]
    Inspect(DirArgs),
    /// Check every byte that was durable; exit code 3 when some are damaged
    #[command(after_help = VERIFY_HELP)]
    Verify(DirArgs),
    /// Print the records
    #[command(after_help = DUMP_HELP)]
    Dump(DumpArgs),
    /// Replace damaged durable bytes by those of another node; nothing else is changed
    Repair(RepairArgs),
}

const INSPECT_HELP: &str = "\
Example:
  towline log inspect data/p

'start' and 'end' are where the first batch begins and the last ends, 'there stands' what was found behind it: zeros and \
older content are a clean end. 'may have been in flight' is what a crash may have torn. Exit codes as those of verify.";
const VERIFY_HELP: &str = "\
Example:
  towline log verify data/p && towline primary --dir data/p

Exit code 0: sound, or with a torn tail that the next start cuts; 1: it cannot be read, or is in use; 2: no such path; \
3: durable bytes are damaged, and it says which.";
const DUMP_HELP: &str = "\
Examples:
  towline log dump data/p --format json | head
  towline log dump data/p --batches

--batches prints: START to END KIND term TERM records N payload BYTES, which are this batch's; before RECORDS BYTES, which \
the log held before it; durable LSN, up to where it was flushed when the batch was built. Kinds: Data, Seal (marks the end \
when the log rests), Roll (the segment's last). Exit codes as those of verify; 1 also when --from lies behind the end.";

#[derive(Args)]
struct DirArgs {
    /// A node's directory, or one shard's
    dir: PathBuf,
    /// Read it while a node has it open
    #[arg(long)]
    force: bool,
}

#[derive(Args)]
struct DumpArgs {
    #[command(flatten)]
    at: DirArgs,
    /// The records that begin there or later
    #[arg(long, value_name = "LSN", value_parser = parse_lsn, default_value = "0/00000000")]
    from: Lsn,
    /// How records are printed
    #[arg(long, value_enum, default_value_t = Format::Hex)]
    format: Format,
    /// One line a batch instead of its records
    #[arg(long)]
    batches: bool,
}

#[derive(Args)]
#[command(after_help = "\
Stop the node first. The other node, a primary or a standby, has to run. Its bytes are checked before they are \
written: place, term, hash chain, counts and every CRC; the log keeps its length. Exit code 3, and a log that is still \
refused, when no node has what is missing. A node does the same at its start with --repair-from.")]
struct RepairArgs {
    /// A node's directory, or one shard's
    dir: PathBuf,
    /// A running node that holds the log; may be repeated
    #[arg(long, value_name = "HOST:PORT", required = true)]
    from: Vec<String>,
}

pub(crate) fn log(args: LogArgs) -> Outcome {
    match args.command {
        LogCommand::Inspect(args) => each_shard(&args.dir, |dir| inspect(dir, args.force)),
        LogCommand::Verify(args) => each_shard(&args.dir, |dir| verify(dir, args.force)),
        LogCommand::Dump(args) => each_shard(&args.at.dir, |dir| dump(dir, &args)),
        LogCommand::Repair(args) => each_shard(&args.dir, |dir| repair(dir, &args.from)),
    }
}

/// Runs on the shard that `dir` is, or on every shard in it; the first failure of the worst kind is the outcome.
fn each_shard(dir: &Path, run: impl Fn(&Path) -> Outcome) -> Outcome {
    Failure::unless_there(dir)?;
    let shards = shard_dirs(dir)?;
    let mut worst: Option<Failure> = None;
    for shard in shards {
        match run(&shard) {
            Ok(()) => {}
            // Damage in one shard says nothing about the next: look at all of them.
            Err(failure) if failure.code == Code::Corrupt => {
                // The last is told at the end.
                if let Some(earlier) = worst.replace(failure) {
                    out::note(&format!("towline: {}", earlier.message()));
                }
            }
            Err(failure) => return Err(failure),
        }
    }
    worst.map_or(Ok(()), Err)
}

/// The shards' directories in a node's directory; a shard's own directory stands for itself.
pub(crate) fn shard_dirs(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    if dir.join("identity").is_file() {
        return Ok(vec![dir.to_owned()]);
    }
    let mut shards: BTreeMap<u16, PathBuf> = BTreeMap::new();
    let entries = std::fs::read_dir(dir).map_err(|error| {
        Failure::new(Code::Failed, anyhow::anyhow!("{}: cannot be listed: {error}", dir.display()))
    })?;
    for entry in entries {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| shard_number(name.to_str()?));
        if let Some(number) = number
            && path.join("identity").is_file()
        {
            shards.insert(number, path);
        }
    }
    if shards.is_empty() {
        let text = "holds no log: give the directory that a node was started with, or one shard-N in it";
        return Err(Failure::new(Code::Failed, anyhow::anyhow!("{}: {text}", dir.display())));
    }
    Ok(shards.into_values().collect())
}

fn open(dir: &Path, force: bool) -> Result<LogReader, Failure> {
    LogReader::open_readonly(dir, force).map_err(|error| match &error {
        OpenError::Locked { .. } => {
            let text = format!(
                "{error}, or read it as it is with --force: its end may then lie anywhere in the tail"
            );
            Failure::new(Code::Failed, anyhow::Error::msg(text))
        }
        // Nothing is written here.
        OpenError::ReadOnly { path, source } => {
            Failure::new(Code::Failed, anyhow::anyhow!("{}: cannot be read ({source})", path.display()))
        }
        _ => open_failure(error),
    })
}

fn open_failure(error: OpenError) -> Failure {
    let code = match error.exit_code() {
        2 => Code::Usage,
        3 => Code::Corrupt,
        _ => Code::Failed,
    };
    Failure::new(code, error)
}

fn read_failure(dir: &Path) -> impl FnOnce(ScanError) -> Failure {
    let dir = dir.display().to_string();
    move |error| Failure::new(Code::Failed, anyhow::Error::new(error).context(dir))
}

/// Walks over every valid batch from the log's start; returns where it ended and what stands there.
fn walk(
    dir: &Path,
    reader: &LogReader,
    mut each: impl FnMut(&BatchView<'_>) -> Outcome,
) -> Result<(Lsn, String), Failure> {
    let mut walk = reader.walk();
    loop {
        match walk.step().map_err(read_failure(dir))? {
            Step::Batch(batch) => each(&batch)?,
            Step::Stop(stop) => return Ok((stop.at, stop.standing.to_string())),
        }
    }
}

fn inspect(dir: &Path, force: bool) -> Outcome {
    let reader = open(dir, force)?;
    let mut to = out::stdout();
    describe_head(&mut to, dir, &reader)?;
    let mut counts = Counts::default();
    let (end, standing) = walk(dir, &reader, |batch| {
        counts.add(batch);
        Ok(())
    })?;
    describe_counts(&mut to, &counts, end, &standing)?;
    to.flush()?;
    refuse_damage(dir, &reader, force)
}

/// What was read may be less than what was durable: then it was no reading of the log. Of a log that is being written
/// nothing can be concluded from bytes that came after they were looked at, so a clean end is taken for one.
fn refuse_damage(dir: &Path, reader: &LogReader, force: bool) -> Outcome {
    let scan = reader.scan().map_err(open_failure)?;
    match scan.verdict {
        Verdict::Corrupt { span, why } if !force || !scan.evidence.standing.is_clean() => {
            let text = format!(
                "{}: the log is damaged behind what was read: durable bytes {} to {}: {why}; `towline log repair` fetches the \
                 range from another node",
                dir.display(),
                span.start,
                span.end
            );
            Err(Failure::new(Code::Corrupt, anyhow::Error::msg(text)))
        }
        _ => Ok(()),
    }
}

#[derive(Default)]
struct Counts {
    start: Option<Lsn>,
    data: u64,
    seals: u64,
    rolls: u64,
    padding: u64,
    records: u64,
    payload: u64,
    last_term: Option<Term>,
    sealed: bool,
    durable_before: Lsn,
    rule: Option<(u64, String)>,
}

impl Counts {
    fn add(&mut self, batch: &BatchView<'_>) {
        let header: &BatchHeader = &batch.header;
        self.start.get_or_insert(header.start);
        match header.kind {
            BatchKind::Data => self.data += 1,
            BatchKind::Seal => self.seals += 1,
            BatchKind::Roll => self.rolls += 1,
        }
        self.padding += header.stored().len() - u64::from(header.body_bytes);
        self.records = header.after().records;
        self.payload = header.after().payload_bytes;
        self.last_term = Some(header.term);
        self.sealed = header.kind == BatchKind::Seal;
        self.durable_before = header.durable_before;
        let rules = records(batch).filter(|record| record.kind == RecordKind::Rule);
        if let Some((version, rule)) = rules.last().and_then(|record| decode_rule(record.payload)) {
            self.rule = Some((version, rule.to_owned()));
        }
    }
}

fn describe_head(to: &mut impl Write, dir: &Path, reader: &LogReader) -> std::io::Result<()> {
    let (identity, meta, geometry) = (reader.identity(), reader.meta(), reader.geometry());
    let log: LogId = identity.log_id();
    writeln!(to, "{}", dir.display())?;
    writeln!(to, "  log {log}, shard {}, node {} '{}'", identity.shard, identity.node, identity.name)?;
    writeln!(
        to,
        "  segments of {}, at most {} in flight",
        show_bytes(geometry.segment_bytes),
        show_bytes(geometry.in_flight_bytes)
    )?;
    let led = meta.led.map_or("never led".to_owned(), |term| format!("last led {term}"));
    writeln!(to, "  term adopted {}, {led}; incarnation {}", meta.adopted, meta.incarnation)?;
    for entry in meta.history.entries() {
        writeln!(to, "    {} from {}", entry.term, entry.start)?;
    }
    for span in &meta.unfinished {
        writeln!(to, "  may have been in flight: {} to {}", span.start, span.end)?;
    }
    for standby in &meta.standbys {
        writeln!(to, "  standby '{}' ({}) had flushed {}", standby.name, standby.node, standby.flushed)?;
    }
    let sequences: Vec<String> = reader.segments().states.keys().map(u64::to_string).collect();
    writeln!(to, "  segments in place: {}", sequences.join(" "))
}

fn describe_counts(to: &mut impl Write, counts: &Counts, end: Lsn, standing: &str) -> std::io::Result<()> {
    // Behind the header of its first segment, as a running node says it.
    writeln!(to, "  start {}", counts.start.unwrap_or(end))?;
    let sealed = if counts.sealed { "sealed, " } else { "" };
    writeln!(to, "  end   {end}: {sealed}there stands: {standing}")?;
    writeln!(
        to,
        "  {} batches with records, {} seals, {} rolls; headers and padding {}",
        counts.data,
        counts.seals,
        counts.rolls,
        show_bytes(counts.padding)
    )?;
    writeln!(
        to,
        "  since the log began: {} records, {} of payload",
        counts.records,
        show_bytes(counts.payload)
    )?;
    if let Some(term) = counts.last_term {
        writeln!(to, "  last batch in term {term}, written when {} was flushed", counts.durable_before)?;
    }
    match &counts.rule {
        Some((version, rule)) => writeln!(to, "  sync rule {version}: '{rule}'"),
        None => writeln!(to, "  no sync rule"),
    }
}

fn verify(dir: &Path, force: bool) -> Outcome {
    let reader = open(dir, force)?;
    let scan = reader.scan().map_err(open_failure)?;
    let (start, end) = (reader.meta().log_start, scan.recovered.end);
    let held = format!(
        "{} batches from {start} to {} hold together: {} records and {} payload bytes since the log began",
        scan.batches, end.lsn, end.records, end.payload_bytes
    );
    let standing = scan.evidence.standing;
    for (seq, _) in &scan.header_repairs {
        out::line(&format!(
            "{}: segment {seq}: one copy of its header is damaged; the next start repairs it",
            dir.display()
        ))?;
    }
    match scan.verdict {
        Verdict::CleanEnd => {
            out::line(&format!("{}: sound: {held}; behind them: {standing}", dir.display()))?
        }
        Verdict::TornTail { cut } | Verdict::InFlight { cut } => out::line(&format!(
            "{}: sound, with a tail that was in flight: {held}; behind them: {standing}; the next start keeps a copy of {} to \
             {} and cuts it",
            dir.display(),
            cut.start,
            cut.end
        ))?,
        Verdict::Corrupt { span, why } => {
            return Err(Failure::new(
                Code::Corrupt,
                anyhow::anyhow!(
                    "{}: durable bytes {} to {} are damaged: {why}; {held}; a node refuses this log: `towline log repair` \
                     fetches the range from another node",
                    dir.display(),
                    span.start,
                    span.end
                ),
            ));
        }
    }
    Ok(())
}

fn repair(dir: &Path, from: &[String]) -> Outcome {
    let lines = repair_log(dir, from, &Steps::default()).map_err(open_failure)?;
    if lines.is_empty() {
        out::line(&format!("{}: nothing is damaged", dir.display()))?;
    }
    for line in lines {
        out::line(&format!("{}: {line}", dir.display()))?;
    }
    verify(dir, false)
}

fn dump(dir: &Path, args: &DumpArgs) -> Outcome {
    let reader = open(dir, args.at.force)?;
    let mut to = out::stdout();
    let (end, _) = walk(dir, &reader, |batch| {
        let header = &batch.header;
        if header.end <= args.from {
            return Ok(());
        }
        if args.batches {
            writeln!(
                to,
                "{} to {} {:?} term {} records {} payload {} before {} {} durable {}",
                header.start,
                header.end,
                header.kind,
                header.term,
                header.records,
                header.payload_bytes,
                header.records_before,
                header.payload_before,
                header.durable_before
            )?;
            return Ok(());
        }
        for record in
            records(batch).filter(|record| record.kind == RecordKind::Data && record.lsn >= args.from)
        {
            let end = record.lsn.plus(record_bytes(record.payload.len() as u64));
            print_record(&mut to, record.lsn, end, record.payload, header.end, args.format)?;
        }
        Ok(())
    })?;
    to.flush()?;
    refuse_damage(dir, &reader, args.at.force)?;
    if args.from > end {
        let text = format!("{}: nothing begins at {}: the log ends at {end}", dir.display(), args.from);
        return Err(Failure::new(Code::Failed, anyhow::Error::msg(text)));
    }
    Ok(())
}
