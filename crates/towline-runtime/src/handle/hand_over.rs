//! Handing the leadership over, from a program's own threads.

use std::sync::Arc;
use std::time::Duration;

use towline_core::node::Promoted;
use towline_core::types::Lsn;

use super::Handle;
use super::shared::{Command, Reply};
use crate::error::HandOverError;
use crate::options::PeerAddress;

/// A promotion, as it is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Promotion {
    /// The other nodes of the set, the former primary among them: the new leader ships to them.
    pub standbys: Vec<PeerAddress>,
    /// The sync rule of the new leadership, in its written form; `None` keeps the log's.
    pub rule: Option<String>,
    /// Lead without the quorum; the answer says what may be lost.
    pub force: bool,
    /// Give up after this long.
    pub timeout: Duration,
}

impl Handle {
    /// Makes this standby the leader: n − k + 1 of the standbys, this one included, adopt a new term, and none of them
    /// has a longer log.
    ///
    /// # Errors
    /// [`HandOverError::Refused`] with the reason and what to do; unless it says that a term has been taken, nothing
    /// has changed for anybody.
    pub fn promote(&self, promotion: Promotion) -> Result<Promoted, HandOverError> {
        let reply = Arc::new(Reply::default());
        let limit = promotion.timeout.saturating_add(PATIENCE);
        let command = Command::Promote { promotion, reply: Arc::clone(&reply) };
        if !self.shared.command_waiting(command) {
            return Err(HandOverError::Stopped);
        }
        answered(&reply, limit)
    }

    /// Takes no more appends (they are refused as unavailable), flushes what was accepted, and says where the log ends.
    /// Appends are taken again after `limit`, or after [`resume`](Handle::resume), unless another node leads by then.
    ///
    /// # Errors
    /// [`HandOverError::Refused`] when this node does not lead or is paused already.
    pub fn pause(&self, limit: Duration) -> Result<Lsn, HandOverError> {
        let reply = Arc::new(Reply::default());
        let command = Command::Pause { limit, reply: Arc::clone(&reply) };
        if !self.shared.command_waiting(command) {
            return Err(HandOverError::Stopped);
        }
        answered(&reply, limit.saturating_add(PATIENCE))
    }

    /// Takes appends again after a pause; does nothing without one.
    ///
    /// # Errors
    /// [`HandOverError::Stopped`].
    pub fn resume(&self) -> Result<(), HandOverError> {
        if self.shared.command_waiting(Command::Resume) { Ok(()) } else { Err(HandOverError::Stopped) }
    }
}

fn answered<T>(reply: &Reply<Result<T, String>>, limit: Duration) -> Result<T, HandOverError> {
    match reply.wait(limit) {
        Some(result) => result.map_err(HandOverError::Refused),
        None => Err(HandOverError::Silent { seconds: limit.as_secs() }),
    }
}

/// The node answers at its own limit; this is for a disk that does not.
const PATIENCE: Duration = Duration::from_secs(10);
