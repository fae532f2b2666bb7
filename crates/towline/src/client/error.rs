//! What can go wrong between a client and a node, by what the caller must do about it.

use std::net::SocketAddr;

use towline_core::format::RefusalCode;

/// Why a request over the socket did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection. Nothing was sent.
    #[error(
        "no connection to {address}: {source}; check the address, and that `towline primary` serves there"
    )]
    Connect {
        /// Where.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The node took the connection or the request, and has not answered in time.
    #[error("{address} has not answered within {limit:?}: it is stopped or overloaded, or no towline node")]
    Silent {
        /// Where.
        address: SocketAddr,
        /// How long it was given.
        limit: std::time::Duration,
    },
    /// The node refused the connection.
    #[error("{address} refused the connection ({code:?}): {message}")]
    Refused {
        /// Where.
        address: SocketAddr,
        /// Why.
        code: RefusalCode,
        /// The node's words.
        message: String,
    },
    /// What came back is not this protocol; the connection is closed.
    #[error("{address} does not speak the protocol: {what}; is it a towline node of this version?")]
    Protocol {
        /// Where.
        address: SocketAddr,
        /// What was wrong.
        what: String,
    },
    /// The connection ended. What was outstanding may be in the log or not.
    #[error("connection to {address} lost: {why}; an append that was not answered may be in the log or not")]
    Lost {
        /// Where.
        address: SocketAddr,
        /// Why.
        why: String,
    },
    /// As many requests are outstanding as the options allow: receive one first. Nothing was sent.
    #[error("{limit} requests are outstanding, the limit; receive a completion first")]
    Full {
        /// The limit.
        limit: usize,
    },
    /// The request cannot be sent as it is. Nothing was sent.
    #[error("{0}")]
    Invalid(String),
    /// The node answered that it did nothing.
    #[error("refused: {0}")]
    Rejected(String),
    /// The append may be in the log or not: never success, never "not written".
    #[error("indeterminate: {0}; the record may be in the log or not")]
    Indeterminate(String),
    /// Nothing arrived in the time given. The request is still outstanding.
    #[error("no answer within {0:?}; the request is still outstanding")]
    Timeout(std::time::Duration),
    /// There is nothing outstanding to receive.
    #[error("nothing is outstanding: submit a request first")]
    Idle,
}
