//! What lies where in a shard's directory, and how small files are put there.
//!
//! ```text
//!   shard-0/identity                  whose directory it is
//!          /meta                      term, history, log start, unfinished spans (four copies)
//!          /calibration               how this device is flushed best
//!          /lock                      held by the process that has it open
//!          /segments/<seq, 16 hex>.seg
//!          /cut/<start>-<end>.<n>.cut copies of what was cut off the log's end
//! ```

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use towline_uring::{fsync_dir, rename_durable};

use super::error::OpenError;
use super::steps::Steps;

/// Paths in one shard's directory.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout of the directory at `root`.
    pub fn new(root: impl Into<PathBuf>) -> Layout {
        Layout { root: root.into() }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whose directory it is.
    pub fn identity(&self) -> PathBuf {
        self.root.join("identity")
    }

    /// The meta block's copies.
    pub fn meta(&self) -> PathBuf {
        self.root.join("meta")
    }

    /// What calibration measured.
    pub fn calibration(&self) -> PathBuf {
        self.root.join("calibration")
    }

    /// The lock file.
    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// Segment files.
    pub fn segments(&self) -> PathBuf {
        self.root.join("segments")
    }

    /// The file of segment `seq`.
    pub fn segment(&self, seq: u64) -> PathBuf {
        self.segments().join(format!("{seq:016x}.{SEGMENT_SUFFIX}"))
    }

    /// The file of segment `seq` while it is being made.
    pub fn segment_temp(&self, seq: u64) -> PathBuf {
        self.segments().join(format!("{seq:016x}.{TEMP_SUFFIX}"))
    }

    /// Copies of what was cut.
    pub fn cut(&self) -> PathBuf {
        self.root.join("cut")
    }

    /// Sequence numbers of the segment files in place, ascending.
    ///
    /// # Errors
    /// The kernel's.
    pub fn list_segments(&self) -> Result<Vec<u64>, OpenError> {
        let mut found: Vec<u64> =
            names(&self.segments())?.iter().filter_map(|name| sequence_of(name)).collect();
        found.sort_unstable();
        Ok(found)
    }

    /// Names in the directory that no version of this program puts there.
    pub(crate) fn foreign(&self) -> Result<Vec<String>, OpenError> {
        let foreign = names(&self.root)?.into_iter().filter(|name| {
            let ours = OURS.contains(&name.as_str());
            !ours && !name.ends_with(&format!(".{TEMP_SUFFIX}"))
        });
        Ok(foreign.collect())
    }

    /// Removes what a crash left half-made. Nothing depends on a file under a temporary name.
    pub(crate) fn remove_half_made(&self) -> Result<(), OpenError> {
        for dir in [self.root.clone(), self.segments(), self.cut()] {
            let half_made = |name: &&String| {
                name.ends_with(&format!(".{TEMP_SUFFIX}")) || name.starts_with(MEASURING_PREFIX)
            };
            for name in names(&dir)?.iter().filter(half_made) {
                let path = dir.join(name);
                fs::remove_file(&path).map_err(|e| OpenError::io("remove", &path, e))?;
            }
        }
        Ok(())
    }

    /// Makes the directory itself, and those above it that are missing: a log is as durable as the name it is found
    /// under.
    pub(crate) fn make_root(&self, steps: &Steps) -> Result<(), OpenError> {
        let missing = self.root.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.is_dir());
        for dir in missing.collect::<Vec<_>>().into_iter().rev() {
            make_dir(dir, steps)?;
        }
        // A process that was killed may have made it and not come to flush its name. A parent that may not be read was
        // not made by us.
        match self.root.parent().map(fs::read_dir) {
            Some(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            _ => flush_name(&self.root),
        }
    }

    /// Makes the folders that are missing; each is durable before anything is put into it.
    pub(crate) fn make_folders(&self, steps: &Steps) -> Result<(), OpenError> {
        make_dir(&self.segments(), steps)?;
        make_dir(&self.cut(), steps)
    }
}

fn make_dir(dir: &Path, steps: &Steps) -> Result<(), OpenError> {
    if dir.is_dir() {
        return Ok(());
    }
    steps.take("make a directory")?;
    match fs::create_dir(dir) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
        Err(error) => return Err(OpenError::io("make the directory", dir, error)),
    }
    flush_name(dir)
}

fn flush_name(dir: &Path) -> Result<(), OpenError> {
    fsync_dir(dir.parent().unwrap_or(Path::new("."))).map_err(OpenError::file)
}

/// Puts a small file in place: after a crash there is the old one or the whole new one.
pub(crate) fn replace_file(path: &Path, bytes: &[u8], steps: &Steps) -> Result<(), OpenError> {
    let temp = path.with_added_extension(TEMP_SUFFIX);
    steps.take("write a temporary file")?;
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o640)
        .open(&temp)
        .map_err(|e| OpenError::io("create", &temp, e))?;
    file.write_all(bytes).map_err(|e| OpenError::io("write", &temp, e))?;
    // Durable before the name exists: a crash after the rename must not leave an empty file under it.
    file.sync_all().map_err(|e| OpenError::io("flush", &temp, e))?;
    steps.take("rename a file")?;
    rename_durable(&temp, path).map_err(OpenError::file)
}

/// Removes a file that may be there.
pub(crate) fn remove_if_there(path: &Path) -> Result<(), OpenError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(OpenError::io("remove", path, error)),
        _ => Ok(()),
    }
}

/// The names in a directory; none where it is absent.
pub(crate) fn names(dir: &Path) -> Result<Vec<String>, OpenError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(OpenError::io("list", dir, error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| OpenError::io("list", dir, e))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

fn sequence_of(name: &str) -> Option<u64> {
    let path = Path::new(name);
    let digits = path.file_stem().and_then(OsStr::to_str)?;
    let ours = path.extension() == Some(OsStr::new(SEGMENT_SUFFIX))
        && digits.len() == 16
        && digits.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    if ours { u64::from_str_radix(digits, 16).ok() } else { None }
}

const SEGMENT_SUFFIX: &str = "seg";
const TEMP_SUFFIX: &str = "tmp";
/// Files of a measurement that did not end.
const MEASURING_PREFIX: &str = ".towline-floor-";
/// `lost+found`: a directory may be a file system's own root.
const OURS: [&str; 7] = ["identity", "meta", "calibration", "lock", "segments", "cut", "lost+found"];
