//! The body of a batch: records back to back, then zeros to the end of the block.
//!
//! The body CRC is taken over the record *headers* in order, seeded with log id, segment salt and LSN. Each header
//! carries its payload's own CRC, so this is as strong as a CRC over every byte: a changed payload fails its own
//! CRC, a changed header fails the body's, and a payload that was moved together with its header (within the batch,
//! from another batch, another segment's old content, another log) changes the order or the seed. What it buys:
//! the leader seals a batch without touching a payload byte again, and a payload's CRC can be taken before the
//! record has a place.

use crc_fast::{CrcAlgorithm, Digest};

use super::record::{RecordHeader, RecordKind, decode_rule, payload_crc};
use super::{BatchHeader, BatchKind};
use crate::types::limits::{BATCH_HEADER_BYTES, RECORD_HEADER_BYTES};
use crate::types::{LogId, Lsn};

/// What ties a body to its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BodySeed {
    /// The log.
    pub log: LogId,
    /// Salt of the segment.
    pub salt: u32,
    /// Where the batch starts.
    pub start: Lsn,
}

impl BodySeed {
    fn digest(&self) -> Digest {
        let mut seed = [0; 28];
        let (log, place) = seed.split_at_mut(16);
        log.copy_from_slice(&self.log.0);
        let (salt, start) = place.split_at_mut(4);
        salt.copy_from_slice(&self.salt.to_le_bytes());
        start.copy_from_slice(&self.start.0.to_le_bytes());
        let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
        digest.update(&seed);
        digest
    }
}

/// What a body holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BodySummary {
    /// Data records.
    pub records: u32,
    /// Their payload bytes.
    pub payload_bytes: u64,
    /// The body CRC.
    pub crc: u32,
    /// Rule records in order: version and written form. A segment's first batch restates the one in force, then a
    /// pending one, if any.
    pub rules: Vec<(u64, String)>,
}

/// What is wrong with a batch whose header is good. Offsets count from the first record header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BatchError {
    /// The bytes end before the batch does.
    #[error("the body ends after {have} of {need} bytes")]
    Short {
        /// Bytes there are.
        have: u64,
        /// Bytes there should be.
        need: u64,
    },
    /// No record can start like this.
    #[error("no record header at body offset {offset}")]
    RecordHeader {
        /// Where.
        offset: u32,
    },
    /// A record reaches past the body.
    #[error("the record at body offset {offset} reaches past the body")]
    RecordTooLong {
        /// Where.
        offset: u32,
    },
    /// A payload does not have its CRC (or a void is not zero).
    #[error("the payload of the record at body offset {offset} fails its CRC")]
    Payload {
        /// Where its header is.
        offset: u32,
    },
    /// Bytes between records or behind the body are not zero.
    #[error("padding at body offset {offset} is not zero")]
    Padding {
        /// Where the padding starts.
        offset: u32,
    },
    /// A rule record that cannot be read, or too many of them.
    #[error("the rule record at body offset {offset} cannot be read")]
    Rule {
        /// Where.
        offset: u32,
    },
    /// The record headers fail the body CRC.
    #[error("the body fails its CRC: header says {expected:08x}, body has {found:08x}")]
    BodyCrc {
        /// What the batch header says.
        expected: u32,
        /// What the body has.
        found: u32,
    },
    /// The counts of the header are not those of the body.
    #[error("the header counts {header_records} records, the body has {body_records}, or their bytes differ")]
    Counts {
        /// What the batch header says.
        header_records: u32,
        /// What the body has.
        body_records: u32,
    },
    /// A batch that must be empty holds data.
    #[error("a seal or roll holds data records")]
    NotEmpty,
}

/// One record of a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordRef<'a> {
    /// Its header.
    pub header: RecordHeader,
    /// Offset of its header from the first record header of the batch.
    pub offset: u32,
    /// Its payload. Not checked: see [`verify_body`].
    pub payload: &'a [u8],
    /// The zeros behind it. Not checked.
    pub padding: &'a [u8],
}

/// Walks the records of `body` (record bytes only, without the block's padding), reading headers only. Stops after
/// the first error.
pub fn walk_headers(body: &[u8]) -> WalkHeaders<'_> {
    WalkHeaders { rest: body, offset: 0 }
}

/// See [`walk_headers`].
#[derive(Clone, Debug)]
pub struct WalkHeaders<'a> {
    rest: &'a [u8],
    offset: u32,
}

impl<'a> Iterator for WalkHeaders<'a> {
    type Item = Result<RecordRef<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let next = self.step();
        if next.is_err() {
            self.rest = &[];
        }
        Some(next)
    }
}

impl<'a> WalkHeaders<'a> {
    fn step(&mut self) -> Result<RecordRef<'a>, BatchError> {
        let offset = self.offset;
        let (header, behind) = self
            .rest
            .split_first_chunk::<{ RECORD_HEADER_BYTES as usize }>()
            .ok_or(BatchError::RecordHeader { offset })?;
        let header = RecordHeader::decode(*header).ok_or(BatchError::RecordHeader { offset })?;
        let behind_bytes = header.total_bytes() - RECORD_HEADER_BYTES;
        let (bytes, rest) =
            behind.split_at_checked(behind_bytes as usize).ok_or(BatchError::RecordTooLong { offset })?;
        let (payload, padding) = bytes.split_at(header.len as usize);
        self.rest = rest;
        self.offset = offset.saturating_add(header.total_bytes() as u32);
        Ok(RecordRef { header, offset, payload, padding })
    }
}

/// Counts and sums a body that this process wrote: headers only, no payload byte is read (rule records apart).
///
/// # Errors
/// When the body is not records back to back.
pub fn summarize_sealed(body: &[u8], seed: &BodySeed) -> Result<BodySummary, BatchError> {
    summarize(body, seed, |_| Ok(()))
}

/// Checks every byte of a batch's body: each payload against its CRC, voids and padding zero, the body CRC, and
/// the counts against `header`. `body` is everything behind the encoded header up to [`BatchHeader::stored`]'s end.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify_body(header: &BatchHeader, body: &[u8], salt: u32) -> Result<BodySummary, BatchError> {
    let need = header.stored().len().saturating_sub(BATCH_HEADER_BYTES);
    let stored = usize::try_from(need).ok().and_then(|need| body.get(..need));
    let split = stored.and_then(|stored| stored.split_at_checked(header.body_bytes as usize));
    let Some((records, padding)) = split else {
        return Err(BatchError::Short { have: body.len() as u64, need });
    };
    let seed = BodySeed { log: header.log, salt, start: header.start };
    let summary = summarize(records, &seed, |record| verify_record(&record))?;
    if summary.crc != header.body_crc {
        return Err(BatchError::BodyCrc { expected: header.body_crc, found: summary.crc });
    }
    if summary.records != header.records || summary.payload_bytes != header.payload_bytes {
        return Err(BatchError::Counts { header_records: header.records, body_records: summary.records });
    }
    if header.kind != BatchKind::Data && summary.records > 0 {
        return Err(BatchError::NotEmpty);
    }
    if !is_zero(padding) {
        return Err(BatchError::Padding { offset: header.body_bytes });
    }
    Ok(summary)
}

/// Whether every byte is zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    // Words, without a branch per byte: padding and pre-zeroed space are long.
    let (words, rest) = bytes.as_chunks::<64>();
    words.iter().all(|word| word.iter().fold(0, |all, byte| all | byte) == 0)
        && rest.iter().all(|byte| *byte == 0)
}

fn verify_record(record: &RecordRef<'_>) -> Result<(), BatchError> {
    let offset = record.offset;
    let sound = match record.header.kind {
        RecordKind::Void => record.header.crc == 0 && is_zero(record.payload),
        RecordKind::Data | RecordKind::Rule => payload_crc(record.payload) == record.header.crc,
    };
    if !sound {
        return Err(BatchError::Payload { offset });
    }
    if !is_zero(record.padding) {
        return Err(BatchError::Padding { offset: offset + record.header.len + RECORD_HEADER_BYTES as u32 });
    }
    Ok(())
}

fn summarize(
    body: &[u8],
    seed: &BodySeed,
    mut check: impl FnMut(RecordRef<'_>) -> Result<(), BatchError>,
) -> Result<BodySummary, BatchError> {
    let mut summary = BodySummary::default();
    let mut headers = HeaderDigest::new(seed);
    for record in walk_headers(body) {
        let record = record?;
        check(record)?;
        headers.push(record.header.encode());
        match record.header.kind {
            RecordKind::Data => {
                summary.records += 1;
                summary.payload_bytes += u64::from(record.header.len);
            }
            RecordKind::Void => {}
            RecordKind::Rule => {
                let rule = decode_rule(record.payload).filter(|_| summary.rules.len() < MAX_RULES_PER_BATCH);
                let (version, rule) = rule.ok_or(BatchError::Rule { offset: record.offset })?;
                summary.rules.push((version, rule.to_owned()));
            }
        }
    }
    summary.crc = headers.finish();
    Ok(summary)
}

/// Gathers headers so that the CRC runs over 64 of them at a time: one call per header would cost more than the sum.
struct HeaderDigest {
    digest: Digest,
    gathered: [u8; 64 * RECORD_HEADER_BYTES as usize],
    len: usize,
}

impl HeaderDigest {
    fn new(seed: &BodySeed) -> HeaderDigest {
        HeaderDigest { digest: seed.digest(), gathered: [0; 64 * RECORD_HEADER_BYTES as usize], len: 0 }
    }

    fn push(&mut self, header: [u8; RECORD_HEADER_BYTES as usize]) {
        let end = self.len + header.len();
        self.gathered[self.len..end].copy_from_slice(&header);
        self.len = end;
        if self.len == self.gathered.len() {
            self.digest.update(&self.gathered);
            self.len = 0;
        }
    }

    fn finish(mut self) -> u32 {
        self.digest.update(&self.gathered[..self.len]);
        self.digest.finalize() as u32
    }
}

/// A segment's first batch restates at most the rule in force and a pending one; one more may be new.
pub const MAX_RULES_PER_BATCH: usize = 4;
