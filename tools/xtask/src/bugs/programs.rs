//! Test programs built with the bugs in them.

use std::ffi::OsString;
use std::io::BufReader;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use cargo_metadata::{Message, MetadataCommand, TargetKind};

/// Set in the environment of the compiler that [`as_compiler`] stands in for.
const AS_COMPILER: &str = "TOWLINE_XTASK_COMPILES_BUGS";

/// Cargo calls this program in place of the compiler for the workspace's own crates: it passes everything on, with the
/// cfg. So what they depend on is not built twice, and nothing is mixed up with ordinary builds. `None`: called by
/// somebody else.
pub(crate) fn as_compiler() -> Option<ExitCode> {
    std::env::var_os(AS_COMPILER)?;
    let mut words = std::env::args_os().skip(1);
    let compiler = words.next()?;
    let cfg = ["--cfg", "towline_bugs"].map(OsString::from);
    let error = Command::new(&compiler).args(words).args(cfg).exec();
    eprintln!("xtask: starting {}: {error}", compiler.display());
    Some(ExitCode::FAILURE)
}

/// One test program.
pub(crate) struct Program {
    /// `package/target`, the library's own tests as `package/lib`.
    pub(crate) name: String,
    pub(crate) file: PathBuf,
    /// Tests run in their package's folder.
    pub(crate) folder: PathBuf,
}

/// The test programs of some packages.
pub(crate) struct Programs(Vec<Program>);

impl Programs {
    /// Builds the tests of `packages`.
    pub(crate) fn build(root: &Path, packages: &[&str]) -> Result<Programs> {
        let metadata = MetadataCommand::new()
            .manifest_path(root.join("Cargo.toml"))
            .no_deps()
            .exec()
            .context("cargo metadata")?;
        let mut cargo = Command::new("cargo")
            .args([
                "test",
                "--quiet",
                "--no-run",
                "--lib",
                "--tests",
                "--message-format",
                "json-render-diagnostics",
            ])
            .args(packages.iter().flat_map(|package| ["--package", package]))
            .current_dir(root)
            .env("RUSTC_WORKSPACE_WRAPPER", std::env::current_exe().context("finding this program")?)
            .env(AS_COMPILER, "1")
            .stdout(Stdio::piped())
            .spawn()
            .context("starting cargo")?;
        let output = cargo.stdout.take().context("cargo's output is a pipe")?;
        let mut programs = Vec::new();
        for message in Message::parse_stream(BufReader::new(output)) {
            let Message::CompilerArtifact(artifact) = message.context("reading cargo's messages")? else {
                continue;
            };
            let (Some(file), true) = (artifact.executable, artifact.profile.test) else { continue };
            let package = metadata
                .packages
                .iter()
                .find(|package| package.id == artifact.package_id)
                .context("a program of no package")?;
            let is_lib = artifact.target.kind.contains(&TargetKind::Lib);
            let target = if is_lib { "lib" } else { artifact.target.name.as_str() };
            let folder = package.manifest_path.parent().context("a manifest lies in a folder")?;
            programs.push(Program {
                name: format!("{}/{target}", package.name),
                file: file.into(),
                folder: folder.into(),
            });
        }
        ensure!(
            cargo.wait().context("waiting for cargo")?.success(),
            "the tests do not build with the bugs in them"
        );
        Ok(Programs(programs))
    }

    /// The program of this name.
    pub(crate) fn get(&self, name: &str) -> Result<&Program> {
        self.0
            .iter()
            .find(|program| program.name == name)
            .with_context(|| format!("there are no tests {name}"))
    }

    /// The program at this place.
    pub(crate) fn at(&self, place: usize) -> &Program {
        &self.0[place]
    }

    /// The places of a package's programs.
    pub(crate) fn names_of(&self, package: &str) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().filter_map(move |(place, program)| {
            let of = program.name.split('/').next();
            (of == Some(package)).then_some(place)
        })
    }
}
