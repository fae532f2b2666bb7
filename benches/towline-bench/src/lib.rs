//! Workloads, load generators, floors and sweeps that measure Towline.
mod count;
mod error;
mod floors;
mod load;
mod measure;
mod plan;
mod process;
mod replay;
mod rule;
mod workload;
pub use error::BenchError;
pub use plan::*;
pub use replay::Wal;
pub use workload::Workload;
