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
            timeout_ms: millis(options.timeout),
        };
        match self.ask(request, &frame, Some(options.timeout.saturating_add(PATIENCE)))? {
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
        let frame = Frame::Pause { request, limit_ms: millis(limit) };
        match self.ask(request, &frame, Some(limit.saturating_add(PATIENCE)))? {
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
        match self.ask(request, &Frame::Resume { request }, Some(PATIENCE))? {
            Answer::Done(error) if error.is_empty() => Ok(()),
            other => Err(self.no_such_answer(other)),
        }
    }

    fn no_such_answer(&self, answer: Answer) -> ClientError {
        match answer {
            Answer::Done(error) if !error.is_empty() => ClientError::Rejected(error),
            _ => self.connection.protocol_error("an answer to something else".to_owned()),
        }
    }
}

/// Milliseconds of a duration; as many as the number holds for a longer one.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The node answers at its own limit; this is for one that does not.
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use towline_core::format::encode_frame;
    use towline_core::types::{LogId, NodeId};

    use super::*;

    /// A node that answers what it was asked first only when it is asked again.
    fn late_node(listener: &TcpListener) {
        let (mut socket, _) = listener.accept().unwrap();
        let mut answer = |frames: &[Frame]| {
            let mut bytes = Vec::new();
            assert!(socket.read(&mut [0; 4096]).unwrap() > 0);
            frames.iter().for_each(|frame| encode_frame(frame, &mut bytes).unwrap());
            socket.write_all(&bytes).unwrap();
        };
        answer(&[Frame::WelcomeClient { version: 1, log: LogId([1; 16]), node: NodeId(1), shards: 1 }]);
        answer(&[]);
        answer(&[
            Frame::Done { request: 1, error: "late".to_owned() },
            Frame::Done { request: 2, error: String::new() },
        ]);
    }

    #[test]
    fn the_late_answer_to_a_command_that_was_given_up_is_not_the_next_ones() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let node = std::thread::spawn(move || late_node(&listener));
        let mut client = Client::connect(address, 0).unwrap();
        let request = client.start(Asked::Command).unwrap();
        let given_up = client.ask(request, &Frame::Resume { request }, Some(Duration::from_millis(50)));
        assert!(matches!(given_up, Err(ClientError::Timeout(_))));
        client.trim(Lsn(8192)).unwrap();
        node.join().unwrap();
        assert_eq!(client.outstanding(), 0);
    }
}
