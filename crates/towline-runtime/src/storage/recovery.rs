//! Recovery at open: the core judges the end of the log, this carries the verdict out.
//!
//! Order: flush the files → scan → fetch what is damaged from the nodes named for it → take over what a killed process
//! left in its arena → record the span that goes → keep a copy → zero → flush → scan again. A crash between any two of
//! these leaves a log that recovers to the same end; a corrupt log is left as it was found.

use towline_core::format::{FORMAT_VERSION, MAX_UNFINISHED, SEGMENT_VERSION, SegmentHeader, SegmentVerdict};
use towline_core::log::Recovered;
use towline_core::log::recovery::{Scan, ScanInput, SegmentSource, Standing, Verdict, Why, scan};
use towline_core::types::limits::{BLOCK_BYTES, SEGMENT_HEADER_BYTES};
use towline_core::types::{Geometry, LogId, Lsn, Meta, NodeId, Span};
use towline_uring::AlignedBuf;

use super::arena::{ArenaSurvivor, DiskEnd, added, arena_path};
use super::cut::{Later, cut_tail, drop_old_copies, remove_segments};
use super::error::OpenError;
use super::files::{Files, unreadable};
use super::meta_file::{MetaFile, write_failed};
use super::options::{Purpose, StorageOptions};
use super::repair::Repair;
use super::segments::Segments;

/// What recovery works on.
pub(crate) struct World<'a> {
    pub(crate) segments: &'a Segments,
    pub(crate) log: LogId,
    pub(crate) geometry: Geometry,
    pub(crate) node: NodeId,
    pub(crate) options: &'a StorageOptions,
}

/// Recovers the log: afterwards its segments are open, its end is clean, and everything before it is durable.
/// `meta` is changed where spans are recorded; it is durable then.
pub(crate) fn recover(
    world: &World<'_>,
    file: &mut MetaFile,
    meta: &mut Meta,
    notes: &mut Vec<String>,
) -> Result<Recovered, OpenError> {
    let mut cut = None;
    let mut found = match world.scan(meta) {
        Err(OpenError::Corrupt { .. }) if !world.options.repair_from.is_empty() => {
            world.fetch_damaged(meta, notes)?;
            world.scan(meta)?
        }
        found => found?,
    };
    world.repair(&found, notes)?;
    if world.take_over_arena(&found, file, meta, notes)? {
        found = world.scan(meta)?;
    }
    if let Some(span) = found.verdict.cut() {
        world.cut(span, &found, file, meta, notes)?;
        cut = Some(span);
        found = world.scan(meta)?;
        if found.verdict != Verdict::CleanEnd {
            let why = format!("zeros were written to it and did not stay ({:?})", found.verdict);
            return Err(OpenError::corrupt(&world.segments.layout().segments(), span.start, span.end, why));
        }
    }
    world.drop_arena();
    let dropped = drop_old_copies(world.segments)?;
    if let (Some(oldest), Some(newest)) = (dropped.first(), dropped.last()) {
        notes.push(format!(
            "{} old copies of what was cut were removed, from {} to {}",
            dropped.len(),
            oldest.display(),
            newest.display()
        ));
    }
    // What is durable now was not in flight: keeping its span would excuse later rot.
    let end = found.recovered.end.lsn;
    meta.unfinished = clip(&meta.unfinished, end);
    meta.history.drop_beyond(end);
    Ok(Recovered { cut, ..found.recovered })
}

impl World<'_> {
    /// Scans what is durable, and opens the segments of the log.
    fn scan(&self, meta: &Meta) -> Result<Scan, OpenError> {
        let layout = self.segments.layout();
        let files = Files::open(layout, self.geometry.segment_of(meta.log_start))?;
        files.flush(layout)?;
        let input = ScanInput { log: self.log, geometry: self.geometry, meta, peer_holds: None };
        let found = scan(&files, input).map_err(|error| unreadable(layout, error))?;
        if let Verdict::Corrupt { span, why } = &found.verdict {
            return Err(self.refuse(&files, *span, *why));
        }
        for (seq, salt) in &found.recovered.segments {
            if self.segments.salt(*seq) != Some(*salt) {
                self.segments.open(*seq, *salt)?;
            }
        }
        Ok(found)
    }

    /// Replaces damaged durable bytes by those of the nodes that were named for it.
    fn fetch_damaged(&self, meta: &Meta, notes: &mut Vec<String>) -> Result<(), OpenError> {
        let StorageOptions { shard, repair_from, steps, .. } = self.options;
        let (layout, mode, log) = (self.segments.layout(), self.segments.mode(), (self.log, self.geometry));
        Repair::new(layout, mode, log, *shard, repair_from, steps.clone()).run(meta, notes)
    }

    fn refuse(&self, files: &Files, span: Span, why: Why) -> OpenError {
        let seq = self.geometry.segment_of(span.start);
        let path = self.segments.layout().segment(seq);
        if let Some((found, supported)) = self.newer_format(files, seq, why) {
            return OpenError::OtherFormat { path, found, supported };
        }
        OpenError::corrupt(&path, span.start, span.end, why.to_string())
    }

    /// Whether it is not damage that stops the log but a newer program's segment or batch: its format, and ours.
    fn newer_format(&self, files: &Files, seq: u64, why: Why) -> Option<(u32, u32)> {
        match why {
            Why::NotACrash { standing: Standing::NewerFormat } => {
                let known = u32::from(FORMAT_VERSION);
                Some((known + 1, known))
            }
            Why::NotACrash { standing: Standing::BadSegmentHeader } => {
                let mut bytes = [0; SEGMENT_HEADER_BYTES as usize];
                files.read(seq, 0, &mut bytes).ok()?;
                match SegmentHeader::judge(&bytes, self.log, seq) {
                    SegmentVerdict::Version(found) => Some((found.into(), SEGMENT_VERSION.into())),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// Rewrites damaged copies of segment headers, and removes files behind the log's end that are no segments.
    fn repair(&self, found: &Scan, notes: &mut Vec<String>) -> Result<(), OpenError> {
        for (seq, damaged) in &found.header_repairs {
            let (Some(file), Some(salt)) = (self.segments.file(*seq), self.segments.salt(*seq)) else {
                continue;
            };
            let header = SegmentHeader { log: self.log, seq: *seq, salt, incarnation: 0 };
            let mut block = AlignedBuf::zeroed(BLOCK_BYTES as usize);
            block.copy_from_slice(&header.encode());
            for at in (0..2_u64).filter(|at| damaged[*at as usize]) {
                self.options.steps.take("rewrite a copy of a segment's header")?;
                file.pwrite_all(at * BLOCK_BYTES, &block).map_err(OpenError::file)?;
                file.fdatasync().map_err(OpenError::file)?;
            }
            notes.push(format!("segment {seq}: a damaged copy of its header was rewritten from the other"));
        }
        if !found.unusable.is_empty() {
            notes.push(format!(
                "segments {:?} behind the end of the log were no segments: removed",
                found.unusable
            ));
            remove_segments(self.segments, &found.unusable, &self.options.steps)?;
        }
        Ok(())
    }

    /// Writes to the disk what a killed process had only in shared memory. Returns whether the log grew.
    fn take_over_arena(
        &self,
        found: &Scan,
        file: &mut MetaFile,
        meta: &mut Meta,
        notes: &mut Vec<String>,
    ) -> Result<bool, OpenError> {
        let Some(dir) = &self.options.arena_dir else { return Ok(false) };
        let path = arena_path(dir, self.node, self.options.shard);
        let Some(arena) = ArenaSurvivor::find(&path)? else { return Ok(false) };
        let from = DiskEnd { end: found.recovered.end, previous_hash: found.recovered.previous_hash };
        let upto = arena.reach(self, &meta.history, from)?;
        let span = added(from, upto);
        if span.is_empty() {
            return Ok(false);
        }
        // Recorded before the first byte: a power cut in the middle leaves a torn tail, not corruption.
        self.record(span, file, meta)?;
        let batches = arena.write(self, &meta.history, from, upto)?;
        notes.push(format!(
            "{batches} batches ({} bytes) were taken over from the arena of an earlier process",
            span.len()
        ));
        Ok(true)
    }

    /// Only a standby goes on with the arena; where this node leads, what it held is on the disk now or worthless.
    fn drop_arena(&self) {
        if let (Purpose::Primary, Some(dir)) = (self.options.purpose, &self.options.arena_dir) {
            let path = arena_path(dir, self.node, self.options.shard);
            if matches!(ArenaSurvivor::find(&path), Ok(Some(_))) {
                let _ = std::fs::remove_file(path);
            }
        }
    }

    fn cut(
        &self,
        span: Span,
        found: &Scan,
        file: &mut MetaFile,
        meta: &mut Meta,
        notes: &mut Vec<String>,
    ) -> Result<(), OpenError> {
        // Durable before the first zero: half-zeroed, it must still count as in flight.
        self.record(span, file, meta)?;
        let kept = cut_tail(self.segments, self.geometry, span, Later::Keep, &self.options.steps)?;
        let copy = kept.map(|path| format!(", a copy is in {}", path.display())).unwrap_or_default();
        notes.push(format!(
            "the log was cut at {} ({}): bytes {}..{} were in flight at a crash{copy}",
            span.start, found.evidence.standing, span.start.0, span.end.0
        ));
        Ok(())
    }

    fn record(&self, span: Span, file: &mut MetaFile, meta: &mut Meta) -> Result<(), OpenError> {
        if meta.unfinished.iter().any(|known| known.start <= span.start && span.end <= known.end) {
            return Ok(());
        }
        meta.unfinished = merge(&meta.unfinished, span);
        meta.sequence += 1;
        file.write(meta).map_err(|error| write_failed(error, &self.segments.layout().meta()))
    }
}

/// The spans with one more, neighbours joined; bounded by joining the nearest.
fn merge(spans: &[Span], more: Span) -> Vec<Span> {
    let mut all: Vec<Span> = spans.iter().copied().chain([more]).filter(|span| !span.is_empty()).collect();
    all.sort_by_key(|span| span.start);
    let mut merged: Vec<Span> = Vec::new();
    for span in all {
        match merged.last_mut() {
            Some(last) if span.start <= last.end => last.end = last.end.max(span.end),
            _ => merged.push(span),
        }
    }
    while merged.len() > MAX_UNFINISHED {
        let gap = |at: &usize| merged[at + 1].start.bytes_since(merged[*at].end);
        let Some(at) = (0..merged.len() - 1).min_by_key(gap) else { break };
        merged[at].end = merged[at + 1].end;
        merged.remove(at + 1);
    }
    merged
}

fn clip(spans: &[Span], end: Lsn) -> Vec<Span> {
    let clipped = spans.iter().map(|span| Span::new(span.start.max(end), span.end));
    clipped.filter(|span| !span.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(start: u64, end: u64) -> Span {
        Span::new(Lsn(start), Lsn(end))
    }

    #[test]
    fn spans_are_joined_and_bounded() {
        assert_eq!(merge(&[span(10, 20)], span(20, 30)), [span(10, 30)]);
        assert_eq!(
            merge(&[span(10, 20), span(40, 50)], span(0, 5)),
            [span(0, 5), span(10, 20), span(40, 50)]
        );
        assert_eq!(merge(&[span(10, 20), span(25, 50)], span(15, 30)), [span(10, 50)]);
        let many: Vec<Span> = (0..MAX_UNFINISHED as u64).map(|n| span(n * 100, n * 100 + 10)).collect();
        let merged = merge(&many, span(15, 20));
        assert_eq!(merged.len(), MAX_UNFINISHED);
        assert_eq!(merged[0], span(0, 20), "the nearest two");
    }

    #[test]
    fn what_is_durable_is_no_longer_unfinished() {
        assert_eq!(clip(&[span(0, 10), span(5, 30)], Lsn(20)), [span(20, 30)]);
    }
}
