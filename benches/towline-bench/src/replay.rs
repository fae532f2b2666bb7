//! Real PostgreSQL WAL as input: what `data/pgbench-wal/README.md` describes, decoded once and checked as a whole.

use crate::error::BenchError;
use std::path::Path;
use std::sync::Arc;

/// COMMIT records that may be outstanding at once: `pgbench` ran with so many clients.
pub(crate) const OUTSTANDING: usize = 8;

/// A decoded WAL segment with the list of its records.
#[derive(Clone, Debug)]
pub struct Wal {
    segment: Arc<Vec<u8>>,
    rows: Arc<Vec<Row>>,
}

/// One record, in the order in which it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Byte offset in the segment.
    pub offset: u32,
    /// Bytes up to the next record: what a replay appends.
    pub span: u32,
    /// Whether it is a transaction's COMMIT.
    pub commit: bool,
}

impl Wal {
    /// The data set that comes with the project; it is part of the program.
    ///
    /// # Errors
    /// As [`Wal::decode`].
    pub fn bundled() -> Result<Self, BenchError> {
        Self::decode(
            include_bytes!("../data/pgbench-wal/segment.zst"),
            include_bytes!("../data/pgbench-wal/records.csv.zst"),
            "the bundled data set",
        )
    }

    /// A data set of the same form from a folder with `segment.zst` and `records.csv.zst`.
    ///
    /// # Errors
    /// A file that cannot be read, or as [`Wal::decode`].
    pub fn load(dir: &Path) -> Result<Self, BenchError> {
        let read = |name: &str| {
            let path = dir.join(name);
            std::fs::read(&path).map_err(|source| BenchError::File { what: "cannot read", path, source })
        };
        Self::decode(&read("segment.zst")?, &read("records.csv.zst")?, &dir.display().to_string())
    }

    /// Decodes a segment and its list of records; `name` is how errors call it.
    ///
    /// # Errors
    /// Not zstd, not this CSV, a record outside the segment, a record out of order, or no COMMIT at all.
    pub fn decode(segment: &[u8], records: &[u8], name: &str) -> Result<Self, BenchError> {
        let refuse = |text: String| BenchError::Failed(format!("{name}: {text}: fetch the data set anew"));
        let segment =
            zstd::stream::decode_all(segment).map_err(|error| refuse(format!("segment.zst: {error}")))?;
        let records =
            zstd::stream::decode_all(records).map_err(|error| refuse(format!("records.csv.zst: {error}")))?;
        let mut reader = csv::Reader::from_reader(records.as_slice());
        if reader.headers().map_err(|error| refuse(error.to_string()))? != HEADER.as_slice() {
            return Err(refuse(format!("records.csv.zst must begin with {}", HEADER.join(","))));
        }
        let mut rows = Vec::new();
        let mut next = 0u64;
        for (line, row) in reader.deserialize::<(u32, u32, u32, u32, u8)>().enumerate() {
            let (offset, span, length, _xid, commit) = row.map_err(|error| refuse(error.to_string()))?;
            let end = u64::from(offset) + u64::from(span);
            if span == 0
                || u64::from(offset) < next
                || end > segment.len() as u64
                || length > span
                || commit > 1
            {
                return Err(refuse(format!("record {line} (offset {offset}, span {span}) lies wrong")));
            }
            next = end;
            rows.push(Row { offset, span, commit: commit == 1 });
        }
        if !rows.iter().any(|row| row.commit) {
            return Err(refuse("no record is a COMMIT".into()));
        }
        Ok(Self { segment: Arc::new(segment), rows: Arc::new(rows) })
    }

    /// All records, in order.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The bytes of one record.
    pub fn bytes(&self, row: &Row) -> &[u8] {
        // Checked when the list was decoded.
        &self.segment[row.offset as usize..row.offset as usize + row.span as usize]
    }

    /// Bytes of all records.
    pub fn total_bytes(&self) -> u64 {
        self.rows.iter().map(|row| u64::from(row.span)).sum()
    }

    /// Payload bytes per COMMIT: what one acknowledgement carries in the mean.
    pub fn bytes_per_commit(&self) -> f64 {
        let commits = self.rows.iter().filter(|row| row.commit).count();
        self.total_bytes() as f64 / commits.max(1) as f64
    }
}

const HEADER: [&str; 5] = ["offset", "span", "length", "xid", "commit"];

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(text: &[u8]) -> Vec<u8> {
        zstd::stream::encode_all(text, 1).unwrap()
    }

    #[test]
    fn the_bundled_segment_has_the_records_that_its_list_promises() {
        let wal = Wal::bundled().unwrap();
        assert_eq!(wal.rows().len(), 29_344);
        assert_eq!(wal.total_bytes(), 16_767_832);
        assert_eq!(wal.rows().iter().filter(|row| row.commit).count(), 4_219);
        assert_eq!(wal.rows().iter().map(|row| row.span).max(), Some(8_160));
        assert_eq!(wal.segment.len(), 16 << 20);
        // Rows are adjacent: a replay leaves no byte of the segment out between the first record and the last.
        assert!(wal.rows().windows(2).all(|pair| pair[0].offset + pair[0].span == pair[1].offset));
        // A WAL record begins with its total length.
        let row = wal.rows()[1];
        assert_eq!(u32::from_le_bytes(wal.bytes(&row)[..4].try_into().unwrap()), 64);
    }

    #[test]
    fn a_list_that_does_not_fit_its_segment_is_refused() {
        let segment = packed(&[7; 100]);
        let list = |body: &str| packed(format!("offset,span,length,xid,commit\n{body}").as_bytes());
        assert!(Wal::decode(&segment, &list("0,60,60,1,0\n60,40,40,1,1\n"), "x").is_ok());
        for (body, why) in [
            ("0,60,60,1,1\n60,41,40,1,1\n", "past the end"),
            ("10,10,10,1,1\n0,10,10,1,1\n", "out of order"),
            ("0,0,0,1,1\n", "empty"),
            ("0,10,11,1,1\n", "longer than its span"),
            ("0,10,10,1,2\n", "commit is 0 or 1"),
            ("0,10,10,1,0\n", "no commit"),
            ("0,ten,10,1,1\n", "not a number"),
        ] {
            assert!(Wal::decode(&segment, &list(body), "x").is_err(), "{why}: accepted");
        }
        assert!(Wal::decode(b"no zstd", &list("0,1,1,1,1\n"), "x").is_err());
        assert!(Wal::decode(&segment, &packed(b"a,b\n1,2\n"), "x").is_err());
    }
}
