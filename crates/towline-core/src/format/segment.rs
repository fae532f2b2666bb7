//! The segment header: one sector of content, in two copies, one block each.
//!
//! The second copy is written after the first is flushed, so a torn write leaves one of them whole. The header
//! holds nothing that is unknown when the segment is prepared, ahead of need.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::body::is_zero;
use crate::types::LogId;
use crate::types::limits::{BLOCK_BYTES, SEGMENT_HEADER_BYTES};

/// First bytes of a segment.
pub const SEGMENT_MAGIC: [u8; 8] = *b"TOWLsegm";
/// Version of the segment header that this code writes.
pub const SEGMENT_VERSION: u16 = 1;

/// What a segment file says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// The log it belongs to.
    pub log: LogId,
    /// Its sequence number: with the geometry, its place in the log.
    pub seq: u64,
    /// Chosen at random by the leading node, new each time the file is used again.
    pub salt: u32,
    /// Reserved: 0. Copies of a segment are equal on every node, header included, so nothing of one node's life stands
    /// here.
    pub incarnation: u64,
}

/// What stands where a segment's header should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SegmentVerdict {
    /// The header of this log and sequence number.
    Ours {
        /// The header.
        header: SegmentHeader,
        /// Which of the two copies is damaged and should be rewritten.
        damaged: [bool; 2],
    },
    /// A sound header of this log, but of another sequence number: a recycled file that was not renamed, or a
    /// misplaced one.
    OtherSequence(SegmentHeader),
    /// A sound header of another log.
    OtherLog(SegmentHeader),
    /// A header of a format that is not known here.
    Version(u16),
    /// Two sound copies that contradict each other.
    Contradiction(SegmentHeader, SegmentHeader),
    /// Zeros: never written.
    Blank,
    /// Neither copy is sound.
    Garbage,
}

impl SegmentHeader {
    /// One copy: a block. Write the first, flush, write the second at [`BLOCK_BYTES`], flush.
    pub fn encode(&self) -> [u8; BLOCK_BYTES as usize] {
        let mut raw = RawSegment {
            magic: SEGMENT_MAGIC,
            version: U16::new(SEGMENT_VERSION),
            reserved: [0; 2],
            crc: U32::ZERO,
            log: self.log.0,
            seq: U64::new(self.seq),
            incarnation: U64::new(self.incarnation),
            salt: U32::new(self.salt),
            tail: [0; SECTOR_BYTES - 52],
        };
        raw.crc = U32::new(crc_fast::crc32_iscsi(raw.as_bytes()));
        let mut block = [0; BLOCK_BYTES as usize];
        block[..SECTOR_BYTES].copy_from_slice(raw.as_bytes());
        block
    }

    /// Judges the first [`SEGMENT_HEADER_BYTES`] of the file that should be segment `seq` of `log`.
    pub fn judge(bytes: &[u8], log: LogId, seq: u64) -> SegmentVerdict {
        let bytes = bytes.get(..SEGMENT_HEADER_BYTES as usize).unwrap_or(bytes);
        let (first, second) = bytes.split_at_checked(BLOCK_BYTES as usize).unwrap_or((bytes, &[]));
        let header = match (SegmentHeader::decode(first), SegmentHeader::decode(second)) {
            (Ok(a), Ok(b)) if a == b => SegmentVerdict::Ours { header: a, damaged: [false, false] },
            (Ok(a), Ok(b)) => SegmentVerdict::Contradiction(a, b),
            (Ok(a), Err(_)) => SegmentVerdict::Ours { header: a, damaged: [false, true] },
            (Err(_), Ok(b)) => SegmentVerdict::Ours { header: b, damaged: [true, false] },
            (Err(Some(version)), Err(_)) | (Err(None), Err(Some(version))) => {
                SegmentVerdict::Version(version)
            }
            (Err(None), Err(None)) if is_zero(bytes) => SegmentVerdict::Blank,
            (Err(None), Err(None)) => SegmentVerdict::Garbage,
        };
        match header {
            SegmentVerdict::Ours { header, .. } if header.log != log => SegmentVerdict::OtherLog(header),
            SegmentVerdict::Ours { header, .. } if header.seq != seq => SegmentVerdict::OtherSequence(header),
            verdict => verdict,
        }
    }

    /// One copy; the error carries the version of a sound header that is not known here.
    fn decode(copy: &[u8]) -> Result<SegmentHeader, Option<u16>> {
        let (raw, rest) = RawSegment::ref_from_prefix(copy).map_err(|_| None)?;
        let mut unsummed = *raw;
        unsummed.crc = U32::ZERO;
        if raw.magic != SEGMENT_MAGIC || crc_fast::crc32_iscsi(unsummed.as_bytes()) != raw.crc.get() {
            return Err(None);
        }
        if raw.version.get() != SEGMENT_VERSION {
            return Err(Some(raw.version.get()));
        }
        // The sector's CRC cannot speak for the rest of its block: that must be as it was written.
        if !is_zero(rest) {
            return Err(None);
        }
        Ok(SegmentHeader {
            log: LogId(raw.log),
            seq: raw.seq.get(),
            salt: raw.salt.get(),
            incarnation: raw.incarnation.get(),
        })
    }
}

const SECTOR_BYTES: usize = 512;

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawSegment {
    magic: [u8; 8],
    version: U16,
    reserved: [u8; 2],
    crc: U32,
    log: [u8; 16],
    seq: U64,
    incarnation: U64,
    salt: U32,
    tail: [u8; SECTOR_BYTES - 52],
}

const _: () = assert!(size_of::<RawSegment>() == SECTOR_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: LogId = LogId([7; 16]);

    fn file(header: SegmentHeader) -> Vec<u8> {
        [header.encode(), header.encode()].concat()
    }

    fn header() -> SegmentHeader {
        SegmentHeader { log: LOG, seq: 3, salt: 0xDEAD_BEEF, incarnation: 9 }
    }

    #[test]
    fn both_copies_whole() {
        let verdict = SegmentHeader::judge(&file(header()), LOG, 3);
        assert_eq!(verdict, SegmentVerdict::Ours { header: header(), damaged: [false, false] });
    }

    #[test]
    fn any_flipped_bit_damages_one_copy_only() {
        for at in 0..SEGMENT_HEADER_BYTES as usize {
            let mut bytes = file(header());
            bytes[at] ^= 1 << (at % 8);
            let first = at < BLOCK_BYTES as usize;
            let want = SegmentVerdict::Ours { header: header(), damaged: [first, !first] };
            assert_eq!(SegmentHeader::judge(&bytes, LOG, 3), want, "byte {at}");
        }
    }

    #[test]
    fn others_are_told_apart() {
        let other = SegmentHeader { seq: 2, ..header() };
        assert_eq!(SegmentHeader::judge(&file(other), LOG, 3), SegmentVerdict::OtherSequence(other));
        let other = SegmentHeader { log: LogId([8; 16]), ..header() };
        assert_eq!(SegmentHeader::judge(&file(other), LOG, 3), SegmentVerdict::OtherLog(other));
        assert_eq!(SegmentHeader::judge(&[0; 8192], LOG, 3), SegmentVerdict::Blank);
        assert_eq!(SegmentHeader::judge(&[], LOG, 3), SegmentVerdict::Blank);
        assert_eq!(SegmentHeader::judge(&[1; 8192], LOG, 3), SegmentVerdict::Garbage);
        let salted = SegmentHeader { salt: 1, ..header() };
        let mixed = [header().encode(), salted.encode()].concat();
        assert_eq!(SegmentHeader::judge(&mixed, LOG, 3), SegmentVerdict::Contradiction(header(), salted));
    }

    #[test]
    fn a_newer_version_is_named() {
        let mut block = header().encode();
        block[8] = 9;
        block[12..16].fill(0);
        let crc = crc_fast::crc32_iscsi(&block[..SECTOR_BYTES]);
        block[12..16].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::judge(&[block, block].concat(), LOG, 3), SegmentVerdict::Version(9));
    }
}
