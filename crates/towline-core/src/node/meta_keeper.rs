//! The meta block's next content, and what waits for it to be durable.
//!
//! One write is in flight at a time; changes made meanwhile go out together with the next. An action that waits
//! is released only by a write that began after its change: never by one that was already on its way.

use std::collections::VecDeque;

use crate::types::{Lsn, Meta, SessionId, Term};

/// What is done once the change it waits for is durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum AfterMeta {
    /// The own new term is adopted: ask the others.
    AskForTerm { term: Term },
    /// The term's start is in the history: lead.
    Lead { term: Term },
    /// A term was adopted from a peer: say so.
    SayAdopted { session: SessionId, term: Term, previous: Term },
    /// The history that this session's sender gave stands.
    Ready { session: SessionId },
    /// The unfinished span reaches to here: writes may.
    Permit { upto: Lsn },
    /// The log starts here: segments below may go.
    Started { at: Lsn },
}

#[derive(Debug)]
pub(super) struct MetaKeeper {
    meta: Meta,
    dirty: bool,
    writing: bool,
    waiting: VecDeque<(u64, AfterMeta)>,
}

impl MetaKeeper {
    pub(super) fn new(meta: Meta) -> MetaKeeper {
        MetaKeeper { meta, dirty: false, writing: false, waiting: VecDeque::new() }
    }

    /// The newest content, durable or not.
    pub(super) fn get(&self) -> &Meta {
        &self.meta
    }

    /// Changes the content; the next write carries it.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Meta)) {
        change(&mut self.meta);
        self.dirty = true;
    }

    /// Runs `action` once everything changed so far is durable.
    pub(super) fn then(&mut self, action: AfterMeta) {
        self.dirty = true;
        self.waiting.push_back((self.meta.sequence + 1, action));
    }

    /// Whether `action` is waiting.
    pub(super) fn awaits(&self, is: impl Fn(&AfterMeta) -> bool) -> bool {
        self.waiting.iter().any(|(_, action)| is(action))
    }

    /// What waits and is so is not to be done any more.
    pub(super) fn forget(&mut self, is: impl Fn(&AfterMeta) -> bool) {
        self.waiting.retain(|(_, action)| !is(action));
    }

    /// Whether a change waits for its write to begin.
    pub(super) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Whether a change is not durable yet.
    pub(super) fn is_busy(&self) -> bool {
        self.dirty || self.writing
    }

    /// The write to begin now, if one is due and none is in flight.
    pub(super) fn next_write(&mut self) -> Option<Meta> {
        if self.writing || !self.dirty {
            return None;
        }
        self.dirty = false;
        self.writing = true;
        self.meta.sequence += 1;
        Some(self.meta.clone())
    }

    /// A write is durable: the actions it releases, in order.
    pub(super) fn written(&mut self, sequence: u64) -> Vec<AfterMeta> {
        if sequence == self.meta.sequence {
            self.writing = false;
        }
        let mut released = Vec::new();
        while let Some((_, action)) = self.waiting.pop_front_if(|(needed, _)| *needed <= sequence) {
            released.push(action);
        }
        released
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_on_its_way_releases_nothing_that_was_changed_after_it_began() {
        let mut keeper = MetaKeeper::new(Meta::default());
        keeper.change(|meta| meta.incarnation = 1);
        let term = Term::default();
        keeper.then(AfterMeta::Lead { term });
        let first = keeper.next_write().expect("dirty");
        keeper.change(|meta| meta.incarnation = 2);
        let session = SessionId(1);
        keeper.then(AfterMeta::Ready { session });
        assert!(keeper.next_write().is_none(), "one at a time");
        assert_eq!(keeper.written(first.sequence), [AfterMeta::Lead { term }]);
        let second = keeper.next_write().expect("dirty again");
        assert_eq!((second.incarnation, second.sequence), (2, 2));
        assert_eq!(keeper.written(second.sequence), [AfterMeta::Ready { session }]);
    }
}
