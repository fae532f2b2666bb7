//! See `batch_body` in the included file.
#![no_main]

#[path = "../../../crates/towline-core/tests/hostile_targets/mod.rs"]
mod hostile_targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hostile_targets::batch_body(bytes));
