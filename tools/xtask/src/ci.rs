//! What must pass before a change is taken, in the order of what fails fastest.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// Runs every step; stops at the first that fails.
pub(crate) fn run(root: &Path, bench: bool) -> Result<()> {
    let cargo = |args: &str| -> Vec<String> {
        std::iter::once("cargo").chain(args.split_whitespace()).map(str::to_owned).collect()
    };
    let mut steps = vec![
        ("format", cargo("fmt --all --check")),
        ("lints", cargo("clippy --workspace --all-targets -- -D warnings")),
        ("architecture", cargo("run --quiet --package xtask -- check")),
        (
            "tests",
            if has_nextest(root) {
                // A test that passes at its second try is printed as FLAKY.
                cargo("nextest run --workspace --no-fail-fast --retries 1")
            } else {
                cargo("test --workspace --lib --bins --tests --examples")
            },
        ),
        ("bugs on purpose", cargo("run --quiet --package xtask -- bugs --quick")),
        ("tests of an ordinary user", cargo("run --quiet --package xtask -- user-tests")),
        ("doc tests", cargo("test --workspace --doc")),
        ("documentation", cargo("doc --workspace --no-deps --quiet")),
    ];
    if bench {
        steps.push((
            "a short benchmark",
            cargo("run --release --quiet --package towline-cli --bin towline -- bench ladder --duration 1s --repetitions 1 --name ci"),
        ));
    }
    for (name, command) in steps {
        step(root, name, &command)?;
    }
    Ok(())
}

fn step(root: &Path, name: &str, command: &[String]) -> Result<()> {
    println!("== {name}: {}", command.join(" "));
    let start = Instant::now();
    let status = Command::new(&command[0])
        .args(&command[1..])
        .current_dir(root)
        .env("RUSTDOCFLAGS", "-D warnings")
        .status()
        .with_context(|| format!("starting {}", command[0]))?;
    if !status.success() {
        bail!("{name} failed ({status})");
    }
    println!("== {name}: passed in {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn has_nextest(root: &Path) -> bool {
    Command::new("cargo")
        .args(["nextest", "--version"])
        .current_dir(root)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
