//! What a client sends first, and what an append must be before it is sent.

use towline_core::format::{Frame, Hello, HelloRole, MAX_APPEND_RECORDS, WIRE_VERSION, record_bytes};
use towline_core::types::limits::{MAX_APPEND_BYTES, MAX_RECORD_BYTES};
use towline_core::types::{Geometry, LogId, NodeId};

use super::error::ClientError;

/// What a client says first.
pub(super) fn client_hello(shard: u16, name: &str) -> Hello {
    Hello {
        versions: VERSIONS,
        role: HelloRole::Client,
        shard,
        log: LogId::default(),
        geometry: Geometry { segment_bytes: 0, in_flight_bytes: 0 },
        node: NodeId(0),
        name: name.to_owned(),
        nonce: 0,
        adopted: Default::default(),
        end: Default::default(),
    }
}

/// The lengths of an append's records, checked against the limits here: the node would close the connection.
pub(super) fn record_lengths(payloads: &[&[u8]]) -> Result<Vec<u32>, ClientError> {
    let mut total = 0;
    let mut lengths = Vec::with_capacity(payloads.len());
    for payload in payloads {
        let length = payload.len() as u64;
        if length > MAX_RECORD_BYTES {
            let text = format!("a record of {length} bytes; the limit is {MAX_RECORD_BYTES}: split it");
            return Err(ClientError::Invalid(text));
        }
        total += record_bytes(length);
        lengths.push(length as u32);
    }
    if payloads.is_empty() {
        return Err(ClientError::Invalid("an append without a record".to_owned()));
    }
    if payloads.len() > MAX_APPEND_RECORDS {
        let text = format!(
            "an atomic append of {} records; the limit is {MAX_APPEND_RECORDS}: split it",
            payloads.len()
        );
        return Err(ClientError::Invalid(text));
    }
    if total > MAX_APPEND_BYTES {
        let text = format!(
            "an atomic append of {total} bytes with headers; the limit is {MAX_APPEND_BYTES}: split it"
        );
        return Err(ClientError::Invalid(text));
    }
    Ok(lengths)
}

/// A frame's kind, for messages.
pub(crate) fn frame_name(frame: &Frame) -> String {
    let text = format!("{frame:?}");
    text.split([' ', '(', '{']).next().unwrap_or_default().to_owned()
}

/// Protocol versions this client speaks, oldest and newest.
const VERSIONS: (u16, u16) = (WIRE_VERSION, WIRE_VERSION);
