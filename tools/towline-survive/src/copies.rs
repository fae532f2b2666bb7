//! What every living node holds in the end, read from its disk below all caches: held against the others' copies, and
//! against the log that the acknowledgements were looked for in.

use std::path::Path;

use towline::Lsn;
use towline_check::{FoundRecord, Replica, StoredBatch, replicas_agree};
use towline_core::format::RecordKind;
use towline_core::log::recovery::Step;
use towline_runtime::storage::{LogReader, records};

use crate::judge::{Sent, known};

/// A node's log, as its disk alone has it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Copy {
    replica: Replica,
    /// The client's records up to the mark.
    records: Vec<FoundRecord>,
    has_mark: bool,
    segment_bytes: u64,
    strange: Vec<String>,
}

impl Copy {
    /// Reads the log of a node that is down, or says why that is none.
    pub(crate) fn read(name: &str, shard_dir: &Path) -> Result<Copy, String> {
        let said = |error: &dyn std::fmt::Display| format!("the log of '{name}' cannot be read: {error}");
        let reader = LogReader::open_readonly(shard_dir, false).map_err(|error| said(&error))?;
        let mut copy = Copy { segment_bytes: reader.geometry().segment_bytes, ..Copy::default() };
        copy.replica.name = name.to_owned();
        let mut walk = reader.walk();
        while let Step::Batch(batch) = walk.step().map_err(|error| said(&error))? {
            let (start, end) = (batch.header.start, batch.header.end);
            copy.replica.batches.push(StoredBatch { start, end, hash: batch.hash });
            for record in records(&batch).filter(|record| record.kind == RecordKind::Data) {
                copy.add(record.lsn, record.payload);
            }
        }
        Ok(copy)
    }

    fn add(&mut self, lsn: Lsn, payload: &[u8]) {
        match known(payload) {
            _ if self.has_mark => {}
            Sent::Mark => self.has_mark = true,
            Sent::Key(key) => self.records.push(FoundRecord { lsn, key }),
            Sent::Strange => {
                let name = &self.replica.name;
                self.strange.push(format!("the record of '{name}' at {lsn} is not what anybody sent"));
            }
        }
    }
}

/// What is wrong with copies that should all hold `found`, the records of the log that was judged.
pub(crate) fn differences(copies: &[Copy], found: &[FoundRecord]) -> Vec<String> {
    let replicas: Vec<Replica> = copies.iter().map(|copy| copy.replica.clone()).collect();
    let segment_bytes = copies.first().map_or(0, |copy| copy.segment_bytes);
    let mut wrong: Vec<String> =
        replicas_agree(&replicas, segment_bytes).iter().map(|violation| violation.to_string()).collect();
    for copy in copies {
        wrong.extend(copy.strange.iter().cloned());
        let name = &copy.replica.name;
        let differs = copy.records.iter().zip(found).find(|(here, there)| here != there);
        if let Some((here, there)) = differs {
            let (at, key) = (here.lsn, here.key);
            wrong.push(format!(
                "'{name}' has record {key} at {at}, the leader {} at {}",
                there.key, there.lsn
            ));
        } else if !copy.has_mark || copy.records.len() != found.len() {
            let (here, there) = (copy.records.len(), found.len());
            wrong.push(format!("the disk of '{name}' has {here} of the leader's {there} records"));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::time::Duration;

    use towline::{Level, Log};

    use super::*;
    use crate::judge::MARK;
    use crate::load::payload;

    /// The shard's folder of a log of these records.
    fn log(dir: PathBuf, keys: &[u64]) -> PathBuf {
        let log = Log::builder()
            .segment_bytes(8 << 20)
            .arena_bytes(4 << 20)
            .retention_bytes(64 << 20)
            .open(&dir)
            .unwrap();
        for key in keys {
            log.append(&payload(*key), Level::Local, None).unwrap().wait_timeout(PATIENCE).unwrap();
        }
        log.close().unwrap();
        dir.join("shard-0")
    }

    fn copied(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
            let place = to.join(entry.file_name().unwrap());
            if entry.is_dir() {
                copied(&entry, &place)
            } else {
                fs::copy(&entry, &place).map(|_| ()).unwrap()
            }
        }
    }

    #[test]
    fn a_copy_that_lacks_or_changes_anything_is_seen() {
        let target = std::env::current_exe().unwrap();
        let folder = tempfile::tempdir_in(target.parent().unwrap()).unwrap();
        let leader = log(folder.path().join("p"), &[1, 2, 3, MARK]);
        let same = folder.path().join("a");
        copied(&leader, &same);
        let read = |name, dir: &Path| Copy::read(name, dir).unwrap();
        let copies = [read("p", &leader), read("a", &same)];
        let found = copies[0].records.clone();
        assert_eq!(found.iter().map(|record| record.key).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(differences(&copies, &found), [""; 0]);

        let other = log(folder.path().join("b"), &[1, 2, 4, MARK]);
        let wrong = differences(&[copies[0].clone(), read("b", &other)], &found);
        assert!(wrong.iter().any(|what| what.contains("differs")), "{wrong:?}");
        assert!(wrong.iter().any(|what| what.contains("record 4")), "{wrong:?}");

        // A sound prefix: nothing diverges, and records are missing.
        let mut short = copies[1].clone();
        short.replica.batches.truncate(3);
        short.records.truncate(2);
        short.has_mark = false;
        let wrong = differences(&[copies[0].clone(), short], &found);
        assert_eq!(wrong, ["the disk of 'a' has 2 of the leader's 3 records"]);

        assert!(Copy::read("c", &folder.path().join("c")).unwrap_err().contains("'c' cannot be read"));
    }

    const PATIENCE: Duration = Duration::from_secs(20);
}
