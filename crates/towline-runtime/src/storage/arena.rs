//! The arena that a killed standby left in shared memory: whole batches there that never reached the disk.
//!
//! `remote_write` promised that they survive the process. They are taken over before a torn tail is cut: a batch that
//! is torn on the disk is often whole here.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use towline_core::format::{BatchHeader, verify_body};
use towline_core::types::limits::{ARENA_BYTES, BATCH_HEADER_BYTES, MAX_BATCH_BYTES, MIN_ARENA_BYTES};
use towline_core::types::{Lsn, NodeId, Position, Span, TermHistory};
use towline_uring::AlignedBuf;

use super::error::OpenError;
use super::recovery::World;

/// Where a node's arena lies while it is a standby.
pub fn arena_path(dir: &Path, node: NodeId, shard: u16) -> PathBuf {
    dir.join(format!("towline-{:016x}-{shard}", node.0))
}

/// What an earlier process of this node left.
#[derive(Debug)]
pub(crate) struct ArenaSurvivor {
    file: File,
    size: u64,
}

/// Where the log on the disk ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DiskEnd {
    pub(crate) end: Position,
    pub(crate) previous_hash: u64,
}

impl ArenaSurvivor {
    /// The file, if there is one of this user's with a size that an arena can have.
    pub(crate) fn find(path: &Path) -> Result<Option<ArenaSurvivor>, OpenError> {
        // Shared memory is everybody's directory: no link is followed, nobody else's file is read.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(_) => return Ok(None),
        };
        let meta = file.metadata().map_err(|e| OpenError::io("look at", path, e))?;
        let ours = meta.is_file() && meta.uid() == rustix::process::geteuid().as_raw();
        let sized = meta.len().is_power_of_two() && (MIN_ARENA_BYTES..=MAX_ARENA_BYTES).contains(&meta.len());
        Ok((ours && sized).then_some(ArenaSurvivor { file, size: meta.len() }))
    }

    /// How far whole batches that continue the log reach: chain, counts, owner and every CRC are checked.
    pub(crate) fn reach(
        &self,
        world: &World<'_>,
        history: &TermHistory,
        from: DiskEnd,
    ) -> Result<Lsn, OpenError> {
        let mut at = from;
        let mut buf = AlignedBuf::zeroed(MAX_BATCH_BYTES as usize);
        while let Some(next) = self.batch_at(world, history, at, &mut buf)? {
            at = DiskEnd { end: next.0.after(), previous_hash: next.1 };
        }
        Ok(at.end.lsn)
    }

    /// Writes those batches to their segments and flushes them. The caller has recorded the span as unfinished.
    pub(crate) fn write(
        &self,
        world: &World<'_>,
        history: &TermHistory,
        from: DiskEnd,
        upto: Lsn,
    ) -> Result<u64, OpenError> {
        let mut at = from;
        let mut buf = AlignedBuf::zeroed(MAX_BATCH_BYTES as usize);
        let mut touched = BTreeSet::new();
        let mut batches = 0;
        while at.end.lsn < upto {
            let Some((header, hash)) = self.batch_at(world, history, at, &mut buf)? else { break };
            let seq = world.geometry.segment_of(header.start);
            let Some(file) = world.segments.file(seq) else { break };
            world.options.steps.take("write a batch from the arena")?;
            let stored = header.stored().len() as usize;
            file.pwrite_all(world.geometry.offset_of(header.start), &buf[..stored])
                .map_err(OpenError::file)?;
            touched.insert(seq);
            batches += 1;
            at = DiskEnd { end: header.after(), previous_hash: hash };
        }
        for file in touched.into_iter().filter_map(|seq| world.segments.file(seq)) {
            file.fdatasync().map_err(OpenError::file)?;
        }
        Ok(batches)
    }

    /// The batch that continues the log at `at`, whole, in `buf`; with the hash of its header.
    fn batch_at(
        &self,
        world: &World<'_>,
        history: &TermHistory,
        at: DiskEnd,
        buf: &mut AlignedBuf,
    ) -> Result<Option<(BatchHeader, u64)>, OpenError> {
        let place = world.geometry.batch_place(at.end.lsn);
        // A batch can be checked only under its segment's salt: without the segment it was never reported either.
        let Some(salt) = world.segments.salt(world.geometry.segment_of(place)) else { return Ok(None) };
        self.read(place, &mut buf[..BATCH_HEADER_BYTES as usize])?;
        let Ok(header) = BatchHeader::decode(buf, world.log, salt, world.geometry) else { return Ok(None) };
        let continues = header.start == place
            && header.previous_hash == at.previous_hash
            && (header.records_before, header.payload_before) == (at.end.records, at.end.payload_bytes)
            && history.owner(place) == Some(header.term);
        let stored = header.stored().len();
        if !continues || stored > self.size {
            return Ok(None);
        }
        let mut encoded = [0; BATCH_HEADER_BYTES as usize];
        encoded.copy_from_slice(&buf[..BATCH_HEADER_BYTES as usize]);
        self.read(place, &mut buf[..stored as usize])?;
        let body = &buf[BATCH_HEADER_BYTES as usize..stored as usize];
        let whole = verify_body(&header, body, salt).is_ok() && buf.starts_with(&encoded);
        Ok(whole.then(|| (header, BatchHeader::hash(&encoded))))
    }

    /// Reads around the arena's end.
    fn read(&self, place: Lsn, bytes: &mut [u8]) -> Result<(), OpenError> {
        let offset = place.0 % self.size;
        let (first, rest) = bytes.split_at_mut(bytes.len().min((self.size - offset) as usize));
        let io = |e: io::Error| OpenError::io("read", Path::new("the arena in shared memory"), e);
        self.file.read_exact_at(first, offset).map_err(io)?;
        self.file.read_exact_at(rest, 0).map_err(io)
    }
}

/// The span that the arena adds to the log.
pub(crate) fn added(from: DiskEnd, upto: Lsn) -> Span {
    Span::new(from.end.lsn, upto)
}

const MAX_ARENA_BYTES: u64 = 1 << 30;
const _: () = assert!(ARENA_BYTES <= MAX_ARENA_BYTES);
