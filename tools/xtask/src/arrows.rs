//! Which crate may depend on which, and which module of the core may name which.

use std::path::Path;

use anyhow::{Context, Result};
use cargo_metadata::{DependencyKind, MetadataCommand};

use crate::sources::SourceFile;

/// Each crate of the workspace with the workspace crates it may depend on. A crate that is not listed is a finding:
/// its place has to be decided here.
const CRATES: &[(&str, &[&str])] = &[
    ("towline-core", &[]),
    ("towline-check", &["towline-core"]),
    ("towline-sim", &["towline-core", "towline-check"]),
    ("towline-uring", &["towline-core"]),
    ("towline-runtime", &["towline-core", "towline-uring"]),
    ("towline", &["towline-core", "towline-runtime"]),
    ("linkem", &[]),
    ("powercut", &[]),
    ("towline-report", &[]),
    (
        "towline-bench",
        &["towline", "towline-core", "towline-runtime", "towline-uring", "towline-report", "linkem"],
    ),
    ("towline-compare", &["towline", "towline-bench", "towline-report", "towline-uring"]),
    (
        "towline-survive",
        &["towline", "towline-check", "towline-core", "towline-runtime", "linkem", "powercut"],
    ),
    (
        "towline-cli",
        &[
            "towline",
            "towline-bench",
            "towline-core",
            "towline-report",
            "towline-runtime",
            "towline-sim",
            "towline-survive",
            "towline-uring",
        ],
    ),
    // The list of bugs on purpose.
    ("xtask", &["towline-core"]),
];

/// The sans-IO core: everything it may be built from.
const CORE_MAY_USE: &[&str] = &["crc-fast", "serde", "thiserror", "zerocopy"];

/// Each module of the core with the sibling modules it must not name. Arrows go
/// `types ← format ← log, replication ← node`; log and replication do not know each other.
const MODULES: &[(&str, &[&str])] = &[
    ("types", &["format", "log", "replication", "node"]),
    ("format", &["log", "replication", "node"]),
    ("log", &["replication", "node"]),
    ("replication", &["log", "node"]),
];

/// Findings about dependencies between crates, from `cargo metadata`.
pub(crate) fn crate_arrows(root: &Path) -> Result<Vec<String>> {
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .no_deps()
        .exec()
        .context("cargo metadata")?;
    let members: Vec<&str> = metadata.packages.iter().map(|package| package.name.as_str()).collect();
    let mut findings = Vec::new();
    for package in &metadata.packages {
        let name = package.name.as_str();
        let Some((_, allowed)) = CRATES.iter().find(|(crate_name, _)| *crate_name == name) else {
            findings
                .push(format!("{name}: a new crate; say in tools/xtask/src/arrows.rs what it may depend on"));
            continue;
        };
        // Tests may use any crate below: only what ships counts.
        let shipped =
            package.dependencies.iter().filter(|dependency| dependency.kind != DependencyKind::Development);
        for dependency in shipped {
            let to = dependency.name.as_str();
            if members.contains(&to) && !allowed.contains(&to) {
                findings.push(format!(
                    "{name} depends on {to}: that arrow does not exist (ARCHITECTURE.md, Rooms)"
                ));
            }
            if name == "towline-core" && !members.contains(&to) && !CORE_MAY_USE.contains(&to) {
                findings.push(format!(
                    "towline-core depends on {to}: the core is sans-IO and uses only {CORE_MAY_USE:?}"
                ));
            }
        }
    }
    Ok(findings)
}

/// Findings about modules of the core that name a module above or beside them.
pub(crate) fn module_arrows(files: &[SourceFile]) -> Vec<String> {
    let mut findings = Vec::new();
    for file in files {
        let Some(inside) = file.path.strip_prefix("crates/towline-core/src/") else { continue };
        for (line_number, line) in file.code.lines().enumerate() {
            if ["towline_uring", "towline_runtime", "io_uring"].iter().any(|name| line.contains(name)) {
                findings.push(format!(
                    "{}:{}: the core never sees the ring or the runtime",
                    file.path,
                    line_number + 1
                ));
            }
        }
        let module = inside.split(['/', '.']).next().unwrap_or_default();
        let Some((_, forbidden)) = MODULES.iter().find(|(name, _)| *name == module) else { continue };
        for named in crate_paths(&file.code) {
            if forbidden.contains(&named.as_str()) {
                findings.push(format!(
                    "{}: module {module} names crate::{named}: that arrow does not exist",
                    file.path
                ));
            }
        }
    }
    findings
}

/// The first segments of every `crate::…` path, groups (`crate::{a, b::c}`) included.
fn crate_paths(code: &str) -> Vec<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut names = Vec::new();
    for (at, found) in code.match_indices("crate::") {
        let rest = &code[at + found.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            names.push(word(rest));
            continue;
        };
        let (mut depth, mut item) = (0, String::new());
        for c in group.chars() {
            match c {
                '}' if depth == 0 => break,
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => names.push(word(std::mem::take(&mut item).trim_start())),
                _ => {}
            }
            if c != ',' || depth > 0 {
                item.push(c);
            }
        }
        names.push(word(item.trim_start()));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn core_file(path: &str, code: &str) -> SourceFile {
        SourceFile { path: format!("crates/towline-core/src/{path}"), lines: 1, code: code.to_owned() }
    }

    #[test]
    fn paths_are_found_alone_and_in_groups() {
        assert_eq!(
            crate_paths("use crate::types::Lsn; use crate::{\n log::{A, B},\n format, node::io};"),
            ["types", "log", "format", "node"]
        );
    }

    #[test]
    fn a_reversed_arrow_is_a_finding() {
        let bad = [
            core_file("log/plan.rs", "use crate::{types::Lsn, replication::Gate};"),
            core_file("types/x.rs", "fn f() -> crate::format::Frame {}"),
            core_file("node/mod.rs", "use towline_uring::Ring;"),
        ];
        assert_eq!(module_arrows(&bad).len(), 3);
        let good = [
            core_file("node/mod.rs", "use crate::{log::Plan, replication::Gate};"),
            core_file("log/plan.rs", "use crate::types::Lsn;"),
        ];
        assert_eq!(module_arrows(&good), Vec::<String>::new());
    }
}
