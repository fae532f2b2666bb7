//! Whether this program measures what the known programs measure: PostgreSQL's rows against pgbench, the durable-write
//! floor against fio and pg_test_fsync. Each pair is measured in turns; the figure is the ratio of the pair.

use crate::process::{self, find_program};
use crate::run::DataDir;
use crate::systems::{Postgres, STATEMENT, Setting, Spec, System};
use anyhow::{Context, Result, ensure};
use std::ffi::OsString;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;
use towline_report::schema::{Check, Interval, Level};
use towline_report::stats::median;
use towline_uring::FileMode;
use towline_uring::floor::{self, Limits, Place, ScratchFile, Waiting};

/// All pairs; what is not installed is told in the note of its row.
pub(crate) fn measure(setting: &Setting, data: &DataDir, failures: &mut Vec<String>) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut put = |measure: String, pairs: Result<Pairs>| {
        let (ratios, note) = match pairs {
            Ok(pairs) => (pairs.ratios, pairs.note),
            Err(_) if setting.stop.load(Ordering::Relaxed) => (Vec::new(), "interrupted".to_owned()),
            Err(error) => {
                failures.push(format!("{measure}: {error:#}"));
                (Vec::new(), format!("{error:#}"))
            }
        };
        checks.push(check(measure, &ratios, note));
    };
    for clients in [1, 8] {
        let s = if clients == 1 { "" } else { "s" };
        let measure = format!("agreement: PostgreSQL's commits/s at on, {clients} client{s}, with pgbench");
        put(measure, pgbench(setting, data, clients));
    }
    put("agreement: durable write of 4 KiB, p50, with fio".into(), fio(setting, &data.path));
    put(
        "agreement: durable write of 8 KiB, mean, with pg_test_fsync".into(),
        pg_test_fsync(setting, &data.path),
    );
    checks
}

/// What a pair of programs came to.
struct Pairs {
    /// This program's figure over the other's.
    ratios: Vec<f64>,
    /// What was compared.
    note: String,
}

/// What timing every record at every watermark costs, by a short `towline bench timeline`.
pub(crate) fn instrument(setting: &Setting, data: &DataDir, failures: &mut Vec<String>) -> Check {
    timeline(setting, &data.path.join("timeline")).unwrap_or_else(|error| {
        if !setting.stop.load(Ordering::Relaxed) {
            failures.push(format!("{INSTRUMENT}: {error:#}"));
        }
        Check { bar: "≤ 1.03 ×".into(), met: None, ..check(INSTRUMENT.into(), &[], format!("{error:#}")) }
    })
}

fn timeline(setting: &Setting, dir: &Path) -> Result<Check> {
    let results = dir.join("results");
    let duration_ms = setting.duration.as_millis() * 2;
    let mut arguments: Vec<OsString> = ["bench", "timeline"].map(OsString::from).into();
    arguments.push(format!("--duration={duration_ms}ms").into());
    arguments.push(format!("--repetitions={TIMELINES}").into());
    arguments.extend(["--dir".into(), dir.join("data").into(), "--results".into(), results.clone().into()]);
    process::output_until(&setting.program, &arguments, &setting.stop)?;
    let mut runs = std::fs::read_dir(results.join("runs")).context("it left no run")?;
    let run = runs.next().context("it left no run")??.path();
    let report = std::fs::read(run.join("report.json")).context("it left no report")?;
    let report: towline_report::Report =
        serde_json::from_slice(&report).context("its report cannot be read")?;
    let _ = std::fs::remove_dir_all(dir);
    let row = report.checks.into_iter().find(|check| check.measure.starts_with(INSTRUMENT));
    row.filter(|row| row.value.is_some()).context("it did not measure that")
}

fn pgbench(setting: &Setting, data: &DataDir, clients: u32) -> Result<Pairs> {
    go_on(setting)?;
    let mut postgres = Postgres::find(setting).map_err(|absent| anyhow::anyhow!(absent.0))?;
    let program = postgres.program("pgbench");
    let program =
        if program.is_file() { program } else { find_program("pgbench").context("pgbench is not there")? };
    let dir = data.path.join(format!("agreement-{clients}"));
    postgres.start(&dir)?;
    let script = dir.join("commit.sql");
    let statement = STATEMENT.replace("$1::bytea", ":payload::bytea");
    std::fs::write(&script, format!("{statement};\n")).context("cannot write the script")?;
    let port = postgres.port().context("it is not running")?;
    let payload = "x".repeat(setting.record_bytes);
    let seconds = setting.duration.as_secs().max(1).to_string();
    let mut arguments: Vec<OsString> = vec!["-f".into(), script.into(), "-D".into()];
    arguments.push(format!("payload={payload}").into());
    arguments.extend(["-n", "-M", "prepared", "-j", "1", "-T", &seconds, "-c"].map(OsString::from));
    arguments.push(clients.to_string().into());
    arguments.push(
        format!("host=127.0.0.1 port={port} user=towline dbname=postgres options='-c synchronous_commit=on'")
            .into(),
    );
    let spec = postgres.points(&[clients]).into_iter().find(|spec: &Spec| spec.level == Level::On);
    let spec = spec.context("no point at this level")?;
    let ratios = (0..TURNS).map(|_| {
        let own = postgres.measure(&spec)?;
        let said = process::output_until(&program, &arguments, &setting.stop)?;
        let theirs = number_behind(&said, "tps = ").with_context(|| format!("no rate in '{said}'"))?;
        Ok(own.recorder.acked as f64 / own.duration.as_secs_f64() / theirs)
    });
    let ratios = ratios.collect::<Result<Vec<f64>>>();
    postgres.stop()?;
    let _ = std::fs::remove_dir_all(&dir);
    Ok(Pairs { ratios: ratios?, note: "one thread, prepared, the same statement and record".into() })
}

/// Both on one file, in turns (fio, here, fio, here, …, fio), so that a drift of the disk falls on both; each of ours is
/// held against the two of fio around it.
fn fio(setting: &Setting, dir: &Path) -> Result<Pairs> {
    go_on(setting)?;
    let program = find_program("fio").context("fio is not installed: apt-get install fio")?;
    let file = scratch_file(dir)?;
    let mut arguments: Vec<OsString> = vec!["--filename".into(), file.path().into()];
    let fixed = "--name=durable --rw=write --bs=4k --size=32m --direct=1 --sync=dsync --ioengine=pvsync2 --overwrite=1 \
                 --time_based --runtime=1 --lat_percentiles=1 --output-format=json";
    arguments.extend(fixed.split_whitespace().map(OsString::from));
    let theirs = || -> Result<f64> {
        let said = process::output_until(&program, &arguments, &setting.stop)?;
        // Warnings may stand around it.
        let json = said.find('{').zip(said.rfind('}')).and_then(|(from, to)| said.get(from..=to));
        let json: serde_json::Value = serde_json::from_str(json.context("fio printed no JSON")?)
            .context("fio's JSON cannot be read")?;
        let p50 = json["jobs"][0]["write"]["lat_ns"]["percentile"]["50.000000"].as_f64();
        p50.context("fio printed no median")
    };
    let (mut ratios, mut polling) = (Vec::new(), Vec::new());
    let mut before = theirs()?;
    for _ in 0..TURNS {
        let asleep = durable_write(&file, 1, Waiting::Parked)?.quantile_ns(0.5) as f64;
        polling.push(durable_write(&file, 1, Waiting::Spinning)?.quantile_ns(0.5) as f64 / asleep.max(1.0));
        let after = theirs()?;
        ratios.push(asleep / (before * after).sqrt());
        before = after;
    }
    let polling = median(&polling).unwrap_or(1.0);
    let note = format!(
        "fio: pvsync2, direct, sync=dsync; both over the same file of zeros, both asleep while the disk works; polling, \
         as the floor on this page may, takes {polling:.2} × as long as asleep"
    );
    Ok(Pairs { ratios, note })
}

/// It runs for many seconds, whatever is looked at: once, between two of ours.
fn pg_test_fsync(setting: &Setting, dir: &Path) -> Result<Pairs> {
    go_on(setting)?;
    let postgres = Postgres::find(setting).map_err(|absent| anyhow::anyhow!(absent.0))?;
    let program = postgres.program("pg_test_fsync");
    let file = dir.join("pg_test_fsync");
    let arguments: [OsString; 4] = ["-s".into(), "1".into(), "-f".into(), file.clone().into()];
    let scratch = scratch_file(dir)?;
    let own = || -> Result<f64> {
        let samples = durable_write(&scratch, PG_TEST_FSYNC_BLOCKS, Waiting::Parked)?.ns;
        Ok(samples.iter().sum::<u64>() as f64 / samples.len().max(1) as f64)
    };
    let before = own()?;
    let said = process::output_until(&program, &arguments, &setting.stop)?;
    let after = own()?;
    let _ = std::fs::remove_file(&file);
    let line = said.lines().find(|line| line.trim_start().starts_with("open_datasync"));
    let line = line.context("pg_test_fsync printed no open_datasync")?;
    let per_s = number_behind(line, "open_datasync").context("pg_test_fsync could not do open_datasync")?;
    let note = "pg_test_fsync: one 8 KiB write by open_datasync, the only size that it has, over the same block again and \
                again; here 8 KiB too, round a file of zeros, asleep while the disk works";
    Ok(Pairs { ratios: vec![before * per_s / 1e9, after * per_s / 1e9], note: note.into() })
}

fn go_on(setting: &Setting) -> Result<()> {
    ensure!(!setting.stop.load(Ordering::Relaxed), "interrupted");
    Ok(())
}

/// The file that programs write over: zeros, on the disk before anything is measured.
fn scratch_file(dir: &Path) -> Result<ScratchFile> {
    ScratchFile::new(&Place::new(dir, FileMode::Direct), SCRATCH_BYTES).context("cannot make a file of zeros")
}

fn durable_write(file: &ScratchFile, blocks: u32, waiting: Waiting) -> Result<floor::Samples> {
    let limits = Limits { samples: 100_000, time: Duration::from_secs(1) };
    floor::durable_write_in(file, blocks, waiting, limits).context("floor 'durable write'")
}

fn number_behind(text: &str, word: &str) -> Option<f64> {
    let rest = text[text.find(word)? + word.len()..].trim_start();
    rest.split_whitespace().next()?.parse().ok()
}

fn check(measure: String, ratios: &[f64], note: String) -> Check {
    let value = median(ratios);
    let low = ratios.iter().copied().reduce(f64::min);
    let high = ratios.iter().copied().reduce(f64::max);
    Check {
        measure,
        bar: "within 15 %".into(),
        value,
        unit: "×".into(),
        spread: low.zip(high).map(|(low, high)| Interval { low, high }),
        floor: None,
        met: value.map(|value| (0.85..=1.15).contains(&value)),
        note: Some(note),
    }
}

const TURNS: usize = 5;
/// As fio is told.
const SCRATCH_BYTES: u64 = 32 << 20;
const TIMELINES: usize = 3;
/// It writes 8 KiB.
const PG_TEST_FSYNC_BLOCKS: u32 = 2;
/// As the bench calls the row.
const INSTRUMENT: &str = "timing every record at every watermark";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_found_in_what_the_programs_print() {
        let pgbench = "latency average = 0.5 ms\ntps = 1234.5 (without initial connection time)";
        assert_eq!(number_behind(pgbench, "tps = "), Some(1234.5));
        let line = "        open_datasync                      9432.291 ops/sec     106 usecs/op";
        assert_eq!(number_behind(line, "open_datasync"), Some(9432.291));
        assert_eq!(number_behind("        open_datasync       n/a*", "open_datasync"), None);
    }

    #[test]
    fn an_agreement_is_a_ratio_near_one() {
        let near = check("a".into(), &[0.9, 1.1, 1.0], String::new());
        assert_eq!((near.value, near.met), (Some(1.0), Some(true)));
        assert_eq!(check("a".into(), &[1.3], String::new()).met, Some(false));
        assert_eq!(check("a".into(), &[], String::new()).met, None);
    }
}
