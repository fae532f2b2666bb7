//! The boot-time clock: it goes on while the machine sleeps and is never set. And times that a caller gave: the longest
//! there are mean "for ever", and must not overflow.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since the machine was started.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    (now.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(now.tv_nsec as u64)
}

/// Nanoseconds of a duration; as many as the number holds for a longer one.
pub(crate) fn ns_of(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The moment at which `limit` is over, or one that nobody lives to see.
pub fn deadline(limit: Duration) -> Instant {
    Instant::now() + limit.min(FOR_EVER)
}

/// 34 years: what every clock can add.
const FOR_EVER: Duration = Duration::from_secs(1 << 30);
