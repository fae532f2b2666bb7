//! Promotion and hand-over over the socket.

use std::time::Duration;

use towline_core::format::Frame;
use towline_core::types::{Lsn, Term};

use super::{Answer, Asked, Client, ClientError};

/// What a promotion is asked for with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromoteOptions {
    /// The other nodes of the set, the former primary among them: name and `host:port`. The new primary ships to them.
    pub standbys: Vec<(String, String)>,
    /// The sync rule of the new leadership; `None` keeps the log's.
    pub rule: Option<String>,
    /// Lead without the quorum.
    pub force: bool,
    /// The node gives up after this long.
    pub timeout: Duration,
}

/// A leadership that a promotion began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promotion {
    /// Its term.
    pub term: Term,
    /// Where it starts.
    pub start: Lsn,
    /// Standbys that had adopted the term by then.
    pub adopters: Vec<String>,
    /// What may be lost and what needs a hand, a line each.
    pub warnings: Vec<String>,
}

impl Client {
    /// Makes the standby behind this connection the leader of its shard: n − k + 1 of the standbys, it included, adopt a
    /// new term, and none of them has a longer log.
    ///
    /// # Errors
    /// [`ClientError::Rejected`] with the reason and what to do; unless it says that a term has been taken, nothing has
    /// changed for anybody. [`ClientError::Timeout`] and [`ClientError::Lost`]: ask for the node's status.
    pub fn promote(&mut self, options: &PromoteOptions) -> Result<Promotion, ClientError> {
        let request = self.start(Asked::Command)?;
        let frame = Frame::Promote {
            request,
            standbys: options.standbys.clone(),
            rule: options.rule.clone(),
            force: options.force,
            timeout_ms: options.timeout.as_millis() as u64,
        };
        match self.asked(&frame, options.timeout + PATIENCE)? {
            Answer::Promoted(promotion) => Ok(promotion),
            other => Err(self.no_such_answer(other)),
        }
    }

    /// Has the primary take no more appends (they are refused as unavailable) and flush what it accepted; returns where
    /// its log ends. It takes appends again after `limit` or [`resume`](Client::resume), unless another node leads.
    ///
    /// # Errors
    /// [`ClientError::Rejected`] when it does not lead or is paused already; [`ClientError::Timeout`],
    /// [`ClientError::Lost`].
    pub fn pause(&mut self, limit: Duration) -> Result<Lsn, ClientError> {
        let request = self.start(Asked::Command)?;
        match self.asked(&Frame::Pause { request, limit_ms: limit.as_millis() as u64 }, limit + PATIENCE)? {
            Answer::Paused(end) => Ok(end),
            other => Err(self.no_such_answer(other)),
        }
    }

    /// Has a paused primary take appends again; does nothing to one that is not.
    ///
    /// # Errors
    /// [`ClientError::Timeout`] and [`ClientError::Lost`].
    pub fn resume(&mut self) -> Result<(), ClientError> {
        let request = self.start(Asked::Command)?;
        match self.asked(&Frame::Resume { request }, PATIENCE)? {
            Answer::Done(error) if error.is_empty() => Ok(()),
            other => Err(self.no_such_answer(other)),
        }
    }

    fn asked(&mut self, frame: &Frame, limit: Duration) -> Result<Answer, ClientError> {
        let sent = self.connection.push(frame);
        self.sent(sent)?;
        self.await_answer(Some(limit))
    }

    fn no_such_answer(&self, answer: Answer) -> ClientError {
        match answer {
            Answer::Done(error) if !error.is_empty() => ClientError::Rejected(error),
            _ => self.connection.protocol_error("an answer to something else".to_owned()),
        }
    }
}

/// The node answers at its own limit; this is for one that does not.
const PATIENCE: Duration = Duration::from_secs(5);
