//! What a run costs beside time: ring enters, flushes, batches, worker threads, memory; read, never estimated.

use std::path::Path;

/// Counters since a node's start, over all its shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Calls into the kernel's ring that submitted something; `None` where the node does not tell them apart.
    pub submitting_enters: Option<u64>,
    /// Calls of every kind.
    pub enters: u64,
    /// Durable writes.
    pub flushes: u64,
    /// Batches.
    pub batches: u64,
    /// Acknowledgements that were weaker than asked for.
    pub degraded_acks: u64,
    /// Payload bytes that the last of the standbys has flushed.
    pub standby_payload_bytes: u64,
}

impl Counters {
    /// Both together.
    pub(crate) fn plus(&self, other: &Self) -> Self {
        let both = |one: Option<u64>, other: Option<u64>| Some(one? + other?);
        Self {
            submitting_enters: both(self.submitting_enters, other.submitting_enters),
            enters: self.enters + other.enters,
            flushes: self.flushes + other.flushes,
            batches: self.batches + other.batches,
            degraded_acks: self.degraded_acks + other.degraded_acks,
            standby_payload_bytes: self.standby_payload_bytes + other.standby_payload_bytes,
        }
    }

    /// What was added since `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let between = |now: Option<u64>, then: Option<u64>| Some(now?.saturating_sub(then?));
        Self {
            submitting_enters: between(self.submitting_enters, earlier.submitting_enters),
            enters: self.enters.saturating_sub(earlier.enters),
            flushes: self.flushes.saturating_sub(earlier.flushes),
            batches: self.batches.saturating_sub(earlier.batches),
            degraded_acks: self.degraded_acks.saturating_sub(earlier.degraded_acks),
            standby_payload_bytes: self.standby_payload_bytes.saturating_sub(earlier.standby_payload_bytes),
        }
    }
}

/// Kernel worker threads (`iou-wrk-…`) of a process: each stands for an operation that could not be done in line.
/// `None` when the process is gone.
pub(crate) fn ring_workers(pid: u32) -> Option<usize> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let is_worker = |task: &std::fs::DirEntry| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.starts_with("iou-wrk"))
    };
    Some(tasks.flatten().filter(is_worker).count())
}

/// Anonymous and shared memory of a process that is in RAM, bytes. `None` when the process is gone.
pub(crate) fn memory_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    parse_memory(&status)
}

fn parse_memory(status: &str) -> Option<u64> {
    let kib = |key: &str| -> Option<u64> {
        let line = status.lines().find(|line| line.starts_with(key))?;
        line[key.len()..].trim().strip_suffix("kB")?.trim().parse().ok()
    };
    Some((kib("RssAnon:")? + kib("RssShmem:")?) * 1024)
}

/// Free bytes of the file system below `dir`, as an ordinary user may use them.
pub(crate) fn free_bytes(dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anonymous_and_shared_memory_are_added_and_file_pages_are_not() {
        let status = "VmRSS:\t  900 kB\nRssAnon:\t  100 kB\nRssFile:\t 700 kB\nRssShmem:\t   20 kB\n";
        assert_eq!(parse_memory(status), Some(120 * 1024));
        assert_eq!(parse_memory("RssAnon:\t1 kB\n"), None);
    }

    #[test]
    fn this_process_can_be_read() {
        assert_eq!(ring_workers(std::process::id()), Some(0));
        let before = memory_bytes(std::process::id()).unwrap();
        let touched = vec![1u8; 32 << 20];
        let after = memory_bytes(std::process::id()).unwrap();
        assert!(after >= before + (24 << 20), "{before} {after} {}", touched.len());
        assert!(free_bytes(Path::new(".")).unwrap() > 0);
    }

    #[test]
    fn counters_are_differences() {
        let early = Counters { enters: 10, flushes: 4, ..Counters::default() };
        let late = Counters { enters: 25, flushes: 9, submitting_enters: Some(1), ..Counters::default() };
        let between = late.since(&early);
        assert_eq!((between.enters, between.flushes, between.submitting_enters), (15, 5, None));
    }
}
