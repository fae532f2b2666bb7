//! Log libraries, each in a process of its own: a library that ends its process, prints or keeps threads does not end
//! the run, and its folder can be set by the environment where it knows no other way.

use super::{SURVIVES_SIGKILL, Setting, Spec, System, make_dir};
use crate::load::{Measured, measured};
use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2Serializer};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use towline::{Committed, Lsn, Window};
use towline_bench::load::{Pending, Recorder, Target, Timing, Work, flood, threads};
use towline_bench::process::{forget, last_lines, remember};
use towline_report::schema::Level;

/// Which library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Library {
    RaftEngine,
    OkayWal,
    Walrus,
}

impl Library {
    pub(crate) const ALL: [Self; 3] = [Self::RaftEngine, Self::OkayWal, Self::Walrus];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::RaftEngine => "raft-engine",
            Self::OkayWal => "okaywal",
            Self::Walrus => "walrus",
        }
    }

    /// As this program was built with; a test holds them against the lock file.
    fn version(self) -> &'static str {
        match self {
            Self::RaftEngine => "0.4.2",
            Self::OkayWal => "0.3.1",
            Self::Walrus => "0.2.0",
        }
    }
}

/// One library.
pub(crate) struct Libraries {
    setting: Setting,
    library: Library,
    dir: PathBuf,
    points: u32,
}

impl Libraries {
    pub(crate) fn new(setting: &Setting, library: Library) -> Self {
        Self { setting: setting.clone(), library, dir: PathBuf::new(), points: 0 }
    }
}

impl System for Libraries {
    fn name(&self) -> &'static str {
        self.library.name()
    }

    fn version(&self) -> String {
        self.library.version().into()
    }

    fn points(&self, clients: &[u32]) -> Vec<Spec> {
        let durable =
            |clients: &u32| Spec::alone(*clients, Level::Local, "a sync for each write, a thread per client");
        let mut points: Vec<Spec> = clients.iter().map(durable).collect();
        // It has no way to write without a sync.
        if self.library != Library::OkayWal {
            let unsynced = Spec::alone(1, Level::Off, "no sync");
            points.push(Spec { survives: SURVIVES_SIGKILL, ..unsynced });
        }
        points
    }

    fn start(&mut self, dir: &Path) -> Result<()> {
        self.dir = dir.into();
        make_dir(dir)
    }

    fn measure(&mut self, spec: &Spec) -> Result<Measured> {
        // A fresh log for each point: nothing of an earlier one is cleaned up meanwhile.
        self.points += 1;
        let dir = self.dir.join(format!("point-{}", self.points));
        make_dir(&dir)?;
        let setting = &self.setting;
        let result =
            measured(setting.warm_up, setting.duration, |_| run_child(self.library, spec, setting, &dir));
        let _ = std::fs::remove_dir_all(&dir);
        result
    }

    fn check(&mut self) -> Result<()> {
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        Ok(())
    }
}

fn run_child(library: Library, spec: &Spec, setting: &Setting, dir: &Path) -> Result<Recorder> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let log_path = dir.join("output.log");
    let log =
        std::fs::File::create(&log_path).with_context(|| format!("cannot write {}", log_path.display()))?;
    let mut child = Command::new(program)
        .arg(CHILD_COMMAND)
        .arg(library.name())
        .arg(dir)
        .arg(spec.clients.to_string())
        .arg((spec.level != Level::Off).to_string())
        .arg(setting.warm_up.as_millis().to_string())
        .arg(setting.duration.as_millis().to_string())
        .arg(setting.record_bytes.to_string())
        .env("WALRUS_DATA_DIR", dir.join("log"))
        .env("WALRUS_QUIET", "1")
        // It sees the end of its input when this process is gone, however it went.
        .stdin(Stdio::piped())
        .stdout(log.try_clone().context("cannot share the output file")?)
        .stderr(log)
        .spawn()
        .context("cannot start a process for the library")?;
    remember(child.id());
    let deadline = Instant::now() + setting.warm_up + setting.duration + CHILD_LIMIT;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Ok(status),
            Ok(None) if setting.stop.load(Ordering::Relaxed) => break Err("interrupted".to_owned()),
            Ok(None) if Instant::now() > deadline => {
                break Err(format!("it did not end within {} s of its load", CHILD_LIMIT.as_secs()));
            }
            Ok(None) => std::thread::sleep(Duration::from_millis(10)),
            Err(error) => break Err(error.to_string()),
        }
    };
    if status.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    forget(child.id());
    match status {
        Ok(status) if status.success() => read_result(&dir.join(RESULT)),
        Ok(status) => bail!("{} ended with {status}: {}", library.name(), last_lines(&log_path)),
        Err(why) => bail!("{}: {why}", library.name()),
    }
}

/// The life of such a process; `arguments` are those behind the subcommand.
pub(crate) fn child_main(arguments: &[String]) -> Result<()> {
    let [library, dir, clients, sync, warm_up_ms, duration_ms, record_bytes] = arguments else {
        bail!("wrong arguments {arguments:?}");
    };
    let library =
        Library::ALL.into_iter().find(|known| known.name() == library).context("no such library")?;
    let (dir, clients, sync) = (Path::new(dir), clients.parse()?, sync.parse::<bool>()?);
    end_with_parent();
    let stop = AtomicBool::new(false);
    let loaded = |load: &mut dyn FnMut(&Work<'_>) -> Result<Recorder>| -> Result<Recorder> {
        // The clock starts when the log is open.
        let (warm_up, duration) = (warm_up_ms.parse()?, duration_ms.parse()?);
        let timing = Timing::from_now(Duration::from_millis(warm_up), Duration::from_millis(duration));
        load(&Work {
            level: if sync { towline::Level::Local } else { towline::Level::Off },
            window: None,
            record_bytes: record_bytes.parse()?,
            sizes: None,
            trim: false,
            timing,
            stop: &stop,
        })
    };
    let log = dir.join("log");
    make_dir(&log)?;
    let recorder = match library {
        Library::RaftEngine => raft_engine(&log, clients, sync, loaded)?,
        Library::OkayWal => okaywal(&log, clients, loaded)?,
        Library::Walrus => walrus(clients, sync, loaded)?,
    };
    let mut bytes = recorder.acked.to_le_bytes().to_vec();
    V2Serializer::new().serialize(&recorder.latency_ns, &mut bytes).context("cannot keep the histogram")?;
    std::fs::write(dir.join(RESULT), bytes).context("cannot write the result")?;
    // Libraries keep threads of their own; nothing of theirs is needed any more.
    std::process::exit(0);
}

fn raft_engine(
    dir: &Path,
    clients: usize,
    sync: bool,
    loaded: impl Fn(&mut dyn FnMut(&Work<'_>) -> Result<Recorder>) -> Result<Recorder>,
) -> Result<Recorder> {
    use raft_engine::{Config, Engine, LogBatch, ReadableSize};
    let config = Config {
        dir: dir.to_str().context("the folder's name is no text")?.to_owned(),
        // Files made ready before the clock, as Towline's segments are.
        purge_threshold: ReadableSize::mb(512),
        prefill_for_recycle: true,
        ..Config::default()
    };
    let engine = Engine::open(config)?;
    let write = |client: usize, n: u64, payload: &[u8]| -> Result<()> {
        let mut batch = LogBatch::default();
        batch.put(client as u64 + 1, (n % KEYS).to_le_bytes().to_vec(), payload.to_vec())?;
        engine.write(&mut batch, sync)?;
        Ok(())
    };
    loaded(&mut |work| load(clients, work, |client, payload| write(client, number_of(payload), payload)))
}

fn okaywal(
    dir: &Path,
    clients: usize,
    loaded: impl Fn(&mut dyn FnMut(&Work<'_>) -> Result<Recorder>) -> Result<Recorder>,
) -> Result<Recorder> {
    // Files of its own default size change every few thousand records.
    let config =
        okaywal::Configuration::default_for(dir).preallocate_bytes(64 << 20).checkpoint_after_bytes(60 << 20);
    let log = config.open(okaywal::LogVoid)?;
    loaded(&mut |work| {
        load(clients, work, |_, payload| {
            let mut entry = log.begin_entry()?;
            entry.write_chunk(payload)?;
            entry.commit()?;
            Ok(())
        })
    })
}

fn walrus(
    clients: usize,
    sync: bool,
    loaded: impl Fn(&mut dyn FnMut(&Work<'_>) -> Result<Recorder>) -> Result<Recorder>,
) -> Result<Recorder> {
    use walrus_rust::{FsyncSchedule, ReadConsistency, Walrus};
    let schedule = if sync { FsyncSchedule::SyncEach } else { FsyncSchedule::NoFsync };
    let log = Walrus::with_consistency_and_schedule(ReadConsistency::StrictlyAtOnce, schedule)?;
    // A topic for each client: clients of one topic wait for each other.
    let topics: Vec<String> = (0..clients).map(|client| format!("client-{client}")).collect();
    loaded(&mut |work| {
        load(clients, work, |client, payload| Ok(log.append_for_topic(&topics[client], payload)?))
    })
}

/// A thread for each client; without a sync one that does not wait, as Towline's `off` is measured.
fn load<C>(clients: usize, work: &Work<'_>, call: C) -> Result<Recorder>
where
    C: Fn(usize, &[u8]) -> Result<()> + Sync,
{
    let calls = Calls { call, clients };
    if work.level == towline::Level::Off {
        return Ok(flood::run(&calls, work, flood::SAMPLE_EVERY, None)?.0);
    }
    Ok(threads::run(&calls, work, clients)?)
}

/// A log whose acknowledgement is the return of its append: a place for each client.
struct Calls<C> {
    call: C,
    clients: usize,
}

impl<C> Target for Calls<C>
where
    C: Fn(usize, &[u8]) -> Result<()> + Sync,
{
    type Pending = Returned;

    fn shards(&self) -> usize {
        self.clients
    }

    #[inline]
    fn append(
        &self,
        client: usize,
        payload: &[u8],
        level: towline::Level,
        _window: Option<Window>,
    ) -> Result<Returned, String> {
        (self.call)(client, payload).map_err(|error| format!("{error:#}"))?;
        Ok(Returned(level))
    }

    fn trim(&self, _client: usize, _below: Lsn) {}
}

struct Returned(towline::Level);

impl Pending for Returned {
    #[inline]
    fn try_get(&mut self) -> Option<Result<Committed, String>> {
        Some(Returned(self.0).wait())
    }

    #[inline]
    fn wait(self) -> Result<Committed, String> {
        Ok(Committed {
            lsn: Lsn(0),
            end: Lsn(0),
            level: self.0,
            window: None,
            rule_version: 0,
            fill_bytes: 0,
            waited_for_window: false,
        })
    }
}

fn number_of(payload: &[u8]) -> u64 {
    payload.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn end_with_parent() {
    std::thread::spawn(|| {
        let mut nothing = [0];
        let _ = std::io::Read::read(&mut std::io::stdin(), &mut nothing);
        std::process::exit(1);
    });
}

fn read_result(path: &Path) -> Result<Recorder> {
    let bytes = std::fs::read(path).context("it left no result")?;
    let (acked, mut histogram) = bytes.split_first_chunk().context("its result is cut short")?;
    let read: Histogram<u64> =
        Deserializer::new().deserialize(&mut histogram).context("its result is no histogram")?;
    let mut recorder = Recorder::new();
    recorder.acked = u64::from_le_bytes(*acked);
    recorder.latency_ns.add(&read).context("its histogram has other bounds")?;
    Ok(recorder)
}

/// The hidden subcommand that makes the program such a process.
pub(crate) const CHILD_COMMAND: &str = "__library";
const RESULT: &str = "result";
/// Keys of each client of a library that is a map: the index stays small.
const KEYS: u64 = 1000;
/// Opening may fill files in advance.
const CHILD_LIMIT: Duration = Duration::from_secs(40);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_those_of_the_lock_file() {
        let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.lock")).unwrap();
        for (library, package) in [
            (Library::RaftEngine, "raft-engine"),
            (Library::OkayWal, "okaywal"),
            (Library::Walrus, "walrus-rust"),
        ] {
            let entry = format!("name = \"{package}\"\nversion = \"{}\"", library.version());
            assert!(lock.contains(&entry), "{entry}");
        }
    }

    #[test]
    fn a_library_is_loaded_by_a_thread_for_each_client() {
        // Beside the test program: a disk, and not the sources.
        let program = std::env::current_exe().unwrap();
        let dir = tempfile::tempdir_in(program.parent().unwrap()).unwrap();
        let stop = AtomicBool::new(false);
        let load = |load: &mut dyn FnMut(&Work<'_>) -> Result<Recorder>| {
            let timing = Timing::from_now(Duration::ZERO, Duration::from_millis(500));
            load(&Work {
                level: towline::Level::Local,
                window: None,
                record_bytes: 256,
                sizes: None,
                trim: false,
                timing,
                stop: &stop,
            })
        };
        let recorder = okaywal(&dir.path().join("okaywal"), 2, load).unwrap();
        assert!(recorder.acked > 0 && recorder.latency_ns.len() >= recorder.acked);
    }
}
