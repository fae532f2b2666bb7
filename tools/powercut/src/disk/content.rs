//! One file's bytes: what is durable, and what lies over it.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rand::{Rng, RngExt};

use super::pages::{Pages, SECTOR};

/// A file's content. The durable part lies in a file of the backing directory, the rest here.
#[derive(Debug)]
pub(crate) struct Content {
    pages: Pages,
    /// As readers see it.
    size: u64,
    /// Length of the file below.
    durable_size: u64,
    /// The file below counts up to here: a truncation that is not durable yet hides the rest.
    base: u64,
}

/// How many sectors of a file a cut kept and lost.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sectors {
    pub(crate) kept: u64,
    pub(crate) lost: u64,
}

impl Content {
    pub(crate) fn new(durable_size: u64) -> Self {
        Self { pages: Pages::default(), size: durable_size, durable_size, base: durable_size }
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn memory_bytes(&self) -> u64 {
        self.pages.memory_bytes()
    }

    pub(crate) fn unflushed_bytes(&self) -> u64 {
        self.pages.unflushed_bytes()
    }

    /// Something of it would be lost now.
    pub(crate) fn is_unflushed(&self) -> bool {
        self.size_is_unflushed() || !self.pages.is_empty()
    }

    /// Up to `len` bytes from `at` on; fewer at the end of the file.
    pub(crate) fn read(&self, file: &File, at: u64, len: usize) -> io::Result<Vec<u8>> {
        let len = self.size.saturating_sub(at).min(len as u64) as usize;
        let mut bytes = vec![0; len];
        read_base(file, self.base, at, &mut bytes)?;
        self.pages.overlay(at, &mut bytes);
        Ok(bytes)
    }

    pub(crate) fn write(&mut self, file: &File, at: u64, data: &[u8]) -> io::Result<()> {
        let base = self.base;
        self.pages.write(at, data, |at, out| read_base(file, base, at, out))?;
        self.size = self.size.max(at + data.len() as u64);
        Ok(())
    }

    pub(crate) fn write_zeros(&mut self, file: &File, range: Range<u64>) -> io::Result<()> {
        let base = self.base;
        let end = range.end.min(self.size);
        if range.start < end {
            self.pages.write_zeros(range.start..end, |at, out| read_base(file, base, at, out))?;
        }
        Ok(())
    }

    /// Cuts the file, or lets it grow by zeros.
    pub(crate) fn set_size(&mut self, size: u64) {
        if size < self.size {
            self.pages.truncate(size);
            self.base = self.base.min(size);
        }
        self.size = size;
    }

    /// Makes everything durable. Returns how many bytes were written below.
    pub(crate) fn flush(&mut self, file: &File) -> io::Result<u64> {
        self.flush_size(file)?;
        self.pages.flush(0..u64::MAX, self.size, |at, run| file.write_all_at(run, at))
    }

    /// Makes one write durable, as O_DSYNC does: its own sectors, and the size where reading them back needs it.
    pub(crate) fn flush_range(&mut self, file: &File, range: Range<u64>) -> io::Result<u64> {
        // Sectors are written whole.
        let end = range.end.next_multiple_of(SECTOR as u64).min(self.size);
        if end > self.base {
            self.flush_size(file)?;
        }
        self.pages.flush(range, self.size, |at, run| file.write_all_at(run, at))
    }

    /// A flush failed: what it was to make durable never will be.
    pub(crate) fn doom(&mut self, range: Range<u64>) {
        self.pages.doom(range);
    }

    /// The power is cut: of what was not flushed, `coin` says what had reached the disk. Sectors that only the new
    /// size makes part of the file need that size.
    pub(crate) fn cut(&self, file: &File, coin: &mut impl Rng, keep: f64) -> io::Result<Sectors> {
        let size_kept = self.size_is_unflushed() && coin.random_bool(keep);
        let limit = if size_kept || !self.size_is_unflushed() { self.size } else { self.base };
        if size_kept {
            file.set_len(self.base)?;
            file.set_len(self.size)?;
        }
        let (kept, lost) = self.pages.write_chosen(
            limit,
            || coin.random_bool(keep),
            |at, run| file.write_all_at(run, at),
        )?;
        Ok(Sectors { kept, lost })
    }

    /// How many sectors a cut that keeps nothing loses.
    pub(crate) fn all_lost(&self) -> Sectors {
        Sectors { kept: 0, lost: self.unflushed_bytes() / SECTOR as u64 }
    }

    fn size_is_unflushed(&self) -> bool {
        self.size != self.durable_size || self.base != self.durable_size
    }

    fn flush_size(&mut self, file: &File) -> io::Result<()> {
        if self.size_is_unflushed() {
            // Cut first: what a truncation hid must not come back as the file grows again.
            file.set_len(self.base)?;
            self.durable_size = self.base;
            file.set_len(self.size)?;
            (self.durable_size, self.base) = (self.size, self.size);
        }
        Ok(())
    }
}

/// Fills `out`, which is zeros, with what the file below has up to `base`.
fn read_base(file: &File, base: u64, at: u64, out: &mut [u8]) -> io::Result<()> {
    let count = base.saturating_sub(at).min(out.len() as u64) as usize;
    file.read_exact_at(&mut out[..count], at)
}
