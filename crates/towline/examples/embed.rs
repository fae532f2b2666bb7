//! A small key-value program with Towline as its log: what it prints as done survives a crash.
//!
//! `cargo run --example embed` plays a short scene in a temporary directory. With arguments it is a program:
//! `cargo run --example embed -- DIR set NAME VALUE`, `… DIR get NAME`, `… DIR del NAME`, `… DIR list`.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::time::Duration;

use towline::{Level, Log, Lsn};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A map in memory, rebuilt from the log at each start. The log holds everything that ever changed: at its retention
/// (64 MiB here) it is full, and says so. A program that runs for longer writes its state aside now and then, and trims.
struct Store {
    log: Log,
    map: BTreeMap<String, String>,
}

impl Store {
    fn open(dir: &Path) -> Result<Store> {
        let log =
            Log::builder().segment_bytes(8 << 20).arena_bytes(4 << 20).retention_bytes(64 << 20).open(dir)?;
        if !log.wait_leading(Duration::from_secs(10)) {
            return Err("the log does not take appends".into());
        }
        let mut map = BTreeMap::new();
        // This node's own log is the truth about its own state: all of it, safe on standbys or not.
        let mut records = log.tail_unsafe(Lsn(0))?;
        while let Some(record) = records.next_timeout(Duration::ZERO)? {
            apply(&mut map, &record.payload);
        }
        Ok(Store { log, map })
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        self.change(vec![format!("set\0{name}\0{value}")])
    }

    fn delete(&mut self, name: &str) -> Result<()> {
        self.change(vec![format!("del\0{name}")])
    }

    /// Many changes, one wait.
    fn set_all<'a>(&mut self, pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Result<()> {
        self.change(pairs.map(|(name, value)| format!("set\0{name}\0{value}")).collect())
    }

    /// First the log, then the map: a crash in between redoes the change at the next start. An error may come behind
    /// records that are in the log; the map then lacks them until it is opened again.
    fn change(&mut self, records: Vec<String>) -> Result<()> {
        let mut last = None;
        for record in &records {
            last = Some(self.log.append_within(record.as_bytes(), Level::Local, None, PATIENCE)?);
        }
        // An acknowledgement covers everything before it.
        last.map_or(Ok(()), |ticket| ticket.wait().map(|_| ()))?;
        records.iter().for_each(|record| apply(&mut self.map, record.as_bytes()));
        Ok(())
    }
}

/// How long a full log is waited for: nobody trims this one, so that waiting longer would be for nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a record does to the map; the same at run time and at a start.
fn apply(map: &mut BTreeMap<String, String>, record: &[u8]) {
    let text = String::from_utf8_lossy(record);
    let mut parts = text.split('\0');
    match (parts.next(), parts.next(), parts.next()) {
        (Some("set"), Some(name), Some(value)) => drop(map.insert(name.to_owned(), value.to_owned())),
        (Some("del"), Some(name), None) => drop(map.remove(name)),
        _ => {}
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [] => scene(),
        [dir, ref command @ ..] => {
            let mut store = Store::open(Path::new(dir))?;
            match *command {
                ["set", name, value] => store.set(name, value)?,
                ["del", name] => store.delete(name)?,
                ["get", name] => println!("{}", store.map.get(name).map_or("(none)", String::as_str)),
                ["list"] => store.map.iter().for_each(|(name, value)| println!("{name} = {value}")),
                _ => return Err("use: DIR set NAME VALUE | get NAME | del NAME | list".into()),
            }
            Ok(store.log.close()?)
        }
    }
}

fn scene() -> Result<()> {
    let dir = std::env::current_dir()?.join(format!("embed-example-{}", std::process::id()));
    let mut store = Store::open(&dir)?;
    store.set("river", "Elbe")?;
    store.set_all([("port", "Hamburg"), ("boat", "tug")].into_iter())?;
    store.delete("boat")?;
    println!("written: {:?}, log up to {}", store.map, store.log.snapshot().flushed.lsn);
    store.log.close()?;

    let store = Store::open(&dir)?;
    println!("read again: {:?}", store.map);
    assert_eq!(store.map.get("river").map(String::as_str), Some("Elbe"));
    assert_eq!(store.map.len(), 2);
    store.log.close()?;
    Ok(std::fs::remove_dir_all(&dir)?)
}
