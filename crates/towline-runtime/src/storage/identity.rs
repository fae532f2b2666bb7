//! Whose directory it is: a small text file, replaced as a whole, closed by a checksum.

use std::fs;
use std::path::Path;
use std::str::FromStr;

use crc_fast::{CrcAlgorithm, checksum};
use towline_core::types::{Geometry, LogId, NodeId};

use super::error::OpenError;
use super::layout::replace_file;
use super::options::check_geometry;
use super::steps::Steps;

/// Newest directory format this program writes and reads.
pub const FORMAT_VERSION: u32 = 1;

/// Whose directory it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The log and its sizes; `None` in a standby's directory that was offered none yet.
    pub log: Option<(LogId, Geometry)>,
    /// The node, chosen at random when the directory was made.
    pub node: NodeId,
    /// The node's name.
    pub name: String,
    /// The shard's number.
    pub shard: u16,
}

impl Identity {
    /// The log's id; unset when there is none yet.
    pub fn log_id(&self) -> LogId {
        self.log.map(|(log, _)| log).unwrap_or_default()
    }

    /// Reads the file; `None` where there is none.
    pub(crate) fn read(path: &Path) -> Result<Option<Identity>, OpenError> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(OpenError::io("read", path, error)),
        };
        Identity::decode(&bytes, path).map(Some)
    }

    /// Puts the file in place.
    pub(crate) fn write(&self, path: &Path, steps: &Steps) -> Result<(), OpenError> {
        replace_file(path, self.encode().as_bytes(), steps)
    }

    fn encode(&self) -> String {
        let mut text = format!("{MAGIC} {FORMAT_VERSION}\n");
        text += &format!("node = {:016x}\nname = {}\nshard = {}\n", self.node.0, self.name, self.shard);
        if let Some((log, geometry)) = &self.log {
            text += &format!("log = {log}\nsegment_bytes = {}\n", geometry.segment_bytes);
            text += &format!("in_flight_bytes = {}\n", geometry.in_flight_bytes);
        }
        let sum = crc32c(text.as_bytes());
        text + &format!("crc32c = {sum:08x}\n")
    }

    fn decode(bytes: &[u8], path: &Path) -> Result<Identity, OpenError> {
        let damaged = |why: &str| OpenError::DamagedFile { path: path.to_owned(), why: why.to_owned() };
        let text = std::str::from_utf8(bytes).map_err(|_| damaged("it is not text"))?;
        let version = text
            .lines()
            .next()
            .and_then(|line| line.strip_prefix(MAGIC))
            .and_then(|version| version.trim().parse::<u32>().ok())
            .ok_or_else(|| damaged("its first line is not an identity's"))?;
        // Before the checksum: a newer format may close the file otherwise.
        if version > FORMAT_VERSION {
            let (path, supported) = (path.to_owned(), FORMAT_VERSION);
            return Err(OpenError::OtherFormat { path, found: version, supported });
        }
        let (body, sum) = text.rsplit_once("crc32c = ").ok_or_else(|| damaged("its checksum is missing"))?;
        if u32::from_str_radix(sum.trim_end(), 16) != Ok(crc32c(body.as_bytes())) {
            return Err(damaged("its checksum does not match"));
        }
        let identity = Identity::from_body(body).ok_or_else(|| damaged("a field is missing or malformed"))?;
        if let Some((_, geometry)) = identity.log {
            check_geometry(geometry).map_err(|error| damaged(&error.to_string()))?;
        }
        Ok(identity)
    }

    fn from_body(body: &str) -> Option<Identity> {
        let field = |key: &str| {
            body.lines()
                .find_map(|line| line.split_once(" = ").filter(|(name, _)| *name == key))
                .map(|(_, v)| v)
        };
        let log = match field("log") {
            None => None,
            Some(log) => {
                let segment_bytes = number(field("segment_bytes")?)?;
                let in_flight_bytes = number(field("in_flight_bytes")?)?;
                let log = LogId(u128::from_str_radix(log, 16).ok()?.to_be_bytes());
                Some((log, Geometry { segment_bytes, in_flight_bytes }))
            }
        };
        let node = NodeId(u64::from_str_radix(field("node")?, 16).ok()?);
        Some(Identity { log, node, name: field("name")?.to_owned(), shard: number(field("shard")?)? })
    }
}

/// A random identity; never the number that means none.
pub(crate) fn random_log_id() -> LogId {
    LogId(rand::random_range(1..=u128::MAX).to_be_bytes())
}

/// A random node id; 0 names a client.
pub(crate) fn random_node_id() -> NodeId {
    NodeId(rand::random_range(1..=u64::MAX))
}

fn number<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

fn crc32c(bytes: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

const MAGIC: &str = "towline shard directory, format";

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        let geometry = Geometry { segment_bytes: 8 << 20, in_flight_bytes: 4 << 20 };
        let log = Some((random_log_id(), geometry));
        Identity { log, node: random_node_id(), name: "a".to_owned(), shard: 3 }
    }

    #[test]
    fn survives_a_round_trip_with_and_without_a_log() {
        let path = Path::new("identity");
        let with = identity();
        let without = Identity { log: None, ..with.clone() };
        for identity in [with, without] {
            assert_eq!(Identity::decode(identity.encode().as_bytes(), path).unwrap(), identity);
        }
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let path = Path::new("identity");
        let whole = identity();
        let bytes = whole.encode().into_bytes();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // A digit of the sum may change its case: still the same identity.
            match Identity::decode(&flipped, path) {
                Ok(read) => assert_eq!(read, whole, "bit {bit}"),
                Err(OpenError::DamagedFile { .. } | OpenError::OtherFormat { .. }) => {}
                Err(other) => panic!("bit {bit}: {other}"),
            }
        }
    }
}
