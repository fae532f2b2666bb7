//! Storage on a real disk: directories, meta block, keeper, recovery, crash points.
#![allow(clippy::unwrap_used, reason = "helpers of tests stand outside of test functions")]

mod arena;
mod directory;
mod keeper;
mod recovery;
mod repair;
mod support;
