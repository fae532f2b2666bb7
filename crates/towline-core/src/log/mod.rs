//! The log on one node: group commit, segment plan, recovery.

pub mod recovery;

mod recovered;
mod segment_plan;
mod tail;

pub use recovered::Recovered;
pub use segment_plan::SegmentPlan;
pub use tail::Tail;
