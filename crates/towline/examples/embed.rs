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

/// A map in memory, rebuilt from the log at each start.
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

    /// First the log, then the map: a crash in between redoes the change at the next start.
    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let record = format!("set\0{name}\0{value}");
        self.log.append(record.as_bytes(), Level::Local, None)?.wait()?;
        apply(&mut self.map, record.as_bytes());
        Ok(())
    }

    fn delete(&mut self, name: &str) -> Result<()> {
        let record = format!("del\0{name}");
        self.log.append(record.as_bytes(), Level::Local, None)?.wait()?;
        apply(&mut self.map, record.as_bytes());
        Ok(())
    }

    /// Many changes, one wait: the last acknowledgement covers everything before it.
    fn set_all<'a>(&mut self, pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Result<()> {
        let mut last = None;
        for (name, value) in pairs {
            let record = format!("set\0{name}\0{value}");
            last = Some(self.log.append(record.as_bytes(), Level::Local, None)?);
            apply(&mut self.map, record.as_bytes());
        }
        last.map_or(Ok(()), |ticket| Ok(ticket.wait().map(|_| ())?))
    }
}

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
