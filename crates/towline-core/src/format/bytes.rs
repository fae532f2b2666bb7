//! A bounded little-endian writer and reader for the layouts that have lists and strings in them.

use crate::types::limits::{MAX_NAME_BYTES, MAX_RULE_BYTES, MAX_TERM_HISTORY};
use crate::types::{Lsn, NodeId, Position, Span, Term, TermHistory, TermStart};

/// Something is longer than its limit, so it cannot be encoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{what} of {len} is over the limit of {limit}")]
pub struct TooLong {
    /// What.
    pub what: &'static str,
    /// How long it is.
    pub len: usize,
    /// How long it may be.
    pub limit: usize,
}

/// Appends values to a buffer.
pub(super) struct Writer<'a>(pub(super) &'a mut Vec<u8>);

impl Writer<'_> {
    pub(super) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn bytes(&mut self, value: &[u8]) {
        self.0.extend_from_slice(value);
    }

    pub(super) fn lsn(&mut self, value: Lsn) {
        self.u64(value.0);
    }

    pub(super) fn term(&mut self, value: Term) {
        self.u64(value.number);
        self.u64(value.node.0);
    }

    pub(super) fn span(&mut self, value: Span) {
        self.lsn(value.start);
        self.lsn(value.end);
    }

    pub(super) fn position(&mut self, value: Position) {
        self.lsn(value.lsn);
        self.u64(value.records);
        self.u64(value.payload_bytes);
    }

    /// The length of a list, after checking it.
    pub(super) fn count(&mut self, what: &'static str, len: usize, limit: usize) -> Result<(), TooLong> {
        if len > limit {
            return Err(TooLong { what, len, limit });
        }
        self.u16(u16::try_from(len).map_err(|_| TooLong { what, len, limit: usize::from(u16::MAX) })?);
        Ok(())
    }

    pub(super) fn text(&mut self, what: &'static str, value: &str, limit: usize) -> Result<(), TooLong> {
        self.count(what, value.len(), limit)?;
        self.bytes(value.as_bytes());
        Ok(())
    }

    pub(super) fn name(&mut self, value: &str) -> Result<(), TooLong> {
        self.text("a node name", value, MAX_NAME_BYTES)
    }

    pub(super) fn rule(&mut self, value: &str) -> Result<(), TooLong> {
        self.text("a sync rule", value, MAX_RULE_BYTES)
    }

    pub(super) fn history(&mut self, value: &TermHistory) -> Result<(), TooLong> {
        self.count("a term history", value.entries().len(), MAX_TERM_HISTORY)?;
        for entry in value.entries() {
            self.term(entry.term);
            self.lsn(entry.start);
        }
        Ok(())
    }
}

/// Takes values from a slice. `None`: the bytes are over, or say something that no writer says.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn bool(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    pub(super) fn lsn(&mut self) -> Option<Lsn> {
        self.u64().map(Lsn)
    }

    pub(super) fn term(&mut self) -> Option<Term> {
        Some(Term { number: self.u64()?, node: NodeId(self.u64()?) })
    }

    pub(super) fn span(&mut self) -> Option<Span> {
        let (start, end) = (self.lsn()?, self.lsn()?);
        (start <= end).then_some(Span { start, end })
    }

    pub(super) fn position(&mut self) -> Option<Position> {
        Some(Position { lsn: self.lsn()?, records: self.u64()?, payload_bytes: self.u64()? })
    }

    pub(super) fn count(&mut self, limit: usize) -> Option<usize> {
        let count = usize::from(self.u16()?);
        (count <= limit).then_some(count)
    }

    pub(super) fn text(&mut self, limit: usize) -> Option<String> {
        let len = self.count(limit)?;
        std::str::from_utf8(self.take(len)?).ok().map(str::to_owned)
    }

    pub(super) fn history(&mut self) -> Option<TermHistory> {
        let count = self.count(MAX_TERM_HISTORY)?;
        let mut history = TermHistory::default();
        for _ in 0..count {
            let entry = TermStart { term: self.term()?, start: self.lsn()? };
            history.push(entry.term, entry.start).ok()?;
        }
        Some(history)
    }

    /// Whether every byte was taken.
    pub(super) fn is_done(&self) -> bool {
        self.0.is_empty()
    }
}
