//! What a node's directory may hold: a folder for each shard, and nothing that would be left behind unseen.

use std::path::{Path, PathBuf};

use crate::error::StartError;
use crate::storage::{Layout, OpenError};

/// Refuses a directory whose logs this start would not serve, or that is not a node's. One that is absent or empty is
/// made by the shards.
///
/// # Errors
/// [`StartError::Options`] for a mistake on the command line, [`StartError::Open`] for another program's directory.
pub(crate) fn check_node_dir(dir: &Path, shards: u16) -> Result<(), StartError> {
    if is_shard_dir(dir) {
        let parent = dir.parent().map_or_else(String::new, |parent| format!(": {}", parent.display()));
        return Err(StartError::Options(format!(
            "{}: is one shard of a node; give the directory of the node, which holds it{parent}",
            dir.display()
        )));
    }
    // What cannot be listed is told by the shards, which need more than that.
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(()) };
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    let found: Vec<u16> = names.iter().filter_map(|name| shard_number(name)).collect();
    let beyond =
        found.iter().filter(|number| **number >= shards && is_shard_dir(&shard_dir(dir, **number))).max();
    if let Some(last) = beyond {
        return Err(StartError::Options(format!(
            "{}: holds the logs of {} shards, and this start would serve {shards} of them: give --shards {}",
            dir.display(),
            u32::from(*last) + 1,
            u32::from(*last) + 1
        )));
    }
    let foreign: Vec<String> = names.into_iter().filter(|name| !is_harmless(name)).take(3).collect();
    if found.is_empty() && !foreign.is_empty() {
        let source = OpenError::ForeignFiles { path: dir.to_owned(), names: foreign.join(", ") };
        return Err(StartError::Open { shard: 0, source });
    }
    Ok(())
}

fn is_shard_dir(dir: &Path) -> bool {
    Layout::new(dir).identity().is_file()
}

/// Where a shard's log lies in a node's directory.
pub(crate) fn shard_dir(dir: &Path, number: u16) -> PathBuf {
    dir.join(format!("shard-{number}"))
}

/// The shard that a directory of this name belongs to; the inverse of where a node puts its shards.
pub fn shard_number(name: &str) -> Option<u16> {
    name.strip_prefix("shard-")?.parse().ok()
}

/// A directory may be a file system's own root, and hidden files are nobody's data.
fn is_harmless(name: &str) -> bool {
    name == "lost+found" || name.starts_with('.')
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_a_directory_whose_every_log_is_served_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let why = |shards| check_node_dir(dir, shards).map_err(|error| error.to_string());
        assert_eq!(why(1), Ok(()), "an empty one is made");
        fs::write(dir.join("notes.txt"), "").unwrap();
        fs::create_dir(dir.join("lost+found")).unwrap();
        assert!(why(1).unwrap_err().contains("(notes.txt)"));
        for number in [0, 2] {
            fs::create_dir(shard_dir(dir, number)).unwrap();
            assert_eq!(why(1), Ok(()), "half-made, and beside a configuration file");
        }
        fs::write(shard_dir(dir, 2).join("identity"), "").unwrap();
        assert!(why(2).unwrap_err().contains("--shards 3"));
        assert_eq!(why(3), Ok(()));
        assert!(check_node_dir(&shard_dir(dir, 2), 1).unwrap_err().to_string().contains("is one shard"));
        assert_eq!(check_node_dir(&dir.join("absent"), 1).map_err(|error| error.to_string()), Ok(()));
    }
}
