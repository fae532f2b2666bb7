//! The configuration file of a node: refused as a usage error, or a plan; see `config` in the included `hostile.rs`.
#![no_main]
#![allow(dead_code, unreachable_pub, reason = "parts of the program, of which this uses one")]

#[path = "../../towline-cli/src/exit.rs"]
mod exit;
#[path = "../../towline-cli/src/node/flags.rs"]
mod flags;
#[path = "../../towline-cli/src/node/flags/hostile.rs"]
mod hostile;
#[path = "../../towline-cli/src/units.rs"]
mod units;

use flags::{NodeFlags, Plan, PrimaryFlags, StandbyFlags, primary_plan, standby_plan, with_text};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hostile::config(bytes));
