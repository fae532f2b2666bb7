//! The meta block on disk: four copies, written one after the other, each on stable storage before the next.
//!
//! A crash tears at most the copy that was being written; the others are all of this write or the one before.

use std::path::{Path, PathBuf};

use towline_core::format::{META_VERSION, MetaError, encode_meta, read_meta};
use towline_core::types::Meta;
use towline_core::types::limits::{META_COPIES, META_COPY_BYTES};
use towline_uring::{AlignedBuf, DataFile, FileError, FileMode, rename_durable};

use super::error::OpenError;
use super::layout::{Layout, remove_if_there};
use super::steps::{Steps, Stopped};

/// The file of the meta block. One writer: the keeper.
#[derive(Debug)]
pub struct MetaFile {
    file: DataFile,
    copy: AlignedBuf,
    steps: Steps,
}

/// Why the meta block could not be written. What is on disk is then the old one or the new one.
#[derive(Debug, thiserror::Error)]
pub enum MetaWriteError {
    /// A list or name is over its limit.
    #[error("the meta block cannot be encoded: {0}")]
    Encode(String),
    /// The kernel refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// A test stopped it.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl MetaFile {
    /// Makes the file with `meta` in every copy; it is there whole or not at all.
    pub(crate) fn create(
        layout: &Layout,
        mode: FileMode,
        meta: &Meta,
        steps: &Steps,
    ) -> Result<MetaFile, OpenError> {
        let path = layout.meta();
        let temp = path.with_added_extension("tmp");
        remove_if_there(&temp)?;
        steps.take("make the meta block's file")?;
        let file = DataFile::create(&temp, mode).map_err(OpenError::file)?;
        file.prealloc_zeroed(META_COPIES * META_COPY_BYTES).map_err(OpenError::file)?;
        let mut this = MetaFile { file, copy: new_copy(), steps: steps.clone() };
        this.write(meta).map_err(|error| write_failed(error, &path))?;
        steps.take("put the meta block's file in place")?;
        rename_durable(&temp, &path).map_err(OpenError::file)?;
        Ok(this)
    }

    /// Opens the file and reads the block in force; the other copies are rewritten before this returns, so that a
    /// lone newer one cannot come to win later.
    pub(crate) fn open(
        layout: &Layout,
        mode: FileMode,
        steps: &Steps,
    ) -> Result<(MetaFile, Meta), OpenError> {
        let path = layout.meta();
        let file = DataFile::open(&path, mode).map_err(OpenError::file)?;
        // Never decide on bytes that were not durable.
        file.fdatasync().map_err(OpenError::file)?;
        let mut this = MetaFile { file, copy: new_copy(), steps: steps.clone() };
        let len = this.file.size().map_err(OpenError::file)?.min(META_COPIES * META_COPY_BYTES);
        let mut block = AlignedBuf::zeroed((META_COPIES * META_COPY_BYTES) as usize);
        // What is missing stays zero: a damaged copy.
        let whole = (len - len % META_COPY_BYTES) as usize;
        this.file.pread_exact(0, &mut block[..whole]).map_err(OpenError::file)?;
        let choice = read_meta(&block).map_err(|error| unusable(error, &path))?;
        for at in (0..META_COPIES).filter(|at| choice.rewrite[*at as usize]) {
            this.encode(&choice.meta).map_err(|error| write_failed(error, &path))?;
            this.write_copy(at).map_err(|error| write_failed(error, &path))?;
        }
        Ok((this, choice.meta))
    }

    /// Writes every copy. Durable when it returns; after an error the old or the new one is in force.
    ///
    /// # Errors
    /// [`MetaWriteError`]; fatal for the log, never retried.
    pub fn write(&mut self, meta: &Meta) -> Result<(), MetaWriteError> {
        self.encode(meta)?;
        (0..META_COPIES).try_for_each(|at| self.write_copy(at))
    }

    fn encode(&mut self, meta: &Meta) -> Result<(), MetaWriteError> {
        let bytes = encode_meta(meta).map_err(|error| MetaWriteError::Encode(error.to_string()))?;
        self.copy.fill(0);
        self.copy.iter_mut().zip(&bytes).for_each(|(to, from)| *to = *from);
        Ok(())
    }

    fn write_copy(&mut self, at: u64) -> Result<(), MetaWriteError> {
        self.steps.take("write a copy of the meta block")?;
        self.file.pwrite_all(at * META_COPY_BYTES, &self.copy)?;
        // Flushed before the next copy is touched: two copies must never be torn by one crash.
        self.file.fdatasync()?;
        Ok(())
    }
}

/// Reads the block in force without changing anything: for tools.
pub(crate) fn peek(path: &Path) -> Result<Meta, OpenError> {
    let bytes = std::fs::read(path).map_err(|e| OpenError::io("read", path, e))?;
    Ok(read_meta(&bytes).map_err(|error| unusable(error, path))?.meta)
}

fn unusable(error: MetaError, path: &Path) -> OpenError {
    let path = path.to_owned();
    match error {
        MetaError::Version(found) => {
            OpenError::OtherFormat { path, found: found.into(), supported: META_VERSION.into() }
        }
        other => OpenError::DamagedFile { path, why: other.to_string() },
    }
}

pub(crate) fn write_failed(error: MetaWriteError, path: &Path) -> OpenError {
    match error {
        MetaWriteError::File(error) => OpenError::file(error),
        MetaWriteError::Stopped(stopped) => OpenError::Stopped(stopped),
        MetaWriteError::Encode(why) => OpenError::DamagedFile { path: PathBuf::from(path), why },
    }
}

fn new_copy() -> AlignedBuf {
    AlignedBuf::zeroed(META_COPY_BYTES as usize)
}
