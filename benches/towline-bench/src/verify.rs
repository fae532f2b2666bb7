//! Logs on disk after a run: `log verify` by a process of its own, and byte identity of two copies.

use crate::error::BenchError;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use towline_core::types::Lsn;
use towline_core::types::limits::SEGMENT_BYTES;

/// What `log verify` found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Whole data records, over all shards.
    pub(crate) records: u64,
}

/// Runs `log verify DIR` of this very program.
pub(crate) fn log(dir: &Path) -> Result<Found, BenchError> {
    let failed = |error: &dyn std::fmt::Display| BenchError::failed("log verify", error);
    let program = std::env::current_exe().map_err(|error| failed(&error))?;
    let output = Command::new(program)
        .args(["log", "verify"])
        .arg(dir)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(&error))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(failed(&format!(
            "{}: {}",
            output.status,
            said.lines().last().unwrap_or("it said nothing")
        )));
    }
    match parse_records(&text) {
        Some(records) => Ok(Found { records }),
        None => Err(failed(&"it named no number of records")),
    }
}

/// The sum of all `N records` (or `records=N`) in what it printed, one for each shard.
fn parse_records(text: &str) -> Option<u64> {
    let mut sum = None;
    for line in text.lines() {
        let words: Vec<&str> =
            line.split([' ', ',', ';', ':', '(', ')']).filter(|word| !word.is_empty()).collect();
        let keyed = words.iter().find_map(|word| word.strip_prefix("records=")?.parse::<u64>().ok());
        let counted = words
            .windows(2)
            .find_map(|pair| if pair[1] == "records" { pair[0].parse::<u64>().ok() } else { None });
        if let Some(records) = keyed.or(counted) {
            *sum.get_or_insert(0) += records;
        }
    }
    sum
}

/// Compares `[0, upto)` of shard 0 of two copies of one log, as far as both still hold it. Returns the bytes compared.
pub(crate) fn identical(one: &Path, other: &Path, upto: Lsn) -> Result<u64, String> {
    let mut compared = 0;
    for seq in 0..=upto.0 / SEGMENT_BYTES {
        let name = format!("{seq:016x}.seg");
        let open = |dir: &Path| File::open(dir.join("shard-0").join("segments").join(&name));
        let (Ok(one), Ok(other)) = (open(one), open(other)) else { continue };
        let bytes = SEGMENT_BYTES.min(upto.0 - seq * SEGMENT_BYTES);
        let mut buffers = [vec![0; CHUNK], vec![0; CHUNK]];
        let mut at = 0;
        while at < bytes {
            let len = CHUNK.min((bytes - at) as usize);
            for (file, buffer) in [&one, &other].into_iter().zip(&mut buffers) {
                file.read_exact_at(&mut buffer[..len], at)
                    .map_err(|error| format!("segment {seq:x}: {error}"))?;
            }
            if buffers[0][..len] != buffers[1][..len] {
                return Err(format!("the copies differ in segment {seq:x}, within {len} bytes from {at}"));
            }
            at += len as u64;
        }
        compared += bytes;
    }
    if compared == 0 { Err("the copies have no segment in common".into()) } else { Ok(compared) }
}

const CHUNK: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_records_are_found_in_either_form_and_added_over_shards() {
        assert_eq!(parse_records("shard 0: ok, 12 records, 3 batches\nshard 1: ok, 30 records"), Some(42));
        assert_eq!(parse_records("ok shard=0 records=7 batches=2"), Some(7));
        assert_eq!(parse_records("ok"), None);
    }

    #[test]
    fn a_flipped_bit_below_the_watermark_is_seen_and_one_above_it_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| dir.path().join(name));
        for copy in [&one, &other] {
            let segments = copy.join("shard-0/segments");
            std::fs::create_dir_all(&segments).unwrap();
            std::fs::write(segments.join("0000000000000000.seg"), vec![7; 100_000]).unwrap();
        }
        assert_eq!(identical(&one, &other, Lsn(100_000)), Ok(100_000));
        let path = other.join("shard-0/segments/0000000000000000.seg");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[90_000] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(identical(&one, &other, Lsn(90_000)), Ok(90_000));
        assert!(identical(&one, &other, Lsn(90_001)).unwrap_err().contains("differ"));
        assert!(identical(&one, dir.path(), Lsn(10)).is_err());
    }
}
