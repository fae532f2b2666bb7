//! Repair: damaged durable bytes of the log are replaced by those of another node.
//!
//! Order: scan → ask a peer for the first bad place → check its bytes in the log's own walk → write what passed →
//! flush → scan again. Bytes are only ever overwritten by those that belong there, so a crash between any two of
//! these leaves a log that is refused, or repaired, as before, with less of it damaged. A segment whose file is gone
//! or too short is made whole under a temporary name first: until then its absence stays the evidence that it is
//! missing.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use towline_core::format::{SegmentHeader, SegmentVerdict};
use towline_core::log::recovery::{
    MAX_PATCH_BYTES, Patch, Scan, ScanInput, Verdict, Wanted, mending, scan, wanted,
};
use towline_core::types::limits::{BLOCK_BYTES, SEGMENT_HEADER_BYTES};
use towline_core::types::{Geometry, LogId, Meta, Span};
use towline_uring::{AlignedBuf, DataFile, FileMode};

use super::error::OpenError;
use super::files::{Files, unreadable};
use super::identity::Identity;
use super::layout::{Layout, remove_if_there};
use super::meta_file::peek;
use super::peer::LogPeer;
use super::prepare::Plan;
use super::shard_dir::lock;
use super::steps::Steps;

/// Repairs the log in a shard's directory that no node has open with the bytes of the nodes at `from` (`host:port`
/// each). Returns a line for each range that was replaced; none when nothing was damaged. Neither the log's end nor
/// anything else in the directory is touched.
///
/// # Errors
/// [`OpenError::Corrupt`] when no peer has what is missing; what could be replaced until then has been. Else as for
/// opening the directory.
pub fn repair_log(dir: &Path, from: &[String], steps: &Steps) -> Result<Vec<String>, OpenError> {
    let layout = Layout::new(dir);
    let absent = || OpenError::Absent { path: dir.to_owned() };
    let identity = Identity::read(&layout.identity())?.ok_or_else(absent)?;
    let (log, geometry) = identity.log.ok_or_else(absent)?;
    // Held to the end: no node opens the directory meanwhile.
    let _lock = lock(&layout, LOCK_WAIT)?;
    let meta = peek(&layout.meta())?;
    let mut repair =
        Repair::new(&layout, FileMode::Buffered, (log, geometry), identity.shard, from, steps.clone());
    let mut notes = Vec::new();
    repair.run(&meta, &mut notes)?;
    Ok(notes)
}

/// A repair of one log.
pub(crate) struct Repair<'a> {
    layout: &'a Layout,
    mode: FileMode,
    log: LogId,
    geometry: Geometry,
    shard: u16,
    peers: Vec<Peer>,
    steps: Steps,
}

struct Peer {
    address: String,
    connection: Option<LogPeer>,
    /// Why it was of no help, once it was not.
    why: Option<String>,
}

/// What stops a piece of repair.
enum Failed {
    /// The peer: another one is asked.
    Peer(String),
    /// This node's own disk.
    Own(OpenError),
}

impl<E: Into<OpenError>> From<E> for Failed {
    fn from(error: E) -> Failed {
        Failed::Own(error.into())
    }
}

impl<'a> Repair<'a> {
    pub(crate) fn new(
        layout: &'a Layout,
        mode: FileMode,
        (log, geometry): (LogId, Geometry),
        shard: u16,
        from: &[String],
        steps: Steps,
    ) -> Repair<'a> {
        let peer = |address: &String| Peer { address: address.clone(), connection: None, why: None };
        Repair { layout, mode, log, geometry, shard, peers: from.iter().map(peer).collect(), steps }
    }

    /// Replaces what is damaged, from the log's start on, until nothing is. Every round moves the first bad place.
    pub(crate) fn run(&mut self, meta: &Meta, notes: &mut Vec<String>) -> Result<(), OpenError> {
        loop {
            let (log, geometry) = (self.log, self.geometry);
            let input = ScanInput { log, geometry, meta, peer_holds: None };
            let files = Files::open(self.layout, geometry.segment_of(meta.log_start))?;
            // Never decide on bytes that were not durable.
            files.flush(self.layout)?;
            let unreadable = |error| unreadable(self.layout, error);
            let found = scan(&files, input).map_err(unreadable)?;
            let Verdict::Corrupt { span, why } = &found.verdict else { return Ok(()) };
            let wanted = wanted(&files, input, &found).map_err(unreadable)?;
            let mut done = None;
            if let Some(wanted) = wanted {
                for at in 0..self.peers.len() {
                    match self.ask(at, wanted, &files, input, &found) {
                        Ok(range) => {
                            done = Some((range, self.peers[at].address.clone()));
                            break;
                        }
                        Err(Failed::Peer(why)) => self.peers[at].why = Some(why),
                        Err(Failed::Own(error)) => return Err(error),
                    }
                }
            }
            let Some((range, from)) = done else {
                let path = self.layout.segment(geometry.segment_of(span.start));
                let why = format!("{why}; no other node could replace them{}", self.answers());
                return Err(OpenError::corrupt(&path, span.start, span.end, why));
            };
            notes.push(format!(
                "bytes {} to {} of the log were damaged ({}) and have been replaced by those of {from}",
                range.start, range.end, found.evidence.standing
            ));
        }
    }

    fn answers(&self) -> String {
        let answer = |peer: &Peer| peer.why.as_ref().map(|why| format!("{}: {why}", peer.address));
        let answers: Vec<String> = self.peers.iter().filter_map(answer).collect();
        if answers.is_empty() { String::new() } else { format!(" ({})", answers.join("; ")) }
    }

    /// Asks one peer for the first bad place, and writes what belongs there. Returns the range that was replaced.
    fn ask(
        &mut self,
        peer: usize,
        wanted: Wanted,
        files: &Files,
        input: ScanInput<'_>,
        found: &Scan,
    ) -> Result<Span, Failed> {
        let asked = match wanted {
            Wanted::Batches(span) => span,
            // The first batches too: they may be damaged with it, and prove its salt.
            Wanted::Header { seq } => {
                let start = self.geometry.segment_start(seq);
                Span::new(start, start.plus(MAX_PATCH_BYTES).min(self.geometry.segment_end(seq)))
            }
            Wanted::Segment { seq } => return self.copy_segment(peer, seq, input, found),
        };
        let mut patch = self.read(peer, asked)?;
        if patch.bytes.is_empty() {
            return Err(Failed::Peer("it has not flushed them either".to_owned()));
        }
        let header = match wanted {
            Wanted::Header { seq } => Some(self.put_header(seq, &mut patch)?),
            _ => None,
        };
        let seq = self.geometry.segment_of(asked.start);
        let mut spans = Vec::new();
        let alone = header.as_ref().map(|bytes| Patch { start: asked.start, bytes: bytes.to_vec() });
        if !alone.is_some_and(|alone| self.helps(files, input, found, &alone)) {
            spans = mending(files, input, found, &patch).map_err(|error| unreadable(self.layout, error))?;
            if spans.is_empty() {
                return Err(Failed::Peer("its bytes do not belong there".to_owned()));
            }
        }
        let path = self.layout.segment(seq);
        let file = DataFile::open(&path, self.mode).map_err(OpenError::file)?;
        if let Some(header) = &header {
            for (at, copy) in header.chunks(BLOCK_BYTES as usize).enumerate() {
                self.write(&file, at as u64 * BLOCK_BYTES, copy)?;
                // One copy is whole before the other is touched.
                file.fdatasync().map_err(OpenError::file)?;
            }
        }
        for span in &spans {
            let Some(bytes) = patch.bytes_of(*span) else { continue };
            self.write(&file, self.geometry.offset_of(span.start), bytes)?;
        }
        file.fdatasync().map_err(OpenError::file)?;
        let start = header.map_or(found.evidence.at, |_| asked.start);
        Ok(Span::new(start, spans.last().map_or(start.plus(SEGMENT_HEADER_BYTES), |last| last.end)))
    }

    fn write(&self, file: &DataFile, offset: u64, bytes: &[u8]) -> Result<(), OpenError> {
        self.steps.take("replace damaged bytes")?;
        let mut buf = AlignedBuf::zeroed(bytes.len());
        buf.copy_from_slice(bytes);
        file.pwrite_all(offset, &buf).map_err(OpenError::file)
    }

    /// The header of segment `seq` out of a peer's bytes, as this node would have written it, in both copies; the
    /// patch has it afterwards too.
    fn put_header(&self, seq: u64, patch: &mut Patch) -> Result<Vec<u8>, Failed> {
        match SegmentHeader::judge(&patch.bytes, self.log, seq) {
            SegmentVerdict::Ours { header, .. } => {
                let copies = [header.encode(), header.encode()].concat();
                patch.bytes[..copies.len()].copy_from_slice(&copies);
                Ok(copies)
            }
            _ => Err(Failed::Peer(format!("its segment {seq} is damaged too"))),
        }
    }

    /// Whether the log's walk gets farther with the patch.
    fn helps(&self, files: &Files, input: ScanInput<'_>, found: &Scan, patch: &Patch) -> bool {
        let patched = towline_core::log::recovery::Patched::new(files, self.geometry, patch);
        scan(&patched, input).is_ok_and(|after| after.evidence.at > found.evidence.at)
    }

    /// Makes a segment's file anew from a peer that holds all of it.
    fn copy_segment(
        &mut self,
        peer: usize,
        seq: u64,
        input: ScanInput<'_>,
        found: &Scan,
    ) -> Result<Span, Failed> {
        let (start, end) = (self.geometry.segment_start(seq), self.geometry.segment_end(seq));
        let mut first = self.read(peer, Span::new(start, start.plus(SEGMENT_HEADER_BYTES)))?;
        let SegmentVerdict::Ours { header, .. } = SegmentHeader::judge(&first.bytes, self.log, seq) else {
            return Err(Failed::Peer(format!("it holds no sound segment {seq}")));
        };
        self.put_header(seq, &mut first)?;
        let steps = self.steps.clone();
        let (layout, mode, log, geometry) = (self.layout, self.mode, self.log, self.geometry);
        let plan = Plan { layout, mode, log, geometry, seq, salt: header.salt, steps: &steps };
        let (temp, file) = plan.begin()?;
        let copied = self.copy_into(peer, &file, Span::new(start.plus(SEGMENT_HEADER_BYTES), end));
        drop(file);
        let checked = copied.and_then(|()| {
            let mut files = Files::open(layout, geometry.segment_of(input.meta.log_start))?;
            files.replace(seq, File::open(&temp).map_err(|e| OpenError::io("open", &temp, e))?)?;
            let after = scan(&files, input).map_err(|error| unreadable(layout, error))?;
            // All of it holds together, up to the roll that closes it.
            match after.evidence.at.max(found.evidence.at) >= end {
                true => Ok(()),
                false => Err(Failed::Peer(format!("its segment {seq} does not continue the log"))),
            }
        });
        match checked {
            Ok(()) => plan.finish(&temp)?,
            Err(failed) => {
                remove_if_there(&temp)?;
                return Err(failed);
            }
        }
        Ok(Span::new(start, end))
    }

    fn copy_into(&mut self, peer: usize, file: &DataFile, span: Span) -> Result<(), Failed> {
        let mut at = span.start;
        while at < span.end {
            let piece = Span::new(at, span.end.min(at.plus(MAX_PATCH_BYTES)));
            let patch = self.read(peer, piece)?;
            if patch.span().end < piece.end {
                let held = patch.span().end;
                return Err(Failed::Peer(format!(
                    "it holds the log up to {held}: all of the segment is needed"
                )));
            }
            self.write(file, self.geometry.offset_of(at), &patch.bytes)?;
            at = piece.end;
        }
        Ok(file.fdatasync().map_err(OpenError::file)?)
    }

    /// Reads from a peer; one that failed is not asked again.
    fn read(&mut self, peer: usize, span: Span) -> Result<Patch, Failed> {
        let (shard, log) = (self.shard, self.log);
        let peer = &mut self.peers[peer];
        if let (Some(why), None) = (&peer.why, &peer.connection) {
            return Err(Failed::Peer(why.clone()));
        }
        let connection = match &mut peer.connection {
            Some(connection) => connection,
            None => {
                peer.connection.insert(LogPeer::connect(&peer.address, shard, log).map_err(Failed::Peer)?)
            }
        };
        connection.read(span).map_err(|why| {
            // Half an answer may still be on its way.
            peer.connection = None;
            Failed::Peer(why)
        })
    }
}

const LOCK_WAIT: Duration = Duration::from_millis(1500);
