//! Single-leader replication: one primary orders, standbys hold the same bytes.

mod leadership;

pub use leadership::{Candidacy, fork_of, may_adopt, next_term, quorum};
