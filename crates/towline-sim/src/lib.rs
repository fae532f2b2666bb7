#![allow(unreachable_pub)]
//! The very node that ships, in a deterministic world: disks that forget, fill, fail and rot, links that delay,
//! clog and break, processes that crash, pause and come back. One seed is one world.
//!
//! What it does: drives [`towline_core::node::Node`] as the runtime does, under faults, and has the checker judge
//! every acknowledgement. What it never does: read a clock, start a thread on its own account, do I/O.
//!
//! Start at [`run`] (one world) or [`swarm`] (many). The first broken promise ends a world; its seed alone
//! replays it.

mod bytes;
mod disk;
mod env;
mod host;
mod marks;
mod rng;
mod run;
mod setup;
mod swarm;
mod trace;
mod walk;
mod world;

pub use marks::{Mark, Tally};
pub use run::{LEAST_APPENDS, LEAST_CRASHES, LEAST_FAULTS, Run, run};
pub use swarm::{Swarm, SwarmReport, swarm};
pub use trace::TRACE_VERSION;
