//! Bytes through the kernel: direct, mapped, locked, in flight, failing.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::{Duration, Instant};

use powercut::{FaultChange, Mount, MountError, MountOptions, Trouble};
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use towline_uring::{
    AlignedBuf, ArenaConfig, ArenaOwner, Backing, Completion, DataFile, FileMode, Ring, RingConfig, Wait,
    WritePrimitive, fsync_dir,
};

use crate::support::{Folder, Mounted, is_mounted};

pub(crate) fn direct_writes_of_the_ring_are_durable_and_overlap() {
    let mounted = Mounted::new();
    let file = direct_file(&mounted);
    let mut ring = ring();
    let fd = ring.attach(&file).unwrap();
    for block in 0..8 {
        ring.arena_mut().bytes_mut(block * BLOCK..(block + 1) * BLOCK).unwrap().fill(block as u8 + 1);
    }
    let before = mounted.mount.status().counts;
    mounted.mount.change_faults(&FaultChange { delay_fsync_us: Some(200_000), ..FaultChange::default() });
    let began = Instant::now();
    for block in 0..4 {
        let span = block * BLOCK..(block + 1) * BLOCK;
        ring.write_durable(fd, block * BLOCK, span, WritePrimitive::Dsync, block).unwrap();
    }
    assert!(wait_for(&mut ring, 4).iter().all(|done| done.result == Ok(4096)));
    let took = began.elapsed();
    assert!(took < Duration::from_millis(700), "one after the other they take 800 ms, these took {took:?}");
    // The flush could overtake the write, if it were not linked to it.
    let slow_writes = FaultChange { clear: true, delay_write_us: Some(50_000), ..FaultChange::default() };
    mounted.mount.change_faults(&slow_writes);
    let span = 4 * BLOCK..5 * BLOCK;
    ring.write_durable(fd, 4 * BLOCK, span, WritePrimitive::WriteThenFsync, 4).unwrap();
    assert_eq!(wait_for(&mut ring, 1)[0].result, Ok(4096));
    ring.write_plain(fd, 5 * BLOCK, 5 * BLOCK..6 * BLOCK, 5).unwrap();
    assert_eq!(wait_for(&mut ring, 1)[0].result, Ok(4096));
    let after = mounted.mount.status().counts;
    assert_eq!(after.durable_writes - before.durable_writes, 4);
    assert!(after.fsyncs > before.fsyncs, "the linked one");
    let report = mounted.cut(0.0, 1);
    assert_eq!(report.sectors_lost, 8, "only the plain write");
    let found = fs::read(mounted.path("log")).unwrap();
    for (block, bytes) in found.chunks(BLOCK as usize).enumerate() {
        let expected = if block < 5 { block as u8 + 1 } else { 0 };
        assert!(bytes.iter().all(|byte| *byte == expected), "block {block}");
    }
}

pub(crate) fn a_durable_write_in_flight_is_torn() {
    let mounted = Mounted::new();
    let file = direct_file(&mounted);
    let mut ring = ring();
    let fd = ring.attach(&file).unwrap();
    ring.arena_mut().bytes_mut(0..8 * BLOCK).unwrap().fill(7);
    mounted.mount.change_faults(&FaultChange { delay_fsync_us: Some(500_000), ..FaultChange::default() });
    ring.write_durable(fd, 0, 0..8 * BLOCK, WritePrimitive::Dsync, 1).unwrap();
    ring.submit_and_wait(Wait::No).unwrap();
    let writes = mounted.mount.status().counts.writes;
    crate::support::wait_for("the write", || {
        let status = mounted.mount.status();
        status.unflushed_bytes == 8 * BLOCK || status.counts.writes > writes
    });
    let report = mounted.cut(0.5, 3);
    assert_eq!(report.sectors_kept + report.sectors_lost, 64);
    assert_eq!(wait_for(&mut ring, 1)[0].result, Err(Errno::IO), "never acknowledged");
    let found = fs::read(mounted.path("log")).unwrap();
    let kept: Vec<bool> = found.chunks(512).map(|sector| sector[0] == 7).collect();
    assert!(found.chunks(512).all(|sector| sector.iter().all(|byte| *byte == sector[0])), "whole sectors");
    assert_eq!(kept.iter().filter(|kept| **kept).count() as u64, report.sectors_kept);
    assert!(kept.windows(2).any(|pair| pair == [false, true]), "not only a prefix: {kept:?}");
}

/// Of the kernel: before an asynchronous direct write it drops the cached pages; a reader that brings one back while the
/// write is under way gets the old bytes, and (FUSE, Linux 6.18) keeps them, for nothing drops them after the write.
pub(crate) fn a_direct_read_sees_what_a_cached_page_may_hide() {
    let mounted = Mounted::new();
    let file = direct_file(&mounted);
    let cached = File::open(mounted.path("log")).unwrap();
    let mut ring = ring();
    let fd = ring.attach(&file).unwrap();
    ring.arena_mut().bytes_mut(0..BLOCK).unwrap().fill(7);
    mounted.mount.change_faults(&FaultChange { delay_write_us: Some(400_000), ..FaultChange::default() });
    ring.write_durable(fd, 0, 0..BLOCK, WritePrimitive::Dsync, 1).unwrap();
    ring.submit_and_wait(Wait::No).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let mut byte = [9];
    cached.read_exact_at(&mut byte, 0).unwrap();
    assert_eq!(byte, [0], "the write is on its way");
    assert_eq!(wait_for(&mut ring, 1)[0].result, Ok(4096));
    cached.read_exact_at(&mut byte, 0).unwrap();
    println!(
        "after the write a cached read gives {}, {}",
        byte[0],
        if byte == [7] { "as is" } else { "stale" }
    );
    let mut direct = AlignedBuf::zeroed(BLOCK as usize);
    file.pread_exact(0, &mut direct).unwrap();
    assert!(direct.iter().all(|byte| *byte == 7), "a direct read passes the cache by");
}

pub(crate) fn direct_access_must_be_aligned() {
    for (alignment, works, fails) in [(512, 512, 100), (4096, 4096, 512)] {
        let mounted = Mounted::with(&MountOptions { alignment, ..MountOptions::default() });
        let file = direct_file(&mounted);
        let buffer = AlignedBuf::zeroed(8192);
        assert_eq!(file.pwrite_all(works, &buffer[..works as usize]).map_err(|e| e.to_string()), Ok(()));
        assert!(file.pwrite_all(works, &buffer[..fails]).is_err());
        assert!(file.pwrite_all(fails as u64, &buffer[..works as usize]).is_err());
        let direct = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::DIRECT.bits() as i32)
            .open(file.path())
            .unwrap();
        let mut into = AlignedBuf::zeroed(4096);
        assert!(direct.read_at(&mut into[..fails], 0).is_err());
        assert_eq!(direct.read_at(&mut into, 0).unwrap(), 4096);
        let buffered = OpenOptions::new().write(true).open(file.path()).unwrap();
        buffered.write_all_at(b"any place", 77).unwrap();
    }
}

pub(crate) fn what_is_open_stays_dead_after_a_cut() {
    let mounted = Mounted::new();
    fs::create_dir(mounted.path("dir")).unwrap();
    let mut file = File::create(mounted.path("dir/file")).unwrap();
    let (root, dir) = (File::open(&mounted.folder.mount).unwrap(), File::open(mounted.path("dir")).unwrap());
    file.write_all(b"durable").unwrap();
    file.sync_data().unwrap();
    dir.sync_all().unwrap();
    root.sync_all().unwrap();
    file.write_all(b" lost").unwrap();
    mounted.mount.cut(powercut::Cut::NOTHING).unwrap();
    assert!(!mounted.mount.status().up);
    let is_eio = |error: std::io::Error| error.raw_os_error() == Some(Errno::IO.raw_os_error());
    for restored in [false, true] {
        assert!(is_eio(file.write_all(b"x").unwrap_err()));
        assert!(is_eio(file.sync_all().unwrap_err()));
        assert!(is_eio(dir.sync_all().unwrap_err()));
        assert!(is_eio(root.sync_all().unwrap_err()));
        assert!(is_eio(file.set_len(0).unwrap_err()));
        if !restored {
            assert!(is_eio(fs::read(mounted.path("dir/file")).unwrap_err()));
            assert!(is_eio(fs::read_dir(&mounted.folder.mount).unwrap_err()));
            assert!(is_eio(File::create(mounted.path("new")).unwrap_err()));
            mounted.mount.restore();
        }
    }
    assert_eq!(fs::read(mounted.path("dir/file")).unwrap(), b"durable");
    assert_eq!(fs::read(mounted.folder.below.join("dir/file")).unwrap(), b"durable", "as below");
    fs::write(mounted.path("dir/file"), b"anew").unwrap();
    assert_eq!(fs::read(mounted.path("dir/file")).unwrap(), b"anew");
}

pub(crate) fn mappings_locks_and_unlinked_files_work() {
    let mounted = Mounted::new();
    let file = File::create_new(mounted.path("file")).unwrap();
    file.write_all_at(&[1; 5000], 0).unwrap();
    // A program is run out of a mapping of its file.
    let program = mounted.path("true");
    fs::copy("/bin/true", &program).unwrap();
    assert!(std::process::Command::new(&program).status().unwrap().success());
    fs::remove_file(&program).unwrap();
    let other = File::open(mounted.path("file")).unwrap();
    flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
    assert_eq!(flock(&other, FlockOperation::NonBlockingLockExclusive), Err(Errno::WOULDBLOCK));
    drop(file);
    flock(&other, FlockOperation::NonBlockingLockExclusive).unwrap();
    drop(other);
    let mut unlinked =
        OpenOptions::new().read(true).write(true).create_new(true).open(mounted.path("gone")).unwrap();
    fs::remove_file(mounted.path("gone")).unwrap();
    unlinked.write_all(b"nameless").unwrap();
    unlinked.sync_all().unwrap();
    unlinked.rewind().unwrap();
    let mut found = String::new();
    unlinked.read_to_string(&mut found).unwrap();
    assert_eq!(found, "nameless");
    drop(unlinked);
    std::os::unix::fs::symlink("file", mounted.path("link")).unwrap();
    assert_eq!(fs::read(mounted.path("link")).unwrap().len(), 5000);
    let mut permissions = fs::metadata(mounted.path("file")).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(mounted.path("file"), permissions.clone()).unwrap();
    mounted.fsync_root();
    mounted.cut(0.0, 1);
    assert_eq!(fs::metadata(mounted.path("file")).unwrap().permissions(), permissions);
    assert_eq!(fs::read_link(mounted.path("link")).unwrap().to_str(), Some("file"));
    assert!(!mounted.path("gone").exists());
}

pub(crate) fn dirty_pages_need_a_flush() {
    let mounted = Mounted::new();
    let file = File::create_new(mounted.path("file")).unwrap();
    file.write_all_at(b"buffered", 0).unwrap();
    mounted.fsync_root();
    // Neither sync nor a close flushes anything here.
    rustix::fs::sync();
    drop(file);
    assert_eq!(mounted.mount.status().unflushed_bytes, 512);
    assert_eq!(mounted.cut(0.0, 1).sectors_lost, 1);
    assert_eq!(fs::read(mounted.path("file")).unwrap(), b"");
}

pub(crate) fn troubles_reach_the_program() {
    let mounted = Mounted::new();
    let fault = |change: FaultChange| mounted.mount.change_faults(&change);
    let file = File::create_new(mounted.path("file")).unwrap();
    let errno = |result: std::io::Result<()>| result.err().and_then(|error| Errno::from_io_error(&error));
    fault(FaultChange { eio_write: Some(Trouble::Once), ..FaultChange::default() });
    assert_eq!(errno(file.write_all_at(&[1; 4096], 0)), Some(Errno::IO));
    assert_eq!(errno(file.write_all_at(&[1; 4096], 0)), None);
    fault(FaultChange { eio_fsync: Some(Trouble::Always), ..FaultChange::default() });
    assert_eq!(errno(file.sync_data()), Some(Errno::IO));
    assert_eq!(errno(file.sync_data()), Some(Errno::IO));
    assert_eq!(errno(File::open(&mounted.folder.mount).unwrap().sync_all()), Some(Errno::IO));
    fault(FaultChange { clear: true, eio_read: Some(Trouble::Once), ..FaultChange::default() });
    let direct = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlags::DIRECT.bits() as i32)
        .open(mounted.path("file"))
        .unwrap();
    let mut buffer = AlignedBuf::zeroed(4096);
    assert_eq!(errno(direct.read_exact_at(&mut buffer, 0)), Some(Errno::IO));
    assert_eq!(errno(direct.read_exact_at(&mut buffer, 0)), None);
    fault(FaultChange { short_write: Some(Trouble::Once), ..FaultChange::default() });
    assert_eq!(file.write_at(&buffer, 0).unwrap(), 2048);
    // What the kernel makes of it where direct writes are asynchronous (Linux 6.18).
    fault(FaultChange { short_write: Some(Trouble::Once), ..FaultChange::default() });
    assert_eq!(errno(direct.write_at(&buffer, 0).map(drop)), Some(Errno::IO));
    fault(FaultChange { space_bytes: Some(Some(8192)), ..FaultChange::default() });
    assert_eq!(errno(direct.write_all_at(&buffer, 4096)), None);
    assert_eq!(errno(direct.write_all_at(&buffer, 8192)), Some(Errno::NOSPC));
    fault(FaultChange { space_bytes: Some(None), delay_read_us: Some(50_000), ..FaultChange::default() });
    let began = Instant::now();
    assert_eq!(errno(direct.read_exact_at(&mut buffer, 0)), None);
    assert!(began.elapsed() >= Duration::from_millis(50));
}

pub(crate) fn a_busy_mount_ends_too() {
    let Mounted { mount, folder } = Mounted::new();
    let file = File::create_new(folder.mount.join("file")).unwrap();
    file.write_all_at(b"in use", 0).unwrap();
    mount.unmount().unwrap();
    assert!(!is_mounted(&folder.mount));
    assert!(file.write_all_at(b"x", 0).is_err());
    assert_eq!(fs::read(folder.below.join("file")).unwrap(), b"in use", "a clean end flushes");
    assert_eq!(fs::read_dir(&folder.below).unwrap().count(), 1);
}

pub(crate) fn places_that_cannot_work_are_refused() {
    let folder = Folder::new();
    let start = |mount: &std::path::Path, below: &std::path::Path| {
        Mount::start(mount, below, &MountOptions::default()).map(drop).unwrap_err()
    };
    let inside = folder.below.join("inside");
    fs::create_dir(&inside).unwrap();
    assert!(matches!(start(&inside, &folder.below), MountError::Mountpoint { .. }));
    assert!(matches!(start(&folder.below, &inside), MountError::Mountpoint { .. }), "not empty");
    assert!(matches!(start(&folder.mount, &folder.mount), MountError::Mountpoint { .. }));
    assert!(matches!(start(&folder.mount.join("absent"), &folder.below), MountError::Mountpoint { .. }));
    assert!(matches!(start(&folder.mount, &folder.below.join("absent")), MountError::Backing { .. }));
    let mount = Mount::start(&folder.mount, &folder.below, &MountOptions::default()).unwrap();
    assert!(start(&folder.mount, &inside).to_string().contains("already"), "twice at one place");
    let other = Folder::new();
    assert!(start(&other.mount, &folder.below).to_string().contains("another mount"), "twice over one");
    drop(mount);
    for options in [
        MountOptions { threads: 0, ..MountOptions::default() },
        MountOptions { alignment: 100, ..MountOptions::default() },
    ] {
        assert!(matches!(Mount::start(&folder.mount, &folder.below, &options), Err(MountError::Options(_))));
    }
    assert!(!is_mounted(&folder.mount) && !is_mounted(&other.mount));
}

fn direct_file(mounted: &Mounted) -> DataFile {
    let file = DataFile::create(mounted.path("log"), FileMode::Direct).unwrap();
    file.prealloc_zeroed(8 * BLOCK).unwrap();
    fsync_dir(&mounted.folder.mount).unwrap();
    file
}

fn ring() -> Ring {
    let arena = ArenaOwner::new(ArenaConfig {
        size: 256 * 1024,
        backing: Backing::Anonymous,
        block: BLOCK,
        header_len: 128,
        void_header: |len| (len as u64).to_le_bytes(),
        start: 0,
    });
    Ring::new(RingConfig::default(), arena.unwrap()).unwrap()
}

fn wait_for(ring: &mut Ring, count: usize) -> Vec<Completion> {
    let (mut done, deadline) = (Vec::new(), Instant::now() + Duration::from_secs(20));
    while done.len() < count {
        assert!(Instant::now() < deadline, "{} of {count} completions", done.len());
        ring.submit_and_wait(Wait::Until(Duration::from_millis(100))).unwrap();
        ring.drain(|completion| done.push(completion));
    }
    done
}

const BLOCK: u64 = 4096;
