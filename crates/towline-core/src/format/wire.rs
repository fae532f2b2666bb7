//! The encoding of control frames: a 32-byte header, the body, and, for three kinds, payload behind it.
//!
//! ```text
//!   magic 8 | version 2 | kind 1 | 0 | body length 4 | body CRC 4 | payload length 4 | 0 4 | header CRC 4
//! ```
//! The header CRC is checked before a length is believed, the length against its cap before it is waited for, the
//! body CRC before a field is read. Only then anything is allocated.

use super::Frame;
use super::batch::BATCH_MAGIC;
use super::bytes::{Reader, TooLong, Writer};
use super::wire_body::{read_body, write_body};
use crate::types::limits::{MAX_APPEND_BYTES, MAX_BATCH_BYTES, MAX_FRAME_BYTES};

/// First bytes of a control frame.
pub const FRAME_MAGIC: [u8; 8] = *b"TOWLfrme";
/// Version of the frame encoding.
pub const WIRE_VERSION: u16 = 1;
/// Bytes of a frame's header.
pub const FRAME_HEADER_BYTES: usize = 32;
/// Bytes of a status answer at most: only a client, which asked for it, takes more than [`MAX_FRAME_BYTES`].
pub const MAX_STATUS_BYTES: usize = 64 << 10;

/// A frame that was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decoded {
    /// The frame.
    pub frame: Frame,
    /// Bytes it took.
    pub consumed: usize,
    /// Bytes of payload that follow it on the connection (`Append`, `Records`, `LogBytes`), else 0.
    pub payload_bytes: u32,
}

/// A protocol that is not this one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Foreign {
    /// A TLS ClientHello.
    Tls,
    /// An HTTP request.
    Http,
    /// An SSH banner.
    Ssh,
}

/// Why bytes are no frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WireError {
    /// So far so good: at least this many bytes in all are needed.
    #[error("{0} bytes are needed")]
    NeedMore(usize),
    /// Another protocol.
    #[error("{}", match .0 {
        Foreign::Tls => "this is a TLS handshake; Towline speaks plain TCP: switch TLS off or put a tunnel in front",
        Foreign::Http => "this is an HTTP request; this port speaks Towline's protocol: metrics and the status page \
                          have a port of their own",
        Foreign::Ssh => "this is an SSH client; this port speaks Towline's protocol",
    })]
    Foreign(Foreign),
    /// Not the start of a frame.
    #[error("these bytes are no Towline frame")]
    Garbage,
    /// A batch starts here.
    #[error("a batch stands where a control frame was expected")]
    Batch,
    /// A frame of another version.
    #[error("frame version {0} is not known here (this program speaks {WIRE_VERSION}): use a newer program")]
    Version(u16),
    /// The header is damaged.
    #[error("a frame header fails its CRC")]
    HeaderCrc,
    /// The body is damaged.
    #[error("a frame body fails its CRC")]
    BodyCrc,
    /// A kind that this version does not have.
    #[error("frame kind {0} is not known")]
    Kind(u8),
    /// A length over its cap.
    #[error("a frame of {len} bytes is over the limit of {limit}")]
    TooLong {
        /// The length it claims.
        len: u32,
        /// The limit.
        limit: u32,
    },
    /// Sound bytes that say something impossible.
    #[error("a frame of kind {0} says something impossible")]
    Malformed(u8),
}

/// What a stream's next bytes begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lead {
    /// A batch.
    Batch,
    /// A control frame.
    Frame,
    /// Either, or neither: more bytes are needed.
    NeedMore,
    /// Another protocol.
    Foreign(Foreign),
    /// Nothing known.
    Garbage,
}

impl Lead {
    /// Looks at the next bytes; 8 decide.
    pub fn of(bytes: &[u8]) -> Lead {
        let starts = |magic: &[u8]| bytes.iter().zip(magic).all(|(byte, want)| byte == want);
        match bytes.len() {
            0 => Lead::NeedMore,
            8.. if starts(&BATCH_MAGIC) => Lead::Batch,
            8.. if starts(&FRAME_MAGIC) => Lead::Frame,
            1..8 if starts(&BATCH_MAGIC) || starts(&FRAME_MAGIC) => Lead::NeedMore,
            _ => foreign(bytes),
        }
    }
}

/// Appends the bytes of a frame. The payload of an `Append`, `Records` or `LogBytes` is the caller's to send behind
/// them.
///
/// # Errors
/// When a name, message or list is over its limit; `out` is as it was.
pub fn encode_frame(frame: &Frame, out: &mut Vec<u8>) -> Result<(), TooLong> {
    let start = out.len();
    out.resize(start + FRAME_HEADER_BYTES, 0);
    let written = write_body(frame, &mut Writer(out));
    let result = written.and_then(|(kind, payload_bytes)| {
        let body_bytes = out.len() - start - FRAME_HEADER_BYTES;
        let limit = body_limit(kind);
        if body_bytes > limit {
            return Err(TooLong { what: "a frame", len: body_bytes, limit });
        }
        let body_crc = crc_fast::crc32_iscsi(&out[start + FRAME_HEADER_BYTES..]);
        // Written behind the body and moved to its place: no allocation per frame where `out` has room.
        let behind = out.len();
        let mut to = Writer(out);
        to.bytes(&FRAME_MAGIC);
        to.u16(WIRE_VERSION);
        to.u8(kind);
        to.u8(0);
        to.u32(body_bytes as u32);
        to.u32(body_crc);
        to.u32(payload_bytes);
        to.u32(0);
        let crc = crc_fast::crc32_iscsi(&out[behind..]);
        Writer(out).u32(crc);
        out.copy_within(behind.., start);
        out.truncate(behind);
        Ok(())
    });
    if result.is_err() {
        out.truncate(start);
    }
    result
}

/// Reads the frame at the start of `bytes`.
///
/// # Errors
/// `NeedMore` while it is incomplete; anything else ends the connection.
pub fn decode_frame(bytes: &[u8]) -> Result<Decoded, WireError> {
    match Lead::of(bytes) {
        Lead::Frame => {}
        Lead::NeedMore => return Err(WireError::NeedMore(FRAME_HEADER_BYTES)),
        Lead::Batch => return Err(WireError::Batch),
        Lead::Foreign(foreign) => return Err(WireError::Foreign(foreign)),
        Lead::Garbage => return Err(WireError::Garbage),
    }
    let need = WireError::NeedMore(FRAME_HEADER_BYTES);
    let (header, behind) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>().ok_or(need)?;
    let (summed, crc) = header.split_at(FRAME_HEADER_BYTES - 4);
    if crc_fast::crc32_iscsi(summed).to_le_bytes() != crc {
        return Err(WireError::HeaderCrc);
    }
    let mut reader = Reader(&summed[FRAME_MAGIC.len()..]);
    let fields =
        (reader.u16(), reader.u8(), reader.u8(), reader.u32(), reader.u32(), reader.u32(), reader.u32());
    let (Some(version), Some(kind), Some(0), Some(body_bytes), Some(body_crc), Some(payload_bytes), Some(0)) =
        fields
    else {
        return Err(WireError::Garbage);
    };
    if version != WIRE_VERSION {
        return Err(WireError::Version(version));
    }
    let limit = body_limit(kind);
    if body_bytes as usize > limit {
        return Err(WireError::TooLong { len: body_bytes, limit: limit as u32 });
    }
    if payload_bytes > MAX_PAYLOAD_BYTES {
        return Err(WireError::TooLong { len: payload_bytes, limit: MAX_PAYLOAD_BYTES });
    }
    let consumed = FRAME_HEADER_BYTES + body_bytes as usize;
    let body = behind.get(..body_bytes as usize).ok_or(WireError::NeedMore(consumed))?;
    if crc_fast::crc32_iscsi(body) != body_crc {
        return Err(WireError::BodyCrc);
    }
    let (frame, follows) = read_body(kind, body)?;
    if follows != payload_bytes {
        return Err(WireError::Malformed(kind));
    }
    Ok(Decoded { frame, consumed, payload_bytes })
}

fn body_limit(kind: u8) -> usize {
    if kind == super::wire_body::STATUS { MAX_STATUS_BYTES } else { MAX_FRAME_BYTES }
}

fn foreign(bytes: &[u8]) -> Lead {
    const HTTP: [&[u8]; 9] =
        [b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"OPTIONS ", b"CONNECT ", b"PATCH ", b"PRI * "];
    let begins = |with: &[u8]| {
        // Never more than decide: who gets the bytes in pieces and who gets them at once must say the same.
        let len = with.len().min(bytes.len()).min(FOREIGN_BYTES);
        bytes[..len] == with[..len]
    };
    // A TLS record: handshake (22), version 3.x.
    if begins(&[0x16, 0x03]) {
        return if bytes.len() < 2 { Lead::NeedMore } else { Lead::Foreign(Foreign::Tls) };
    }
    let http = HTTP.into_iter().find(|method| begins(method));
    let (name, found) = match http {
        Some(method) => (method, Foreign::Http),
        None if begins(b"SSH-") => (&b"SSH-"[..], Foreign::Ssh),
        None => return Lead::Garbage,
    };
    if bytes.len() < name.len().min(FOREIGN_BYTES) { Lead::NeedMore } else { Lead::Foreign(found) }
}

/// Bytes that tell another protocol.
const FOREIGN_BYTES: usize = 4;
/// Payload behind one frame at most: an atomic append, or the records of one batch.
const MAX_PAYLOAD_BYTES: u32 = MAX_BATCH_BYTES as u32;
const _: () = assert!(MAX_APPEND_BYTES <= MAX_BATCH_BYTES && MAX_FRAME_BYTES <= MAX_STATUS_BYTES);
