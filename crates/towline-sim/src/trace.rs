//! What happened, in order: a hash always, the lines on demand.

use std::fmt::{self, Write};

/// Of the lines of a trace and of what a seed means: another version gives other worlds.
pub const TRACE_VERSION: u32 = 7;

/// The story of one world.
#[derive(Debug, Default)]
pub struct Trace {
    hash: TraceHash,
    lines: Option<Vec<String>>,
}

impl Trace {
    /// A trace that also keeps its lines.
    pub fn with_lines(keep: bool) -> Trace {
        Trace { hash: TraceHash::default(), lines: keep.then(Vec::new) }
    }

    /// One thing happened.
    pub fn say(&mut self, now_ns: u64, who: usize, what: &dyn fmt::Debug) {
        self.hash.take(&format_args!("{now_ns} {who} {what:?}"));
        if let Some(lines) = &mut self.lines {
            let who = if who == usize::MAX { "--".to_owned() } else { format!("n{who}") };
            let line = format!("{:>9.3} ms  {who}  {what:?}", now_ns as f64 / 1e6);
            lines.push(line);
        }
    }

    /// The hash of everything so far: two runs of one seed agree in it.
    pub fn hash(&self) -> u64 {
        self.hash.value()
    }

    /// The lines, if they were kept.
    pub fn into_lines(self) -> Vec<String> {
        self.lines.unwrap_or_default()
    }
}

/// A hash over text, in order.
#[derive(Debug)]
pub struct TraceHash(u64);

impl TraceHash {
    /// One thing more.
    pub fn take(&mut self, what: &dyn fmt::Debug) {
        // Writing to the hash cannot fail.
        let _ = write!(self, "{what:?}");
    }

    /// The hash so far.
    pub fn value(&self) -> u64 {
        self.0
    }
}

impl Default for TraceHash {
    fn default() -> TraceHash {
        TraceHash(0xCBF2_9CE4_8422_2325)
    }
}

impl Write for TraceHash {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for chunk in text.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            let mixed = (self.0 ^ u64::from_le_bytes(word)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            self.0 = mixed ^ (mixed >> 29);
        }
        Ok(())
    }
}
