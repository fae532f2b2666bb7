//! Records: an 8-byte header, the payload, and zeros up to the next boundary.
//!
//! ```text
//!   | kind:4 length:28 | CRC-32C of the payload | payload ... | 0..7 zeros |
//! ```
//! The CRC is of the payload alone, without a seed: a producer takes it while it copies, before the record has a
//! place. What ties the record to its place is the body CRC (see [`super::body`]).

use std::fmt;

use crc_fast::{CrcAlgorithm, Digest};

use crate::types::limits::{
    MAX_APPEND_BYTES, MAX_RECORD_BYTES, MAX_RULE_BYTES, RECORD_ALIGN_BYTES, RECORD_HEADER_BYTES,
};

/// What a record is. Zero is no kind, so that zeros are never records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecordKind {
    /// An appended payload; the only kind that counts.
    Data,
    /// An abandoned reservation: zeros, not counted, never delivered.
    Void,
    /// A sync rule: its version (8 bytes) and its written form. System record, not counted, never delivered.
    Rule,
}

impl RecordKind {
    fn to_bits(self) -> u32 {
        match self {
            RecordKind::Data => 1,
            RecordKind::Void => 2,
            RecordKind::Rule => 3,
        }
    }

    fn from_bits(bits: u32) -> Option<RecordKind> {
        [RecordKind::Data, RecordKind::Void, RecordKind::Rule].into_iter().find(|kind| kind.to_bits() == bits)
    }
}

impl fmt::Display for RecordKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            RecordKind::Data => "data",
            RecordKind::Void => "void",
            RecordKind::Rule => "rule",
        })
    }
}

/// A record header in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordHeader {
    /// What the record is.
    pub kind: RecordKind,
    /// Payload bytes.
    pub len: u32,
    /// CRC-32C of the payload; 0 for a void.
    pub crc: u32,
}

impl RecordHeader {
    /// Reads a header; `None` when it has no known kind or is longer than its kind may be.
    pub fn decode(bytes: [u8; RECORD_HEADER_BYTES as usize]) -> Option<RecordHeader> {
        let [w0, w1, w2, w3, c0, c1, c2, c3] = bytes;
        let word = u32::from_le_bytes([w0, w1, w2, w3]);
        let kind = RecordKind::from_bits(word >> KIND_SHIFT)?;
        let len = word & LEN_MASK;
        let longest = match kind {
            RecordKind::Data => MAX_RECORD_BYTES,
            RecordKind::Void => MAX_APPEND_BYTES,
            RecordKind::Rule => MAX_RULE_RECORD_BYTES,
        };
        (u64::from(len) <= longest).then_some(RecordHeader {
            kind,
            len,
            crc: u32::from_le_bytes([c0, c1, c2, c3]),
        })
    }

    /// The header's bytes.
    pub fn encode(self) -> [u8; RECORD_HEADER_BYTES as usize] {
        encode_record_header(self.kind, self.len, self.crc)
    }

    /// Bytes from this header to the next.
    pub fn total_bytes(self) -> u64 {
        record_bytes(u64::from(self.len))
    }
}

/// The bytes of a record header. `len` is below 2^28 ([`MAX_RECORD_BYTES`] is far below).
pub fn encode_record_header(kind: RecordKind, len: u32, crc: u32) -> [u8; RECORD_HEADER_BYTES as usize] {
    debug_assert!(len <= LEN_MASK, "a record of {len} bytes passed the size check");
    let word = kind.to_bits() << KIND_SHIFT | len & LEN_MASK;
    (u64::from(word) | u64::from(crc) << 32).to_le_bytes()
}

/// The header that voids a reservation of `total_bytes` (header included, a multiple of 8, at least 8); the bytes
/// behind it must be zeroed.
pub fn void_header(total_bytes: u64) -> [u8; RECORD_HEADER_BYTES as usize] {
    debug_assert!(total_bytes >= RECORD_HEADER_BYTES && total_bytes.is_multiple_of(RECORD_ALIGN_BYTES));
    let len = total_bytes.saturating_sub(RECORD_HEADER_BYTES).min(u64::from(LEN_MASK));
    encode_record_header(RecordKind::Void, len as u32, 0)
}

/// Bytes a record of `len` payload bytes takes: header, payload, and padding up to the next boundary.
pub const fn record_bytes(len: u64) -> u64 {
    RECORD_HEADER_BYTES + len.saturating_add(RECORD_ALIGN_BYTES - 1) / RECORD_ALIGN_BYTES * RECORD_ALIGN_BYTES
}

/// CRC-32C (iSCSI) of a payload. About 10 ns for 256 bytes where the CPU has carry-less multiplication.
#[inline]
pub fn payload_crc(payload: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(payload)
}

/// Copies `src` to the start of `dst` and returns its CRC-32C. A short payload is copied and then summed out of
/// the first-level cache; a long one block by block, so that each byte comes from memory once.
///
/// # Panics
/// When `dst` is shorter than `src`.
pub fn copy_with_crc(dst: &mut [u8], src: &[u8]) -> u32 {
    let dst = &mut dst[..src.len()];
    if src.len() <= COPY_CHUNK_BYTES {
        dst.copy_from_slice(src);
        return payload_crc(src);
    }
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    for (to, from) in dst.chunks_mut(COPY_CHUNK_BYTES).zip(src.chunks(COPY_CHUNK_BYTES)) {
        to.copy_from_slice(from);
        digest.update(from);
    }
    digest.finalize() as u32
}

/// The payload of a rule record: version, then the written rule.
pub fn encode_rule(version: u64, rule: &str) -> Vec<u8> {
    let mut payload = Vec::with_capacity(8 + rule.len());
    payload.extend_from_slice(&version.to_le_bytes());
    payload.extend_from_slice(rule.as_bytes());
    payload
}

/// Reads the payload of a rule record; `None` when it is none.
pub fn decode_rule(payload: &[u8]) -> Option<(u64, &str)> {
    let (version, rule) = payload.split_first_chunk::<8>()?;
    let rule = std::str::from_utf8(rule).ok()?;
    (rule.len() <= MAX_RULE_BYTES).then_some((u64::from_le_bytes(*version), rule))
}

/// Longest payload of a rule record.
pub const MAX_RULE_RECORD_BYTES: u64 = 8 + MAX_RULE_BYTES as u64;

const KIND_SHIFT: u32 = 28;
const LEN_MASK: u32 = (1 << KIND_SHIFT) - 1;
/// Small enough for the first-level cache (source and destination together), large enough to sum at full speed.
const COPY_CHUNK_BYTES: usize = 8192;

const _: () = assert!(MAX_APPEND_BYTES <= LEN_MASK as u64);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn crc_is_the_iscsi_one() {
        assert_eq!(payload_crc(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn sizes_are_padded() {
        assert_eq!(record_bytes(0), 8);
        assert_eq!(record_bytes(1), 16);
        assert_eq!(record_bytes(8), 16);
        assert_eq!(record_bytes(9), 24);
        assert_eq!(RecordHeader::decode(void_header(24)).map(RecordHeader::total_bytes), Some(24));
    }

    #[test]
    fn zeros_and_overlong_headers_are_refused() {
        assert_eq!(RecordHeader::decode([0; 8]), None);
        assert_eq!(RecordHeader::decode([0xFF; 8]), None);
        let over = encode_record_header(RecordKind::Data, MAX_RECORD_BYTES as u32 + 1, 0);
        assert_eq!(RecordHeader::decode(over), None);
    }

    #[test]
    fn rules_round_trip_and_garbage_is_refused() {
        let payload = encode_rule(7, "ANY 1 (a, b)");
        assert_eq!(decode_rule(&payload), Some((7, "ANY 1 (a, b)")));
        assert_eq!(decode_rule(&payload[..7]), None);
        assert_eq!(decode_rule(&[0xFF; 12]), None);
        assert_eq!(decode_rule(&[b'a'; 9 + MAX_RULE_BYTES]), None);
    }

    proptest! {
        #[test]
        fn headers_round_trip(len in 0..=MAX_RECORD_BYTES as u32, crc: u32) {
            let header = RecordHeader { kind: RecordKind::Data, len, crc };
            prop_assert_eq!(RecordHeader::decode(header.encode()), Some(header));
        }

        #[test]
        fn copying_sums_what_it_copies(len in 0usize..40_000, byte: u8) {
            let src: Vec<u8> = (0..len).map(|at| (at as u8).wrapping_mul(31) ^ byte).collect();
            let mut dst = vec![0xAA; len + 5];
            prop_assert_eq!(copy_with_crc(&mut dst, &src), payload_crc(&src));
            prop_assert_eq!(&dst[..len], &src[..]);
            prop_assert_eq!(&dst[len..], &[0xAA; 5]);
        }
    }
}
