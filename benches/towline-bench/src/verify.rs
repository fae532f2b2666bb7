//! Logs on disk after a run: `log verify` by a process of its own, and byte identity of two copies.

use crate::error::BenchError;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use towline_core::types::Lsn;

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

/// Compares two copies of a node's logs as far as both still hold them: of shard n the bytes `[0, upto[n])`, in segments
/// of the size that stands beside it. Returns the bytes compared.
pub(crate) fn identical(one: &Path, other: &Path, upto: &[(Lsn, u64)]) -> Result<u64, String> {
    let mut compared = 0;
    for (shard, &(upto, segment_bytes)) in upto.iter().enumerate() {
        let name = format!("shard-{shard}");
        let bytes = identical_shard(&one.join(&name), &other.join(&name), upto, segment_bytes.max(1))
            .map_err(|why| format!("shard {shard}: {why}"))?;
        if bytes == 0 && upto > Lsn(0) {
            return Err(format!("shard {shard}: the copies have no segment in common"));
        }
        compared += bytes;
    }
    if compared == 0 { Err("there is nothing to compare".into()) } else { Ok(compared) }
}

fn identical_shard(one: &Path, other: &Path, upto: Lsn, segment_bytes: u64) -> Result<u64, String> {
    let mut compared = 0;
    for seq in 0..=upto.0 / segment_bytes {
        let name = format!("{seq:016x}.seg");
        let open = |dir: &Path| File::open(dir.join("segments").join(&name));
        let (Ok(one), Ok(other)) = (open(one), open(other)) else { continue };
        let bytes = segment_bytes.min(upto.0 - seq * segment_bytes);
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
    Ok(compared)
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
    fn a_flipped_bit_below_the_watermark_is_seen_in_any_shard_and_segment_and_one_above_it_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| dir.path().join(name));
        let segment =
            |copy: &Path, shard: u32, seq: u64| copy.join(format!("shard-{shard}/segments/{seq:016x}.seg"));
        for copy in [&one, &other] {
            for shard in 0..2 {
                std::fs::create_dir_all(copy.join(format!("shard-{shard}/segments"))).unwrap();
                for seq in 0..2 {
                    std::fs::write(segment(copy, shard, seq), vec![7; 65_536]).unwrap();
                }
            }
        }
        let upto = |lsn| [(Lsn(100_000), 65_536), (Lsn(lsn), 65_536)];
        assert_eq!(identical(&one, &other, &upto(100_000)), Ok(200_000));
        // The second shard's second segment, at 70,000 of its log.
        let path = segment(&other, 1, 1);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[70_000 - 65_536] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(identical(&one, &other, &upto(70_000)), Ok(170_000));
        let error = identical(&one, &other, &upto(70_001)).unwrap_err();
        assert!(error.contains("shard 1") && error.contains("differ in segment 1"), "{error}");
        assert!(identical(&one, dir.path(), &upto(10)).unwrap_err().contains("no segment"));
        assert!(identical(&one, &other, &[]).is_err());
    }
}
