//! The tests once more as most people run them: as an ordinary user who may lock 8 MiB of memory. To root that limit
//! does not apply, so a ring or an arena that needs more would never be seen to fail.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cargo_metadata::Message;

/// A test program, and the folder of its package.
struct TestProgram {
    path: PathBuf,
    package: PathBuf,
}

/// Runs the tests of the crates that lock memory; says aloud why where it cannot.
pub(crate) fn run(root: &Path) -> Result<()> {
    println!("== tests of an ordinary user: {}, {LIMIT_BYTES} bytes of locked memory", CRATES.join(", "));
    if fs::metadata("/proc/self")?.uid() != 0 {
        let limit = own_limit()?;
        if limit != Some(LIMIT_BYTES) {
            println!(
                "== SKIPPED: the limit here is {limit:?}; `ulimit -l 8192` sets it, or run this as root"
            );
        } else {
            println!("== the tests above ran so");
        }
        return Ok(());
    }
    for tool in ["setpriv", "prlimit"] {
        if Command::new(tool).arg("--version").stdout(Stdio::null()).status().is_err() {
            println!("== SKIPPED: {tool} of util-linux is not installed");
            return Ok(());
        }
    }
    let start = Instant::now();
    let (programs, temporary) = build(root)?;
    ensure!(programs.len() >= CRATES.len(), "only {} test programs were built", programs.len());
    if !reachable(&programs[0].path)? {
        println!("== SKIPPED: user {USER} cannot reach {}: check out elsewhere", programs[0].path.display());
        return Ok(());
    }
    // As /tmp is: everybody may make folders, nobody may touch another's.
    fs::create_dir_all(&temporary)?;
    let before = fs::metadata(&temporary)?.permissions();
    fs::set_permissions(&temporary, Permissions::from_mode(0o1777))?;
    let deadline = Instant::now() + TIME_LIMIT;
    let result = programs.iter().try_for_each(|program| run_one(program, deadline));
    fs::set_permissions(&temporary, before)?;
    result?;
    println!(
        "== tests of an ordinary user: {} programs passed in {:.1} s",
        programs.len(),
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Builds the tests; returns the programs and the folder that they make theirs in.
fn build(root: &Path) -> Result<(Vec<TestProgram>, PathBuf)> {
    let mut command = Command::new("cargo");
    // Of the whole workspace, as CI has just built it: a choice of packages would have features of its own, and build
    // everything once more.
    command.args(["test", "--workspace", "--no-run", "--tests", "--message-format=json-render-diagnostics"]);
    let output = command.current_dir(root).stderr(Stdio::inherit()).output().context("starting cargo")?;
    ensure!(output.status.success(), "the tests do not build ({})", output.status);
    let mut programs = Vec::new();
    for message in Message::parse_stream(output.stdout.as_slice()) {
        if let Message::CompilerArtifact(artifact) = message.context("reading cargo's messages")?
            && artifact.profile.test
            && artifact.manifest_path.parent().and_then(|folder| folder.file_name()).is_some_and(is_listed)
            && let Some(path) = artifact.executable
            && !TOO_LONG.contains(&artifact.target.name.as_str())
        {
            let package = artifact.manifest_path.parent().context("a manifest has a folder")?;
            programs.push(TestProgram { path: path.into(), package: package.into() });
        }
    }
    let metadata = cargo_metadata::MetadataCommand::new().current_dir(root).no_deps().exec()?;
    Ok((programs, metadata.target_directory.join("tmp").into()))
}

/// Crates lie in folders of their names.
fn is_listed(folder: &str) -> bool {
    CRATES.contains(&folder)
}

/// Runs one program to its end, or ends it and all it started at the deadline.
fn run_one(program: &TestProgram, deadline: Instant) -> Result<()> {
    let name = program.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut child = as_user(&program.path)
        .arg("--quiet")
        .current_dir(&program.package)
        .process_group(0)
        .spawn()
        .context("starting prlimit")?;
    loop {
        match child.try_wait()? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => bail!("{name} failed as an ordinary user ({status})"),
            None if Instant::now() > deadline => {
                // Not waited for yet: the group still is its own.
                let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", child.id())]).status();
                let _ = child.wait();
                bail!("{name}: the time of {} s for all of these tests is up", TIME_LIMIT.as_secs());
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn as_user(program: &Path) -> Command {
    let mut command = Command::new("prlimit");
    command.arg(format!("--memlock={LIMIT_BYTES}:{LIMIT_BYTES}"));
    command.args(["setpriv", &format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups", "--"]);
    command.arg(program);
    command
}

fn reachable(program: &Path) -> Result<bool> {
    let status = as_user(Path::new("test")).arg("-x").arg(program).status().context("starting prlimit")?;
    Ok(status.success())
}

/// Bytes of memory that this process may lock; `None` when there is no limit.
fn own_limit() -> Result<Option<u64>> {
    let limits = fs::read_to_string("/proc/self/limits")?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"));
    let soft = line.and_then(|line| line.split_whitespace().next()).context("/proc/self/limits")?;
    Ok(soft.parse().ok())
}

/// The crates that register buffers, map arenas or start programs that do.
const CRATES: [&str; 4] = ["towline-uring", "towline-runtime", "towline", "towline-cli"];
/// Test programs that take longer than this step may, and lock nothing that the others do not.
const TOO_LONG: &[&str] = &["kills"];
/// What Linux gives an ordinary user since 5.16.
const LIMIT_BYTES: u64 = 8 << 20;
/// Nobody, on every Linux.
const USER: u32 = 65534;
const TIME_LIMIT: Duration = Duration::from_secs(300);
