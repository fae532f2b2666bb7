//! The segment files that are in place: by sequence number, with their salts, and who still reads them.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use towline_core::types::{Geometry, LogId, Lsn, Span};
use towline_uring::{DataFile, FileMode};

use super::error::OpenError;
use super::layout::Layout;

/// The segment files in place. Cloning shares them.
///
/// Whoever holds an `Arc` of a file, or a [`MappedSegment`], keeps that file from being recycled: it is unlinked
/// instead, and its bytes stay as they are until the last holder is gone.
#[derive(Clone, Debug)]
pub struct Segments {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    layout: Layout,
    mode: FileMode,
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
    mapped: Weak<MappedSegment>,
}

impl Entry {
    pub(crate) fn new(salt: u32, file: Arc<DataFile>) -> Entry {
        Entry { salt, file, mapped: Weak::new() }
    }
}

impl Segments {
    pub(crate) fn new(layout: Layout, mode: FileMode, log: Option<(LogId, Geometry)>) -> Segments {
        let table = Mutex::new(Table { log, files: BTreeMap::new() });
        Segments { shared: Arc::new(Shared { layout, mode, table }) }
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

    /// Maps segment `seq` for readers, who may hold it as long as they like; they share one mapping.
    ///
    /// # Errors
    /// `NotFound` when the segment is not in place (trimmed, or not made yet); else the kernel's.
    pub fn map(&self, seq: u64) -> io::Result<Arc<MappedSegment>> {
        let mut table = self.table();
        let geometry = table.log.map(|(_, geometry)| geometry);
        let (Some(geometry), Some(entry)) = (geometry, table.files.get_mut(&seq)) else {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("segment {seq} is not in place")));
        };
        if let Some(mapped) = entry.mapped.upgrade() {
            return Ok(mapped);
        }
        // Under the lock: the name cannot come to mean another file meanwhile.
        let map = towline_uring::MappedSegment::open(self.shared.layout.segment(seq))?;
        let (salt, file) = (entry.salt, Arc::clone(&entry.file));
        let mapped = Arc::new(MappedSegment { seq, salt, geometry, map, _file: file });
        entry.mapped = Arc::downgrade(&mapped);
        Ok(mapped)
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

/// A segment file mapped by a reader: its bytes stay what they are, whatever is trimmed meanwhile.
#[derive(Debug)]
pub struct MappedSegment {
    seq: u64,
    salt: u32,
    geometry: Geometry,
    map: towline_uring::MappedSegment,
    /// Held so that the keeper sees a reader and does not recycle the file.
    _file: Arc<DataFile>,
}

impl MappedSegment {
    /// Sequence number.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The salt its batches are checked with.
    pub fn salt(&self) -> u32 {
        self.salt
    }

    /// The bytes of `span`; `None` when it leaves the segment. The caller asks only for what is durable.
    pub fn bytes(&self, span: Span) -> Option<&[u8]> {
        let start = self.geometry.segment_start(self.seq);
        if span.start < start || span.end > self.geometry.segment_end(self.seq) {
            return None;
        }
        let range = span.start.bytes_since(start) as usize..span.end.bytes_since(start) as usize;
        self.map.as_ref().get(range)
    }

    /// Copies the bytes at `lsn` out.
    ///
    /// # Errors
    /// `InvalidInput` when the range leaves the segment.
    pub fn read_at(&self, lsn: Lsn, into: &mut [u8]) -> io::Result<()> {
        let bytes = self.bytes(Span::new(lsn, lsn.plus(into.len() as u64)));
        let bytes = bytes.ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("{lsn} and on leaves segment {}", self.seq))
        })?;
        into.copy_from_slice(bytes);
        Ok(())
    }
}

impl AsRef<[u8]> for MappedSegment {
    /// The whole file, header included.
    fn as_ref(&self) -> &[u8] {
        self.map.as_ref()
    }
}
