//! The table of bugs: `results/bugs.md` to read, `results/bugs.json` for programs.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use super::Caught;
use super::hunt::World;

/// One line for the terminal.
pub(crate) fn line(caught: &Caught) -> String {
    let verdict = if caught.catch.is_caught() { "caught  " } else { "SURVIVES" };
    format!("{verdict} {:24} {}", caught.bug.name(), by(caught))
}

/// Writes both tables.
pub(crate) fn write(root: &Path, all: &[Caught], worlds: u64) -> Result<()> {
    let folder = root.join("results");
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let mut text = String::from(HEAD);
    let _ = writeln!(
        text,
        "Tests that fail are those of `towline-core`, and of real processes where no simulation can see the bug; \
         *worlds* is after how many of {worlds} simulated worlds, from seed 0 on, the first one broke a promise.\n\n\
         | bug | what it does wrong | tests that fail | worlds |\n| --- | --- | --- | --- |"
    );
    for one in all {
        let world = one.catch.world.as_ref().map_or("–".to_owned(), |world| world.worlds.to_string());
        let tests = match one.catch.tests.as_slice() {
            [] if one.catch.is_caught() => "–".to_owned(),
            [] => "**it survives**".to_owned(),
            tests => shown(tests),
        };
        let _ = writeln!(text, "| `{}` | {} | {tests} | {world} |", one.bug.name(), one.bug.wrong());
    }
    let bugs: Vec<serde_json::Value> = all.iter().map(as_json).collect();
    let value = json!({ "worlds_per_bug": worlds, "bugs": bugs });
    for (name, text) in [("bugs.md", text), ("bugs.json", format!("{value:#}\n"))] {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn as_json(caught: &Caught) -> serde_json::Value {
    let world = caught.catch.world.as_ref();
    let world =
        world.map(|World { seed, worlds, why }| json!({ "seed": seed, "worlds": worlds, "why": why }));
    let Caught { bug, catch } = caught;
    json!({
        "bug": bug.name(),
        "list": bug.list(),
        "wrong": bug.wrong(),
        "caught": catch.is_caught(),
        "tests": catch.tests,
        "world": world,
    })
}

fn by(caught: &Caught) -> String {
    let world = caught.catch.world.as_ref().map(|World { seed, worlds, why }| {
        format!("after {worlds} world{} (seed {seed}: {why})", if *worlds == 1 { "" } else { "s" })
    });
    let tests = (!caught.catch.tests.is_empty()).then(|| shown(&caught.catch.tests));
    world.into_iter().chain(tests).collect::<Vec<_>>().join("; ")
}

/// The first few: a bug that breaks much is not better caught.
fn shown(tests: &[String]) -> String {
    let names = tests.iter().map(|test| test.rsplit("::").next().unwrap_or(test));
    let names = names.map(|name| name.rsplit(": ").next().unwrap_or(name));
    let few: Vec<&str> = names.take(SHOWN).collect();
    let more = tests.len().saturating_sub(SHOWN);
    if more == 0 { few.join(", ") } else { format!("{} and {more} more", few.join(", ")) }
}

const SHOWN: usize = 3;
const HEAD: &str = "# Bugs on purpose\n\n\
Each breaks the code in one way that has cost others data; `cargo xtask bugs` switches on one at a time and makes this \
table. With none of them everything passes. ";
