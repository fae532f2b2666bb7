//! The encoding of a batch header: 128 bytes at the start of a block.
//!
//! The segment's salt stands in the header, under the header CRC, instead of only seeding it: recycled content
//! fails just the same, and recovery can tell "valid under another salt" (a clean end) from "damaged".

use crc_fast::{CrcAlgorithm, Digest};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::body::is_zero;
use super::{BatchHeader, BatchKind};
use crate::types::limits::{BATCH_HEADER_BYTES, BLOCK_BYTES, MAX_BATCH_BYTES, RECORD_ALIGN_BYTES};
use crate::types::{Geometry, LogId, Lsn, NodeId, Term};

/// First bytes of a batch.
pub const BATCH_MAGIC: [u8; 8] = *b"TOWLbtch";
/// Version of the on-disk format that this code writes.
pub const FORMAT_VERSION: u16 = 1;

/// Why bytes are no batch header of this place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HeaderError {
    /// Fewer bytes than a header.
    #[error("fewer than {BATCH_HEADER_BYTES} bytes")]
    Short,
    /// No batch starts here.
    #[error("no batch starts here")]
    Magic,
    /// The header is damaged.
    #[error("the batch header fails its CRC")]
    Crc,
    /// A format this program does not know.
    #[error("batch format {0} is not known here (this program writes {FORMAT_VERSION}): use a newer program")]
    Version(u16),
    /// A sound header of another log.
    #[error("the batch belongs to log {0}")]
    OtherLog(LogId),
    /// A sound header from before the segment was recycled.
    #[error("the batch has salt {found:08x}: old content of a recycled segment")]
    OtherSalt {
        /// The salt it has.
        found: u32,
    },
    /// A sound header with impossible content.
    #[error("the batch header is impossible: {0}")]
    Bounds(&'static str),
}

impl BatchHeader {
    /// The header's bytes in a segment with this salt.
    pub fn encode(&self, salt: u32) -> [u8; BATCH_HEADER_BYTES as usize] {
        let mut raw = RawHeader {
            magic: BATCH_MAGIC,
            version: U16::new(FORMAT_VERSION),
            kind: kind_to_byte(self.kind),
            reserved0: 0,
            header_crc: U32::ZERO,
            log: self.log.0,
            term_number: U64::new(self.term.number),
            term_node: U64::new(self.term.node.0),
            start: U64::new(self.start.0),
            length: U64::new(self.end.bytes_since(self.start)),
            body_bytes: U32::new(self.body_bytes),
            records: U32::new(self.records),
            payload_bytes: U64::new(self.payload_bytes),
            records_before: U64::new(self.records_before),
            payload_before: U64::new(self.payload_before),
            durable_before: U64::new(self.durable_before.0),
            previous_hash: U64::new(self.previous_hash),
            body_crc: U32::new(self.body_crc),
            salt: U32::new(salt),
            reserved: [0; 8],
        };
        raw.header_crc = U32::new(crc_fast::crc32_iscsi(raw.as_bytes()));
        zerocopy::transmute!(raw)
    }

    /// Reads the header of a batch of `log` in a segment with `salt`. The CRC is checked before any field is
    /// believed, then every bound: what is returned has a span of whole blocks inside one segment, of at most
    /// [`MAX_BATCH_BYTES`] stored.
    ///
    /// # Errors
    /// What is wrong, the first in the order of [`HeaderError`].
    pub fn decode(
        bytes: &[u8],
        log: LogId,
        salt: u32,
        geometry: Geometry,
    ) -> Result<BatchHeader, HeaderError> {
        let (header, found) = BatchHeader::decode_any(bytes)?;
        if header.log != log {
            return Err(HeaderError::OtherLog(header.log));
        }
        if found != salt {
            return Err(HeaderError::OtherSalt { found });
        }
        header.check_bounds(geometry).map_err(HeaderError::Bounds)?;
        Ok(header)
    }

    /// Reads a sound header of any log and any place, with its salt: what recovery asks of bytes that are not
    /// what it expected. Bounds are not checked.
    ///
    /// # Errors
    /// `Short`, `Magic`, `Crc`, `Version`, or `Bounds` for fields that have no value here.
    pub fn decode_any(bytes: &[u8]) -> Result<(BatchHeader, u32), HeaderError> {
        let (raw, _) = RawHeader::ref_from_prefix(bytes).map_err(|_| HeaderError::Short)?;
        if raw.magic != BATCH_MAGIC {
            return Err(HeaderError::Magic);
        }
        let mut unsummed = *raw;
        unsummed.header_crc = U32::ZERO;
        if crc_fast::crc32_iscsi(unsummed.as_bytes()) != raw.header_crc.get() {
            return Err(HeaderError::Crc);
        }
        if raw.version.get() != FORMAT_VERSION {
            return Err(HeaderError::Version(raw.version.get()));
        }
        if raw.reserved0 != 0 || !is_zero(&raw.reserved) {
            return Err(HeaderError::Bounds("reserved bytes are not zero"));
        }
        let start = Lsn(raw.start.get());
        let end = start.0.checked_add(raw.length.get()).ok_or(HeaderError::Bounds("its end overflows"))?;
        let header = BatchHeader {
            kind: kind_from_byte(raw.kind).ok_or(HeaderError::Bounds("unknown kind"))?,
            log: LogId(raw.log),
            term: Term { number: raw.term_number.get(), node: NodeId(raw.term_node.get()) },
            start,
            end: Lsn(end),
            body_bytes: raw.body_bytes.get(),
            records: raw.records.get(),
            payload_bytes: raw.payload_bytes.get(),
            records_before: raw.records_before.get(),
            payload_before: raw.payload_before.get(),
            durable_before: Lsn(raw.durable_before.get()),
            previous_hash: raw.previous_hash.get(),
            body_crc: raw.body_crc.get(),
        };
        Ok((header, raw.salt.get()))
    }

    /// Hash of an encoded header (CRC-64/NVME over all its bytes): the link of the chain. Never 0, which stands
    /// for "no batch before".
    pub fn hash(encoded: &[u8; BATCH_HEADER_BYTES as usize]) -> u64 {
        // The salt is in the bytes, so the chain also ties each segment's salt to the next.
        let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
        digest.update(encoded);
        digest.finalize().max(1)
    }

    fn check_bounds(&self, geometry: Geometry) -> Result<(), &'static str> {
        if !self.start.is_block_start() || !self.end.is_block_start() {
            return Err("not at a block");
        }
        let seq = geometry.segment_of(self.start);
        if self.start < geometry.first_batch(seq) {
            return Err("it lies in a segment's header");
        }
        if self.end <= self.start || self.end > geometry.segment_end(seq) {
            return Err("it leaves its segment");
        }
        if !u64::from(self.body_bytes).is_multiple_of(RECORD_ALIGN_BYTES) {
            return Err("records are not aligned");
        }
        let stored = self.stored();
        if stored.len() > MAX_BATCH_BYTES {
            return Err("longer than a batch may be");
        }
        let span_fits = match self.kind {
            BatchKind::Roll => self.body_bytes == 0 && self.end == geometry.segment_end(seq),
            BatchKind::Data | BatchKind::Seal => self.end == stored.end,
        };
        if !span_fits {
            return Err("its span is not its length");
        }
        if self.durable_before > self.start {
            return Err("it claims bytes before they exist");
        }
        if self.kind != BatchKind::Data && (self.records > 0 || self.payload_bytes > 0) {
            return Err("a seal or roll counts records");
        }
        let data_bytes = u64::from(self.records).saturating_mul(8).saturating_add(self.payload_bytes);
        if data_bytes > u64::from(self.body_bytes) {
            return Err("it counts more than it holds");
        }
        if self.records_before.checked_add(u64::from(self.records)).is_none()
            || self.payload_before.checked_add(self.payload_bytes).is_none()
        {
            return Err("its counts overflow");
        }
        Ok(())
    }
}

/// The header as it lies on disk and on the wire.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 8],
    version: U16,
    kind: u8,
    reserved0: u8,
    header_crc: U32,
    log: [u8; 16],
    term_number: U64,
    term_node: U64,
    start: U64,
    length: U64,
    body_bytes: U32,
    records: U32,
    payload_bytes: U64,
    records_before: U64,
    payload_before: U64,
    durable_before: U64,
    previous_hash: U64,
    body_crc: U32,
    salt: U32,
    reserved: [u8; 8],
}

fn kind_to_byte(kind: BatchKind) -> u8 {
    match kind {
        BatchKind::Data => 1,
        BatchKind::Seal => 2,
        BatchKind::Roll => 3,
    }
}

fn kind_from_byte(byte: u8) -> Option<BatchKind> {
    [BatchKind::Data, BatchKind::Seal, BatchKind::Roll].into_iter().find(|kind| kind_to_byte(*kind) == byte)
}

const _: () = {
    assert!(size_of::<RawHeader>() == BATCH_HEADER_BYTES as usize);
    assert!(MAX_BATCH_BYTES.is_multiple_of(BLOCK_BYTES));
};
