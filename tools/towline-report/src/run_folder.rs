//! `results/runs/<utc>-<commit>-<name>/`: everything that one run leaves behind.
//!
//! Every file is written beside its place and renamed into it, so a run that is interrupted leaves whole files only.

use crate::histograms::{HistogramLog, TaggedHistogram};
use crate::schema::Report;
use crate::survive_run::SurviveRun;
use serde::Serialize;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The folder of one run.
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// Makes `<results_dir>/runs/<utc yyyymmddThhmmssZ>-<commit>-<name>/`; a second run in the same second gets `-2`.
    ///
    /// # Errors
    /// [`FolderError`] with the folder that could not be made.
    pub fn create(results_dir: &Path, commit: &str, name: &str) -> Result<Self, FolderError> {
        let runs = results_dir.join("runs");
        std::fs::create_dir_all(&runs).map_err(|source| FolderError { path: runs.clone(), source })?;
        let commit: String = plain(commit).chars().take(12).collect();
        let base = format!("{}-{commit}-{}", jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ"), plain(name));
        for attempt in 1..=100u32 {
            let suffix = if attempt == 1 { String::new() } else { format!("-{attempt}") };
            let path = runs.join(format!("{base}{suffix}"));
            match std::fs::create_dir(&path) {
                Ok(()) => return Ok(Self { path }),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(FolderError { path, source }),
            }
        }
        Err(FolderError { path: runs.join(base), source: std::io::ErrorKind::AlreadyExists.into() })
    }

    /// A folder that is there already.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `report.json`, `environment.json`, `command.txt` and `report.html`.
    ///
    /// # Errors
    /// [`FolderError`] with the file that could not be written.
    pub fn write(&self, report: &Report) -> Result<(), FolderError> {
        write_json(&self.path.join("environment.json"), &report.environment)?;
        let command = report.command.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
        write_atomically(&self.path.join("command.txt"), format!("{command}\n").as_bytes())?;
        self.write_page(report, self.newest_loss(report).as_ref())?;
        // Last: a folder with a report is a whole one.
        report.save(&self.path)
    }

    /// The newest survival run of the same machine beside this one that crashed windows: its figures stand under the
    /// window curves. `None` where the folder is in no collection.
    pub fn newest_loss(&self, report: &Report) -> Option<SurviveRun> {
        let runs = self.path.parent().filter(|runs| runs.ends_with("runs"))?;
        SurviveRun::newest_with_windows(runs.parent()?, &report.environment)
    }

    /// Writes `report.html` alone, with what `loss` found under its window curves: what was measured stays byte for
    /// byte as it was written.
    ///
    /// # Errors
    /// [`FolderError`] when it could not be written.
    pub fn write_page(&self, report: &Report, loss: Option<&SurviveRun>) -> Result<(), FolderError> {
        write_atomically(
            &self.path.join("report.html"),
            crate::html::render_html_with_loss(report, loss).as_bytes(),
        )
    }

    /// Writes `histograms/<name>.hlog`, an HdrHistogram interval log (V2) with one tagged interval per repetition,
    /// as the public HdrHistogram tools read it. Values are ns.
    ///
    /// # Errors
    /// [`FolderError`] with the file that could not be written.
    pub fn write_histograms(&self, name: &str, intervals: &[TaggedHistogram<'_>]) -> Result<(), FolderError> {
        let dir = self.path.join("histograms");
        std::fs::create_dir_all(&dir).map_err(|source| FolderError { path: dir.clone(), source })?;
        let path = dir.join(format!("{}.hlog", plain(name)));
        let bytes = HistogramLog::encode(intervals)
            .map_err(|text| FolderError { path: path.clone(), source: std::io::Error::other(text) })?;
        write_atomically(&path, &bytes)
    }
}

/// A file or folder of a run that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {source}", path.display())]
pub struct FolderError {
    /// Which.
    pub path: PathBuf,
    /// What the file system said.
    pub source: std::io::Error,
}

/// Now, as RFC 3339 in UTC with seconds.
pub fn utc_now_rfc3339() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), FolderError> {
    let mut bytes = serde_json::to_vec_pretty(value)
        .map_err(|error| FolderError { path: path.to_owned(), source: error.into() })?;
    bytes.push(b'\n');
    write_atomically(path, &bytes)
}

pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), FolderError> {
    let write = || -> std::io::Result<()> {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::Builder::new().prefix(".towline-").tempfile_in(dir)?;
        file.write_all(bytes)?;
        // Durable before it has its name: a crash leaves the old file or the new one, never an empty one.
        file.as_file().sync_all()?;
        let mut permissions = file.as_file().metadata()?.permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
        file.as_file().set_permissions(permissions)?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|source| FolderError { path: path.to_owned(), source })
}

/// Letters, digits, dots, dashes and underscores: safe as a file name and in a shell.
fn plain(name: &str) -> String {
    let kept = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let name: String = name.chars().map(kept).collect();
    let name = name.trim_start_matches(['.', '-']);
    if name.is_empty() { "unnamed".into() } else { name.chars().take(80).collect() }
}

fn quoted(word: &str) -> String {
    let bare = |c: char| c.is_alphanumeric() || "-_./=:,+%@…".contains(c);
    if !word.is_empty() && word.chars().all(bare) {
        word.into()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

pub(crate) fn shell_line(command: &[String]) -> String {
    command.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Environment;

    #[test]
    fn a_run_leaves_all_its_files_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(dir.path(), "abc123", "a name/with: odd").unwrap();
        let name = folder.path().file_name().unwrap().to_str().unwrap().to_owned();
        assert!(name.ends_with("Z-abc123-a-name-with--odd"), "{name}");
        assert_eq!(&name[8..9], "T");
        let command = vec!["towline".into(), "bench".into(), "--sync".into(), "ANY 1 (a, b)".into()];
        folder.write(&Report::new("test", command, Environment::default())).unwrap();
        let mut files: Vec<String> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        assert_eq!(files, ["command.txt", "environment.json", "report.html", "report.json"]);
        let command = std::fs::read_to_string(folder.path().join("command.txt")).unwrap();
        assert_eq!(command, "towline bench --sync 'ANY 1 (a, b)'\n");
    }

    #[test]
    fn two_runs_in_one_second_get_two_folders() {
        let dir = tempfile::tempdir().unwrap();
        let names: std::collections::HashSet<_> =
            (0..3).map(|_| RunFolder::create(dir.path(), "c", "n").unwrap().path().to_owned()).collect();
        assert_eq!(names.len(), 3);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("runs"), "a file").unwrap();
        let error = RunFolder::create(dir.path(), "c", "n").unwrap_err();
        assert!(error.path.ends_with("runs"), "{error}");
    }
}
