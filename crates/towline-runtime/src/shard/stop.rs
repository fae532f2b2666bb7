//! A clean stop: everything accepted is flushed and sealed, what is queued leaves, files close, the arena goes.

use std::time::Duration;

use towline_core::node::{FreezeReason, Input};

use towline_uring::DirLock;

use super::Shard;
use std::sync::atomic::Ordering;

impl Shard {
    pub(super) fn begin_stop(&mut self) {
        if self.stop_asked_ns.is_some() {
            return;
        }
        self.stop_asked_ns = Some(self.core.now_ns);
        // Producers that find no batch open from here on are told why.
        self.core.shared.set_freeze_reason(FreezeReason::Stopping);
        self.core.shared.marks.stopping.store(true, Ordering::Release);
        self.core.brain.handle(Input::Stop);
    }

    /// The node has said that it is done: connections get a moment to take what is queued for them.
    pub(super) fn drive_stop(&mut self) {
        if !self.node_stopped || self.ended.is_some() {
            return;
        }
        let asked_ns = self.stop_asked_ns.unwrap_or(self.core.now_ns);
        let late = self.core.now_ns.saturating_sub(asked_ns) > LINGER.as_nanos() as u64;
        self.clients.end_all();
        if late {
            self.sessions.end_all(&mut self.core, "the node has stopped");
            self.clients.drop_all();
        }
        let quiet = self.sessions.is_empty() && self.clients.is_empty() && self.writes.in_flight() == 0;
        if quiet || self.core.now_ns.saturating_sub(asked_ns) > 2 * LINGER.as_nanos() as u64 {
            self.ended = Some(Ok(()));
        }
    }

    /// Everything but the lock goes.
    fn drop_ring(self) -> DirLock {
        let Shard { lock, core, writes, .. } = self;
        drop((core, writes));
        lock
    }

    /// Ends the shard, however it came to that; returns how it went.
    pub(crate) fn finish(mut self) -> Result<(), String> {
        let result = self.ended.take().unwrap_or(Ok(()));
        let shared = std::sync::Arc::clone(&self.core.shared);
        shared.set_freeze_reason(FreezeReason::Stopping);
        self.core.ring.arena_mut().freeze();
        // The applier first: it reads what the rest still holds. Then the keeper: its last write ends here.
        self.applier = None;
        self.keeper = None;
        let why = match &result {
            Ok(()) => "the node has stopped".to_owned(),
            Err(why) => why.clone(),
        };
        for (_, asker) in self.rule_requests.drain() {
            if let super::RuleAsker::Handle(reply) = asker {
                reply.put(Err(why.clone()));
            }
        }
        self.hand_overs.end(&why);
        let arena_file = self.arena_file.take().filter(|_| result.is_ok());
        let status = self.status();
        shared.status.serve(|| status);
        let no_writes = self.writes.in_flight() == 0;
        let lock = self.drop_ring();
        if no_writes {
            // The kernel takes the ring apart later, and its reference to the lock with it. Nothing of it writes any
            // more: the next opener need not wait for that.
            let _ = rustix::fs::flock(&lock, rustix::fs::FlockOperation::Unlock);
        }
        drop(lock);
        if let Some(path) = arena_file {
            // Everything in it is on the disk now. Left behind, it would only be looked at again.
            let _ = std::fs::remove_file(path);
        }
        // Last: whoever sees it may open the directory again.
        shared.end(&why);
        result
    }
}

const LINGER: Duration = Duration::from_secs(1);
