//! Memory for records that are longer than a connection's own part, shared by all clients of a shard: clients that stop
//! in the middle of a record cannot fill the memory.

use std::time::Duration;

/// What is left of it.
pub(crate) struct LongRecords {
    free_bytes: usize,
    /// When a client last asked for more than was left.
    short_ns: Option<u64>,
}

impl LongRecords {
    pub(crate) fn new() -> LongRecords {
        LongRecords { free_bytes: LONG_BYTES, short_ns: None }
    }

    /// Takes `bytes`; false when others hold them.
    pub(super) fn take(&mut self, bytes: usize, now_ns: u64) -> bool {
        let left = self.free_bytes.checked_sub(bytes);
        match left {
            Some(left) => self.free_bytes = left,
            None => self.short_ns = Some(now_ns),
        }
        left.is_some()
    }

    /// Whether `bytes` could be taken.
    pub(super) fn has(&self, bytes: usize) -> bool {
        bytes <= self.free_bytes
    }

    pub(super) fn give_back(&mut self, bytes: usize) {
        self.free_bytes += bytes;
    }

    /// Whether a record that has been taken in since `since_ns` takes too long: others wait for its memory.
    pub(super) fn is_overdue(&self, since_ns: u64, now_ns: u64) -> bool {
        let waited = self.short_ns.is_some_and(|short_ns| now_ns.saturating_sub(short_ns) <= WAITED_NS);
        waited && now_ns.saturating_sub(since_ns) > LONG_LIMIT.as_nanos() as u64
    }
}

/// For all of a shard's clients together: two of the longest records.
const LONG_BYTES: usize = 9 << 19;
/// How long a record may take while others wait.
pub(super) const LONG_LIMIT: Duration = Duration::from_secs(5);
/// Who waits asks again in every turn.
const WAITED_NS: u64 = 100_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::clients::connection::MAX_ARRIVED;

    #[test]
    fn what_all_hold_is_bounded_and_comes_back() {
        let mut memory = LongRecords::new();
        assert!(memory.take(MAX_ARRIVED, 1) && memory.take(MAX_ARRIVED, 1), "two of the longest");
        assert!(!memory.take(MAX_ARRIVED, 2));
        memory.give_back(MAX_ARRIVED);
        assert!(memory.take(MAX_ARRIVED, 3));
    }

    #[test]
    fn a_slow_record_gives_way_only_to_one_that_waits() {
        let (mut memory, late_ns) = (LongRecords::new(), LONG_LIMIT.as_nanos() as u64 + 1);
        assert!(memory.take(MAX_ARRIVED, 0) && memory.take(MAX_ARRIVED, 0));
        assert!(!memory.is_overdue(0, late_ns), "nobody waits");
        assert!(!memory.take(MAX_ARRIVED, late_ns));
        assert!(memory.is_overdue(0, late_ns) && !memory.is_overdue(1, late_ns));
        assert!(!memory.is_overdue(0, late_ns + WAITED_NS + 1), "it waits no more");
    }
}
