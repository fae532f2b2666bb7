//! The ring on real files and loopback sockets.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use towline_uring::{
    ArenaConfig, ArenaOwner, Backing, BufPool, Completion, DataFile, Errno, EventFd, FileMode, Ring,
    RingConfig, RingError, Wait, Wake, WritePrimitive, tcp_socket,
};

const SIZE: u64 = 256 * 1024;
const BLOCK: u64 = 4096;

#[test]
fn durable_writes_reach_the_file_by_both_primitives() {
    let dir = disk_dir();
    let mut ring = ring();
    let file = DataFile::create(dir.path().join("log"), FileMode::Direct).unwrap();
    file.prealloc_zeroed(16 * BLOCK).unwrap();
    let fd = ring.attach(&file).unwrap();
    ring.arena_mut().bytes_mut(0..3 * BLOCK).unwrap().fill(0x5a);
    ring.write_durable(fd, 0, 0..BLOCK, WritePrimitive::Dsync, 1).unwrap();
    ring.write_durable(fd, BLOCK, BLOCK..2 * BLOCK, WritePrimitive::WriteThenFsync, 2).unwrap();
    ring.write_plain(fd, 2 * BLOCK, 2 * BLOCK..3 * BLOCK, 3).unwrap();
    assert!(ring.arena_mut().bytes_mut(0..8).is_none(), "pinned from the submission on");
    assert_eq!(ring.arena_mut().release(SIZE), 0);
    let mut done = wait_for(&mut ring, 3);
    done.sort_by_key(|completion| completion.tag);
    assert_eq!(
        done.iter().map(|c| (c.tag, c.result)).collect::<Vec<_>>(),
        [(1, Ok(4096)), (2, Ok(4096)), (3, Ok(4096))]
    );
    assert_eq!(ring.in_flight(), 0);
    assert!(ring.arena_mut().bytes_mut(0..8).is_some());
    ring.fsync(fd, 4).unwrap();
    assert_eq!(wait_for(&mut ring, 1)[0].result, Ok(0));
    let mut found = vec![0; 4 * BLOCK as usize];
    std::fs::File::open(file.path()).unwrap().read_exact_at(&mut found, 0).unwrap();
    assert!(found[..3 * BLOCK as usize].iter().all(|byte| *byte == 0x5a));
    assert!(found[3 * BLOCK as usize..].iter().all(|byte| *byte == 0));
    assert_eq!(ring.stats().submissions, 5);
}

#[test]
fn a_span_that_wraps_is_written_and_read_whole() {
    let dir = disk_dir();
    let mut ring = ring();
    let file = DataFile::create(dir.path().join("log"), FileMode::Direct).unwrap();
    file.prealloc_zeroed(4 * BLOCK).unwrap();
    let fd = ring.attach(&file).unwrap();
    ring.arena_mut().release(SIZE / 2);
    let span = SIZE - BLOCK..SIZE + BLOCK;
    for (index, byte) in ring.arena_mut().bytes_mut(span.clone()).unwrap().iter_mut().enumerate() {
        *byte = (index / 7) as u8;
    }
    ring.write_durable(fd, 0, span.clone(), WritePrimitive::Dsync, 1).unwrap();
    assert_eq!(wait_for(&mut ring, 1)[0].result, Ok(8192));
    let before = ring.arena().bytes(span.clone()).unwrap().to_vec();
    ring.arena_mut().bytes_mut(span.clone()).unwrap().fill(0);
    ring.read_into_arena(fd, 0, span.clone(), 2).unwrap();
    assert!(ring.arena().bytes(span.clone()).is_none(), "the kernel fills it");
    assert_eq!(wait_for(&mut ring, 1)[0].result, Ok(8192));
    assert_eq!(ring.arena().bytes(span).unwrap(), before);
}

#[test]
fn errors_come_as_completions_and_a_failed_link_as_one() {
    let dir = disk_dir();
    let mut ring = ring();
    let file = DataFile::create(dir.path().join("log"), FileMode::Direct).unwrap();
    file.prealloc_zeroed(BLOCK).unwrap();
    let fd = ring.attach(&file).unwrap();
    // Misaligned for O_DIRECT.
    ring.write_durable(fd, 3, 0..BLOCK, WritePrimitive::WriteThenFsync, 1).unwrap();
    let done = wait_for(&mut ring, 1);
    assert_eq!((done[0].tag, done[0].result), (1, Err(Errno::INVAL)));
    assert_eq!(ring.in_flight(), 0, "both halves of the link are done");
    assert!(matches!(
        ring.write_durable(fd, 0, SIZE..2 * SIZE + 8, WritePrimitive::Dsync, 2),
        Err(RingError::Range { .. })
    ));
    ring.detach(fd).unwrap();
    assert!(matches!(ring.fsync(fd, 3), Err(RingError::Detached)));
    let again = ring.attach(&file).unwrap();
    assert_ne!(again, fd, "a stale descriptor never names the next file");
}

#[test]
fn log_bytes_and_frames_cross_a_socket() {
    let mut ring = ring();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let listen_fd = ring.attach(&listener).unwrap();
    ring.accept_multishot(listen_fd, 1).unwrap();
    let client = tcp_socket(&address).unwrap();
    let client_fd = ring.attach(&client).unwrap();
    ring.connect(client_fd, &address, 2).unwrap();
    let mut server = None;
    for completion in wait_for(&mut ring, 2) {
        if completion.tag == 1 {
            assert!(completion.more, "the accept goes on");
            server = completion.accepted;
        } else {
            assert_eq!(completion.result, Ok(0));
        }
    }
    let server = TcpStream::from(server.unwrap());
    let server_fd = ring.attach(&server).unwrap();

    ring.arena_mut().bytes_mut(0..BLOCK).unwrap().fill(0xc3);
    ring.recv_into_arena(server_fd, BLOCK..3 * BLOCK, true, 3).unwrap();
    ring.send(client_fd, 0..BLOCK, true, 4).unwrap();
    assert_eq!(wait_for(&mut ring, 1)[0].result, Ok(4096));
    ring.send_zc(client_fd, 0..BLOCK, false, 5).unwrap();
    let mut notified = false;
    for completion in wait_for(&mut ring, 3) {
        match (completion.tag, completion.notif) {
            (3, _) => assert_eq!(completion.result, Ok(8192)),
            (5, false) => assert_eq!((completion.result, completion.more), (Ok(4096), true)),
            (5, true) => {
                notified = true;
                assert!(completion.zc_copied, "loopback always copies");
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(notified);
    assert!(ring.arena().bytes(BLOCK..3 * BLOCK).unwrap().iter().all(|byte| *byte == 0xc3));

    let pool = BufPool::new(2, 4096);
    let (mut out, back) = (pool.get().unwrap(), pool.get().unwrap());
    assert!(pool.get().is_none());
    out[..5].copy_from_slice(b"frame");
    ring.recv_buf(client_fd, back, 100..200, 6).unwrap();
    ring.send_buf(server_fd, out, 0..5, 7).unwrap();
    for completion in wait_for(&mut ring, 2) {
        assert_eq!(completion.result, Ok(5));
        let buf = completion.buf.unwrap();
        if completion.tag == 6 {
            assert_eq!(&buf[100..105], b"frame");
        }
    }
    assert_eq!(pool.available(), 2, "both buffers came home");

    // A receive that waits for ever ends by cancel; the accept too.
    ring.recv_buf(client_fd, pool.get().unwrap(), 0..10, 8).unwrap();
    ring.submit_and_wait(Wait::Poll).unwrap();
    ring.cancel(8).unwrap();
    ring.cancel(1).unwrap();
    for completion in wait_for(&mut ring, 2) {
        assert_eq!(completion.result, Err(Errno::CANCELED));
    }
    ring.shutdown(client_fd, 9).unwrap();
    ring.recv_into_arena(server_fd, 0..8, false, 10).unwrap();
    for completion in wait_for(&mut ring, 2) {
        assert_eq!(completion.result, Ok(0));
    }
}

#[test]
fn an_armed_receive_takes_many_pieces_with_one_submission() {
    let mut ring = ring();
    assert!(ring.has_multishot());
    let (mut client, server) = pair();
    let server_fd = ring.attach(&server).unwrap();
    ring.recv_multishot(server_fd, 1).unwrap();
    ring.submit_and_wait(Wait::Poll).unwrap();
    let before = ring.stats().submissions;
    // More rounds than there are buffers: each must come home.
    for round in 0..200_u32 {
        client.write_all(&round.to_le_bytes()).unwrap();
        let piece = wait_for(&mut ring, 1).remove(0);
        assert_eq!((piece.tag, piece.result, piece.more), (1, Ok(4), true));
        assert_eq!(piece.buf.unwrap()[..4], round.to_le_bytes());
    }
    assert_eq!(ring.stats().submissions, before);
    ring.cancel(1).unwrap();
    let last = wait_for(&mut ring, 1).remove(0);
    assert_eq!((last.result, last.more), (Err(Errno::CANCELED), false));

    // Pieces that nobody collects use the buffers up: it ends with ENOBUFS, and what came is not lost.
    ring.recv_multishot(server_fd, 2).unwrap();
    ring.submit_and_wait(Wait::Poll).unwrap();
    client.set_nodelay(true).unwrap();
    let sent = vec![7; 1 << 20];
    let writer = std::thread::spawn(move || client.write_all(&sent));
    let (mut got, mut rearmed) = (0, 0);
    while got < 1 << 20 {
        ring.submit_and_wait(Wait::Until(Duration::from_millis(200))).unwrap();
        let mut pieces = Vec::new();
        ring.drain(|piece| pieces.push(piece));
        for piece in pieces {
            match piece.result {
                // The writer is done and has closed its end.
                Ok(0) => continue,
                Ok(count) => {
                    assert!(piece.buf.unwrap()[..count as usize].iter().all(|byte| *byte == 7));
                    got += count;
                }
                Err(errno) => assert_eq!(errno, Errno::NOBUFS),
            }
            if !piece.more {
                ring.recv_multishot(server_fd, 2).unwrap();
                rearmed += 1;
            }
        }
    }
    assert!(rearmed < 1000);
    writer.join().unwrap().unwrap();
}

#[test]
fn meta_blocks_move_through_pool_buffers() {
    let dir = disk_dir();
    let mut ring = ring();
    let file = DataFile::create(dir.path().join("meta"), FileMode::Direct).unwrap();
    file.prealloc_zeroed(BLOCK).unwrap();
    let fd = ring.attach(&file).unwrap();
    let pool = BufPool::new(1, 4096);
    let mut buf = pool.get().unwrap();
    buf.fill(0x77);
    ring.write_buf(fd, 0, buf, 0..4096, true, 1).unwrap();
    let mut buf = wait_for(&mut ring, 1).remove(0).buf.unwrap();
    buf.fill(0);
    ring.read_buf(fd, 0, buf, 0..4096, 2).unwrap();
    let done = wait_for(&mut ring, 1).remove(0);
    assert_eq!(done.result, Ok(4096));
    assert!(done.buf.as_ref().unwrap().iter().all(|byte| *byte == 0x77));
    let refused = ring.read_buf(fd, 0, done.buf.unwrap(), 4000..5000, 3);
    assert!(matches!(refused, Err(RingError::BufferRange)));
    assert_eq!(pool.available(), 1, "a refused buffer goes home");
}

#[test]
fn a_parked_ring_is_woken_by_event_and_by_time() {
    let mut ring = ring();
    let wake = Wake::new().unwrap();
    let event = ring.attach(wake.event()).unwrap();
    ring.read_event(event, 1).unwrap();
    assert!(!wake.notify(), "an awake shard costs no system call");
    wake.park();
    let producer = wake.clone();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        producer.notify()
    });
    let done = wait_for(&mut ring, 1);
    assert_eq!((done[0].tag, done[0].result), (1, Ok(8)));
    assert!(thread.join().unwrap());
    wake.unpark();

    ring.timeout(Duration::from_millis(5), 2).unwrap();
    let began = Instant::now();
    assert_eq!(wait_for(&mut ring, 1)[0].result, Ok(0));
    assert!(began.elapsed() >= Duration::from_millis(5));

    // Completions signal a registered eventfd, for hosts that sleep on it.
    let signal = EventFd::new().unwrap();
    ring.register_eventfd(&signal).unwrap();
    assert_eq!(signal.try_read().unwrap(), None);
    ring.timeout(Duration::from_millis(1), 3).unwrap();
    ring.submit_and_wait(Wait::No).unwrap();
    assert!(signal.read().unwrap() >= 1);
    assert_eq!(wait_for(&mut ring, 1)[0].tag, 3);
}

#[test]
fn an_idle_turn_makes_no_system_call() {
    let mut ring = ring();
    for wait in [Wait::No, Wait::Poll] {
        for _ in 0..100 {
            ring.submit_and_wait(wait).unwrap();
        }
    }
    assert_eq!(ring.stats().enters, 0);
    ring.timeout(Duration::from_millis(20), 1).unwrap();
    let mut polls = 0;
    while ring.next_completion().is_none() {
        ring.submit_and_wait(Wait::Poll).unwrap();
        std::thread::yield_now();
        polls += 1;
    }
    assert!(polls > 10, "it was polled");
    assert!(ring.stats().enters <= 3, "one to submit, one to collect: {:?}", ring.stats());
}

#[test]
fn the_table_is_bounded_and_a_dropped_ring_waits() {
    let dir = disk_dir();
    let arena = arena();
    let appender = arena.appender();
    let mut ring = Ring::new(RingConfig { depth: 8, files: 8 }, arena).unwrap();
    let file = DataFile::create(dir.path().join("log"), FileMode::Direct).unwrap();
    file.prealloc_zeroed(16 * BLOCK).unwrap();
    let fd = ring.attach(&file).unwrap();
    let (mut peer, socket) = pair();
    let socket_fd = ring.attach(&socket).unwrap();
    let pool = BufPool::new(1, 4096);
    ring.recv_buf(socket_fd, pool.get().unwrap(), 0..8, 100).unwrap();
    for n in 0..7 {
        ring.write_durable(fd, n * BLOCK, n * BLOCK..(n + 1) * BLOCK, WritePrimitive::Dsync, n).unwrap();
    }
    assert!(matches!(ring.timeout(Duration::from_secs(1), 9), Err(RingError::TooManyInFlight)));
    assert_eq!(ring.free_slots(), 0);
    ring.submit_and_wait(Wait::No).unwrap();
    drop(ring);
    assert_eq!(pool.available(), 1, "the cancelled receive gave its buffer back");
    assert!(appender.is_frozen());
    drop(socket);
    peer.write_all(b"x").ok();
    let mut rest = Vec::new();
    assert_eq!(peer.read_to_end(&mut rest).unwrap_or(0), 0, "the ring closed its reference");
}

fn wait_for(ring: &mut Ring, count: usize) -> Vec<Completion> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut done = Vec::new();
    while done.len() < count {
        assert!(Instant::now() < deadline, "{} of {count} completions", done.len());
        ring.submit_and_wait(Wait::Until(Duration::from_millis(200))).unwrap();
        ring.drain(|completion| done.push(completion));
    }
    assert_eq!(done.len(), count);
    done
}

fn ring() -> Ring {
    Ring::new(RingConfig::default(), arena()).unwrap()
}

fn arena() -> ArenaOwner {
    ArenaOwner::new(ArenaConfig {
        size: SIZE as usize,
        backing: Backing::Anonymous,
        block: BLOCK,
        header_len: 128,
        void_header: |len| (len as u64).to_le_bytes(),
        start: 0,
    })
    .unwrap()
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let a = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (a, listener.accept().unwrap().0)
}

fn disk_dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}
