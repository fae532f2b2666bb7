//! Worlds against a bug on purpose. `cargo xtask bugs` starts it, with the bug in the environment; with none, every
//! world must keep its promises.

use towline_sim::run;

/// Runs worlds until one breaks a promise, and says after how many. A broken world is what is looked for: the
/// reader of the last line judges.
#[test]
#[ignore = "cargo xtask bugs starts it"]
fn worlds_until_one_breaks() {
    let first = asked_for("HUNT_FROM").unwrap_or(0);
    let worlds = asked_for("HUNT_WORLDS").unwrap_or(20);
    let traced = asked_for("HUNT_TRACE").is_some();
    for seed in first..first + worlds {
        let world = run(seed, traced);
        world.trace.iter().for_each(|line| println!("{line}"));
        if let Some(failure) = world.failure {
            let why = failure.lines().next().unwrap_or_default();
            return println!("\nhunt: broken seed={seed} worlds={} why={why}", seed - first + 1);
        }
    }
    println!("\nhunt: clean worlds={worlds}");
}

fn asked_for(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|number| number.parse().ok())
}
