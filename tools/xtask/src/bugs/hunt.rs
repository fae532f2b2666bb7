//! Running a test program with one bug switched on, and reading what it says.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use towline_core::bugs::{Bug, VARIABLE};

use super::known::{Place, known};
use super::programs::{Program, Programs};

/// What caught a bug. Nothing: it survived.
#[derive(Default)]
pub(crate) struct Catch {
    /// Tests that failed, as `program: test`.
    pub(crate) tests: Vec<String>,
    /// The first world that broke a promise.
    pub(crate) world: Option<World>,
}

/// A world that broke a promise.
pub(crate) struct World {
    pub(crate) seed: u64,
    /// Worlds until it did, itself included.
    pub(crate) worlds: u64,
    /// The first line of what it said.
    pub(crate) why: String,
}

impl Catch {
    pub(crate) fn is_caught(&self) -> bool {
        !self.tests.is_empty() || self.world.is_some()
    }
}

/// Runs test programs.
pub(crate) struct Hunter<'a> {
    pub(crate) programs: &'a Programs,
    /// Worlds per bug at most.
    pub(crate) worlds: u64,
}

impl Hunter<'_> {
    /// Whether this passes with no bug.
    pub(crate) fn clean(&self, place: Place) -> Result<()> {
        let mut found = Catch::default();
        self.look(None, place, &mut found)?;
        if let Some(World { seed, why, .. }) = found.world {
            bail!("world {seed} breaks a promise: {why}");
        }
        ensure!(found.tests.is_empty(), "tests fail: {}", found.tests.join(", "));
        Ok(())
    }

    /// What one place says of a bug.
    pub(crate) fn at(&self, bug: Bug, place: Place) -> Result<Catch> {
        let mut found = Catch::default();
        self.look(Some(bug), place, &mut found)?;
        Ok(found)
    }

    /// What every test of the core, the worlds, and the place where the bug is known to be caught say of it.
    pub(crate) fn everywhere(&self, bug: Bug) -> Result<Catch> {
        let mut found = Catch::default();
        if !known(bug).is_simulated() {
            // Nothing below a real disk can see it.
            self.look(Some(bug), known(bug), &mut found)?;
            return Ok(found);
        }
        for place in self.programs.names_of("towline-core") {
            self.look(Some(bug), Place::Program(place), &mut found)?;
        }
        self.look(Some(bug), Place::Worlds { from: 0, count: self.worlds }, &mut found)?;
        Ok(found)
    }

    fn look(&self, bug: Option<Bug>, place: Place, found: &mut Catch) -> Result<()> {
        let (program, words, from, count) = match place {
            Place::Test(program, test) => (self.programs.get(program)?, vec!["--exact", test], 0, 0),
            Place::Program(place) => (self.programs.at(place), Vec::new(), 0, 0),
            Place::Worlds { from, count } => {
                let words = vec!["--ignored", "--exact", "--nocapture", WORLDS];
                (self.programs.get("towline-sim/bugs")?, words, from, count)
            }
        };
        let said = run(program, &words, bug, (from, count))
            .with_context(|| format!("running {} {}", program.name, words.join(" ")))?;
        match place {
            Place::Worlds { from, .. } => found.world = said.world(from)?.or(found.world.take()),
            Place::Test(_, test) => {
                let ran = said.count("passed") + said.count("failed");
                ensure!(
                    said.broke || ran == 1,
                    "{}: there is no test {test}, or it cannot run here",
                    program.name
                );
                found.tests.extend(said.failed(&program.name));
            }
            Place::Program(_) => found.tests.extend(said.failed(&program.name)),
        }
        Ok(())
    }
}

/// What a program said.
struct Said {
    out: String,
    is_success: bool,
    /// It was ended by a signal, or by us after its time.
    broke: bool,
    /// By us.
    late: bool,
}

impl Said {
    /// The tests that failed. A program that ends otherwise than with its verdict has failed as a whole.
    fn failed(&self, program: &str) -> Vec<String> {
        if self.is_success {
            return Vec::new();
        }
        let failed = self.out.lines().filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            matches!(words.as_slice(), ["test", _, "...", "FAILED"])
                .then(|| format!("{program}: {}", words[1]))
        });
        let failed: Vec<String> = failed.collect();
        if failed.is_empty() { vec![format!("{program}: it hangs or aborts")] } else { failed }
    }

    fn count(&self, what: &str) -> u64 {
        let verdict = self.out.lines().find(|line| line.starts_with("test result:")).unwrap_or_default();
        let of = verdict.split(['.', ';']).find_map(|part| part.trim().strip_suffix(what));
        of.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
    }

    fn world(&self, from: u64) -> Result<Option<World>> {
        let verdict = self.out.lines().find_map(|line| line.strip_prefix("hunt: "));
        let Some(verdict) = verdict else {
            ensure!(!self.is_success, "the worlds said nothing");
            // Every world ends by itself, so this says that the machine was slow: nothing was caught.
            ensure!(
                !self.late,
                "the worlds were ended after their time: ask for fewer, or on a quieter machine"
            );
            let why = "a world hangs or aborts".to_owned();
            return Ok(Some(World { seed: from, worlds: 1, why }));
        };
        if verdict.starts_with("clean ") {
            return Ok(None);
        }
        let number = |key: &str| {
            let word = verdict.split(' ').find_map(|word| word.strip_prefix(key));
            word.and_then(|number| number.parse().ok()).with_context(|| format!("no {key} in '{verdict}'"))
        };
        let why = verdict.split_once("why=").map_or("", |(_, why)| why).to_owned();
        Ok(Some(World { seed: number("seed=")?, worlds: number("worlds=")?, why }))
    }
}

fn run(program: &Program, words: &[&str], bug: Option<Bug>, (from, count): (u64, u64)) -> Result<Said> {
    let mut command = Command::new(&program.file);
    command
        .args(words)
        .current_dir(&program.folder)
        .env("CARGO_MANIFEST_DIR", &program.folder)
        .env("RUST_BACKTRACE", "0")
        // A property that a bug breaks is to leave nothing behind, and need not be made small.
        .env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1")
        .env("PROPTEST_MAX_SHRINK_ITERS", "0")
        .env("HUNT_FROM", from.to_string())
        .env("HUNT_WORLDS", count.to_string())
        .env_remove(VARIABLE)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    if let Some(bug) = bug {
        command.env(VARIABLE, bug.name());
    }
    let mut child = command.spawn().context("starting it")?;
    let mut pipe = child.stdout.take().context("its output is a pipe")?;
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read until an error is all there is.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    });
    let deadline = Instant::now() + TIME_LIMIT + WORLD_TIME_LIMIT * u32::try_from(count).unwrap_or(u32::MAX);
    let mut late = false;
    let status = loop {
        if let Some(status) = child.try_wait().context("waiting for it")? {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().context("ending it")?;
            late = true;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let out = reader.join().unwrap_or_default();
    Ok(Said { out, is_success: status.success(), broke: status.code().is_none(), late })
}

/// The test of `towline-sim` that looks for a broken world.
const WORLDS: &str = "worlds_until_one_breaks";
/// A test that takes longer hangs.
const TIME_LIMIT: Duration = Duration::from_secs(300);
/// A tenth of a second is usual.
const WORLD_TIME_LIMIT: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    fn said(out: &str, is_success: bool) -> Said {
        Said { out: out.to_owned(), is_success, broke: false, late: false }
    }

    #[test]
    fn failed_tests_are_named_and_a_program_without_a_verdict_has_failed() {
        let out = "running 2 tests\ntest a::b ... FAILED\ntest c    ... ok\n\
                   test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured";
        assert_eq!(said(out, false).failed("p/t"), ["p/t: a::b"]);
        assert_eq!((said(out, false).count("passed"), said(out, false).count("failed")), (1, 1));
        assert_eq!(said("", false).failed("p/t"), ["p/t: it hangs or aborts"]);
        assert_eq!(said("test x ... FAILED", true).failed("p/t"), Vec::<String>::new());
    }

    #[test]
    fn a_broken_world_tells_its_seed() {
        let broken = said("\nhunt: broken seed=7 worlds=3 why=not safe\n", true).world(5).unwrap().unwrap();
        assert_eq!((broken.seed, broken.worlds, broken.why.as_str()), (7, 3, "not safe"));
        assert!(said("hunt: clean worlds=9", true).world(0).unwrap().is_none());
        assert_eq!(said("", false).world(5).unwrap().unwrap().seed, 5);
        assert!(said("", true).world(0).is_err(), "silence proves nothing");
        let late = Said { late: true, broke: true, ..said("", false) };
        assert!(late.world(0).is_err(), "a slow machine has caught nothing");
    }
}
