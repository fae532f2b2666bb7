//! The bodies of control frames: fields in the order of [`Frame`], little-endian, lists and texts behind a 16-bit
//! length that is checked against its own limit.

use super::bytes::{Reader, TooLong, Writer};
use super::wire::{MAX_STATUS_BYTES, WireError};
use super::{Committed, Frame, Hello, HelloRole, LogEnd, Outcome, RefusalCode, Welcome};
use crate::types::limits::{
    MAX_APPEND_BYTES, MAX_BATCH_BYTES, MAX_FRAME_BYTES, MAX_NAME_BYTES, MAX_RECORD_BYTES, MAX_RULE_BYTES,
    MAX_STANDBYS,
};
use crate::types::{Geometry, Level, LogId, NodeId, StandbyWatermarks, Window};

/// Bytes of a message for an operator at most.
pub const MAX_MESSAGE_BYTES: usize = 1024;
/// Records of one `Append` frame at most: their lengths fit its body.
pub const MAX_APPEND_RECORDS: usize = 1000;

/// Writes the body; answers with the frame's kind and the payload bytes that follow it.
pub(super) fn write_body(frame: &Frame, out: &mut Writer<'_>) -> Result<(u8, u32), TooLong> {
    let mut follows = 0;
    let kind = match frame {
        Frame::Hello(hello) => {
            write_hello(hello, out)?;
            HELLO
        }
        Frame::Welcome(welcome) => {
            write_welcome(welcome, out)?;
            WELCOME
        }
        Frame::WelcomeClient { version, log, node, shards } => {
            out.u16(*version);
            out.bytes(&log.0);
            out.u64(node.0);
            out.u16(*shards);
            WELCOME_CLIENT
        }
        Frame::Refused { code, message } => {
            out.u8(refusal_to_byte(*code));
            write_message(message, out)?;
            REFUSED
        }
        Frame::Adopt { term, end } => {
            out.term(*term);
            write_end(end, out);
            ADOPT
        }
        Frame::Adopted { term, previous, end } => {
            out.term(*term);
            out.term(*previous);
            write_end(end, out);
            ADOPTED
        }
        Frame::NotAdopted { adopted, end, history } => {
            out.term(*adopted);
            write_end(end, out);
            out.history(history)?;
            NOT_ADOPTED
        }
        Frame::Fetch { from } => {
            out.lsn(*from);
            FETCH
        }
        Frame::FetchEnd { end } => {
            out.lsn(*end);
            FETCH_END
        }
        Frame::Stream { term, history, log_start, log_end, set_size } => {
            out.term(*term);
            out.history(history)?;
            out.lsn(*log_start);
            out.lsn(*log_end);
            out.u16(*set_size);
            STREAM
        }
        Frame::Ready { from, previous_hash } => {
            out.lsn(*from);
            out.u64(*previous_hash);
            READY
        }
        Frame::Segment { seq, salt } => {
            out.u64(*seq);
            out.u32(*salt);
            // Reserved.
            out.u64(0);
            SEGMENT
        }
        Frame::Progress { flushed, safe, log_start } => {
            out.lsn(*flushed);
            out.lsn(*safe);
            out.lsn(*log_start);
            PROGRESS
        }
        Frame::Report { term, watermarks, credit, failing } => {
            out.term(*term);
            out.position(watermarks.written);
            out.position(watermarks.flushed);
            out.position(watermarks.applied);
            out.lsn(*credit);
            out.u8(u8::from(*failing));
            REPORT
        }
        Frame::Heartbeat { term } => {
            out.term(*term);
            HEARTBEAT
        }
        Frame::Append { request, level, window, lengths } => {
            out.u64(*request);
            out.u8(level.to_wire());
            write_window(*window, out);
            out.count("the records of an append", lengths.len(), MAX_APPEND_RECORDS)?;
            lengths.iter().for_each(|len| out.u32(*len));
            follows = append_bytes(lengths).ok_or(TooLong {
                what: "an append",
                len: lengths.iter().fold(0, |sum, len| sum.saturating_add(*len as usize)),
                limit: MAX_APPEND_BYTES as usize,
            })?;
            APPEND
        }
        Frame::Appended { request, outcome } => {
            out.u64(*request);
            write_outcome(outcome, out)?;
            APPENDED
        }
        Frame::Wait { request, lsn, level } => {
            out.u64(*request);
            out.lsn(*lsn);
            out.u8(level.to_wire());
            WAIT
        }
        Frame::Tail { from, unsafe_too } => {
            out.lsn(*from);
            out.u8(u8::from(*unsafe_too));
            TAIL
        }
        Frame::Records { start, next, bytes } => {
            if u64::from(*bytes) > MAX_BATCH_BYTES {
                let limit = MAX_BATCH_BYTES as usize;
                return Err(TooLong { what: "the records of a batch", len: *bytes as usize, limit });
            }
            out.lsn(*start);
            out.lsn(*next);
            out.u32(*bytes);
            follows = *bytes;
            RECORDS
        }
        Frame::ReadLog { start, end } => {
            out.lsn(*start);
            out.lsn(*end);
            READ_LOG
        }
        Frame::LogBytes { start, flushed, bytes } => {
            if u64::from(*bytes) > MAX_BATCH_BYTES {
                let limit = MAX_BATCH_BYTES as usize;
                return Err(TooLong { what: "a piece of the log", len: *bytes as usize, limit });
            }
            out.lsn(*start);
            out.lsn(*flushed);
            out.u32(*bytes);
            follows = *bytes;
            LOG_BYTES
        }
        Frame::SetRule { request, rule } => {
            out.u64(*request);
            out.rule(rule)?;
            SET_RULE
        }
        Frame::Trim { request, below } => {
            out.u64(*request);
            out.lsn(*below);
            TRIM
        }
        Frame::Promote { request, standbys, rule, force, timeout_ms } => {
            out.u64(*request);
            out.count("the standbys", standbys.len(), MAX_STANDBYS)?;
            for (name, address) in standbys {
                out.name(name)?;
                out.text("an address", address, MAX_ADDRESS_BYTES)?;
            }
            out.u8(u8::from(rule.is_some()));
            out.rule(rule.as_deref().unwrap_or_default())?;
            out.u8(u8::from(*force));
            out.u64(*timeout_ms);
            PROMOTE
        }
        Frame::Promoted { request, term, start, adopters, warnings } => {
            out.u64(*request);
            out.term(*term);
            out.lsn(*start);
            out.count("the adopters", adopters.len(), MAX_STANDBYS)?;
            for name in adopters {
                out.name(name)?;
            }
            write_message(warnings, out)?;
            PROMOTED
        }
        Frame::Pause { request, limit_ms } => {
            out.u64(*request);
            out.u64(*limit_ms);
            PAUSE
        }
        Frame::Paused { request, end } => {
            out.u64(*request);
            out.lsn(*end);
            PAUSED
        }
        Frame::Resume { request } => {
            out.u64(*request);
            RESUME
        }
        Frame::Done { request, error } => {
            out.u64(*request);
            write_message(error, out)?;
            DONE
        }
        Frame::StatusRequest => STATUS_REQUEST,
        Frame::Status { json } => {
            // The frame's own length bounds it.
            let limit = MAX_STATUS_BYTES;
            if json.len() > limit {
                return Err(TooLong { what: "a status", len: json.len(), limit });
            }
            out.bytes(json.as_bytes());
            STATUS
        }
    };
    Ok((kind, follows))
}

/// Reads the body of a frame of `kind`; answers with the payload bytes that must follow it.
pub(super) fn read_body(kind: u8, body: &[u8]) -> Result<(Frame, u32), WireError> {
    if !(HELLO..=RESUME).contains(&kind) {
        return Err(WireError::Kind(kind));
    }
    let mut reader = Reader(body);
    let frame = read_fields(kind, &mut reader).filter(|_| reader.is_done());
    frame.ok_or(WireError::Malformed(kind))
}

fn read_fields(kind: u8, from: &mut Reader<'_>) -> Option<(Frame, u32)> {
    let mut follows = 0;
    let frame = match kind {
        HELLO => Frame::Hello(read_hello(from)?),
        WELCOME => Frame::Welcome(read_welcome(from)?),
        WELCOME_CLIENT => Frame::WelcomeClient {
            version: from.u16()?,
            log: LogId(from.array()?),
            node: NodeId(from.u64()?),
            shards: from.u16()?,
        },
        REFUSED => {
            let code = from.u8()?;
            let code = REFUSALS.into_iter().find(|refusal| refusal_to_byte(*refusal) == code)?;
            Frame::Refused { code, message: from.text(MAX_MESSAGE_BYTES)? }
        }
        ADOPT => Frame::Adopt { term: from.term()?, end: read_end(from)? },
        ADOPTED => Frame::Adopted { term: from.term()?, previous: from.term()?, end: read_end(from)? },
        NOT_ADOPTED => {
            Frame::NotAdopted { adopted: from.term()?, end: read_end(from)?, history: from.history()? }
        }
        FETCH => Frame::Fetch { from: from.lsn()? },
        FETCH_END => Frame::FetchEnd { end: from.lsn()? },
        STREAM => Frame::Stream {
            term: from.term()?,
            history: from.history()?,
            log_start: from.lsn()?,
            log_end: from.lsn()?,
            set_size: from.u16()?,
        },
        READY => Frame::Ready { from: from.lsn()?, previous_hash: from.u64()? },
        SEGMENT => {
            let (seq, salt, 0) = (from.u64()?, from.u32()?, from.u64()?) else { return None };
            Frame::Segment { seq, salt }
        }
        PROGRESS => Frame::Progress { flushed: from.lsn()?, safe: from.lsn()?, log_start: from.lsn()? },
        REPORT => Frame::Report {
            term: from.term()?,
            watermarks: StandbyWatermarks {
                written: from.position()?,
                flushed: from.position()?,
                applied: from.position()?,
            },
            credit: from.lsn()?,
            failing: from.bool()?,
        },
        HEARTBEAT => Frame::Heartbeat { term: from.term()? },
        APPEND => {
            let (request, level, window) = (from.u64()?, Level::from_wire(from.u8()?)?, read_window(from)?);
            let count = from.count(MAX_APPEND_RECORDS)?;
            let lengths: Option<Vec<u32>> = (0..count).map(|_| from.u32()).collect();
            let lengths = lengths?;
            follows = append_bytes(&lengths)?;
            Frame::Append { request, level, window, lengths }
        }
        APPENDED => Frame::Appended { request: from.u64()?, outcome: read_outcome(from)? },
        WAIT => Frame::Wait { request: from.u64()?, lsn: from.lsn()?, level: Level::from_wire(from.u8()?)? },
        TAIL => Frame::Tail { from: from.lsn()?, unsafe_too: from.bool()? },
        RECORDS => {
            let (start, next, bytes) = (from.lsn()?, from.lsn()?, from.u32()?);
            follows = bytes;
            Frame::Records { start, next, bytes }
        }
        READ_LOG => Frame::ReadLog { start: from.lsn()?, end: from.lsn()? },
        LOG_BYTES => {
            let (start, flushed, bytes) = (from.lsn()?, from.lsn()?, from.u32()?);
            follows = bytes;
            Frame::LogBytes { start, flushed, bytes }
        }
        SET_RULE => Frame::SetRule { request: from.u64()?, rule: from.text(MAX_RULE_BYTES)? },
        TRIM => Frame::Trim { request: from.u64()?, below: from.lsn()? },
        PROMOTE => Frame::Promote {
            request: from.u64()?,
            standbys: {
                let count = from.count(MAX_STANDBYS)?;
                let one = |_| Some((from.text(MAX_NAME_BYTES)?, from.text(MAX_ADDRESS_BYTES)?));
                (0..count).map(one).collect::<Option<_>>()?
            },
            rule: {
                let (has_rule, rule) = (from.bool()?, from.text(MAX_RULE_BYTES)?);
                if !has_rule && !rule.is_empty() {
                    return None;
                }
                has_rule.then_some(rule)
            },
            force: from.bool()?,
            timeout_ms: from.u64()?,
        },
        PROMOTED => Frame::Promoted {
            request: from.u64()?,
            term: from.term()?,
            start: from.lsn()?,
            adopters: {
                let count = from.count(MAX_STANDBYS)?;
                (0..count).map(|_| from.text(MAX_NAME_BYTES)).collect::<Option<_>>()?
            },
            warnings: from.text(MAX_MESSAGE_BYTES)?,
        },
        PAUSE => Frame::Pause { request: from.u64()?, limit_ms: from.u64()? },
        PAUSED => Frame::Paused { request: from.u64()?, end: from.lsn()? },
        RESUME => Frame::Resume { request: from.u64()? },
        DONE => Frame::Done { request: from.u64()?, error: from.text(MAX_MESSAGE_BYTES)? },
        STATUS_REQUEST => Frame::StatusRequest,
        STATUS => {
            let json = from.take(from.0.len())?;
            Frame::Status { json: std::str::from_utf8(json).ok()?.to_owned() }
        }
        _ => return None,
    };
    Some((frame, follows))
}

fn write_hello(hello: &Hello, out: &mut Writer<'_>) -> Result<(), TooLong> {
    out.u16(hello.versions.0);
    out.u16(hello.versions.1);
    out.u8(match hello.role {
        HelloRole::Upstream => 1,
        HelloRole::Client => 2,
    });
    out.u16(hello.shard);
    out.bytes(&hello.log.0);
    out.u64(hello.geometry.segment_bytes);
    out.u64(hello.geometry.in_flight_bytes);
    out.u64(hello.node.0);
    out.name(&hello.name)?;
    out.u64(hello.nonce);
    out.term(hello.adopted);
    write_end(&hello.end, out);
    Ok(())
}

fn read_hello(from: &mut Reader<'_>) -> Option<Hello> {
    Some(Hello {
        versions: (from.u16()?, from.u16()?),
        role: match from.u8()? {
            1 => HelloRole::Upstream,
            2 => HelloRole::Client,
            _ => return None,
        },
        shard: from.u16()?,
        log: LogId(from.array()?),
        geometry: Geometry { segment_bytes: from.u64()?, in_flight_bytes: from.u64()? },
        node: NodeId(from.u64()?),
        name: from.text(MAX_NAME_BYTES)?,
        nonce: from.u64()?,
        adopted: from.term()?,
        end: read_end(from)?,
    })
}

fn write_welcome(welcome: &Welcome, out: &mut Writer<'_>) -> Result<(), TooLong> {
    out.u16(welcome.version);
    out.bytes(&welcome.log.0);
    out.u64(welcome.node.0);
    out.name(&welcome.name)?;
    out.u64(welcome.incarnation);
    out.term(welcome.adopted);
    write_end(&welcome.end, out);
    out.lsn(welcome.log_start);
    out.history(&welcome.history)?;
    out.lsn(welcome.leader_flushed);
    out.u8(u8::from(welcome.applies));
    out.u8(u8::from(welcome.applies_safe));
    out.u16(welcome.set_size);
    Ok(())
}

fn read_welcome(from: &mut Reader<'_>) -> Option<Welcome> {
    Some(Welcome {
        version: from.u16()?,
        log: LogId(from.array()?),
        node: NodeId(from.u64()?),
        name: from.text(MAX_NAME_BYTES)?,
        incarnation: from.u64()?,
        adopted: from.term()?,
        end: read_end(from)?,
        log_start: from.lsn()?,
        history: from.history()?,
        leader_flushed: from.lsn()?,
        applies: from.bool()?,
        applies_safe: from.bool()?,
        set_size: from.u16()?,
    })
}

fn write_end(end: &LogEnd, out: &mut Writer<'_>) {
    out.term(end.last_term);
    out.lsn(end.flushed);
}

fn read_end(from: &mut Reader<'_>) -> Option<LogEnd> {
    Some(LogEnd { last_term: from.term()?, flushed: from.lsn()? })
}

/// A message too long for its frame loses its end, not its connection.
fn write_message(message: &str, out: &mut Writer<'_>) -> Result<(), TooLong> {
    let end = (0..=MAX_MESSAGE_BYTES).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
    out.text("a message", message.get(..end).unwrap_or(message), MAX_MESSAGE_BYTES)
}

fn write_window(window: Option<Window>, out: &mut Writer<'_>) {
    let (tag, size) = match window {
        None => (0, 0),
        Some(Window::Bytes(size)) => (1, size),
        Some(Window::Records(size)) => (2, size),
        Some(Window::Micros(size)) => (3, size),
        Some(Window::Infinite) => (4, 0),
    };
    out.u8(tag);
    out.u64(size);
}

fn read_window(from: &mut Reader<'_>) -> Option<Option<Window>> {
    match (from.u8()?, from.u64()?) {
        (0, 0) => Some(None),
        (1, size) => Some(Some(Window::Bytes(size))),
        (2, size) => Some(Some(Window::Records(size))),
        (3, size) => Some(Some(Window::Micros(size))),
        (4, 0) => Some(Some(Window::Infinite)),
        _ => None,
    }
}

fn write_outcome(outcome: &Outcome, out: &mut Writer<'_>) -> Result<(), TooLong> {
    match outcome {
        Outcome::Committed(committed) => {
            out.u8(1);
            out.lsn(committed.lsn);
            out.lsn(committed.end);
            out.u8(committed.level.to_wire());
            write_window(committed.window, out);
            out.u64(committed.rule_version);
            out.u64(committed.fill_bytes);
            out.u8(u8::from(committed.waited_for_window));
        }
        Outcome::Refused(why) => {
            out.u8(2);
            write_message(why, out)?;
        }
        Outcome::Indeterminate(why) => {
            out.u8(3);
            write_message(why, out)?;
        }
    }
    Ok(())
}

fn read_outcome(from: &mut Reader<'_>) -> Option<Outcome> {
    Some(match from.u8()? {
        1 => Outcome::Committed(Committed {
            lsn: from.lsn()?,
            end: from.lsn()?,
            level: Level::from_wire(from.u8()?)?,
            window: read_window(from)?,
            rule_version: from.u64()?,
            fill_bytes: from.u64()?,
            waited_for_window: from.bool()?,
        }),
        2 => Outcome::Refused(from.text(MAX_MESSAGE_BYTES)?),
        3 => Outcome::Indeterminate(from.text(MAX_MESSAGE_BYTES)?),
        _ => return None,
    })
}

/// The payload of an append; `None` when a record or the whole is over its limit.
fn append_bytes(lengths: &[u32]) -> Option<u32> {
    let fits = lengths.iter().all(|len| u64::from(*len) <= MAX_RECORD_BYTES);
    let sum: u64 = lengths.iter().map(|len| u64::from(*len)).sum();
    (fits && sum <= MAX_APPEND_BYTES).then_some(sum as u32)
}

fn refusal_to_byte(code: RefusalCode) -> u8 {
    match code {
        RefusalCode::Version => 1,
        RefusalCode::OtherLog => 2,
        RefusalCode::OtherGeometry => 3,
        RefusalCode::StaleTerm => 4,
        RefusalCode::NoShard => 5,
        RefusalCode::Busy => 6,
        RefusalCode::Unavailable => 7,
        RefusalCode::Resync => 8,
        RefusalCode::Protocol => 9,
    }
}

const REFUSALS: [RefusalCode; 9] = [
    RefusalCode::Version,
    RefusalCode::OtherLog,
    RefusalCode::OtherGeometry,
    RefusalCode::StaleTerm,
    RefusalCode::NoShard,
    RefusalCode::Busy,
    RefusalCode::Unavailable,
    RefusalCode::Resync,
    RefusalCode::Protocol,
];

const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const WELCOME_CLIENT: u8 = 3;
const REFUSED: u8 = 4;
const ADOPT: u8 = 5;
const ADOPTED: u8 = 6;
const NOT_ADOPTED: u8 = 7;
const FETCH: u8 = 8;
const FETCH_END: u8 = 9;
const STREAM: u8 = 10;
const READY: u8 = 11;
const SEGMENT: u8 = 12;
const PROGRESS: u8 = 13;
const REPORT: u8 = 14;
const HEARTBEAT: u8 = 15;
const APPEND: u8 = 16;
const APPENDED: u8 = 17;
const WAIT: u8 = 18;
const TAIL: u8 = 19;
const RECORDS: u8 = 20;
const SET_RULE: u8 = 21;
const TRIM: u8 = 22;
const DONE: u8 = 23;
const STATUS_REQUEST: u8 = 24;
pub(super) const STATUS: u8 = 25;
const READ_LOG: u8 = 26;
const LOG_BYTES: u8 = 27;
const PROMOTE: u8 = 28;
const PROMOTED: u8 = 29;
const PAUSE: u8 = 30;
const PAUSED: u8 = 31;
const RESUME: u8 = 32;
/// Bytes of a host name with its port.
const MAX_ADDRESS_BYTES: usize = 128;

const _: () = assert!(64 + MAX_STANDBYS * (4 + MAX_NAME_BYTES + MAX_ADDRESS_BYTES) + 512 <= MAX_FRAME_BYTES);
const _: () = assert!(64 + 4 * MAX_APPEND_RECORDS <= MAX_FRAME_BYTES);
