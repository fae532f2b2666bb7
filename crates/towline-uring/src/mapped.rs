//! Read-only mappings of segment files.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::path::Path;

use memmap2::{Mmap, MmapOptions};

/// A segment file mapped for reading; owner of the bytes that a tail hands out
/// (`bytes::Bytes::from_owner`).
///
/// The contract that makes this sound: bytes below the log's durable watermark are never rewritten, and
/// a segment that is still mapped is unlinked, not recycled or truncated. Whoever opens a mapping reads
/// only below that watermark; bytes above it may change under the reader, as any file's may.
#[derive(Debug)]
pub struct MappedSegment {
    map: Mmap,
}

impl MappedSegment {
    /// Maps the whole file.
    ///
    /// # Errors
    /// The kernel's; an empty file cannot be mapped.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::from_file(&File::open(path)?)
    }

    /// Maps a file that is already open; unlinking it later does no harm.
    ///
    /// # Errors
    /// The kernel's; an empty file cannot be mapped.
    pub fn from_file(file: &File) -> io::Result<Self> {
        // SAFETY: the file stays as long as it is now, and what is read through the mapping (below the
        // durable watermark) never changes: the contract in the type's documentation, which the segment
        // store keeps by unlinking instead of recycling what is mapped.
        let map = unsafe { MmapOptions::new().map(file)? };
        Ok(Self { map })
    }

    /// Tells the kernel that the file will be read from front to back.
    pub fn read_ahead(&self) {
        // Advice only: without it reading is slower, not wrong.
        let _ = self.map.advise(memmap2::Advice::Sequential);
    }
}

impl AsRef<[u8]> for MappedSegment {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_outlives_the_file_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("segment");
        std::fs::write(&path, [7; 8192]).unwrap();
        let segment = MappedSegment::open(&path).unwrap();
        segment.read_ahead();
        let bytes = bytes::Bytes::from_owner(segment);
        let part = bytes.slice(4096..4100);
        drop(bytes);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(part, [7; 4][..]);
        assert!(MappedSegment::open(&path).is_err());
    }
}
