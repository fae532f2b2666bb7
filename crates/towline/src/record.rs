//! Records as a reader of the log gets them.

use bytes::Bytes;
use towline_core::format::{RecordHeader, RecordKind};
use towline_core::types::Lsn;
use towline_core::types::limits::RECORD_HEADER_BYTES;

/// One record of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where it begins: the LSN that its append was acknowledged with.
    pub lsn: Lsn,
    /// One past its last byte, the padding to the next record included.
    pub end: Lsn,
    /// What was appended. The payloads of a batch share one copy of it, which lives as long as one of them.
    pub payload: Bytes,
}

/// Iterates over the data records in the body of a batch, skipping what the log wrote for itself.
///
/// Ends early only at bytes that are no record; whoever handed the body out has checked its CRC.
#[derive(Debug, Clone)]
pub struct Records {
    lsn: Lsn,
    body: Bytes,
}

impl Records {
    /// `body` holds whole records, the first at `start`.
    pub(crate) fn new(start: Lsn, body: Bytes) -> Records {
        Records { lsn: start, body }
    }
}

impl Iterator for Records {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        loop {
            let header = RecordHeader::decode(*self.body.first_chunk::<{ RECORD_HEADER_BYTES as usize }>()?)?;
            let payload_start = RECORD_HEADER_BYTES as usize;
            let payload_end = payload_start + header.len as usize;
            if payload_end > self.body.len() {
                return None;
            }
            let lsn = self.lsn;
            let payload = self.body.slice(payload_start..payload_end);
            let total = usize::try_from(header.total_bytes()).ok()?.min(self.body.len());
            self.lsn = lsn.plus(header.total_bytes());
            self.body = self.body.slice(total..);
            if header.kind == RecordKind::Data {
                return Some(Record { lsn, end: self.lsn, payload });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use towline_core::format::{encode_record_header, void_header};

    fn body() -> Vec<u8> {
        let mut body = Vec::new();
        for payload in [&b"first"[..], b"", b"12345678"] {
            body.extend(encode_record_header(RecordKind::Data, payload.len() as u32, 0));
            body.extend(payload);
            body.resize(body.len().next_multiple_of(8), 0);
            body.extend(void_header(16));
            body.extend([0; 8]);
        }
        body
    }

    #[test]
    fn data_records_come_with_their_places_and_voids_do_not() {
        let records: Vec<Record> = Records::new(Lsn(4096), Bytes::from(body())).collect();
        let seen: Vec<(u64, u64, &[u8])> =
            records.iter().map(|record| (record.lsn.0, record.end.0, &record.payload[..])).collect();
        assert_eq!(seen, [(4096, 4112, &b"first"[..]), (4128, 4136, b""), (4152, 4168, b"12345678")]);
    }

    #[test]
    fn a_body_that_ends_in_a_record_ends_the_iterator() {
        let mut short = body();
        short.truncate(17);
        assert_eq!(Records::new(Lsn(0), Bytes::from(short)).count(), 1);
        assert_eq!(Records::new(Lsn(0), Bytes::from(vec![0; 64])).count(), 0);
    }
}
