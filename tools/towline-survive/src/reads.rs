//! A read on a standby after an acknowledgement: under `on` it may miss the write, under `remote_apply` it sees it.
//!
//! The standbys are embedded in this program, each with an application that keeps the keys it was given; a read looks a key
//! up there. What the nodes say they have applied is not asked for.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use linkem::Direction;
use serde::{Deserialize, Serialize};
use towline::{AppliedBatch, Apply, ApplyError, Level, Lsn, Standby};

use crate::cluster::{Cluster, NAMES, PRIMARY, STANDBYS};
use crate::context::Context;
use crate::error::{Result, SurviveError};
use crate::judge::{Sent, known};
use crate::load::payload;
use crate::matrix::lock;
use crate::process::connect;
use crate::record::Verdict;
use crate::row::Row;
use crate::work::remove_arenas;

/// Reads on a standby right after acknowledgements at a level.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReadResult {
    /// The level.
    pub level: Level,
    /// Acknowledged writes that were then looked for on a standby: each on every one that counts.
    pub reads: u64,
    /// Those that were not visible there yet.
    pub misses: u64,
    /// `remote_apply` never misses; `on` has to be seen missing.
    pub verdict: Verdict,
    /// What went wrong, when something did.
    pub note: String,
}

/// Looks, for `on` and for `remote_apply`.
pub(crate) fn read_after_write(context: &Context) -> Result<Vec<ReadResult>> {
    [Level::On, Level::RemoteApply].into_iter().map(|level| look(context, level)).collect()
}

fn look(context: &Context, level: Level) -> Result<ReadResult> {
    let (mut misses, mut note) = (0, String::new());
    match misses_of(context, level) {
        Ok(counted) => misses = counted,
        Err(error @ (SurviveError::Late(_) | SurviveError::Node { .. } | SurviveError::Client(_))) => {
            note = error.to_string();
        }
        Err(error) => return Err(error),
    }
    let verdict = match level {
        _ if !note.is_empty() => Verdict::Failed,
        Level::RemoteApply if misses > 0 => Verdict::Failed,
        Level::On if misses == 0 => Verdict::NotShown,
        _ => Verdict::Passed,
    };
    Ok(ReadResult { level, reads: WRITES * STANDBYS.len() as u64, misses, verdict, note })
}

fn misses_of(context: &Context, level: Level) -> Result<u64> {
    let (_, folder) = context.folder()?;
    let states = [Kept::default(), Kept::default()];
    let readers = [0, 1].map(|at| Reader::open(&folder, NAMES[STANDBYS[at]], states[at].clone()));
    let [a, b] = readers;
    let (a, b) = (a?, b?);
    // Both count, so that each acknowledgement stands for both that are asked; the way is long enough to be ahead of.
    let row = Row { rule: "ANY 2 (a, b)".to_owned(), ..Row::new("reads", level, None) };
    let cluster =
        Cluster::start_around(context, &row, [a.standby.listen_address(), b.standby.listen_address()])?;
    cluster.each_link(|link| link.set_delay(Direction::Both, ONE_WAY));
    // A standby shows what the primary, too, has flushed. Where that comes last, the acknowledgement is on its way
    // before the standby hears of it.
    cluster.slow_flush(PRIMARY, SLOW_PRIMARY);
    let mut client = connect(cluster.address(PRIMARY))?;
    count_misses(&states, |key| {
        context.check()?;
        client.append(&payload(key), level, None)?;
        Ok(())
    })
}

/// Appends key after key and, each time the acknowledgement has come, looks it up in every state.
fn count_misses(states: &[Kept], mut append: impl FnMut(u64) -> Result<()>) -> Result<u64> {
    let mut misses = 0;
    for key in 0..WRITES {
        append(key)?;
        misses += states.iter().filter(|state| !lock(&state.0).contains(&key)).count() as u64;
    }
    Ok(misses)
}

/// A standby in this process. Dropping it ends it and removes what it keeps.
struct Reader {
    standby: Standby,
    _arenas: Arenas,
}

impl Reader {
    fn open(folder: &Path, name: &str, state: Kept) -> Result<Reader> {
        // Where a later run would look for what a killed one left.
        let dir = folder.join(format!("{name}-reader")).join("node");
        fs::create_dir_all(&dir).map_err(SurviveError::file(&dir, "cannot be made"))?;
        let arenas = Arenas(dir.clone());
        let standby = Standby::builder()
            .name(name)
            .listen(([127, 0, 0, 1], 0).into())
            .arena_bytes(4 << 20)
            .apply(move |_shard| state.clone())
            .open(&dir)
            .map_err(|error| SurviveError::Late(format!("standby '{name}' cannot be opened: {error}")))?;
        Ok(Reader { standby, _arenas: arenas })
    }
}

/// A node's arena in shared memory, where its end left one.
struct Arenas(std::path::PathBuf);

impl Drop for Arenas {
    fn drop(&mut self) {
        remove_arenas(&self.0);
    }
}

/// A state that reads look into: the keys that were applied.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<HashSet<u64>>>);

impl Apply for Kept {
    fn apply(&mut self, batch: &AppliedBatch<'_>) -> std::result::Result<(), ApplyError> {
        // It takes longer than an acknowledgement on its way: a word that is ahead of the state is found out.
        std::thread::sleep(ONE_WAY * 3);
        let keys = batch.iter().filter_map(|(_lsn, payload)| match known(payload) {
            Sent::Key(key) => Some(key),
            _ => None,
        });
        lock(&self.0).extend(keys);
        Ok(())
    }

    fn reset(&mut self, _from: Lsn) {
        lock(&self.0).clear();
    }
}

/// At each level.
const WRITES: u64 = 60;
const ONE_WAY: Duration = Duration::from_millis(2);
const SLOW_PRIMARY: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use towline::Log;

    use super::*;

    /// Says that it has applied what it applies later.
    struct Hasty(Kept);

    impl Apply for Hasty {
        fn apply(&mut self, batch: &AppliedBatch<'_>) -> std::result::Result<(), ApplyError> {
            let (state, keys) = (self.0.clone(), batch.iter().map(|(_, payload)| known(payload)));
            let keys: Vec<Sent> = keys.collect();
            std::thread::spawn(move || {
                std::thread::sleep(ONE_WAY * 3);
                for sent in keys {
                    if let Sent::Key(key) = sent {
                        lock(&state.0).insert(key);
                    }
                }
            });
            Ok(())
        }

        fn reset(&mut self, from: Lsn) {
            self.0.reset(from);
        }
    }

    fn misses<A: Apply + 'static>(level: Level, apply: impl Fn(Kept) -> A + Send + 'static) -> u64 {
        let target = std::env::current_exe().unwrap();
        let folder = tempfile::tempdir_in(target.parent().unwrap()).unwrap();
        let state = Kept::default();
        let shared = state.clone();
        let standby = Standby::builder()
            .name("a")
            .listen(([127, 0, 0, 1], 0).into())
            .arena_bytes(4 << 20)
            .apply(move |_shard| apply(shared.clone()))
            .open(folder.path().join("a"))
            .unwrap();
        let log = Log::builder()
            .standby("a", standby.listen_address())
            .sync_rule("ANY 1 (a)")
            .segment_bytes(8 << 20)
            .arena_bytes(4 << 20)
            .retention_bytes(64 << 20)
            .open(folder.path().join("p"))
            .unwrap();
        let missed = count_misses(&[state], |key| {
            let ticket = log.append(&payload(key), level, None).unwrap();
            ticket.wait_timeout(Duration::from_secs(20)).unwrap();
            Ok(())
        });
        log.close().unwrap();
        standby.close().unwrap();
        missed.unwrap()
    }

    #[test]
    fn a_read_looks_into_the_state_and_not_at_what_is_said_of_it() {
        assert_eq!(misses(Level::RemoteApply, |state| state), 0, "an honest application");
        assert!(misses(Level::RemoteApply, Hasty) > WRITES / 2, "a word ahead of the state is seen");
        assert!(misses(Level::On, |state| state) > WRITES / 2, "`on` waits for no application");
    }
}
