//! A shard's directory: made, opened, locked, recovered.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use towline_core::log::Recovered;
use towline_core::types::{Geometry, LogId, Meta};
use towline_uring::{DirLock, LockError};

use super::calibration::Calibration;
use super::error::OpenError;
use super::identity::{Identity, random_log_id, random_node_id};
use super::keeper::{KeeperParts, Spare};
use super::layout::{Layout, remove_if_there};
use super::meta_file::{MetaFile, write_failed};
use super::options::{Purpose, StorageOptions};
use super::recovery;
use super::segments::Segments;
use super::steps::Steps;

/// A shard's open directory.
#[derive(Debug)]
pub struct ShardDir {
    layout: Layout,
    identity: Mutex<Identity>,
    segments: Segments,
    steps: Steps,
}

/// What opening gives.
#[derive(Debug)]
pub struct Opened {
    /// The directory's lock. Register it in the ring, and free it last.
    pub lock: DirLock,
    /// The directory.
    pub dir: Arc<ShardDir>,
    /// Whose it is.
    pub identity: Identity,
    /// What the node must not forget, with the incarnation of this opening, durable.
    pub meta: Meta,
    /// The log. Empty and without a place in a standby's directory that has no log yet.
    pub recovered: Recovered,
    /// The segment files.
    pub segments: Segments,
    /// How writes are made durable.
    pub calibration: Calibration,
    /// For [`super::Keeper::start`].
    pub keeper: KeeperParts,
    /// Lines for the operator: what was repaired, cut, removed.
    pub notes: Vec<String>,
}

impl ShardDir {
    /// Opens the directory at `path`, and makes it when it is absent or empty. Opening again after a crash at any
    /// point gives the same log.
    ///
    /// # Errors
    /// [`OpenError`]; the directory is then as it was found, and a half-made one is gone.
    pub fn open(path: &Path, options: &StorageOptions) -> Result<Opened, OpenError> {
        options.check()?;
        let layout = Layout::new(path);
        let was_there = refuse_foreign(&layout)?;
        if !was_there {
            layout.make_root(&options.steps)?;
        }
        let opened = lock(&layout, options.lock_wait).and_then(|lock| open_locked(&layout, options, lock));
        if !was_there && opened.as_ref().is_err_and(|error| !matches!(error, OpenError::Stopped(_))) {
            remove_unmade(&layout);
        }
        opened
    }

    /// Whose it is.
    pub fn identity(&self) -> Identity {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Its segment files.
    pub fn segments(&self) -> &Segments {
        &self.segments
    }

    /// Where things lie in it.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Gives a standby's directory the log that it was offered. Durable when it returns; again with the same log
    /// it changes nothing.
    ///
    /// # Errors
    /// [`OpenError::OtherLog`] or [`OpenError::OtherGeometry`] when it has another one; else the kernel's.
    pub fn adopt_identity(&self, log: LogId, geometry: Geometry) -> Result<(), OpenError> {
        super::options::check_geometry(geometry)?;
        let mut identity = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.layout.root().to_owned();
        match identity.log {
            Some((found, _)) if found != log => return Err(OpenError::OtherLog { path, found, wanted: log }),
            Some((_, found)) if found != geometry => {
                return Err(OpenError::OtherGeometry { path, found, wanted: geometry });
            }
            Some(_) => return Ok(()),
            None => {}
        }
        require_space(&self.layout, geometry)?;
        let adopted = Identity { log: Some((log, geometry)), ..identity.clone() };
        adopted.write(&self.layout.identity(), &self.steps)?;
        *identity = adopted;
        self.segments.set_log(log, geometry);
        Ok(())
    }
}

fn open_locked(layout: &Layout, options: &StorageOptions, lock: DirLock) -> Result<Opened, OpenError> {
    let steps = &options.steps;
    layout.remove_half_made()?;
    let mut notes = Vec::new();
    let mut identity = match Identity::read(&layout.identity())? {
        Some(identity) => identity,
        None => make(layout, options)?,
    };
    check_identity(layout, &identity, options)?;
    if identity.log.is_none() && options.purpose == Purpose::Primary {
        identity.log = Some((random_log_id(), options.new_geometry()));
        identity.write(&layout.identity(), steps)?;
    }
    layout.make_folders(steps)?;
    if !layout.meta().exists() {
        let why = "it is missing beside an identity".to_owned();
        return Err(OpenError::DamagedFile { path: layout.meta(), why });
    }
    let (mut meta_file, mut meta) = MetaFile::open(layout, options.mode(), steps)?;
    let segments = Segments::new(layout.clone(), options.mode(), identity.log);
    let recovered = match identity.log {
        Some((log, geometry)) => {
            let world = recovery::World { segments: &segments, log, geometry, node: identity.node, options };
            recovery::recover(&world, &mut meta_file, &mut meta, &mut notes)?
        }
        None => Recovered::default(),
    };
    // A new life of this directory: peers tell a restored snapshot by it. Durable before anyone is answered.
    meta.incarnation += 1;
    meta.sequence += 1;
    meta_file.write(&meta).map_err(|error| write_failed(error, &layout.meta()))?;
    let spares = find_spares(layout, &segments, &meta)?;
    let calibration = Calibration::load(layout, options, &mut notes)?;
    let dir = Arc::new(ShardDir {
        layout: layout.clone(),
        identity: Mutex::new(identity.clone()),
        segments: segments.clone(),
        steps: steps.clone(),
    });
    let keeper = KeeperParts {
        segments: segments.clone(),
        meta: meta_file,
        log_start: meta.log_start,
        history: meta.history.clone(),
        spares,
        max_spares: options.spare_segments,
        steps: steps.clone(),
    };
    Ok(Opened { lock, dir, identity, meta, recovered, segments, calibration, keeper, notes })
}

/// Makes everything that belongs to a directory, its identity last: with it the directory is whole.
fn make(layout: &Layout, options: &StorageOptions) -> Result<Identity, OpenError> {
    if !layout.list_segments()?.is_empty() {
        let why = "it is missing beside segments of a log".to_owned();
        return Err(OpenError::DamagedFile { path: layout.identity(), why });
    }
    let geometry = options.new_geometry();
    if options.purpose == Purpose::Primary {
        require_space(layout, geometry)?;
    }
    layout.make_folders(&options.steps)?;
    let log =
        (options.purpose == Purpose::Primary).then(|| (options.log.unwrap_or_else(random_log_id), geometry));
    MetaFile::create(layout, options.mode(), &Meta { sequence: 1, ..Meta::default() }, &options.steps)?;
    let all_given = options.primitive.is_some() && options.flush_depth.is_some();
    if options.calibrate && !all_given {
        Calibration::measure(layout, options)?;
    }
    let identity = Identity {
        log,
        node: options.node.unwrap_or_else(random_node_id),
        name: options.name.clone(),
        shard: options.shard,
    };
    identity.write(&layout.identity(), &options.steps)?;
    Ok(identity)
}

fn check_identity(layout: &Layout, identity: &Identity, options: &StorageOptions) -> Result<(), OpenError> {
    let path = || layout.root().to_owned();
    if identity.name != options.name || identity.shard != options.shard {
        return Err(OpenError::OtherNode {
            path: path(),
            found: format!("node '{}', shard {}", identity.name, identity.shard),
            wanted: format!("node '{}', shard {}", options.name, options.shard),
        });
    }
    if let Some(wanted) = options.node.filter(|node| *node != identity.node) {
        let (found, wanted) = (format!("node id {}", identity.node), format!("node id {wanted}"));
        return Err(OpenError::OtherNode { path: path(), found, wanted });
    }
    let Some((found, geometry)) = identity.log else { return Ok(()) };
    if let Some(wanted) = options.log.filter(|log| *log != found) {
        return Err(OpenError::OtherLog { path: path(), found, wanted });
    }
    match options.geometry.filter(|wanted| *wanted != geometry) {
        // A standby obeys the sizes of the log that it was offered.
        Some(wanted) if options.purpose == Purpose::Primary => {
            Err(OpenError::OtherGeometry { path: path(), found: geometry, wanted })
        }
        _ => Ok(()),
    }
}

/// Segments wholly below the log's start: a crash came between the meta block and their removal.
fn find_spares(layout: &Layout, segments: &Segments, meta: &Meta) -> Result<Vec<Spare>, OpenError> {
    let Some((_, geometry)) = segments.log() else { return Ok(Vec::new()) };
    let first = geometry.segment_of(meta.log_start);
    let mut spares = Vec::new();
    for seq in layout.list_segments()?.into_iter().take_while(|seq| *seq < first) {
        spares.extend(Spare::open(layout, segments.mode(), seq)?);
    }
    Ok(spares)
}

/// Whether the directory is there. A directory without an identity may hold nothing but what this program makes.
fn refuse_foreign(layout: &Layout) -> Result<bool, OpenError> {
    let root = layout.root();
    match fs::metadata(root) {
        Ok(meta) if !meta.is_dir() => return Err(OpenError::NotADirectory { path: root.to_owned() }),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(OpenError::io("look at", root, error)),
    }
    if layout.identity().exists() {
        return Ok(true);
    }
    let mut foreign = layout.foreign()?;
    if foreign.is_empty() {
        return Ok(true);
    }
    foreign.truncate(3);
    Err(OpenError::ForeignFiles { path: root.to_owned(), names: foreign.join(", ") })
}

pub(super) fn lock(layout: &Layout, wait: Duration) -> Result<DirLock, OpenError> {
    let lock = DirLock::acquire(layout.root(), wait).map_err(|error| match error {
        LockError::Locked { dir } => OpenError::Locked { path: dir, holder: read_holder(&layout.lock()) },
        LockError::Io { path, source } => OpenError::io("lock", &path, source),
    })?;
    // For the message that the next opener gets; nothing depends on it.
    let _ = fs::write(layout.lock(), format!("{}\n", std::process::id()));
    Ok(lock)
}

fn read_holder(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Two segments: one to write, one prepared. Less is refused at once rather than at the first append.
fn require_space(layout: &Layout, geometry: Geometry) -> Result<(), OpenError> {
    let path = layout.root();
    let stat =
        rustix::fs::statvfs(path).map_err(|e| OpenError::io("look at the space of", path, e.into()))?;
    let available = stat.f_bavail.saturating_mul(stat.f_frsize);
    if available < 2 * geometry.segment_bytes {
        return Err(OpenError::Full { path: path.to_owned(), source: Errno::NOSPC.into() });
    }
    Ok(())
}

/// Takes back a directory that this call made and could not finish.
fn remove_unmade(layout: &Layout) {
    if layout.identity().exists() {
        return;
    }
    let files: [PathBuf; 3] = [layout.meta(), layout.calibration(), layout.lock()];
    let _ = layout.remove_half_made();
    let _ = files.iter().try_for_each(|path| remove_if_there(path));
    // Fails, as it should, where anything else has come to be in it.
    for dir in [layout.segments(), layout.cut(), layout.root().to_owned()] {
        let _ = fs::remove_dir(dir);
    }
}
