//! A directory on the real disk, and a hand that writes a log into it as a shard would.

use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::sync::mpsc::{Receiver, channel};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use towline_core::format::{
    BatchHeader, BatchKind, BodySeed, RecordKind, encode_record_header, encode_rule, payload_crc,
    record_bytes, summarize_sealed,
};
use towline_core::log::recovery::Step;
use towline_core::node::Input;
use towline_core::types::limits::{BATCH_HEADER_BYTES, BLOCK_BYTES};
use towline_core::types::{Geometry, LogId, Lsn, Meta, NodeId, Position, Span, Term};
use towline_runtime::storage::{
    Command, Keeper, LogReader, OpenError, Opened, Purpose, Segments, ShardDir, Steps, StorageOptions,
    records,
};
use towline_uring::{AlignedBuf, DataFile, DirLock};

pub(crate) const GEOMETRY: Geometry = Geometry { segment_bytes: 8 << 20, in_flight_bytes: 4 << 20 };
pub(crate) const TERM: Term = Term { number: 1, node: NodeId(7) };

/// A place for a shard's directory; gone at the end of the test.
pub(crate) struct Place {
    _home: TempDir,
    pub(crate) path: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Place {
        let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = home.path().join("shard-0");
        Place { _home: home, path }
    }

    pub(crate) fn open(&self) -> Result<Opened, OpenError> {
        ShardDir::open(&self.path, &options())
    }

    /// Waits for nobody who has it.
    pub(crate) fn open_at_once(&self) -> Result<Opened, OpenError> {
        ShardDir::open(&self.path, &StorageOptions { lock_wait: Duration::ZERO, ..options() })
    }

    pub(crate) fn segment(&self, seq: u64) -> PathBuf {
        self.path.join(format!("segments/{seq:016x}.seg"))
    }

    /// A log with `batches` data batches, closed cleanly. Returns the writer as it was at the end.
    pub(crate) fn with_log(batches: usize) -> (Place, Written) {
        let place = Place::new();
        let mut log = Log::start(place.open().unwrap());
        log.lead();
        for n in 0..batches {
            log.append(&[payload(n, 100).as_slice(), payload(n, 5000).as_slice()]);
        }
        let written = log.close();
        (place, written)
    }

    /// Waits as [`open`](Self::open) does.
    pub(crate) fn reader(&self) -> LogReader {
        let deadline = Instant::now() + options().lock_wait;
        loop {
            match LogReader::open_readonly(&self.path, false) {
                Err(OpenError::Locked { .. }) if Instant::now() < deadline => sleep(Duration::from_millis(5)),
                opened => return opened.unwrap(),
            }
        }
    }

    pub(crate) fn payloads(&self) -> Vec<Vec<u8>> {
        let reader = self.reader();
        let mut walk = reader.walk();
        let mut found = Vec::new();
        while let Step::Batch(batch) = walk.step().unwrap() {
            let data = records(&batch).filter(|record| record.kind == RecordKind::Data);
            found.extend(data.map(|record| record.payload.to_vec()));
        }
        found
    }
}

/// A file system of a few MiB, to be filled; unmounted at the end.
pub(crate) struct SmallDisk(pub(crate) PathBuf);

impl SmallDisk {
    /// `None` where this user may not mount one.
    pub(crate) fn mount(place: &Place, mebibytes: u64) -> Option<SmallDisk> {
        let dir = place.path.with_extension("small");
        std::fs::create_dir(&dir).unwrap();
        let size = format!("size={mebibytes}m");
        let mount = Process::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(&dir).output();
        mount.is_ok_and(|output| output.status.success()).then_some(SmallDisk(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Process::new("umount").arg("-l").arg(&self.0).status();
    }
}

pub(crate) fn options() -> StorageOptions {
    StorageOptions {
        purpose: Purpose::Primary,
        name: "a".to_owned(),
        geometry: Some(GEOMETRY),
        calibrate: false,
        // Another test of this program that starts a process holds every lock until that process is another program.
        lock_wait: Duration::from_secs(5),
        arena_dir: None,
        ..StorageOptions::default()
    }
}

pub(crate) fn stopping(steps: &Steps) -> StorageOptions {
    StorageOptions { steps: steps.clone(), ..options() }
}

pub(crate) fn payload(n: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at as u8).wrapping_mul(31) ^ (n as u8) ^ 1).collect()
}

/// What a log held when it was closed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written {
    pub(crate) batches: Vec<BatchHeader>,
    pub(crate) payloads: Vec<Vec<u8>>,
    pub(crate) end: Position,
    pub(crate) hash: u64,
    pub(crate) meta: Meta,
}

impl Written {
    pub(crate) fn span(&self, batch: usize) -> Span {
        self.batches[batch].stored()
    }

    /// Payloads of the first `batches` data batches.
    pub(crate) fn first(&self, batches: usize) -> Vec<Vec<u8>> {
        let records: u32 = self.batches[..batches].iter().map(|batch| batch.records).sum();
        self.payloads[..records as usize].to_vec()
    }
}

/// A keeper with its answers.
pub(crate) struct Kept {
    pub(crate) keeper: Keeper,
    pub(crate) answers: Receiver<Input>,
}

impl Kept {
    pub(crate) fn send(&self, command: Command) {
        self.keeper.send(command).unwrap();
    }

    pub(crate) fn next(&self) -> Input {
        self.answers.recv_timeout(Duration::from_secs(20)).expect("the keeper answers")
    }

    pub(crate) fn ask(&self, command: Command) -> Input {
        self.send(command);
        self.next()
    }
}

/// Writes a log into an open directory.
pub(crate) struct Log {
    pub(crate) kept: Kept,
    pub(crate) segments: Segments,
    pub(crate) log: LogId,
    pub(crate) meta: Meta,
    pub(crate) term: Term,
    /// What the leader says it has flushed; `None`: everything before each batch.
    pub(crate) durable_before: Option<Lsn>,
    pub(crate) written: Written,
    pub(crate) lock: Option<DirLock>,
}

impl Log {
    pub(crate) fn start(opened: Opened) -> Log {
        let (sink, answers) = channel();
        let keeper = Keeper::start(opened.keeper, move |input| drop(sink.send(input))).unwrap();
        let written =
            Written { end: opened.recovered.end, hash: opened.recovered.previous_hash, ..Written::default() };
        Log {
            kept: Kept { keeper, answers },
            segments: opened.segments,
            log: opened.identity.log_id(),
            meta: opened.meta,
            term: TERM,
            durable_before: None,
            written,
            lock: Some(opened.lock),
        }
    }

    /// Takes the term from the log's end on.
    pub(crate) fn lead(&mut self) {
        let (term, start) = (self.term, self.written.end.lsn);
        self.change_meta(|meta| {
            meta.adopted = term;
            meta.led = Some(term);
            meta.history.push(term, start).unwrap();
        });
    }

    pub(crate) fn change_meta(&mut self, change: impl FnOnce(&mut Meta)) {
        change(&mut self.meta);
        self.meta.sequence += 1;
        let answer = self.kept.ask(Command::WriteMeta(self.meta.clone()));
        assert_eq!(answer, Input::MetaWritten { sequence: self.meta.sequence });
    }

    pub(crate) fn prepare(&mut self, seq: u64) -> u32 {
        match self.kept.ask(Command::Prepare { seq, salt: None }) {
            Input::SegmentReady { seq: ready, salt } if ready == seq => salt,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn append(&mut self, payloads: &[&[u8]]) -> BatchHeader {
        let body: Vec<u8> = payloads.iter().flat_map(|payload| record(RecordKind::Data, payload)).collect();
        let header = self.batch(BatchKind::Data, &body);
        self.written.payloads.extend(payloads.iter().map(|payload| payload.to_vec()));
        header
    }

    pub(crate) fn rule(&mut self, version: u64, rule: &str) -> BatchHeader {
        let body = record(RecordKind::Rule, &encode_rule(version, rule));
        self.batch(BatchKind::Data, &body)
    }

    pub(crate) fn seal(&mut self) -> BatchHeader {
        self.batch(BatchKind::Seal, &[])
    }

    pub(crate) fn roll(&mut self) -> BatchHeader {
        self.batch(BatchKind::Roll, &[])
    }

    fn batch(&mut self, kind: BatchKind, body: &[u8]) -> BatchHeader {
        let (header, bytes) = self.build(kind, body);
        let seq = GEOMETRY.segment_of(header.start);
        write(&self.segments.file(seq).unwrap(), GEOMETRY.offset_of(header.start), &bytes);
        header
    }

    /// Builds the next batch without writing it.
    pub(crate) fn build(&mut self, kind: BatchKind, body: &[u8]) -> (BatchHeader, Vec<u8>) {
        let start = GEOMETRY.batch_place(self.written.end.lsn);
        let seq = GEOMETRY.segment_of(start);
        let salt = self.segments.salt(seq).unwrap_or_else(|| self.prepare(seq));
        let summary = summarize_sealed(body, &BodySeed { log: self.log, salt, start }).unwrap();
        let mut header = BatchHeader {
            kind,
            log: self.log,
            term: self.term,
            start,
            end: start.plus(BATCH_HEADER_BYTES + body.len() as u64).block_up(),
            body_bytes: body.len() as u32,
            records: summary.records,
            payload_bytes: summary.payload_bytes,
            records_before: self.written.end.records,
            payload_before: self.written.end.payload_bytes,
            durable_before: self.durable_before.unwrap_or(start),
            previous_hash: self.written.hash,
            body_crc: summary.crc,
        };
        if kind == BatchKind::Roll {
            header.end = GEOMETRY.segment_end(seq);
        }
        let encoded = header.encode(salt);
        let mut bytes = [encoded.as_slice(), body].concat();
        bytes.resize(header.stored().len() as usize, 0);
        self.written.hash = BatchHeader::hash(&encoded);
        self.written.end = header.after();
        self.written.batches.push(header);
        (header, bytes)
    }

    /// Ends keeper and lock, as a clean stop or a SIGKILL after the last flush does.
    pub(crate) fn close(self) -> Written {
        let Log { kept, mut written, lock, meta, .. } = self;
        kept.keeper.stop();
        drop(lock);
        written.meta = meta;
        written
    }
}

pub(crate) fn record(kind: RecordKind, payload: &[u8]) -> Vec<u8> {
    let mut bytes = encode_record_header(kind, payload.len() as u32, payload_crc(payload)).to_vec();
    bytes.extend_from_slice(payload);
    bytes.resize(record_bytes(payload.len() as u64) as usize, 0);
    bytes
}

pub(crate) fn write(file: &DataFile, offset: u64, bytes: &[u8]) {
    let mut aligned = AlignedBuf::zeroed(bytes.len());
    aligned[..bytes.len()].copy_from_slice(bytes);
    assert_eq!(bytes.len() as u64 % BLOCK_BYTES, 0);
    file.pwrite_all(offset, &aligned[..bytes.len()]).unwrap();
    file.fdatasync().unwrap();
}

/// Overwrites bytes of a file in place.
pub(crate) fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(bytes, offset).unwrap();
    file.sync_all().unwrap();
}

pub(crate) fn flip(path: &Path, offset: u64) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[offset as usize] ^= 0x10;
    overwrite(path, offset, &bytes[offset as usize..][..1]);
}
