//! Every limit in one file, asserted against each other at compile time.

use super::Lsn;

/// A batch starts and ends on a block; a block that holds durable bytes is never rewritten.
pub const BLOCK_BYTES: u64 = 4096;
/// Two copies of the segment header, one block each, so that one torn block loses neither log nor copy.
pub const SEGMENT_HEADER_BYTES: u64 = 2 * BLOCK_BYTES;
/// Bytes of a batch header, at the start of its first block.
pub const BATCH_HEADER_BYTES: u64 = 128;
/// Bytes of a record header.
pub const RECORD_HEADER_BYTES: u64 = 8;
/// Records start on this boundary.
pub const RECORD_ALIGN_BYTES: u64 = 8;
/// Longest payload of one record.
pub const MAX_RECORD_BYTES: u64 = 1 << 20;
/// Longest batch, header and padding included.
pub const MAX_BATCH_BYTES: u64 = 2 << 20;
/// Most bytes of one write to a segment. The kernel does not split a write that must not block: one that is larger
/// than the device takes at once (often 254 pages) would go through a kernel worker, and two of those are slower than
/// many that need none.
pub const MAX_WRITE_BYTES: u64 = 512 << 10;
/// Most data bytes one atomic append may hold, headers included.
pub const MAX_APPEND_BYTES: u64 = MAX_BATCH_BYTES - 2 * BLOCK_BYTES;
/// Default bytes of a segment file.
pub const SEGMENT_BYTES: u64 = 64 << 20;
/// Smallest segment: several of the largest batches.
pub const MIN_SEGMENT_BYTES: u64 = 8 << 20;
/// Largest segment.
pub const MAX_SEGMENT_BYTES: u64 = 1 << 30;
/// Default bytes past the flushed watermark that may be in flight.
pub const IN_FLIGHT_BYTES: u64 = 16 << 20;
/// What a standby records ahead of its flushed watermark as possibly in flight, per meta write.
pub const UNFINISHED_AHEAD_BYTES: u64 = 16 << 20;
/// Default arena.
pub const ARENA_BYTES: u64 = 64 << 20;
/// Smallest arena (a memlock limit of 8 MiB per user leaves this): the largest batch in flight and one being built.
pub const MIN_ARENA_BYTES: u64 = 4 << 20;
/// Flushes in flight at most, whatever the calibration says.
pub const MAX_FLUSH_DEPTH: usize = 64;
/// Bytes of one send operation at most; what a stuck peer can pin, and what catch-up reads at once.
pub const MAX_SEND_BYTES: u64 = MAX_WRITE_BYTES;
/// Standbys a node ships to at most.
pub const MAX_STANDBYS: usize = 16;
/// Entries of a term history at most.
pub const MAX_TERM_HISTORY: usize = 64;
/// A term's number is one more than the highest seen; one that leaps farther than this is nobody's. Adopted, it would
/// use up the numbers that are left.
pub const MAX_TERM_LEAP: u64 = 1 << 32;
/// No log reaches farther.
pub const MAX_LSN: Lsn = Lsn(1 << 62);
/// Bytes of a node name at most.
pub const MAX_NAME_BYTES: usize = 63;
/// Bytes of a sync rule in its written form at most.
pub const MAX_RULE_BYTES: usize = 1024;
/// Bytes of a control frame's body at most.
pub const MAX_FRAME_BYTES: usize = 4096;
/// Bytes of a connection's buffer before its hello at most.
pub const MAX_HELLO_BYTES: usize = 4096;
/// Tickets that may wait at once, per shard.
pub const MAX_TICKETS: usize = 1 << 16;
/// Of them, waits for a position: the others are left to appends.
pub const MAX_WAITS: usize = MAX_TICKETS / 4;
/// Batches whose counts the gate keeps for exposure and time windows; older neighbours are merged.
pub const MAX_TRACKED_BATCHES: usize = 4096;
/// Generations of the sync rule that tickets may wait across at once.
pub const MAX_RULE_ERAS: usize = 4;
/// Bytes of one encoded copy of the meta block.
pub const META_COPY_BYTES: u64 = 8192;
/// Copies of the meta block.
pub const META_COPIES: u64 = 4;
/// How many segments beyond the one it is at a standby is told of, and makes ahead.
pub const SEGMENTS_ANNOUNCED: u64 = 16;
/// Default of how far the log may reach past the last trim.
pub const RETENTION_BYTES: u64 = 1 << 30;

const _: () = {
    assert!(BATCH_HEADER_BYTES < BLOCK_BYTES && BATCH_HEADER_BYTES.is_multiple_of(RECORD_ALIGN_BYTES));
    assert!(MAX_RECORD_BYTES + RECORD_HEADER_BYTES <= MAX_APPEND_BYTES);
    assert!(MAX_APPEND_BYTES + BATCH_HEADER_BYTES + BLOCK_BYTES <= MAX_BATCH_BYTES);
    assert!(MIN_SEGMENT_BYTES >= SEGMENT_HEADER_BYTES + 2 * MAX_BATCH_BYTES + BLOCK_BYTES);
    assert!(SEGMENT_BYTES.is_power_of_two() && MIN_SEGMENT_BYTES.is_power_of_two());
    assert!(IN_FLIGHT_BYTES >= 2 * MAX_BATCH_BYTES);
    assert!(UNFINISHED_AHEAD_BYTES >= 2 * MAX_BATCH_BYTES);
    assert!(MIN_ARENA_BYTES >= 2 * MAX_BATCH_BYTES && MIN_ARENA_BYTES.is_power_of_two());
    assert!(MAX_SEND_BYTES <= MIN_ARENA_BYTES / 4);
    assert!(MAX_FRAME_BYTES >= MAX_RULE_BYTES + MAX_NAME_BYTES);
};
