//! `cargo xtask bugs`: every bug on purpose (`towline_core::bugs`) must be caught by a test or by a simulated world.
//!
//! The workspace's crates are built with `--cfg towline_bugs`; each bug is then switched on through the environment of
//! the test programs. First everything runs with no bug: what is caught afterwards is caught because of the bug.

mod hunt;
mod known;
mod programs;
mod table;

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use towline_core::bugs::Bug;

use hunt::{Catch, Hunter};
use known::{Place, known};
use programs::Programs;

pub(crate) use programs::as_compiler;

/// What to run.
#[derive(Args)]
pub(crate) struct Options {
    /// What CI runs: each bug of the core against the one place that is known to catch it
    #[arg(long)]
    quick: bool,
    /// Only this bug (by name); writes no table
    #[arg(long, value_name = "NAME")]
    bug: Option<String>,
    /// Simulated worlds that a bug may survive before the worlds are said not to catch it
    #[arg(long, value_name = "N", default_value_t = 200)]
    worlds: u64,
}

/// One bug, and what caught it.
pub(crate) struct Caught {
    bug: Bug,
    catch: Catch,
}

/// Runs the suite against every bug; fails when one survives, or when something fails without a bug.
pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    let began = Instant::now();
    let bugs = chosen(options)?;
    let programs = Programs::build(root, &packages(&bugs))?;
    let hunter = Hunter { programs: &programs, worlds: options.worlds };
    let clean = in_parallel(&clean_runs(&hunter, &bugs, options.quick), |place| hunter.clean(*place));
    for result in clean {
        result.context("without any bug")?;
    }
    println!("bugs: with none of them everything passes ({:.0} s)", began.elapsed().as_secs_f64());
    let caught: Vec<Caught> = in_parallel(&bugs, |bug| {
        let catch = if options.quick { hunter.at(*bug, known(*bug)) } else { hunter.everywhere(*bug) };
        catch.map(|catch| {
            let caught = Caught { bug: *bug, catch };
            println!("{}", table::line(&caught));
            caught
        })
    })
    .into_iter()
    .collect::<Result<_>>()?;
    if !options.quick && options.bug.is_none() {
        table::write(root, &caught, options.worlds)?;
    }
    let survivors: Vec<&str> =
        caught.iter().filter(|one| !one.catch.is_caught()).map(|one| one.bug.name()).collect();
    ensure!(survivors.is_empty(), "these bugs survive, and each is a missing test: {}", survivors.join(", "));
    println!("bugs: {} of {} caught in {:.0} s", caught.len(), bugs.len(), began.elapsed().as_secs_f64());
    Ok(())
}

fn chosen(options: &Options) -> Result<Vec<Bug>> {
    if let Some(name) = &options.bug {
        let names = || Bug::ALL.iter().map(|bug| bug.name()).collect::<Vec<_>>().join(", ");
        let bug = Bug::from_name(name)
            .with_context(|| format!("there is no bug '{name}'; there are: {}", names()))?;
        return Ok(vec![bug]);
    }
    Ok(Bug::ALL.iter().copied().filter(|bug| !options.quick || known(*bug).is_simulated()).collect())
}

/// The packages whose tests are needed: real processes only for the bugs that need them.
fn packages(bugs: &[Bug]) -> Vec<&'static str> {
    let mut packages = vec!["towline-core", "towline-sim"];
    packages.extend(bugs.iter().filter_map(|bug| known(*bug).package()));
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// What runs with no bug: all that runs with one.
fn clean_runs(hunter: &Hunter<'_>, bugs: &[Bug], quick: bool) -> Vec<Place> {
    let mut places: Vec<Place> = bugs.iter().map(|bug| known(*bug)).collect();
    if !quick && places.iter().any(|place| place.is_simulated()) {
        places.retain(|place| !place.is_simulated());
        places.extend(hunter.programs.names_of("towline-core").map(Place::Program));
        places.push(Place::Worlds { from: 0, count: hunter.worlds });
    }
    places.sort_unstable();
    places.dedup();
    places
}

/// As many at once as there are cores, in any order; results in the order of the items.
fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(at) else { return };
                    let result = work(item);
                    results.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((at, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    results.sort_unstable_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}
