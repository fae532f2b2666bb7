//! Sectors that were written and not flushed, in pages.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

/// The unflushed sectors of one file. What it does not hold lies on the disk below.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    pages: BTreeMap<u64, Page>,
    data_pages: u64,
}

#[derive(Debug)]
struct Page {
    bytes: Bytes,
    /// One bit for each sector that is held here.
    held: u8,
    /// Sectors of a failed flush: seen by readers, as in a page cache, and never durable, whoever flushes again.
    doomed: u8,
}

/// Zeros take no memory: a log that is made ahead of need consists of them.
#[derive(Debug)]
enum Bytes {
    Zeros,
    Data(Box<[u8; PAGE]>),
}

impl Pages {
    /// Puts `data` at `at`. `base` reads a sector that is not held here and of which only a part is written.
    pub(crate) fn write(
        &mut self,
        at: u64,
        data: &[u8],
        mut base: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let end = at + data.len() as u64;
        for edge in [at, end] {
            let sector = edge - edge % SECTOR as u64;
            if sector != edge && !self.holds(sector) {
                let mut bytes = [0; SECTOR];
                base(sector, &mut bytes)?;
                self.put(sector, &bytes);
            }
        }
        self.put(at, data);
        Ok(())
    }

    /// Zeros in `range`, as [`write`](Self::write).
    pub(crate) fn write_zeros(
        &mut self,
        range: Range<u64>,
        mut base: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut at = range.start;
        while at < range.end {
            let count = (range.end - at).min(PAGE as u64 - at % PAGE as u64) as usize;
            self.write(at, &ZEROS[..count], &mut base)?;
            at += count as u64;
        }
        Ok(())
    }

    /// Lays what is held over `out`, which has the disk's bytes from `at` on.
    pub(crate) fn overlay(&self, at: u64, out: &mut [u8]) {
        let end = at + out.len() as u64;
        for (number, page) in self.pages.range(at / PAGE as u64..end.div_ceil(PAGE as u64)) {
            for sector in (0..SECTORS).filter(|sector| page.held & (1 << sector) != 0) {
                let start = number * PAGE as u64 + (sector * SECTOR) as u64;
                let (from, to) = (start.max(at), (start + SECTOR as u64).min(end));
                if from < to {
                    let target = &mut out[(from - at) as usize..(to - at) as usize];
                    match &page.bytes {
                        Bytes::Zeros => target.fill(0),
                        Bytes::Data(data) => {
                            let within = (from % PAGE as u64) as usize;
                            target.copy_from_slice(&data[within..within + target.len()]);
                        }
                    }
                }
            }
        }
    }

    /// Forgets everything from `len` on; the rest of a sector that `len` divides reads as zeros.
    pub(crate) fn truncate(&mut self, len: u64) {
        let gone = self.pages.split_off(&len.div_ceil(PAGE as u64));
        self.data_pages -= gone.values().filter(|page| page.has_data()).count() as u64;
        let within = (len % PAGE as u64) as usize;
        if within > 0
            && let Some(page) = self.pages.get_mut(&(len / PAGE as u64))
        {
            let keep = sectors_below(within.div_ceil(SECTOR));
            page.held &= keep;
            page.doomed &= keep;
            if let Bytes::Data(data) = &mut page.bytes {
                data[within..].fill(0);
            }
            self.forget_if_empty(len / PAGE as u64);
        }
    }

    /// Writes out the sectors that touch `range`, none past `limit`, and forgets them. Those of an earlier failed
    /// flush stay where they are.
    pub(crate) fn flush(
        &mut self,
        range: Range<u64>,
        limit: u64,
        write: impl FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> io::Result<u64> {
        let sectors = |number: u64, page: &Page| page.held & !page.doomed & touched(number, &range);
        let bytes = self.write_out(&range, limit, sectors, write)?;
        // Only now: what could not be written is still unflushed.
        for number in self.numbers(&range) {
            if let Some(page) = self.pages.get_mut(&number) {
                page.held &= !(page.held & !page.doomed & touched(number, &range));
                self.forget_if_empty(number);
            }
        }
        Ok(bytes)
    }

    /// Writes out the sectors that `choose` picks, none past `limit`; for a cut, after which all of this is dropped.
    /// Returns how many sectors were kept and lost.
    pub(crate) fn write_chosen(
        &self,
        limit: u64,
        mut choose: impl FnMut() -> bool,
        write: impl FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> io::Result<(u64, u64)> {
        let (mut kept, mut lost) = (0, 0);
        let all = 0..u64::MAX;
        let sectors = |number: u64, page: &Page| {
            let mut chosen = 0;
            for sector in (0..SECTORS).filter(|sector| page.held & (1 << sector) != 0) {
                let start = number * PAGE as u64 + (sector * SECTOR) as u64;
                // The coin is thrown for each, so that a seed means the same whatever the limits are.
                if choose() && page.doomed & (1 << sector) == 0 && start < limit {
                    chosen |= 1 << sector;
                    kept += 1;
                } else {
                    lost += 1;
                }
            }
            chosen
        };
        self.write_out(&all, limit, sectors, write)?;
        Ok((kept, lost))
    }

    /// After a failed flush: nobody will make these durable any more.
    pub(crate) fn doom(&mut self, range: Range<u64>) {
        for number in self.numbers(&range) {
            if let Some(page) = self.pages.get_mut(&number) {
                page.doomed |= page.held & touched(number, &range);
            }
        }
    }

    /// Bytes in sectors that a flush would write.
    pub(crate) fn unflushed_bytes(&self) -> u64 {
        let sectors: u32 = self.pages.values().map(|page| (page.held & !page.doomed).count_ones()).sum();
        u64::from(sectors) * SECTOR as u64
    }

    /// Memory that this takes, about.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.data_pages * PAGE as u64 + self.pages.len() as u64 * PAGE_OVERHEAD
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    fn holds(&self, at: u64) -> bool {
        let bit = 1 << (at % PAGE as u64 / SECTOR as u64);
        self.pages.get(&(at / PAGE as u64)).is_some_and(|page| page.held & bit != 0)
    }

    fn put(&mut self, mut at: u64, mut data: &[u8]) {
        while !data.is_empty() {
            let (number, within) = (at / PAGE as u64, (at % PAGE as u64) as usize);
            let (chunk, rest) = data.split_at(data.len().min(PAGE - within));
            let page = self.pages.entry(number).or_insert(Page { bytes: Bytes::Zeros, held: 0, doomed: 0 });
            let had_data = page.has_data();
            let sectors = touched(number, &(at..at + chunk.len() as u64));
            page.held |= sectors;
            page.doomed &= !sectors;
            page.put(within, chunk);
            self.data_pages = self.data_pages + u64::from(page.has_data()) - u64::from(had_data);
            (at, data) = (at + chunk.len() as u64, rest);
        }
    }

    fn write_out(
        &self,
        range: &Range<u64>,
        limit: u64,
        mut sectors: impl FnMut(u64, &Page) -> u8,
        mut write: impl FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> io::Result<u64> {
        let (mut run_start, mut run, mut total) = (0, Vec::new(), 0);
        let mut emit = |start: u64, run: &mut Vec<u8>| -> io::Result<()> {
            // A file's last sector may be a part of one.
            run.truncate(limit.saturating_sub(start).min(run.len() as u64) as usize);
            if !run.is_empty() {
                write(start, run)?;
            }
            total += run.len() as u64;
            run.clear();
            Ok(())
        };
        for (&number, page) in self.pages.range(range.start / PAGE as u64..range.end.div_ceil(PAGE as u64)) {
            let chosen = sectors(number, page);
            for sector in (0..SECTORS).filter(|sector| chosen & (1 << sector) != 0) {
                let start = number * PAGE as u64 + (sector * SECTOR) as u64;
                if run_start + run.len() as u64 != start || run.len() >= MAX_RUN {
                    emit(run_start, &mut run)?;
                    run_start = start;
                }
                match &page.bytes {
                    Bytes::Zeros => run.extend_from_slice(&ZEROS[..SECTOR]),
                    Bytes::Data(data) => run.extend_from_slice(&data[sector * SECTOR..][..SECTOR]),
                }
            }
        }
        emit(run_start, &mut run)?;
        Ok(total)
    }

    fn numbers(&self, range: &Range<u64>) -> Vec<u64> {
        self.pages
            .range(range.start / PAGE as u64..range.end.div_ceil(PAGE as u64))
            .map(|(number, _)| *number)
            .collect()
    }

    fn forget_if_empty(&mut self, number: u64) {
        if self.pages.get(&number).is_some_and(|page| page.held == 0)
            && let Some(page) = self.pages.remove(&number)
        {
            self.data_pages -= u64::from(page.has_data());
        }
    }
}

impl Page {
    fn has_data(&self) -> bool {
        matches!(self.bytes, Bytes::Data(_))
    }

    fn put(&mut self, within: usize, chunk: &[u8]) {
        let zeros = chunk == &ZEROS[..chunk.len()];
        if zeros && (chunk.len() == PAGE || !self.has_data()) {
            self.bytes = Bytes::Zeros;
            return;
        }
        if let Bytes::Zeros = self.bytes {
            self.bytes = Bytes::Data(Box::new(ZEROS));
        }
        if let Bytes::Data(data) = &mut self.bytes {
            data[within..within + chunk.len()].copy_from_slice(chunk);
        }
    }
}

/// The sectors of a page that a range of bytes touches.
fn touched(number: u64, range: &Range<u64>) -> u8 {
    let start = number * PAGE as u64;
    let from = range.start.saturating_sub(start).min(PAGE as u64) as usize / SECTOR;
    let to = (range.end.saturating_sub(start).min(PAGE as u64) as usize).div_ceil(SECTOR);
    sectors_below(to) & !sectors_below(from)
}

fn sectors_below(count: usize) -> u8 {
    ((1_u16 << count) - 1) as u8
}

/// What a disk writes whole or not at all.
pub(crate) const SECTOR: usize = 512;
const SECTORS: usize = PAGE / SECTOR;
const PAGE: usize = 4096;
const PAGE_OVERHEAD: u64 = 64;
const MAX_RUN: usize = 1 << 20;
static ZEROS: [u8; PAGE] = [0; PAGE];
