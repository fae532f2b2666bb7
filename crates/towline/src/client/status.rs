//! What a node tells about itself, over the socket.

use towline_core::format::Frame;

use super::{Answer, Client, ClientError};

impl Client {
    /// The shard's status, as JSON text (a `ShardStatus` of `towline_runtime`): watermarks, exposure, each standby.
    ///
    /// # Errors
    /// [`ClientError::Silent`] after [`connect_timeout`](super::ClientOptions::connect_timeout), [`ClientError::Lost`] and
    /// [`ClientError::Protocol`].
    pub fn status(&mut self) -> Result<String, ClientError> {
        let limit = self.options.connect_timeout;
        // The late answer to a command that was given up is not a status.
        self.awaited = 0;
        let sent = self.connection.push(&Frame::StatusRequest);
        self.sent(sent)?;
        self.statuses += 1;
        self.awaits_status = true;
        let answer = self.await_answer(Some(limit));
        self.awaits_status = false;
        match answer {
            Ok(Answer::Status(json)) => Ok(json),
            Err(ClientError::Timeout(limit)) => {
                Err(ClientError::Silent { address: self.connection.address(), limit })
            }
            Err(error) => Err(error),
            _ => Err(self.connection.protocol_error("no status in answer".to_owned())),
        }
    }
}
