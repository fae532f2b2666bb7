//! Workloads, load generators, floors and sweeps that measure Towline.
mod error;
mod load;
mod plan;
mod replay;
mod rule;
mod workload;
pub use error::BenchError;
pub use plan::*;
pub use replay::Wal;
pub use workload::Workload;
