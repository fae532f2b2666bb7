//! The log on one node: group commit, segment plan, recovery.

mod recovered;

pub use recovered::Recovered;
