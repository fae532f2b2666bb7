//! Stopping on purpose: tests end the storage after its n-th durable step, as a crash would.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts durable steps and stops before the one after the last that was allowed. The default never stops.
#[derive(Clone, Debug, Default)]
pub struct Steps(Option<Arc<Budget>>);

/// Raised in place of the step after the last allowed one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("stopped on purpose before the step '{0}'")]
pub struct Stopped(pub &'static str);

impl Steps {
    /// Allows `steps` steps, then stops at every further one.
    pub fn stop_after(steps: u64) -> Steps {
        Steps(Some(Arc::new(Budget { taken: AtomicU64::new(0), allowed: steps })))
    }

    /// Counts without stopping.
    pub fn count() -> Steps {
        Steps::stop_after(u64::MAX)
    }

    /// Steps taken so far; 0 when nobody counts.
    pub fn taken(&self) -> u64 {
        self.0.as_ref().map_or(0, |budget| budget.taken.load(Ordering::Relaxed))
    }

    /// Called right before something durable happens.
    pub(crate) fn take(&self, step: &'static str) -> Result<(), Stopped> {
        let Some(budget) = &self.0 else { return Ok(()) };
        let allowed = budget.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
            (taken < budget.allowed).then(|| taken.saturating_add(1))
        });
        allowed.map(|_| ()).map_err(|_| Stopped(step))
    }
}

#[derive(Debug)]
struct Budget {
    taken: AtomicU64,
    allowed: u64,
}
