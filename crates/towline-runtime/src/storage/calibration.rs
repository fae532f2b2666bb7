//! How this device is flushed best: measured once, kept beside the log.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use towline_core::types::limits::MAX_FLUSH_DEPTH;
use towline_uring::WritePrimitive;

use super::error::OpenError;
use super::layout::{Layout, replace_file};
use super::options::StorageOptions;

/// How writes are made durable, and how many at once.
#[derive(Clone, PartialEq, Debug)]
pub struct Calibration {
    /// How a write is made durable.
    pub primitive: WritePrimitive,
    /// Flushes in flight.
    pub flush_depth: usize,
    /// Where the two come from, for the log line.
    pub origin: Origin,
    /// p50 of a durable 4 KiB write at depth 1, in ns, by primitive; empty when nothing was measured.
    pub durable_write_ns: BTreeMap<String, u64>,
}

/// Where a calibration comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Measured on this device.
    Measured,
    /// Measured, but on another device than the one the directory is on now.
    OtherDevice,
    /// Never measured: safe defaults.
    Default,
    /// Both were given by the options.
    Options,
}

/// The file: what was measured, on what, when. Keys that a newer program adds are ignored.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct CalibrationFile {
    primitive: Name,
    flush_depth: usize,
    /// Major and minor number of the directory's device.
    device: String,
    measured_at: String,
    #[serde(default)]
    durable_write_ns: BTreeMap<String, u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Name {
    Dsync,
    WriteThenFsync,
}

impl Calibration {
    /// What the options say, else the file, else safe defaults. A file that cannot be used is a note, not an error.
    pub(crate) fn load(
        layout: &Layout,
        options: &StorageOptions,
        notes: &mut Vec<String>,
    ) -> Result<Calibration, OpenError> {
        let mut found = match read(&layout.calibration())? {
            Some(Ok(file)) => from_file(&file, layout, notes),
            Some(Err(why)) => {
                notes.push(format!("{}: cannot be used ({why})", layout.calibration().display()));
                defaults()
            }
            None => defaults(),
        };
        if options.primitive.is_some() && options.flush_depth.is_some() {
            found.origin = Origin::Options;
        }
        found.primitive = options.primitive.unwrap_or(found.primitive);
        found.flush_depth = options.flush_depth.unwrap_or(found.flush_depth).clamp(1, MAX_FLUSH_DEPTH);
        if found.origin == Origin::Default {
            notes.push(format!(
                "this device was not calibrated: RWF_DSYNC writes, {} in flight",
                found.flush_depth
            ));
        }
        Ok(found)
    }
}

fn defaults() -> Calibration {
    Calibration {
        primitive: WritePrimitive::Dsync,
        flush_depth: DEFAULT_FLUSH_DEPTH,
        origin: Origin::Default,
        durable_write_ns: BTreeMap::new(),
    }
}

fn from_file(file: &CalibrationFile, layout: &Layout, notes: &mut Vec<String>) -> Calibration {
    let here = device_of(layout.root());
    let origin = if file.device == here { Origin::Measured } else { Origin::OtherDevice };
    if origin == Origin::OtherDevice {
        notes.push(format!(
            "calibrated on device {}, now on {here}: remove {} to measure again",
            file.device,
            layout.calibration().display()
        ));
    }
    Calibration {
        primitive: match file.primitive {
            Name::Dsync => WritePrimitive::Dsync,
            Name::WriteThenFsync => WritePrimitive::WriteThenFsync,
        },
        flush_depth: file.flush_depth,
        origin,
        durable_write_ns: file.durable_write_ns.clone(),
    }
}

/// The file, if there is one; the inner error says why it cannot be used.
fn read(path: &Path) -> Result<Option<Result<CalibrationFile, String>>, OpenError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(toml::from_str(&text).map_err(|error| error.message().to_owned()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            Ok(Some(Err("it is not text".to_owned())))
        }
        Err(error) => Err(OpenError::io("read", path, error)),
    }
}

fn device_of(path: &Path) -> String {
    match fs::metadata(path) {
        Ok(meta) => format!("{}:{}", rustix::fs::major(meta.dev()), rustix::fs::minor(meta.dev())),
        Err(_) => "unknown".to_owned(),
    }
}

/// Overlaps flushes on every device we know without queueing much behind one another.
const DEFAULT_FLUSH_DEPTH: usize = 4;
