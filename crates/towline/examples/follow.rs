//! Follow a log and apply it: a standby that keeps a word count, and a read there that sees one's own write.
//!
//! `cargo run --example follow` starts a primary and a standby in one process, over a loopback socket. In earnest
//! they are two programs on two machines; nothing else changes.

use std::collections::HashMap;
use std::error::Error;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use towline::{AppliedBatch, Apply, ApplyError, Level, Log, Lsn, Standby};

/// What the standby serves reads from.
#[derive(Clone, Default)]
struct Words(Arc<Mutex<HashMap<String, u64>>>);

impl Words {
    fn count(&self, word: &str) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(word).copied().unwrap_or(0)
    }
}

impl Apply for Words {
    /// One call per batch. When it returns, reads must see the records: that is what `remote_apply` waits for.
    fn apply(&mut self, batch: &AppliedBatch<'_>) -> Result<(), ApplyError> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (_lsn, payload) in batch.iter() {
            for word in String::from_utf8_lossy(payload).split_whitespace() {
                *counts.entry(word.to_owned()).or_default() += 1;
            }
        }
        Ok(())
    }

    /// The log was cut below what was applied, or starts anew: this state is void.
    fn reset(&mut self, _from: Lsn) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::current_dir()?.join(format!("follow-example-{}", std::process::id()));
    let result = run(&dir);
    std::fs::remove_dir_all(&dir)?;
    result
}

fn run(dir: &Path) -> Result<(), Box<dyn Error>> {
    let words = Words::default();
    let shared = words.clone();
    let standby = Standby::builder()
        .name("a")
        .listen("127.0.0.1:0".parse()?)
        .arena_bytes(4 << 20)
        .apply(move |_shard| shared.clone())
        .open(dir.join("a"))?;

    let log = Log::builder()
        .standby("a", standby.listen_address())
        .sync_rule("ANY 1 (a)")
        .segment_bytes(8 << 20)
        .arena_bytes(4 << 20)
        .retention_bytes(64 << 20)
        .open(dir.join("p"))?;

    // `on`: durable on both sides. A read over there may still miss it.
    let committed = log.append(b"rope and anchor", Level::On, None)?.wait_timeout(PATIENCE)?;
    println!("{} is safe at level {}", committed.lsn, committed.level);

    // With the LSN, a reader can wait for its own write.
    assert!(standby.wait_applied(0, committed.end, PATIENCE));
    println!("anchor: {}", words.count("anchor"));

    // `remote_apply` does that waiting for everybody.
    log.append(b"anchor away", Level::RemoteApply, None)?.wait_timeout(PATIENCE)?;
    println!("anchor: {}", words.count("anchor"));
    assert_eq!(words.count("anchor"), 2);

    // Whoever only wants the records reads them as they become safe.
    for record in log.tail(Lsn(0))?.take(2) {
        let record = record?;
        println!("{} {}", record.lsn, String::from_utf8_lossy(&record.payload));
    }
    log.close()?;
    standby.close()?;
    Ok(())
}

const PATIENCE: Duration = Duration::from_secs(20);
