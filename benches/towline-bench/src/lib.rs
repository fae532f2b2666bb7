//! Measures what Towline's commit levels and windows cost on this machine, against what the bare machine can do.
//!
//! What it does: reads a workload, starts a cluster of real processes, offers load in closed and open loops, measures
//! the floors between the points, holds the results against them, and leaves a run folder. What it never does: claim
//! a figure without its floor of the same run, leave out what was late, or leave a process or a log behind.
//!
//! Start at [`BenchOptions`] and [`run`]; a run's parts are [`Workload`]s, which are TOML.

mod checks;
mod cluster;
mod count;
mod echo;
mod embedded;
mod error;
mod floors;
pub mod level;
pub mod load;
mod measure;
mod options;
mod plan;
pub mod process;
mod publish;
mod replay;
mod rule;
mod run;
mod run_floors;
mod target;
mod verify;
mod workload;

pub use embedded::Embedded;
pub use error::BenchError;
pub use floors::{PEER_SUBCOMMAND, append_copy_ns, peer_entry};
pub use options::BenchOptions;
pub use plan::{
    Arrivals, ClientKind, Experiment, Generator, HostKind, Kind, Overrides, Rate, Sizes, Windows,
};
pub use replay::{Row, Wal};
pub use run::{OffRoom, Outcome, run, wait_for_segments};
pub use run_floors::{RunFloors, race_primitives};
pub use workload::Workload;
