//! What a shard is made of, before it is on its thread.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crossbeam::queue::ArrayQueue;
use towline_core::format::void_header;
use towline_core::node::{NodeConfig, StartRole};
use towline_core::replication::Unmet as NodeUnmet;
use towline_core::types::limits::{BATCH_HEADER_BYTES, BLOCK_BYTES, MAX_STANDBYS, SEGMENT_HEADER_BYTES};
use towline_core::types::{Geometry, LogId, Lsn, NodeId};
use towline_uring::primitive::Primitive;
use towline_uring::{ArenaConfig, ArenaOwner, Backing, BufPool, MAX_READERS, Ring, RingConfig, Wake};

use super::batch::Batches;
use super::brain::Brain;
use super::clients::{Clients, LongRecords, MAX_CLIENTS, ReadMemory};
use super::core::{Core, Events};
use super::files::{Files, MAX_ATTACHED};
use super::hand_over::HandOvers;
use super::sessions::{MAX_SESSIONS, Sessions};
use super::writes::{SLOTS, Writes};
use super::{About, Counters, Shard};
use crate::apply::{Applier, Apply};
use crate::batch_reader::BatchReader;
use crate::clock::{now_ns, ns_of};
use crate::error::StartError;
use crate::handle::shared::ShardShared;
use crate::handle::{Handle, Readers};
use crate::node_dir::shard_dir;
use crate::options::{NodeOptions, Role, Unmet};
use crate::storage::{Keeper, Opened, Purpose, ShardDir, StorageOptions, arena_path};

/// A shard that is opened but not at work: it can be sent to the thread that will carry it.
pub struct ShardSeed {
    number: u16,
    options: NodeOptions,
    opened: Opened,
    arena: ArenaOwner,
    arena_file: Option<PathBuf>,
    shared: Arc<ShardShared>,
    config: NodeConfig,
    app: Option<Box<dyn Apply>>,
    readers: Arc<Readers>,
}

impl ShardSeed {
    /// Opens the shard's directory and makes its arena. `node` is the id that all shards of a new node share.
    pub(crate) fn open(
        number: u16,
        options: &NodeOptions,
        node: Option<NodeId>,
        app: Option<Box<dyn Apply>>,
    ) -> Result<ShardSeed, StartError> {
        let dir = shard_dir(&options.dir, number);
        let fresh = !dir.join("identity").exists();
        let opened = ShardDir::open(&dir, &storage_options(number, options, node))
            .map_err(|source| StartError::Open { shard: number, source })?;
        let start = opened.recovered.end.lsn.0.max(SEGMENT_HEADER_BYTES);
        let arena_file = (options.role == Role::Standby)
            .then(|| arena_path(Path::new(SHARED_MEMORY), opened.identity.node, number));
        let (arena, arena_file) = make_arena(options, start, arena_file)
            .map_err(|source| StartError::Arena { shard: number, source })?;
        let wake = Wake::new().map_err(StartError::system("make an eventfd"))?;
        let is_standby = options.role == Role::Standby;
        let shared = Arc::new(ShardShared::new(number, arena.appender(), wake, is_standby));
        let config = node_config(number, options, &opened, fresh, arena_file.is_some(), app.is_some());
        // One is left for the applier.
        let readers = (1..MAX_READERS).filter_map(|_| arena.reader()).collect();
        let readers = Arc::new(Readers::new(readers));
        Ok(ShardSeed {
            number,
            options: options.clone(),
            opened,
            arena,
            arena_file,
            shared,
            config,
            app,
            readers,
        })
    }

    /// The shard's number.
    pub fn number(&self) -> u16 {
        self.number
    }

    pub(crate) fn node_id(&self) -> NodeId {
        self.opened.identity.node
    }

    pub(crate) fn handle(&self) -> Handle {
        let segments = self.opened.segments.clone();
        Handle::new(Arc::clone(&self.shared), segments, Arc::clone(&self.readers))
    }

    /// Puts the shard to work on this thread.
    pub(crate) fn grow(self) -> Result<Shard, StartError> {
        let ShardSeed { number, options, opened, mut arena, arena_file, shared, config, app, readers } = self;
        arena.freeze();
        let reader = arena.reader();
        let ring_error = |source| StartError::Ring { shard: number, source };
        let mut ring =
            Ring::new(RingConfig { depth: RING_DEPTH, files: RING_FILES }, arena).map_err(ring_error)?;
        ring.register_lock(&opened.lock).map_err(ring_error)?;
        let event = ring.attach(shared.wake.event()).map_err(ring_error)?;
        let answers = Arc::new(ArrayQueue::new(ANSWERS));
        let (to, wake) = (Arc::clone(&answers), shared.wake.clone());
        let keeper = Keeper::start(opened.keeper, move |mut input| {
            // Never lost: the shard empties the queue every turn.
            while let Err(back) = to.push(input) {
                input = back;
                wake.notify();
                std::thread::sleep(Duration::from_micros(100));
            }
            wake.notify();
        })
        .map_err(StartError::system("start the keeper's thread"))?;
        let primitive = options.primitive.unwrap_or(Primitive::Ring(opened.calibration.primitive));
        let writes =
            Writes::new(primitive, &shared.wake).map_err(StartError::system("start the flusher's thread"))?;
        let log_start = opened.meta.log_start.max(Lsn(SEGMENT_HEADER_BYTES));
        let applier = app
            .map(|app| {
                let reader = BatchReader::new(reader, opened.segments.clone()).with_wide_window();
                Applier::start(app, reader, log_start, shared.wake.clone(), number)
            })
            .transpose()
            .map_err(StartError::system("start the applier's thread"))?;
        let tape = options.record_inputs.as_ref().map(|path| {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        });
        let flush_depth = config.flush_depth;
        let (log, geometry) = (config.log, config.geometry);
        let position = opened.recovered.end;
        let brain = Brain::new(config, opened.recovered, opened.meta, tape.as_deref())
            .map_err(StartError::system("open the tape of inputs"))?;
        let names = options.standbys.iter().map(|standby| standby.name.clone()).collect();
        let mut events = Events::new(number, options.on_event.clone(), names);
        for text in opened.notes {
            events.say(&towline_core::node::Event::Note { text });
        }
        let core = Core {
            ring,
            brain,
            files: Files::new(opened.segments),
            frames: BufPool::new(FRAME_BUFS, FRAME_BUF_BYTES),
            client_bufs: BufPool::new(MAX_CLIENTS, CLIENT_BUF_BYTES),
            client_frames: BufPool::new(MAX_CLIENTS, FRAME_BUF_BYTES),
            read_memory: ReadMemory::new(),
            long_records: LongRecords::new(),
            shared,
            log,
            geometry,
            node_id: opened.identity.node,
            now_ns: now_ns(),
            peers: options.standbys.iter().map(|standby| standby.address.clone()).collect(),
            addresses: options
                .standbys
                .iter()
                .map(|standby| (standby.name.clone(), standby.address.clone()))
                .collect(),
            zero_copy: options.zero_copy_send,
            events,
        };
        Ok(Shard {
            batches: Batches::new(position),
            writes,
            sessions: Sessions::new(),
            clients: Clients::new(options.shards),
            keeper: Some(keeper),
            answers,
            keeping: Default::default(),
            dir: opened.dir,
            applier,
            applied_told: 0,
            release_to: Lsn(0),
            readers,
            rule_requests: Default::default(),
            hand_overs: HandOvers::default(),
            next_rule_request: 1,
            cancels: Vec::new(),
            counters: Counters::default(),
            event,
            event_armed: false,
            hold_limit_ns: ns_of(options.hold_limit),
            spin_ns: ns_of(options.spin),
            last_active_ns: core.now_ns,
            usual_gap_ns: 1_000_000_000,
            timer_ns: None,
            held_outputs: Default::default(),
            node_stopped: false,
            stop_asked_ns: None,
            ended: None,
            about: About { primitive: primitive.name().to_owned(), flush_depth },
            arena_file,
            core,
            lock: opened.lock,
        })
    }
}

/// Where shared memory allows it, a standby's arena outlives its process; else it is memory like any other, and
/// `written` is no more than that.
fn make_arena(
    options: &NodeOptions,
    start: u64,
    file: Option<PathBuf>,
) -> Result<(ArenaOwner, Option<PathBuf>), towline_uring::ArenaError> {
    let config = |backing| ArenaConfig {
        size: options.arena_bytes as usize,
        backing,
        block: BLOCK_BYTES,
        header_len: BATCH_HEADER_BYTES,
        void_header: |len| void_header(len as u64),
        start,
    };
    if let Some(path) = file {
        // One of another size is of an earlier configuration: what it held has been taken over by now.
        if std::fs::metadata(&path).is_ok_and(|found| found.len() != options.arena_bytes) {
            let _ = std::fs::remove_file(&path);
        }
        if let Ok(arena) = ArenaOwner::new(config(Backing::File(path.clone()))) {
            return Ok((arena, Some(path)));
        }
    }
    Ok((ArenaOwner::new(config(Backing::Anonymous))?, None))
}

fn storage_options(number: u16, options: &NodeOptions, node: Option<NodeId>) -> StorageOptions {
    StorageOptions {
        purpose: match options.role {
            Role::Primary => Purpose::Primary,
            Role::Standby => Purpose::Standby,
        },
        name: options.name.clone(),
        shard: number,
        node,
        geometry: Some(Geometry {
            segment_bytes: options.segment_bytes,
            in_flight_bytes: options.in_flight_bytes,
        }),
        buffered: options.buffered,
        flush_depth: options.flush_depth,
        calibrate: options.calibrate && options.primitive.is_none(),
        repair_from: options.repair_from.clone(),
        ..StorageOptions::default()
    }
}

fn node_config(
    number: u16,
    options: &NodeOptions,
    opened: &Opened,
    fresh: bool,
    arena_outlives: bool,
    applies: bool,
) -> NodeConfig {
    let (log, geometry) = opened.segments.log().unwrap_or((
        LogId::default(),
        Geometry { segment_bytes: options.segment_bytes, in_flight_bytes: options.in_flight_bytes },
    ));
    NodeConfig {
        node: opened.identity.node,
        name: options.name.clone(),
        log,
        geometry,
        shard: number,
        role: match options.role {
            Role::Primary => StartRole::Primary,
            Role::Standby => StartRole::Standby,
        },
        fresh: fresh && options.role == Role::Primary,
        alone: options.alone,
        standbys: options.standbys.iter().take(MAX_STANDBYS).map(|standby| standby.name.clone()).collect(),
        rule: options.sync_rule.clone(),
        unmet: match options.unmet {
            Unmet::Stall => NodeUnmet::Stall,
            Unmet::DegradeAfter(after) => NodeUnmet::DegradeAfter { ns: ns_of(after) },
        },
        flush_depth: options.flush_depth.unwrap_or(opened.calibration.flush_depth),
        arena_bytes: options.arena_bytes,
        arena_outlives,
        prepare_ahead: options.prepare_segments,
        retention_bytes: options.retention_bytes,
        hold_bytes: options.hold_bytes,
        heartbeat_ns: ns_of(options.heartbeat),
        applies,
        apply_safe: options.apply_safe,
        ..NodeConfig::default()
    }
}

const SHARED_MEMORY: &str = "/dev/shm";
const ANSWERS: usize = 256;
/// Frames on their way, and one small receive per session.
const FRAME_BUFS: usize = 128;
const FRAME_BUF_BYTES: usize = 8192;
const CLIENT_BUF_BYTES: usize = 16 << 10;
/// Sockets of clients and nodes, segment files, the lock, the wake-up.
const RING_FILES: u32 = 512;
const RING_DEPTH: u32 = 1024;
const _: () = assert!(MAX_CLIENTS + MAX_SESSIONS + MAX_ATTACHED + 8 < RING_FILES as usize);
const _: () = assert!(2 * (MAX_CLIENTS + MAX_SESSIONS) + SLOTS + 64 < RING_DEPTH as usize);
