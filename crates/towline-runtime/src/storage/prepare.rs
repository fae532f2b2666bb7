//! Making a segment file: under a temporary name first, so that the name in the sequence means a whole header.
//!
//! Order: zeros or an old file → header, first copy → flush → second copy → flush → rename → directory flush.
//! A crash before the rename leaves a temporary file, which the next open removes; after it, a prepared segment.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use towline_core::format::SegmentHeader;
use towline_core::types::limits::{BLOCK_BYTES, SEGMENT_HEADER_BYTES};
use towline_core::types::{Geometry, LogId};
use towline_uring::{AlignedBuf, DataFile, FileMode, rename_durable};

use super::error::OpenError;
use super::layout::{Layout, remove_if_there};
use super::steps::Steps;

/// What the new file is to be.
pub(crate) struct Plan<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) mode: FileMode,
    pub(crate) log: LogId,
    pub(crate) geometry: Geometry,
    pub(crate) seq: u64,
    pub(crate) salt: u32,
    pub(crate) steps: &'a Steps,
}

impl Plan<'_> {
    /// Makes the file, from `spare` where one is given; it is in place and durable when this returns. `between` is
    /// called every few milliseconds of a long fill. After an error nothing is left of it.
    pub(crate) fn make(
        &self,
        spare: Option<PathBuf>,
        between: &mut dyn FnMut(),
    ) -> Result<Arc<DataFile>, OpenError> {
        let temp = self.layout.segment_temp(self.seq);
        let made = self.make_at(&temp, spare, between);
        if made.is_err() && !matches!(made, Err(OpenError::Stopped(_))) {
            // The space belongs to those who can use it; a failure to remove is met again at the next attempt.
            let _ = remove_if_there(&temp);
        }
        made
    }

    /// Makes the file under its temporary name, filled with zeros and with its header, for content to be put into.
    pub(crate) fn begin(&self) -> Result<(PathBuf, DataFile), OpenError> {
        let temp = self.layout.segment_temp(self.seq);
        remove_if_there(&temp)?;
        let file = self.fill(&temp, &mut || {})?;
        self.write_header(&file)?;
        Ok((temp, file))
    }

    /// Puts a file that was begun, and has been flushed, in place of whatever has its name.
    pub(crate) fn finish(&self, temp: &Path) -> Result<(), OpenError> {
        self.steps.take("put a segment in place")?;
        rename_durable(temp, &self.layout.segment(self.seq)).map_err(OpenError::file)
    }

    fn make_at(
        &self,
        temp: &Path,
        spare: Option<PathBuf>,
        between: &mut dyn FnMut(),
    ) -> Result<Arc<DataFile>, OpenError> {
        remove_if_there(temp)?;
        let recycled = spare.map(|old| self.recycle(&old, temp)).transpose()?.flatten();
        let file = match recycled {
            Some(file) => file,
            None => self.fill(temp, between)?,
        };
        self.write_header(&file)?;
        // Only now: under its name in the sequence a segment has a whole header, or it is damaged.
        self.steps.take("put a segment in place")?;
        rename_durable(temp, &self.layout.segment(self.seq)).map_err(OpenError::file)?;
        Ok(Arc::new(file))
    }

    /// Takes an old file over. Its batches are invalid under the new salt and lie below their new place.
    fn recycle(&self, old: &Path, temp: &Path) -> Result<Option<DataFile>, OpenError> {
        self.steps.take("take a segment over")?;
        std::fs::rename(old, temp).map_err(|e| OpenError::io("rename", old, e))?;
        let file = DataFile::open(temp, self.mode).map_err(OpenError::file)?;
        if file.size().map_err(OpenError::file)? == self.geometry.segment_bytes {
            return Ok(Some(file));
        }
        drop(file);
        remove_if_there(temp)?;
        Ok(None)
    }

    /// Zeros all through: later writes only overwrite, and cost no allocation.
    fn fill(&self, temp: &Path, between: &mut dyn FnMut()) -> Result<DataFile, OpenError> {
        self.steps.take("make a segment's file")?;
        let file = DataFile::create(temp, self.mode).map_err(OpenError::file)?;
        match fallocate(&file, FallocateFlags::empty(), 0, self.geometry.segment_bytes) {
            // A file system without fallocate gets its blocks from the zeros.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(OpenError::io("allocate", temp, errno.into())),
        }
        let zeros = AlignedBuf::zeroed(FILL_CHUNK_BYTES);
        for at in (0..self.geometry.segment_bytes).step_by(zeros.len()) {
            file.pwrite_all(at, &zeros).map_err(OpenError::file)?;
            between();
        }
        Ok(file)
    }

    fn write_header(&self, file: &DataFile) -> Result<(), OpenError> {
        // The same bytes on every node: replicas of a segment are equal, header included.
        let header = SegmentHeader { log: self.log, seq: self.seq, salt: self.salt, incarnation: 0 };
        let mut block = AlignedBuf::zeroed(BLOCK_BYTES as usize);
        block.copy_from_slice(&header.encode());
        for at in [0, BLOCK_BYTES] {
            self.steps.take("write a copy of a segment's header")?;
            file.pwrite_all(at, &block).map_err(OpenError::file)?;
            // Flushed before the other copy is touched: one of them is whole at any moment.
            file.fdatasync().map_err(OpenError::file)?;
        }
        Ok(())
    }
}

/// A salt that no batch of the file's earlier life has.
pub(crate) fn fresh_salt(old: Option<u32>) -> u32 {
    loop {
        let salt = rand::random::<u32>();
        if salt != 0 && Some(salt) != old {
            return salt;
        }
    }
}

const FILL_CHUNK_BYTES: usize = 1 << 20;
const _: () = assert!(SEGMENT_HEADER_BYTES == 2 * BLOCK_BYTES);
