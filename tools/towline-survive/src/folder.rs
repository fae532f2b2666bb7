//! The run folder: made before anything is played, so that what cannot be kept is not played for an hour.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Result, SurviveError};
use crate::page;
use crate::record::SurviveReport;

/// A fresh folder for one run. Dropping it removes it where nothing has been written.
#[derive(Debug)]
pub(crate) struct RunFolder(PathBuf);

impl RunFolder {
    /// Makes one for a run that began then (RFC 3339). Runs of the same second get folders of their own.
    pub(crate) fn make(results: &Path, began: &str) -> Result<RunFolder> {
        fs::create_dir_all(results).map_err(SurviveError::file(results, "cannot be made"))?;
        let name = format!("survive-{}", began.replace([':', '-'], ""));
        for number in 1..=SAME_SECOND {
            let name = if number == 1 { name.clone() } else { format!("{name}-{number}") };
            let path = results.join(name);
            match fs::create_dir(&path) {
                Ok(()) => return Ok(RunFolder(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(SurviveError::file(&path, "cannot be made")(error)),
            }
        }
        Err(SurviveError::Late(format!("{}: {SAME_SECOND} runs began at {began}", results.display())))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes the result and its page.
    pub(crate) fn write(&self, report: &SurviveReport) -> Result<()> {
        let json =
            serde_json::to_vec_pretty(report).map_err(|error| SurviveError::Late(error.to_string()))?;
        self.write_file("survive.json", &json)?;
        self.write_file("survive.html", page::render(report).as_bytes())
    }

    /// Under its name it is whole or not there: a disk may be full.
    fn write_file(&self, name: &str, content: &[u8]) -> Result<()> {
        let (path, unfinished) = (self.0.join(name), self.0.join(format!("{name}.new")));
        let written = fs::write(&unfinished, content).and_then(|()| fs::rename(&unfinished, &path));
        written.map_err(|error| {
            let _ = fs::remove_file(&unfinished);
            SurviveError::file(&path, "cannot be written")(error)
        })
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        // Only when nothing is in it.
        let _ = fs::remove_dir(&self.0);
    }
}

const SAME_SECOND: u32 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    const BEGAN: &str = "2026-11-24T02:00:00Z";

    fn dir() -> tempfile::TempDir {
        let target = std::env::current_exe().unwrap();
        tempfile::tempdir_in(target.parent().unwrap()).unwrap()
    }

    #[test]
    fn two_runs_of_one_second_do_not_share_a_folder() {
        let dir = dir();
        let [first, second] = [0, 1].map(|_| RunFolder::make(dir.path(), BEGAN).unwrap());
        first.write(&SurviveReport { seed: 1, ..SurviveReport::default() }).unwrap();
        second.write(&SurviveReport { seed: 2, ..SurviveReport::default() }).unwrap();
        let seed = |folder: &RunFolder| crate::rewrite(folder.path()).unwrap().seed;
        assert_eq!((seed(&first), seed(&second)), (1, 2));
        assert!(first.path().ends_with("survive-20261124T020000Z"), "{first:?}");
    }

    #[test]
    fn a_run_that_wrote_nothing_leaves_no_folder() {
        let dir = dir();
        let folder = RunFolder::make(&dir.path().join("results"), BEGAN).unwrap();
        let path = folder.path().to_owned();
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn a_result_that_cannot_be_written_leaves_no_half_of_it() {
        let dir = dir();
        let folder = RunFolder::make(dir.path(), BEGAN).unwrap();
        fs::create_dir(folder.path().join("survive.json")).unwrap();
        let error = folder.write(&SurviveReport::default()).unwrap_err();
        assert!(error.to_string().contains("survive.json: cannot be written"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "and nothing beside it");
    }
}
