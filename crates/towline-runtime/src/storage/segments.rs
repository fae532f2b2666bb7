//! The segment files that are in place: by sequence number, with their salts, and who still reads them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use towline_core::types::{Geometry, LogId};
use towline_uring::{DataFile, FileMode};

use super::error::OpenError;
use super::layout::Layout;

/// The segment files in place. Cloning shares them.
///
/// Whoever holds an `Arc` of a file keeps that file from being recycled: it is unlinked instead, and its bytes stay as
/// they are until the last holder is gone.
#[derive(Clone, Debug)]
pub struct Segments {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    layout: Layout,
    mode: FileMode,
    cuts: AtomicU64,
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    log: Option<(LogId, Geometry)>,
    files: BTreeMap<u64, Entry>,
}

/// A segment file in place.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) salt: u32,
    pub(crate) file: Arc<DataFile>,
}

impl Entry {
    pub(crate) fn new(salt: u32, file: Arc<DataFile>) -> Entry {
        Entry { salt, file }
    }
}

impl Segments {
    pub(crate) fn new(layout: Layout, mode: FileMode, log: Option<(LogId, Geometry)>) -> Segments {
        let table = Mutex::new(Table { log, files: BTreeMap::new() });
        Segments { shared: Arc::new(Shared { layout, mode, cuts: AtomicU64::new(0), table }) }
    }

    /// The log and its sizes; `None` until a standby was offered one.
    pub fn log(&self) -> Option<(LogId, Geometry)> {
        self.table().log
    }

    /// The file of segment `seq`, to write to or to read from through a ring.
    pub fn file(&self, seq: u64) -> Option<Arc<DataFile>> {
        self.table().files.get(&seq).map(|entry| Arc::clone(&entry.file))
    }

    /// The salt of segment `seq`.
    pub fn salt(&self, seq: u64) -> Option<u32> {
        self.table().files.get(&seq).map(|entry| entry.salt)
    }

    /// Sequence numbers and salts, ascending.
    pub fn list(&self) -> Vec<(u64, u32)> {
        self.table().files.iter().map(|(seq, entry)| (*seq, entry.salt)).collect()
    }

    /// Salt and file of segment `seq`; whoever keeps the file keeps its bytes.
    pub(crate) fn entry(&self, seq: u64) -> Option<(u32, Arc<DataFile>)> {
        self.table().files.get(&seq).map(|entry| (entry.salt, Arc::clone(&entry.file)))
    }

    /// How often the log has been cut: what was read before a cut may be void.
    pub(crate) fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::Acquire)
    }

    /// The log has been cut: everything that was read of it before, or while it was, is void.
    pub(crate) fn was_cut(&self) {
        self.shared.cuts.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.shared.layout
    }

    pub(crate) fn mode(&self) -> FileMode {
        self.shared.mode
    }

    pub(crate) fn set_log(&self, log: LogId, geometry: Geometry) {
        self.table().log = Some((log, geometry));
    }

    pub(crate) fn insert(&self, seq: u64, salt: u32, file: Arc<DataFile>) {
        self.table().files.insert(seq, Entry::new(salt, file));
    }

    pub(crate) fn remove(&self, seq: u64) -> Option<Entry> {
        self.table().files.remove(&seq)
    }

    /// Opens the segment file in place and enters it.
    pub(crate) fn open(&self, seq: u64, salt: u32) -> Result<Arc<DataFile>, OpenError> {
        let path = self.shared.layout.segment(seq);
        let file = Arc::new(DataFile::open(&path, self.shared.mode).map_err(OpenError::file)?);
        self.insert(seq, salt, Arc::clone(&file));
        Ok(file)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // A panic elsewhere leaves the table whole: every change to it is one insertion or removal.
        self.shared.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
