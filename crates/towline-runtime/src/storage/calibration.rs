//! How this device is flushed best: measured once, kept beside the log.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use towline_core::types::limits::MAX_FLUSH_DEPTH;
use towline_uring::WritePrimitive;
use towline_uring::floor::Place;
use towline_uring::primitive::{Primitive, Race, race};

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
    /// p50 of a durable 4 KiB write, one at a time, in ns, by primitive; empty when nothing was measured.
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
    /// What a ring uses here, by the name it has in flags and reports.
    primitive: String,
    flush_depth: usize,
    /// Major and minor number of the directory's device.
    device: String,
    measured_at: String,
    /// p50 of a durable 4 KiB write, one at a time, in ns.
    #[serde(default)]
    durable_write_ns: BTreeMap<String, u64>,
    /// Durable 4 KiB writes per second, by writes in flight.
    #[serde(default)]
    durable_writes_per_s: BTreeMap<String, u64>,
}

impl Calibration {
    /// Measures the device and writes the file. Without a ring, or on a device that fails the race, there is no
    /// file and the defaults hold: the directory is usable, and what is wrong shows when it is used.
    pub(crate) fn measure(layout: &Layout, options: &StorageOptions) -> Result<(), OpenError> {
        let place = Place::new(layout.segments(), options.mode());
        let Ok(race) = race(&place, RACE_TIME) else { return Ok(()) };
        let file = CalibrationFile::new(&race, device_of(layout.root()));
        let text = toml::to_string(&file).map_err(|error| {
            OpenError::io("encode", &layout.calibration(), std::io::Error::other(error.to_string()))
        })?;
        replace_file(&layout.calibration(), text.as_bytes(), &options.steps)
    }

    /// What the options say, else the file, else safe defaults. A file that cannot be used is a note, not an error.
    pub(crate) fn load(
        layout: &Layout,
        options: &StorageOptions,
        notes: &mut Vec<String>,
    ) -> Result<Calibration, OpenError> {
        let mut found = match read(&layout.calibration())? {
            Some(Ok(file)) if ring_primitive(&file.primitive).is_none() => {
                notes.push(format!(
                    "{}: '{}' is no way to flush",
                    layout.calibration().display(),
                    file.primitive
                ));
                defaults()
            }
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

impl CalibrationFile {
    fn new(race: &Race, device: String) -> CalibrationFile {
        let (single, by_depth) = race.results.split_at(race.results.len().min(Primitive::ALL.len()));
        // A shard flushes in its ring: where a helper thread would win, the better ring primitive is next.
        let in_ring = single.iter().filter(|result| ring_of(result.primitive).is_some());
        let best = match ring_of(race.best) {
            Some(_) => race.best,
            None => in_ring
                .min_by_key(|result| result.p50_ns)
                .map_or(Primitive::ALL[0], |result| result.primitive),
        };
        let rates = by_depth.iter().map(|result| (format!("{:02}", result.depth), result.per_s as u64));
        CalibrationFile {
            primitive: best.name().to_owned(),
            flush_depth: race.flush_depth as usize,
            device,
            measured_at: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            durable_write_ns: single.iter().map(|r| (r.primitive.name().to_owned(), r.p50_ns)).collect(),
            durable_writes_per_s: rates.collect(),
        }
    }
}

fn ring_primitive(name: &str) -> Option<WritePrimitive> {
    Primitive::from_name(name).and_then(ring_of)
}

fn ring_of(primitive: Primitive) -> Option<WritePrimitive> {
    match primitive {
        Primitive::Ring(primitive) => Some(primitive),
        Primitive::Flusher => None,
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
        primitive: ring_primitive(&file.primitive).unwrap_or(WritePrimitive::Dsync),
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
/// Of the whole race; preparing its file comes on top.
const RACE_TIME: Duration = Duration::from_millis(600);
