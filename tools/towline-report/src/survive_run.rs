//! What survival runs left in the results folder, as far as the pages show it: what repeated crashes lost at each
//! window, and a line for the list of all runs.
//!
//! It reads `survive.json` of whatever version; what is missing there is missing here.

use crate::against::hardware_differences;
use crate::environment::Environment;
use crate::knee;
use crate::schema::{Report, Window};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Name of the result inside a survival run's folder.
pub const SURVIVE_FILE: &str = "survive.json";

/// One survival run.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct SurviveRun {
    /// The run's folder, without the folders above it.
    #[serde(skip)]
    pub folder: String,
    /// When it began, RFC 3339, UTC.
    pub began: String,
    /// How long it took, seconds.
    pub seconds: f64,
    /// Appends a second that each cluster was offered.
    pub rate_per_s: f64,
    /// Clusters at the same time.
    pub lanes: u32,
    /// Kernel and processors, for people.
    pub machine: String,
    /// Model of the processor.
    pub cpu: String,
    /// Cores that it might use.
    pub cores: u32,
    /// Commit of the code; empty when nobody knows.
    pub commit: String,
    /// Cells are missing.
    pub interrupted: bool,
    /// Why it was given up before its end; cells are missing then.
    pub broken_off: Option<String>,
    /// Levels × failures.
    pub cells: Vec<Cell>,
    /// Reads right after an acknowledgement.
    pub reads: Vec<Verdicted>,
    /// Windows of many sizes, each under losses of the primary with its disk.
    pub windows: Vec<Cell>,
    /// The long run.
    pub soak: Option<Soak>,
}

/// One row under one failure, played again and again.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Cell {
    /// What the appends asked for.
    pub row: Row,
    /// How it ended.
    pub verdict: Verdict,
    /// Crashes.
    pub runs: u64,
    /// Those that lost something.
    pub losing_runs: u64,
    /// Acknowledged records, in all runs.
    pub acked: u64,
    /// The largest loss.
    pub largest: Loss,
    /// What each run lost, in the window's unit; payload bytes where none binds.
    pub loss_sizes: Vec<u64>,
    /// Median latency before the crash, µs, of the first run.
    pub p50_us: f64,
}

/// What an append asked for.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Its window.
    pub window: Option<Window>,
}

/// What one crash lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Loss {
    /// Acknowledged records.
    pub records: u64,
    /// Their payload bytes.
    pub payload_bytes: u64,
    /// The span of the loss as a share of the window.
    pub window_share: f64,
}

/// Anything that has a verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Verdicted {
    /// How it ended.
    pub verdict: Verdict,
}

/// The long run.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Soak {
    /// Failures that were made to happen.
    pub faults: u64,
    /// Acknowledged records.
    pub acked: u64,
    /// What it is for and did not play.
    pub missing: Vec<String>,
    /// By row, with what was wrong there.
    pub rows: Vec<SoakRow>,
}

/// One row of the long run.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct SoakRow {
    /// Broken promises; empty is passed.
    pub notes: Vec<String>,
}

/// How a cell ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As predicted.
    Passed,
    /// A promise was broken.
    Failed,
    /// A loss is due and none was seen; also where the file does not say.
    #[default]
    NotShown,
}

impl Verdict {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::NotShown => "not shown",
        }
    }
}

/// Why there is no survival run to show.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct SurviveRunError {
    /// Where it was looked for.
    pub path: PathBuf,
    /// What is wrong.
    pub reason: String,
}

impl SurviveRun {
    /// Reads a run's folder, or its `survive.json`.
    ///
    /// # Errors
    /// [`SurviveRunError`]: it is not there, or is no whole result.
    pub fn load(run: &Path) -> Result<Self, SurviveRunError> {
        let path = if run.is_dir() { run.join(SURVIVE_FILE) } else { run.to_owned() };
        let error = |reason: String| SurviveRunError { path: path.clone(), reason };
        let text = std::fs::read_to_string(&path).map_err(|source| error(source.to_string()))?;
        let run: Self = serde_json::from_str(&text)
            .map_err(|source| error(format!("not a whole survival run ({source})")))?;
        let name = path.parent().and_then(Path::file_name);
        Ok(Self { folder: name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(), ..run })
    }

    /// All whole ones of a results folder, the oldest first.
    pub fn all(results_dir: &Path) -> Vec<Self> {
        let entries = std::fs::read_dir(results_dir).into_iter().flatten().flatten();
        let mut runs: Vec<Self> = entries
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("survive-"))
            .filter_map(|entry| Self::load(&entry.path()).ok())
            .collect();
        runs.sort_by(|a, b| (&a.began, &a.folder).cmp(&(&b.began, &b.folder)));
        runs
    }

    /// The newest of a results folder that crashed windows on such a machine.
    pub fn newest_with_windows(results_dir: &Path, machine: &Environment) -> Option<Self> {
        let mut runs = Self::all(results_dir);
        runs.retain(|run| !run.windows.is_empty() && run.machine_differs(machine).is_empty());
        runs.pop()
    }

    /// How its machine differs from another.
    pub fn machine_differs(&self, machine: &Environment) -> Vec<String> {
        if self.cpu.is_empty() {
            // Older runs say no more than this.
            let here = format!("Linux {}, {} processors", machine.kernel, machine.cores);
            return if self.machine == here {
                Vec::new()
            } else {
                vec![format!("{} and {here}", self.machine)]
            };
        }
        let own = Environment { cpu: self.cpu.clone(), cores: self.cores, ..Environment::default() };
        hardware_differences(&own, machine)
    }

    /// Every verdict.
    pub fn verdicts(&self) -> impl Iterator<Item = Verdict> + '_ {
        let soak = self.soak.iter().map(|soak| match soak.rows.iter().all(|row| row.notes.is_empty()) {
            true if soak.missing.is_empty() => Verdict::Passed,
            true => Verdict::NotShown,
            false => Verdict::Failed,
        });
        let cells = self.cells.iter().chain(&self.windows).map(|cell| cell.verdict);
        cells.chain(self.reads.iter().map(|read| read.verdict)).chain(soak)
    }

    /// Acknowledged records that were looked for.
    pub fn acked(&self) -> u64 {
        let cells: u64 = self.cells.iter().chain(&self.windows).map(|cell| cell.acked).sum();
        cells + self.soak.as_ref().map_or(0, |soak| soak.acked)
    }
}

impl Cell {
    /// Median of what its crashes lost, in the window's unit; `None` where only the largest was kept.
    pub fn median_loss(&self) -> Option<u64> {
        let mut sizes = self.loss_sizes.clone();
        sizes.sort_unstable();
        sizes.get(sizes.len() / 2).copied()
    }

    /// The largest of what its crashes lost, in the window's unit; `None` where nothing was played.
    pub fn largest_loss(&self) -> Option<u64> {
        if self.runs == 0 {
            return None;
        }
        let kept = self.loss_sizes.iter().max().copied();
        let of_share = match self.row.window {
            Some(Window::Bytes(size) | Window::Records(size) | Window::Micros(size)) => {
                (self.largest.window_share * size as f64).round() as u64
            }
            _ => self.largest.payload_bytes,
        };
        Some(kept.unwrap_or(of_share))
    }
}

/// The finite windows of a report's sweeps in bytes, 0 left out, the smallest first.
pub fn sweep_bytes(report: &Report) -> Vec<u64> {
    let curves = knee::curves(report);
    let windows = curves.iter().flat_map(|curve| curve.windows()).filter_map(|window| match window {
        Window::Bytes(bytes) if bytes > 0 => Some(bytes),
        _ => None,
    });
    let mut sizes: Vec<u64> = windows.collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

/// [`sweep_bytes`] of the newest run of a results folder on this machine that has any; nothing where none has.
pub fn newest_sweep(results_dir: &Path, machine: &Environment) -> Vec<u64> {
    let entries = std::fs::read_dir(results_dir.join("runs")).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    // Their names begin with the time.
    folders.sort();
    let reports = folders.iter().rev().filter_map(|folder| Report::load(folder).ok());
    let of_machine = |report: &Report| hardware_differences(&report.environment, machine).is_empty();
    let mut sweeps = reports.filter(of_machine).map(|report| sweep_bytes(&report));
    sweeps.find(|sizes| !sizes.is_empty()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic;

    #[test]
    fn the_windows_of_a_sweep_are_those_of_all_its_links() {
        let report = synthetic::canonical_report(2);
        let sizes = sweep_bytes(&report);
        assert!(sizes.len() >= 8 && sizes.is_sorted() && sizes[0] > 0, "{sizes:?}");
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("runs/20260101T000000Z-a-b");
        std::fs::create_dir_all(&folder).unwrap();
        report.save(&folder).unwrap();
        assert_eq!(newest_sweep(dir.path(), &report.environment), sizes);
        let other = Environment { cores: 64, ..report.environment };
        assert!(newest_sweep(dir.path(), &other).is_empty());
    }

    #[test]
    fn the_newest_run_with_windows_of_this_machine_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join(SURVIVE_FILE), text).unwrap();
        };
        let windows = r#"[{"row":{"name":"window-512","window":{"bytes":512}},"verdict":"passed","runs":3,"loss_sizes":[9,400,20]}]"#;
        let run = |began: &str, cores: u32, windows: &str| {
            format!(
                r#"{{"version":1,"began":"{began}","cpu":"c","cores":{cores},"windows":{windows},"later":{{}}}}"#
            )
        };
        write("survive-1", &run("2026-01-01T00:00:00Z", 2, windows));
        write("survive-2", &run("2026-01-02T00:00:00Z", 2, windows));
        write("survive-3", &run("2026-01-03T00:00:00Z", 64, windows));
        write("survive-4", &run("2026-01-04T00:00:00Z", 2, "[]"));
        write("survive-5", "{\"windows\": [");
        let machine = Environment { cpu: "c".into(), cores: 2, ..Environment::default() };
        let found = SurviveRun::newest_with_windows(dir.path(), &machine).unwrap();
        assert_eq!(found.folder, "survive-2");
        assert_eq!((found.windows[0].median_loss(), found.windows[0].largest_loss()), (Some(20), Some(400)));
        assert_eq!(SurviveRun::all(dir.path()).len(), 4);
        let error = SurviveRun::load(&dir.path().join("survive-5")).unwrap_err();
        assert!(error.to_string().contains("not a whole survival run"), "{error}");
    }

    #[test]
    fn a_run_that_kept_only_its_largest_losses_is_of_its_kernel_and_processors() {
        let text = r#"{"machine":"Linux 6.1, 2 processors","windows":[
            {"row":{"window":{"bytes":4096}},"runs":3,"largest":{"payload_bytes":4000,"window_share":0.98}},
            {"row":{"window":"inf"},"runs":3,"largest":{"payload_bytes":33413}},
            {"row":{"window":{"records":9}}}]}"#;
        let run: SurviveRun = serde_json::from_str(text).unwrap();
        let largest: Vec<Option<u64>> = run.windows.iter().map(Cell::largest_loss).collect();
        assert_eq!(largest, [Some(4014), Some(33413), None]);
        assert_eq!(run.windows[0].median_loss(), None);
        let machine =
            Environment { kernel: "6.1".into(), cores: 2, cpu: "any".into(), ..Environment::default() };
        assert!(run.machine_differs(&machine).is_empty());
        assert_eq!(run.machine_differs(&Environment { cores: 64, ..machine }).len(), 1);
    }
}
