//! The protocol of Towline: pure state machines over named byte spans.
//!
//! What it does: decides what is written, shipped, reported, acknowledged and recovered.
//! What it never does: I/O, reading a clock, starting a thread, or looking at a payload byte
//! (the codec in [`mod@format`] checks bytes that a driver shows it; nothing keeps them).
//!
//! Start at [`node::Node`]: one per shard, `handle` an [`node::Input`], then `poll_output` until `None`.

pub mod bugs;
pub mod format;
pub mod log;
pub mod node;
pub mod replication;
pub mod types;
