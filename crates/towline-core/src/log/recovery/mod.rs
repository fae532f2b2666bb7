//! Recovery: reading a log back, and judging the first bad place in it. Pure: the bytes come from a
//! [`SegmentSource`], the judgement is a function of [`Evidence`], nothing is changed here.
//!
//! Start at [`scan`] to open a log, at [`BatchWalk`] to look at every batch of one,
//! at [`wanted`] to mend one with a peer's bytes.

mod ahead;
mod mend;
mod scan;
mod source;
mod verdict;
mod walk;

pub use ahead::{Ahead, LaterBatch, MAX_LATER_LISTED};
pub use mend::{MAX_PATCH_BYTES, Patch, Patched, Wanted, mending, wanted};
pub use scan::{Scan, ScanInput, scan};
pub use source::{ScanError, SegmentFile, SegmentSource, SegmentState, SegmentTable, SourceError};
pub use verdict::{Evidence, Standing, Verdict, Why, judge};
pub use walk::{BatchView, BatchWalk, Step, Stop};
