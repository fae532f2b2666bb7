//! What the sources may hold: `unsafe` in one crate, short files, nothing left for later; and pictures that exist.

use std::path::Path;
use std::{fs, io};

use anyhow::{Context, Result};

use crate::text::{code_only, has_word};

/// A source file of the workspace.
pub(crate) struct SourceFile {
    /// Relative to the workspace's root, with `/`.
    pub(crate) path: String,
    /// Lines, comments included.
    pub(crate) lines: usize,
    /// The text without comments and literals.
    pub(crate) code: String,
}

/// Files that may be longer, each with its reason. A file past the limit is asking for a second room.
const LONG_FILES: &[(&str, &str)] = &[];
const MAX_LINES: usize = 600;

/// The crates that may say `unsafe`.
const UNSAFE_CRATES: &[&str] = &["crates/towline-uring/"];

/// Marks that something was left for later. Written in parts, so that this file is not a finding itself.
const LEFTOVERS: &[&str] = &[concat!("FIX", "ME"), concat!("XX", "X")];
const LEFTOVER_MACROS: &[&str] = &["todo!", "unimplemented!", "dbg!"];

/// Reads every Rust file below `crates`, `benches` and `tools`.
pub(crate) fn collect(root: &Path) -> Result<Vec<SourceFile>> {
    let mut files = Vec::new();
    for top in ["crates", "benches", "tools"] {
        collect_from(root, &root.join(top), &mut files).with_context(|| format!("reading {top}/"))?;
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn collect_from(root: &Path, folder: &Path, files: &mut Vec<SourceFile>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                collect_from(root, &path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path)?;
            let relative = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().replace('\\', "/");
            files.push(SourceFile {
                path: relative,
                lines: text.lines().count(),
                code: mark_leftovers(&text),
            });
        }
    }
    Ok(())
}

/// The code, with the leftover marks of comments kept: they live in comments.
fn mark_leftovers(text: &str) -> String {
    code_only(text)
        .lines()
        .zip(text.lines())
        .map(|(code, line)| {
            let marks = LEFTOVERS.iter().filter(|mark| has_word(line, mark) && line.contains("//"));
            marks.fold(code.to_owned(), |code, mark| format!("{code} {mark}"))
        })
        .collect::<Vec<_>>()
        .join("\n")
}

/// Findings about the sources as text.
pub(crate) fn findings(files: &[SourceFile]) -> Vec<String> {
    let mut findings = Vec::new();
    for file in files {
        let may_be_long = LONG_FILES.iter().any(|(path, _)| *path == file.path);
        if file.lines > MAX_LINES && !may_be_long {
            findings.push(format!(
                "{}: {} lines; past {MAX_LINES} it needs a second room, or a reason in tools/xtask/src/sources.rs",
                file.path, file.lines
            ));
        }
        let may_be_unsafe = UNSAFE_CRATES.iter().any(|prefix| file.path.starts_with(prefix));
        for (number, line) in file.code.lines().enumerate() {
            let at = format!("{}:{}", file.path, number + 1);
            if !may_be_unsafe && has_word(line, "unsafe") {
                findings.push(format!("{at}: unsafe outside towline-uring"));
            }
            for mark in LEFTOVER_MACROS.iter().chain(LEFTOVERS) {
                if line.contains(mark) && has_word(line, mark.trim_end_matches('!')) {
                    findings.push(format!(
                        "{at}: {mark} is a promise to nobody; do it or write it into ARCHITECTURE.md"
                    ));
                }
            }
        }
    }
    findings
}

/// Entries of the list of long files that are long no more.
pub(crate) fn stale_exceptions(files: &[SourceFile]) -> Vec<String> {
    let mut findings = Vec::new();
    for (path, _) in LONG_FILES {
        if !files.iter().any(|file| file.path == *path && file.lines > MAX_LINES) {
            findings.push(format!("{path}: listed as a long file and is none"));
        }
    }
    findings
}

/// Findings about the documents: they exist, and every local link and picture in them does too.
pub(crate) fn document_findings(root: &Path) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for name in ["README.md", "ARCHITECTURE.md", "SEMANTICS.md", "GLOSSARY.md", "CHANGELOG.md"] {
        let path = root.join(name);
        if !path.exists() {
            findings.push(format!("{name} is missing"));
            continue;
        }
        let text = fs::read_to_string(&path).with_context(|| format!("reading {name}"))?;
        let targets = link_targets(&text);
        for target in targets.iter().filter(|target| !root.join(target).exists()) {
            findings.push(format!("{name} points to {target}, which does not exist"));
        }
        let is_picture = |target: &&String| [".svg", ".png", ".webp"].iter().any(|end| target.ends_with(end));
        if name == "README.md" && !targets.iter().any(|target| is_picture(&target)) {
            findings.push("README.md shows no picture of a real run".to_owned());
        }
    }
    Ok(findings)
}

/// Local targets of `](…)`, `src="…"` and `href="…"`, without anchors.
fn link_targets(text: &str) -> Vec<String> {
    let mut targets = Vec::new();
    for (open, close) in [("](", ')'), ("src=\"", '"'), ("href=\"", '"')] {
        for (at, _) in text.match_indices(open) {
            let rest = &text[at + open.len()..];
            let target = rest.split(close).next().unwrap_or_default();
            let target = target.split(['#', ' ']).next().unwrap_or_default();
            if !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:") {
                targets.push(target.to_owned());
            }
        }
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> SourceFile {
        SourceFile { path: path.to_owned(), lines: text.lines().count(), code: mark_leftovers(text) }
    }

    #[test]
    fn each_rule_has_a_finding() {
        let long = "x\n".repeat(MAX_LINES + 1);
        let left = format!("fn f() {{ {}() }} // {}: later", concat!("to", "do!"), LEFTOVERS[0]);
        let found = findings(&[
            file("crates/towline/src/a.rs", "fn f() { unsafe { g() } }"),
            file("crates/towline/src/b.rs", &long),
            file("crates/towline/src/c.rs", &left),
        ]);
        assert_eq!(found.len(), 4, "{found:#?}");
    }

    #[test]
    fn the_ring_crate_may_be_unsafe_and_strings_do_not_count() {
        let found = findings(&[
            file("crates/towline-uring/src/a.rs", "unsafe { g() }"),
            file("crates/towline/src/a.rs", "const TEXT: &str = \"unsafe\"; // unsafe in a comment"),
        ]);
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn documents_are_held_to_their_links() {
        let root = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        for name in ["ARCHITECTURE.md", "SEMANTICS.md", "GLOSSARY.md", "CHANGELOG.md"] {
            fs::write(root.path().join(name), "text").unwrap();
        }
        fs::write(
            root.path().join("README.md"),
            "![ladder](a.svg) [b](https://b) [c](#c) <img src=\"d.png\">",
        )
        .unwrap();
        fs::write(root.path().join("a.svg"), "").unwrap();
        let found = document_findings(root.path()).unwrap();
        assert_eq!(found, ["README.md points to d.png, which does not exist"]);
    }
}
