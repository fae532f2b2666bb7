//! Who waits for room in the arena, and the one look at an atomic that tells the shard whether anybody does.

use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::sync::{Mutex, PoisonError};
use std::task::Waker;

/// Producers that wait until appends may succeed again.
#[derive(Default)]
pub(crate) struct Room {
    waiting: AtomicU32,
    wakers: Mutex<Vec<Waker>>,
}

impl Room {
    /// Wakes `waker` at the next change. The caller looks once more after this call.
    pub(crate) fn register(&self, waker: &Waker) {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        if !wakers.iter().any(|known| known.will_wake(waker)) {
            wakers.push(waker.clone());
        }
        self.waiting.store(wakers.len() as u32, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Something has changed: room, a new batch, leadership, or the end of it.
    pub(crate) fn changed(&self) {
        // Pairs with the fence in `register`: either we see the waiter, or its second look sees the change.
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiting.store(0, Ordering::SeqCst);
        wakers.drain(..).for_each(Waker::wake);
    }
}
