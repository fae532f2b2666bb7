//! A log in this process, as a load knows it.

use crate::load::{Pending, Target};
use std::time::Duration;
use towline::{Level, Lsn, Shard, Ticket, Window};
use towline_core::format::Committed;

/// The shards of a log that was opened here.
#[derive(Clone, Copy, Debug)]
pub struct Embedded<'a>(pub &'a [Shard]);

impl Target for Embedded<'_> {
    type Pending = Ticket;

    fn shards(&self) -> usize {
        self.0.len()
    }

    #[inline]
    fn append(
        &self,
        shard: usize,
        payload: &[u8],
        level: Level,
        window: Option<Window>,
    ) -> Result<Ticket, String> {
        // A log that stays full would hang the run.
        self.0[shard].append_within(payload, level, window, NO_ROOM_LIMIT).map_err(|error| error.to_string())
    }

    fn trim(&self, shard: usize, below: Lsn) {
        // A trim that is refused leaves the log longer; when that matters, the next append says so.
        let _ = self.0[shard].trim(below);
    }
}

impl Pending for Ticket {
    #[inline]
    fn try_get(&mut self) -> Option<Result<Committed, String>> {
        Ticket::try_get(self).map(|outcome| outcome.map_err(|error| error.to_string()))
    }

    #[inline]
    fn end(&self) -> Option<Lsn> {
        Some(Ticket::end(self))
    }

    fn wait(self) -> Result<Committed, String> {
        Ticket::wait(self).map_err(|error| error.to_string())
    }
}

/// Longer than any flush or stall that a run makes on purpose.
const NO_ROOM_LIMIT: Duration = Duration::from_secs(10);
