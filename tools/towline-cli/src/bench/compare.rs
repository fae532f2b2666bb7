//! `towline bench compare`: hands over to `towline-compare`, which alone carries the clients of other systems.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use crate::exit::{Code, Failure};

/// What stands behind `towline bench compare`, when that was called.
pub(crate) fn arguments() -> Option<Vec<OsString>> {
    let mut arguments = std::env::args_os().skip(1);
    let is = |given: Option<OsString>, word: &str| given.is_some_and(|given| given == word);
    (is(arguments.next(), "bench") && is(arguments.next(), "compare")).then(|| arguments.collect())
}

/// Becomes that program; returns only when it cannot.
pub(crate) fn become_it(arguments: Vec<OsString>) -> Failure {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => {
            return Failure::new(Code::Failed, anyhow::anyhow!("cannot find this program: {error}"));
        }
    };
    let beside = program.with_file_name(NAME);
    let mut command = match from_checkout() {
        Some(command) => command,
        None if beside.is_file() => Command::new(beside),
        None => {
            let where_to = program.parent().map_or_else(String::new, |dir| dir.display().to_string());
            return Failure::new(
                Code::Failed,
                anyhow::anyhow!(
                    "{NAME} is a program of its own and not in {where_to}: install it from a checkout with \
                     `cargo install --path benches/{NAME}`, or run `cargo towline bench compare` there"
                ),
            );
        }
    };
    let error = command.arg("--program").arg(&program).args(arguments).exec();
    Failure::new(Code::Failed, anyhow::anyhow!("cannot start {NAME}: {error}"))
}

/// When cargo runs this program, cargo builds and runs that one, too: it is never older than the sources.
fn from_checkout() -> Option<Command> {
    let cargo = std::env::var_os("CARGO")?;
    let own = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR")?);
    let manifest = own.join("../../benches").join(NAME).join("Cargo.toml");
    if !manifest.is_file() {
        return None;
    }
    let mut command = Command::new(cargo);
    command.args(["run", "--bin", NAME, "--manifest-path"]).arg(manifest);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    command.arg("--");
    Some(command)
}

const NAME: &str = "towline-compare";
