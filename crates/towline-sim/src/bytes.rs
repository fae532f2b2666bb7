//! Bytes by log position; what was never written is zero.

use std::collections::BTreeMap;

use towline_core::types::{Lsn, Span};

const CHUNK: u64 = 16 << 10;

/// A sparse piece of memory or disk.
#[derive(Default, Clone, Debug)]
pub struct Bytes(BTreeMap<u64, Vec<u8>>);

impl Bytes {
    /// Writes `bytes` at `start`.
    pub fn put(&mut self, start: Lsn, bytes: &[u8]) {
        let (mut at, mut rest) = (start.0, bytes);
        while !rest.is_empty() {
            let offset = (at % CHUNK) as usize;
            let take = rest.len().min(CHUNK as usize - offset);
            let chunk = self.0.entry(at / CHUNK).or_insert_with(|| vec![0; CHUNK as usize]);
            chunk[offset..offset + take].copy_from_slice(&rest[..take]);
            at += take as u64;
            rest = &rest[take..];
        }
    }

    /// Fills `into` from `start` on.
    pub fn read(&self, start: Lsn, into: &mut [u8]) {
        let (mut at, mut rest) = (start.0, into);
        while !rest.is_empty() {
            let offset = (at % CHUNK) as usize;
            let take = rest.len().min(CHUNK as usize - offset);
            let (head, tail) = rest.split_at_mut(take);
            match self.0.get(&(at / CHUNK)) {
                Some(chunk) => head.copy_from_slice(&chunk[offset..offset + take]),
                None => head.fill(0),
            }
            at += take as u64;
            rest = tail;
        }
    }

    /// The bytes of `span`.
    pub fn get(&self, span: Span) -> Vec<u8> {
        let mut bytes = vec![0; span.len() as usize];
        self.read(span.start, &mut bytes);
        bytes
    }

    /// Makes `span` zero.
    pub fn zero(&mut self, span: Span) {
        let whole = span.start.0.div_ceil(CHUNK)..span.end.0 / CHUNK;
        let touched: Vec<u64> =
            self.0.range(span.start.0 / CHUNK..span.end.0.div_ceil(CHUNK)).map(|(chunk, _)| *chunk).collect();
        for chunk in touched {
            if whole.contains(&chunk) {
                self.0.remove(&chunk);
            } else if let Some(bytes) = self.0.get_mut(&chunk) {
                let from = span.start.0.saturating_sub(chunk * CHUNK).min(CHUNK) as usize;
                let to = span.end.0.saturating_sub(chunk * CHUNK).min(CHUNK) as usize;
                bytes[from..to].fill(0);
            }
        }
    }

    /// Takes the whole chunks of `span` out, counted from its start.
    pub fn move_out(&mut self, span: Span) -> Bytes {
        let first = span.start.0 / CHUNK;
        let chunks: Vec<u64> = self.0.range(first..span.end.0 / CHUNK).map(|(chunk, _)| *chunk).collect();
        let moved = chunks.into_iter().filter_map(|n| self.0.remove(&n).map(|chunk| (n - first, chunk)));
        Bytes(moved.collect())
    }

    /// Puts chunks that were taken out at `start`.
    pub fn move_in(&mut self, start: Lsn, from: Bytes) {
        self.0.extend(from.0.into_iter().map(|(n, chunk)| (start.0 / CHUNK + n, chunk)));
    }
}
