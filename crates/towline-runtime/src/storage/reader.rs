//! Reading a directory's log without opening it as a node: for tools and tests. Nothing is ever written.

use std::fs::File;
use std::path::Path;

use rustix::fs::FlockOperation;
use towline_core::format::{RecordKind, walk_headers};
use towline_core::log::recovery::{BatchView, BatchWalk, Scan, ScanInput, SegmentTable, scan};
use towline_core::types::{Geometry, LogId, Lsn, Meta};

use super::error::OpenError;
use super::files::{Files, unreadable};
use super::identity::Identity;
use super::layout::Layout;
use super::meta_file::peek;

/// The log in a directory, to look at. One window of a few MiB is in memory at a time.
#[derive(Debug)]
pub struct LogReader {
    layout: Layout,
    identity: Identity,
    meta: Meta,
    log: LogId,
    geometry: Geometry,
    files: Files,
    table: SegmentTable,
    /// Held while reading, so that no node opens the directory meanwhile; none with `force`.
    _lock: Option<File>,
}

/// A record of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadRecord<'a> {
    /// LSN of its header.
    pub lsn: Lsn,
    /// Data, void or rule.
    pub kind: RecordKind,
    /// Its bytes.
    pub payload: &'a [u8],
}

impl LogReader {
    /// Opens the log at `dir`. Refused while a node has it open, unless `force`: then the end of what is read may
    /// lie anywhere in the tail.
    ///
    /// # Errors
    /// [`OpenError`]; [`OpenError::Absent`] where there is no log. Damage to the log itself is none: see
    /// [`LogReader::scan`].
    pub fn open_readonly(dir: &Path, force: bool) -> Result<LogReader, OpenError> {
        let layout = Layout::new(dir);
        if std::fs::metadata(dir).is_ok_and(|meta| !meta.is_dir()) {
            return Err(OpenError::NotADirectory { path: dir.to_owned() });
        }
        let absent = || OpenError::Absent { path: dir.to_owned() };
        let identity = Identity::read(&layout.identity())?.ok_or_else(absent)?;
        let (log, geometry) = identity.log.ok_or_else(absent)?;
        let lock = if force { None } else { share_lock(&layout)? };
        let meta = peek(&layout.meta())?;
        let files = Files::open(&layout, geometry.segment_of(meta.log_start))?;
        let table = SegmentTable::load(&files, geometry, log, meta.log_start)
            .map_err(|error| unreadable(&layout, error))?;
        Ok(LogReader { layout, identity, meta, log, geometry, files, table, _lock: lock })
    }

    /// Whose directory it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The meta block in force.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The log's sizes.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Where things lie.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What each segment file says of itself.
    pub fn segments(&self) -> &SegmentTable {
        &self.table
    }

    /// A walk over the batches from the log's start, each checked in every CRC, its chain, its owner and its counts;
    /// see [`records`] for what is in them. It stops at the first place that holds none.
    pub fn walk(&self) -> BatchWalk<'_> {
        let start = self.meta.log_start;
        BatchWalk::new(&self.files, &self.table, self.log, self.geometry, &self.meta.history, start)
    }

    /// The judgement that opening the directory would come to: the log's end, and whether it is clean, cut by a
    /// crash, or damaged.
    ///
    /// # Errors
    /// Only when the files cannot be read.
    pub fn scan(&self) -> Result<Scan, OpenError> {
        let input = ScanInput { log: self.log, geometry: self.geometry, meta: &self.meta, peer_holds: None };
        scan(&self.files, input).map_err(|error| unreadable(&self.layout, error))
    }
}

/// The records of a batch in order; voids and rules included.
pub fn records<'a>(batch: &BatchView<'a>) -> impl Iterator<Item = ReadRecord<'a>> + use<'a> {
    let start = batch.header.body_start();
    // The body was checked as a whole: no record of it can be malformed.
    walk_headers(batch.body).map_while(Result::ok).map(move |record| ReadRecord {
        lsn: start.plus(u64::from(record.offset)),
        kind: record.header.kind,
        payload: record.payload,
    })
}

/// Shares the lock with other readers. A directory without a lock file was never opened.
fn share_lock(layout: &Layout) -> Result<Option<File>, OpenError> {
    let Ok(file) = File::open(layout.lock()) else { return Ok(None) };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let holder =
                std::fs::read_to_string(layout.lock()).ok().and_then(|text| text.trim().parse().ok());
            Err(OpenError::Locked { path: layout.root().to_owned(), holder })
        }
        Err(errno) => Err(OpenError::io("lock", &layout.lock(), errno.into())),
    }
}
