//! Cutting the log's end off: keep a copy, remove what begins beyond, zero the rest, flush.
//!
//! The caller has recorded the span in the meta block before: whatever a crash leaves of it, recovery takes for
//! writes in flight. Doing it again after a crash gives the same log and no second copy.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use towline_core::format::is_zero;
use towline_core::types::limits::BLOCK_BYTES;
use towline_core::types::{Geometry, Lsn, Span};
use towline_uring::{AlignedBuf, fsync_dir, rename_durable};

use super::error::OpenError;
use super::layout::{names, remove_if_there};
use super::segments::Segments;
use super::steps::Steps;

/// Cuts the log to `span.start`; what may be in flight reaches to `span.end`. `later` says whether segments that
/// begin beyond the cut stay, zeroed as far as the span reaches, or go.
pub(crate) fn cut_tail(
    segments: &Segments,
    geometry: Geometry,
    span: Span,
    later: Later,
    steps: &Steps,
) -> Result<Option<PathBuf>, OpenError> {
    let span = Span::new(span.start, span.end.block_up());
    let kept = keep_copy(segments, geometry, span, steps)?;
    if later == Later::Remove {
        remove_beyond(segments, geometry.segment_of(span.start), steps)?;
    }
    zero(segments, geometry, span, steps)?;
    // Behind the zeros: what a reader took while they were written is void too.
    segments.was_cut();
    Ok(kept)
}

/// What becomes of segments that begin beyond a cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Later {
    /// The same leader goes on in them.
    Keep,
    /// Another leader's will come.
    Remove,
}

/// Copies the bytes to `cut/<start>-<end>.<n>.cut`, without the zeros at their end. A copy of an interrupted cut
/// stays: by now the log may be half zeroed.
fn keep_copy(
    segments: &Segments,
    geometry: Geometry,
    span: Span,
    steps: &Steps,
) -> Result<Option<PathBuf>, OpenError> {
    let dir = segments.layout().cut();
    let len = content_len(segments, geometry, span)?;
    if len == 0 {
        return Ok(None);
    }
    let span_kept = Span::new(span.start, span.start.plus(len));
    let stem = format!("{:016x}-", span.start.0);
    let earlier: Vec<String> =
        names(&dir)?.into_iter().filter(|name| name.starts_with(&stem) && name.ends_with(".cut")).collect();
    for name in &earlier {
        let path = dir.join(name);
        if is_covered(segments, geometry, span_kept, &path)? {
            return Ok(Some(path));
        }
    }
    let path = dir.join(format!("{stem}{:016x}.{}.cut", span_kept.end.0, next_number(&earlier)));
    let temp = path.with_extension("tmp");
    remove_if_there(&temp)?;
    steps.take("keep a copy of what is cut")?;
    let io = |action| move |e| OpenError::io(action, &dir, e);
    let mut copy = File::create(&temp).map_err(io("create a copy of the cut in"))?;
    for_each_chunk(segments, geometry, span_kept, &mut |_, bytes| {
        copy.write_all(bytes).map_err(|e| OpenError::io("write", &temp, e))
    })?;
    // The copy is durable before the first byte of the log is zeroed.
    copy.sync_all().map_err(|e| OpenError::io("flush", &temp, e))?;
    steps.take("put the copy of what is cut in place")?;
    rename_durable(&temp, &path).map_err(OpenError::file)?;
    // A running node has nobody to tell: it drops none before the next start would have, unless they are very many.
    drop_oldest_copies(segments, MAX_COPIES_RUNNING)?;
    Ok(Some(path))
}

/// Behind every copy's number: the oldest may have gone, and their count with them.
fn next_number(earlier: &[String]) -> u64 {
    let number = |name: &String| name.strip_suffix(".cut")?.rsplit_once('.')?.1.parse::<u64>().ok();
    earlier.iter().filter_map(number).max().map_or(0, |last| last.saturating_add(1))
}

/// Bytes up to the last that is not zero.
fn content_len(segments: &Segments, geometry: Geometry, span: Span) -> Result<u64, OpenError> {
    let mut end = span.start;
    for_each_chunk(segments, geometry, span, &mut |at, bytes| {
        let blocks: Vec<&[u8]> = bytes.chunks(BLOCK_BYTES as usize).collect();
        if let Some(last) = blocks.iter().rposition(|block| !is_zero(block)) {
            end = at.plus((last as u64 + 1) * BLOCK_BYTES);
        }
        Ok(())
    })?;
    Ok(end.bytes_since(span.start))
}

/// Whether `path` already holds all of it: each block of the log is that copy's, or zeroed since.
fn is_covered(segments: &Segments, geometry: Geometry, span: Span, path: &Path) -> Result<bool, OpenError> {
    let mut copy = File::open(path).map_err(|e| OpenError::io("open", path, e))?;
    let mut covered = true;
    let mut kept = Vec::new();
    for_each_chunk(segments, geometry, span, &mut |_, bytes| {
        kept.clear();
        let wanted = bytes.len() as u64;
        (&mut copy).take(wanted).read_to_end(&mut kept).map_err(|e| OpenError::io("read", path, e))?;
        kept.resize(bytes.len(), 0);
        let blocks = bytes.chunks(BLOCK_BYTES as usize).zip(kept.chunks(BLOCK_BYTES as usize));
        covered &= blocks.into_iter().all(|(now, then)| now == then || is_zero(now));
        Ok(())
    })?;
    Ok(covered)
}

fn remove_beyond(segments: &Segments, last: u64, steps: &Steps) -> Result<(), OpenError> {
    let beyond: Vec<u64> = segments.layout().list_segments()?.into_iter().filter(|seq| *seq > last).collect();
    remove_segments(segments, &beyond, steps)
}

/// Removes segments (ascending) from the last to the first, each gone for good before the next: the sequence never
/// has a gap.
pub(crate) fn remove_segments(segments: &Segments, seqs: &[u64], steps: &Steps) -> Result<(), OpenError> {
    let layout = segments.layout();
    for seq in seqs.iter().rev() {
        steps.take("remove a segment behind the log's end")?;
        segments.remove(*seq);
        remove_if_there(&layout.segment(*seq))?;
        fsync_dir(&layout.segments()).map_err(OpenError::file)?;
    }
    Ok(())
}

fn zero(segments: &Segments, geometry: Geometry, span: Span, steps: &Steps) -> Result<(), OpenError> {
    let zeros = AlignedBuf::zeroed(CHUNK_BYTES);
    for (seq, part) in parts(geometry, span) {
        let Some(file) = segments.file(seq) else { continue };
        let (mut at, end) = (part.start, part.end);
        while at < end {
            steps.take("zero a piece of the cut")?;
            let count = end.bytes_since(at).min(CHUNK_BYTES as u64);
            file.pwrite_all(geometry.offset_of(at), &zeros[..count as usize]).map_err(OpenError::file)?;
            at = at.plus(count);
        }
        // Flushed before anybody may write here again or hear of the new end.
        file.fdatasync().map_err(OpenError::file)?;
    }
    Ok(())
}

/// Shows `[span)` piece by piece, headers of segments as zeros: the copy keeps the log's own arithmetic.
fn for_each_chunk(
    segments: &Segments,
    geometry: Geometry,
    span: Span,
    show: &mut Show<'_>,
) -> Result<(), OpenError> {
    let mut buf = AlignedBuf::zeroed(CHUNK_BYTES);
    let mut next = span.start;
    for (seq, part) in parts(geometry, span) {
        let Some(file) = segments.file(seq) else { break };
        while next < part.start {
            let count = part.start.bytes_since(next).min(CHUNK_BYTES as u64);
            buf.fill(0);
            show(next, &buf[..count as usize])?;
            next = next.plus(count);
        }
        while next < part.end {
            let count = part.end.bytes_since(next).min(CHUNK_BYTES as u64) as usize;
            file.pread_exact(geometry.offset_of(next), &mut buf[..count]).map_err(OpenError::file)?;
            show(next, &buf[..count])?;
            next = next.plus(count as u64);
        }
    }
    Ok(())
}

/// The span's parts by segment, without the segments' headers.
fn parts(geometry: Geometry, span: Span) -> impl Iterator<Item = (u64, Span)> {
    let last = geometry.segment_of(Lsn(span.end.0.saturating_sub(1)));
    (geometry.segment_of(span.start)..=last).filter_map(move |seq| {
        let start = span.start.max(geometry.first_batch(seq));
        let part = Span::new(start, span.end.min(geometry.segment_end(seq)));
        (!part.is_empty()).then_some((seq, part))
    })
}

/// At a start: copies are evidence for an operator, not an archive. The oldest go; what went.
pub(crate) fn drop_old_copies(segments: &Segments) -> Result<Vec<PathBuf>, OpenError> {
    drop_oldest_copies(segments, MAX_COPIES)
}

fn drop_oldest_copies(segments: &Segments, most: usize) -> Result<Vec<PathBuf>, OpenError> {
    let dir = segments.layout().cut();
    let mut copies = Vec::new();
    for name in names(&dir)?.into_iter().filter(|name| name.ends_with(".cut")) {
        let path = dir.join(name);
        let made = std::fs::metadata(&path).and_then(|meta| meta.modified());
        copies.push((made.map_err(|e| OpenError::io("stat", &path, e))?, path));
    }
    copies.sort();
    let excess = copies.len().saturating_sub(most);
    let oldest: Vec<PathBuf> = copies.into_iter().take(excess).map(|(_, path)| path).collect();
    oldest.iter().try_for_each(|path| remove_if_there(path))?;
    Ok(oldest)
}

type Show<'a> = dyn FnMut(Lsn, &[u8]) -> Result<(), OpenError> + 'a;

const CHUNK_BYTES: usize = 1 << 20;
/// Copies that a start leaves.
const MAX_COPIES: usize = 64;
/// Copies that a node leaves while it runs.
const MAX_COPIES_RUNNING: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_copy_never_takes_the_name_of_one_that_is_there() {
        let names = |numbers: &[u64]| -> Vec<String> {
            numbers.iter().map(|number| format!("00ab-00cd.{number}.cut")).collect()
        };
        assert_eq!(next_number(&[]), 0);
        assert_eq!(next_number(&names(&[2, 10, 3])), 11, "the oldest two have gone");
        assert_eq!(next_number(&["00ab-00cd.x.cut".to_owned()]), 0);
    }
}
