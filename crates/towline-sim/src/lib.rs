#![allow(unreachable_pub)]
//! The very node that ships, in a deterministic world: a disk that forgets, links that delay and break, a clock that
//! the world turns. One seed is one world.
//!
//! What it does: drives [`towline_core::node::Node`] as the runtime does, under faults, and has the checker judge
//! every acknowledgement. What it never does: read a clock, start a thread, do I/O.
//!
//! Start at [`run`]. The first broken promise ends a world; its seed alone replays it.

mod disk;
mod host;
mod setup;
mod storm;
mod story;
mod world;

pub use storm::{LEAST_APPENDS, LEAST_CRASHES, LEAST_FAULTS, MARKS, Run, run};
