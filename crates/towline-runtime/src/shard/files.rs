//! Segment files attached to the ring: for writes, and for catch-up reads.

use std::sync::Arc;

use towline_core::types::{Geometry, Lsn};
use towline_uring::{DataFile, Ring, RingError, RingFd};

use crate::storage::Segments;

/// The attached files, most recently used last.
pub(crate) struct Files {
    segments: Segments,
    attached: Vec<Attached>,
}

pub(crate) struct Attached {
    pub(crate) seq: u64,
    pub(crate) salt: u32,
    pub(crate) fd: RingFd,
    /// Held so that the file is not recycled under the ring.
    _file: Arc<DataFile>,
}

impl Files {
    pub(crate) fn new(segments: Segments) -> Files {
        Files { segments, attached: Vec::with_capacity(MAX_ATTACHED + 1) }
    }

    pub(crate) fn segments(&self) -> &Segments {
        &self.segments
    }

    /// The file of segment `seq`; `None` when it is not in place.
    ///
    /// # Errors
    /// The ring's, when it takes no more files.
    pub(crate) fn get(&mut self, ring: &mut Ring, seq: u64) -> Result<Option<&Attached>, RingError> {
        if let Some(at) = self.attached.iter().position(|attached| attached.seq == seq) {
            if at + 1 != self.attached.len() {
                let attached = self.attached.remove(at);
                self.attached.push(attached);
            }
            return Ok(self.attached.last());
        }
        let (Some(file), Some(salt)) = (self.segments.file(seq), self.segments.salt(seq)) else {
            return Ok(None);
        };
        if self.attached.len() >= MAX_ATTACHED {
            let oldest = self.attached.remove(0);
            ring.detach(oldest.fd)?;
        }
        let fd = ring.attach(&*file)?;
        self.attached.push(Attached { seq, salt, fd, _file: file });
        Ok(self.attached.last())
    }

    /// The salt of segment `seq`.
    pub(crate) fn salt(&self, seq: u64) -> Option<u32> {
        match self.attached.iter().find(|attached| attached.seq == seq) {
            Some(attached) => Some(attached.salt),
            None => self.segments.salt(seq),
        }
    }

    /// Lets go of the files for which `gone` holds.
    ///
    /// # Errors
    /// The ring's.
    pub(crate) fn release(&mut self, ring: &mut Ring, gone: impl Fn(u64) -> bool) -> Result<(), RingError> {
        while let Some(at) = self.attached.iter().position(|attached| gone(attached.seq)) {
            let attached = self.attached.remove(at);
            ring.detach(attached.fd)?;
        }
        Ok(())
    }

    /// Lets go of the files that lie below the log's start.
    ///
    /// # Errors
    /// The ring's.
    pub(crate) fn release_below(
        &mut self,
        ring: &mut Ring,
        geometry: Geometry,
        below: Lsn,
    ) -> Result<(), RingError> {
        self.release(ring, |seq| geometry.segment_end(seq) <= below)
    }
}

/// Current, next, and a few that late standbys read from.
pub(crate) const MAX_ATTACHED: usize = 24;
