//! One encoding for disk and wire.

mod batch;
mod body;
mod bytes;
mod frame;
mod header;
mod meta;
mod record;
mod segment;
mod wire;
mod wire_body;

pub use batch::{BATCH_MAGIC, FORMAT_VERSION, HeaderError};
pub use body::{
    BatchError, BodySeed, BodySummary, MAX_RULES_PER_BATCH, RecordRef, WalkHeaders, is_zero,
    summarize_sealed, verify_body, walk_headers,
};
pub use bytes::TooLong;
pub use frame::{Committed, Frame, Hello, HelloRole, LogEnd, Outcome, RefusalCode, Welcome};
pub use header::{BatchHeader, BatchKind};
pub use meta::{
    MAX_UNFINISHED, META_MAGIC, META_VERSION, MetaChoice, MetaCopyError, MetaError, choose_meta, decode_meta,
    encode_meta, read_meta,
};
pub use record::{
    MAX_RULE_RECORD_BYTES, RecordHeader, RecordKind, copy_with_crc, decode_rule, encode_record_header,
    encode_rule, payload_crc, record_bytes, void_header,
};
pub use segment::{SEGMENT_MAGIC, SEGMENT_VERSION, SegmentHeader, SegmentVerdict};
pub use wire::{
    Decoded, FRAME_HEADER_BYTES, FRAME_MAGIC, Foreign, Lead, MAX_STATUS_BYTES, WIRE_VERSION, WireError,
    decode_frame, encode_frame,
};
pub use wire_body::{MAX_APPEND_RECORDS, MAX_MESSAGE_BYTES};
