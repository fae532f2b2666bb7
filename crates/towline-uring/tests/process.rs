//! What only a second process can show: the lock after a SIGKILL, and a small memlock limit. The test
//! binary runs itself again for that.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::env;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use towline_uring::{
    ArenaConfig, ArenaOwner, Backing, DataFile, DirLock, FileMode, LockError, Ring, RingConfig, Wait,
    WritePrimitive,
};

const CHUNK: u64 = 256 * 1024;
const CHUNKS: u64 = 32;
/// Bytes of memory that Linux lets an ordinary user lock.
const ORDINARY_LIMIT: u64 = 8 << 20;

/// After a SIGKILL with writes in flight the registered lock stays held until the last of them landed.
#[test]
fn the_lock_outlives_a_killed_writer_until_its_writes_landed() {
    const TRIALS: usize = 5;
    let mut held_after_death = 0;
    for _ in 0..TRIALS {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut child = start_child("child_writes_under_lock", dir.path());
        wait_for_line(&mut child, "writing");
        std::thread::sleep(Duration::from_millis(30));
        assert!(matches!(DirLock::acquire(dir.path(), Duration::ZERO), Err(LockError::Locked { .. })));
        child.kill().unwrap();
        child.wait().unwrap();
        let died = Instant::now();
        if matches!(DirLock::acquire(dir.path(), Duration::ZERO), Err(LockError::Locked { .. })) {
            held_after_death += 1;
        }
        let lock = DirLock::acquire(dir.path(), Duration::from_secs(10)).unwrap();
        println!("lock free {} ms after the process was gone", died.elapsed().as_millis());
        let first = read_direct(&dir.path().join("log"));
        std::thread::sleep(Duration::from_millis(60));
        let second = read_direct(&dir.path().join("log"));
        assert!(first == second, "a dead process's write landed after its lock was free");
        drop(lock);
    }
    assert!(held_after_death > 0, "the lock was never seen held after the death: nothing was shown");
}

#[test]
#[ignore = "runs as the child of another test"]
fn child_writes_under_lock() {
    let Some(dir) = env::var_os("TOWLINE_TEST_DIR") else { panic!("started by hand") };
    let dir = Path::new(&dir);
    let lock = DirLock::acquire(dir, Duration::ZERO).unwrap();
    let mut ring = Ring::new(RingConfig::default(), arena((CHUNK * CHUNKS) as usize)).unwrap();
    ring.register_lock(&lock).unwrap();
    let file = DataFile::create(dir.join("log"), FileMode::Direct).unwrap();
    file.prealloc_zeroed(CHUNK * CHUNKS).unwrap();
    let fd = ring.attach(&file).unwrap();
    println!("writing");
    let mut round = vec![0u8; CHUNKS as usize];
    let mut next: Vec<u64> = (0..CHUNKS).collect();
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        for chunk in next.drain(..) {
            let range = chunk * CHUNK..(chunk + 1) * CHUNK;
            round[chunk as usize] = round[chunk as usize].wrapping_add(1);
            ring.arena_mut().bytes_mut(range.clone()).unwrap().fill(round[chunk as usize]);
            ring.write_durable(fd, chunk * CHUNK, range, WritePrimitive::Dsync, chunk).unwrap();
        }
        ring.submit_and_wait(Wait::Until(Duration::from_millis(100))).unwrap();
        ring.drain(|completion| {
            completion.result.unwrap();
            next.push(completion.tag);
        });
    }
}

/// Where the memlock limit does not allow registration, the ring works without. Locked memory is counted per user, over
/// all processes: a limit that only this child's rings fit in would fail whenever another test has some. So the
/// limit stays what ordinary users have, and the arena is what no such limit can hold.
#[test]
fn a_small_memlock_limit_only_costs_the_registration() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut child = start_child("child_with_small_memlock", dir.path());
    wait_for_line(&mut child, "unregistered");
    assert!(child.wait().unwrap().success());
    assert!(read_direct(&dir.path().join("log"))[..4096].iter().all(|byte| *byte == 0x3c));
}

#[test]
#[ignore = "runs as the child of another test"]
fn child_with_small_memlock() {
    let Some(dir) = env::var_os("TOWLINE_TEST_DIR") else { panic!("started by hand") };
    let own = rustix::process::getrlimit(Resource::Memlock);
    let bytes = own.current.map_or(ORDINARY_LIMIT, |bytes| bytes.min(ORDINARY_LIMIT));
    let limit = Rlimit { current: Some(bytes), maximum: own.maximum };
    rustix::process::setrlimit(Resource::Memlock, limit).unwrap();
    // The limit does not bind a process with this capability.
    let mut sets = capabilities(None).unwrap();
    sets.effective.remove(CapabilitySet::IPC_LOCK);
    set_capabilities(None, sets).unwrap();

    let mut ring = Ring::new(RingConfig::default(), arena(2 * ORDINARY_LIMIT as usize)).unwrap();
    assert!(!ring.registered());
    let file = DataFile::create(Path::new(&dir).join("log"), FileMode::Direct).unwrap();
    file.prealloc_zeroed(CHUNK * CHUNKS).unwrap();
    let fd = ring.attach(&file).unwrap();
    ring.arena_mut().bytes_mut(0..4096).unwrap().fill(0x3c);
    ring.write_durable(fd, 0, 0..4096, WritePrimitive::Dsync, 1).unwrap();
    let mut result = None;
    while result.is_none() {
        ring.submit_and_wait(Wait::Until(Duration::from_secs(1))).unwrap();
        ring.drain(|completion| result = Some(completion.result));
    }
    assert_eq!(result, Some(Ok(4096)));
    println!("unregistered");
}

fn start_child(test: &str, dir: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", test])
        .env("TOWLINE_TEST_DIR", dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The harness may print before and behind the word, on the same line.
fn wait_for_line(child: &mut Child, word: &str) {
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains(word) {
        line.clear();
        assert!(lines.read_line(&mut line).unwrap() > 0, "the child ended before it said {word:?}");
    }
    // What is left would break the child's pipe: read it beside the test.
    std::thread::spawn(move || lines.read_to_end(&mut Vec::new()));
}

fn read_direct(path: &Path) -> Vec<u8> {
    let mut bytes = vec![0; (CHUNK * CHUNKS) as usize];
    std::fs::File::open(path).unwrap().read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn arena(size: usize) -> ArenaOwner {
    ArenaOwner::new(ArenaConfig {
        size,
        backing: Backing::Anonymous,
        block: 4096,
        header_len: 128,
        void_header: |len| (len as u64).to_le_bytes(),
        start: 0,
    })
    .unwrap()
}
