//! Segment files as the core reads them: through the page cache, read-only.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::fs::{Advice, fadvise};
use towline_core::log::recovery::{ScanError, SegmentFile, SegmentSource, SourceError};

use super::error::OpenError;
use super::layout::Layout;

/// The segment files of one directory that the log needs, open for reading.
#[derive(Debug)]
pub(crate) struct Files {
    files: BTreeMap<u64, (File, u64)>,
}

impl Files {
    /// Opens the segments from `first` on.
    pub(crate) fn open(layout: &Layout, first: u64) -> Result<Files, OpenError> {
        let mut files = BTreeMap::new();
        for seq in layout.list_segments()?.into_iter().filter(|seq| *seq >= first) {
            let path = layout.segment(seq);
            let file = File::open(&path).map_err(|e| OpenError::io("open", &path, e))?;
            let bytes = file.metadata().map_err(|e| OpenError::io("look at", &path, e))?.len();
            // What another program's reading has left in the page cache may be older than what was written past it.
            let _ = fadvise(&file, 0, None, Advice::DontNeed);
            let _ = fadvise(&file, 0, None, Advice::Sequential);
            files.insert(seq, (file, bytes));
        }
        Ok(Files { files })
    }

    /// Reads segment `seq` from another file.
    pub(crate) fn replace(&mut self, seq: u64, file: File) -> Result<(), OpenError> {
        let io = |e| OpenError::io("look at", &PathBuf::from(format!("the new file of segment {seq}")), e);
        let bytes = file.metadata().map_err(io)?.len();
        self.files.insert(seq, (file, bytes));
        Ok(())
    }

    /// Makes what lies in the files durable: never decide on bytes that the next crash may take back.
    pub(crate) fn flush(&self, layout: &Layout) -> Result<(), OpenError> {
        self.files.iter().try_for_each(|(seq, (file, _))| {
            file.sync_data().map_err(|e| OpenError::io("flush", &layout.segment(*seq), e))
        })
    }
}

impl SegmentSource for Files {
    fn segments(&self) -> Result<Vec<SegmentFile>, SourceError> {
        Ok(self.files.iter().map(|(seq, (_, bytes))| SegmentFile { seq: *seq, bytes: *bytes }).collect())
    }

    fn read(&self, seq: u64, offset: u64, buf: &mut [u8]) -> Result<(), SourceError> {
        let Some((file, _)) = self.files.get(&seq) else {
            return Err(Box::new(io::Error::new(io::ErrorKind::NotFound, "the segment is not open")));
        };
        Ok(file.read_exact_at(buf, offset)?)
    }
}

/// A log that could not be read.
pub(crate) fn unreadable(layout: &Layout, error: ScanError) -> OpenError {
    let path = match &error {
        ScanError::List(_) => layout.segments(),
        ScanError::Read { seq, .. } => layout.segment(*seq),
    };
    OpenError::Io { action: "read the log", path, source: io::Error::other(error) }
}
