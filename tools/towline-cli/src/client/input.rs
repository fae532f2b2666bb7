//! Records out of standard input, read a few ahead on a thread of their own.

use std::io::{self, BufRead, ErrorKind, Read};
use std::sync::mpsc::{Receiver, sync_channel};

use towline_core::types::limits::MAX_RECORD_BYTES;

use crate::exit::{Code, Failure};

/// Reads standard input on a thread of its own, a few records ahead. The channel ends with the input.
pub(super) fn read_ahead(length_prefixed: bool) -> io::Result<Receiver<Result<Vec<u8>, Failure>>> {
    let (sender, receiver) = sync_channel(READ_AHEAD);
    std::thread::Builder::new().name("input".to_owned()).spawn(move || {
        let mut input = io::stdin().lock();
        for number in 1.. {
            let mut record = Vec::new();
            let read = if length_prefixed {
                read_prefixed(&mut input, &mut record, number)
            } else {
                read_line(&mut input, &mut record, number)
            };
            let next = match read {
                Ok(true) => Ok(record),
                Ok(false) => return,
                Err(failure) => Err(failure),
            };
            let failed = next.is_err();
            if sender.send(next).is_err() || failed {
                return;
            }
        }
    })?;
    Ok(receiver)
}

/// Records read ahead of what is sent; each may be as long as a record can be.
const READ_AHEAD: usize = 16;

/// A line without its end; false at the end of the input.
fn read_line(input: &mut impl BufRead, record: &mut Vec<u8>, number: u64) -> Result<bool, Failure> {
    // One more than allowed, and the line's end: enough to see that a line is too long without holding it.
    input.take(MAX_RECORD_BYTES + 2).read_until(b'\n', record)?;
    if record.is_empty() {
        return Ok(false);
    }
    if record.last() == Some(&b'\n') {
        record.pop();
    }
    if record.len() as u64 > MAX_RECORD_BYTES {
        return Err(too_long(number, None));
    }
    Ok(true)
}

/// A record behind its length; false at the end of the input.
fn read_prefixed(input: &mut impl BufRead, record: &mut Vec<u8>, number: u64) -> Result<bool, Failure> {
    if input.fill_buf()?.is_empty() {
        return Ok(false);
    }
    let cut = |error: io::Error| match error.kind() {
        ErrorKind::UnexpectedEof => Failure::new(
            Code::Failed,
            anyhow::anyhow!("standard input ends inside record {number}, which was not appended"),
        ),
        _ => Failure::from(error),
    };
    let mut length = [0; 4];
    input.read_exact(&mut length).map_err(cut)?;
    let length = u32::from_le_bytes(length);
    if u64::from(length) > MAX_RECORD_BYTES {
        return Err(too_long(number, Some(length)));
    }
    record.resize(length as usize, 0);
    input.read_exact(record).map_err(cut)?;
    Ok(true)
}

fn too_long(number: u64, length: Option<u32>) -> Failure {
    let length = length.map_or(String::new(), |length| format!(" of {length} bytes"));
    Failure::new(
        Code::Failed,
        anyhow::anyhow!(
            "record {number} of standard input{length} is longer than {MAX_RECORD_BYTES} bytes, the limit: split it; it, \
             what follows it, and the records of its own --atomic group were not appended"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_with_or_without_a_line_end() {
        let mut input = &b"one\n\ntwo"[..];
        let mut records = Vec::new();
        loop {
            let mut record = Vec::new();
            if !read_line(&mut input, &mut record, 1).unwrap() {
                break;
            }
            records.push(record);
        }
        assert_eq!(records, [&b"one"[..], b"", b"two"]);
    }

    #[test]
    fn a_line_over_the_limit_is_refused_without_being_held() {
        let long = vec![b'x'; MAX_RECORD_BYTES as usize * 2];
        let mut record = Vec::new();
        assert!(read_line(&mut &long[..], &mut record, 1).is_err());
        assert!(record.len() as u64 <= MAX_RECORD_BYTES + 2);
        let mut exact = vec![b'x'; MAX_RECORD_BYTES as usize];
        exact.push(b'\n');
        record.clear();
        assert!(read_line(&mut &exact[..], &mut record, 1).unwrap());
        assert_eq!(record.len() as u64, MAX_RECORD_BYTES);
    }

    #[test]
    fn prefixed_records_are_whole_or_refused() {
        let mut input = &b"\x03\0\0\0abc\0\0\0\0\x05\0\0\0ab"[..];
        let mut record = Vec::new();
        assert!(read_prefixed(&mut input, &mut record, 1).unwrap());
        assert_eq!(record, b"abc");
        record.clear();
        assert!(read_prefixed(&mut input, &mut record, 1).unwrap());
        assert_eq!(record, b"");
        record.clear();
        assert!(read_prefixed(&mut input, &mut record, 1).is_err(), "cut short");
        assert!(read_prefixed(&mut &b"\xff\xff\xff\xff"[..], &mut record, 1).is_err(), "over the limit");
        assert!(!read_prefixed(&mut &b""[..], &mut record, 1).unwrap());
    }
}
