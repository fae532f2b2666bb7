//! Both sides of a connection as they are driven in a shard, with a real ring and a real socket.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use tempfile::TempDir;
use towline_core::format::{BatchHeader, decode_frame};
use towline_core::types::limits::BLOCK_BYTES;
use towline_core::types::{NodeId, Term};
use towline_uring::{BufPool, Ring, RingConfig, Wait};

use super::*;
use crate::shard::files::Files;
use crate::shard::testing::{ARENA_BYTES, GEOMETRY, LOG, SALT, START, arena, batch_at, files, roll_at};

/// One session's ring and its socket's other end.
struct Rig {
    _folder: TempDir,
    ring: Ring,
    files: Files,
    frames: BufPool,
    fd: RingFd,
    _near: TcpStream,
    far: TcpStream,
    zero_copy: bool,
}

impl Rig {
    /// `content` stands in the segment file, from the log's start on.
    fn new(content: &[u8]) -> Rig {
        let folder = tempfile::tempdir().unwrap();
        let files = files(&folder, content);
        let mut ring = Ring::new(RingConfig { depth: 64, files: 16 }, arena()).unwrap();
        ring.arena_mut().freeze();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (near, _) = listener.accept().unwrap();
        far.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let fd = ring.attach(&near).unwrap();
        let frames = BufPool::new(4, 8192);
        Rig { _folder: folder, ring, files, frames, fd, _near: near, far, zero_copy: false }
    }

    fn drive_out(&mut self, out: &mut Outgoing) {
        let mut port = Port {
            ring: &mut self.ring,
            files: &mut self.files,
            frames: &self.frames,
            geometry: GEOMETRY,
            now_ns: 0,
            zero_copy: self.zero_copy,
        };
        out.drive(&mut port, self.fd, ID, Tag::Send(ID)).unwrap();
    }

    /// Drives and completes until nothing is in the ring.
    fn send_all(&mut self, out: &mut Outgoing) {
        loop {
            self.drive_out(out);
            if self.ring.in_flight() == 0 {
                return;
            }
            self.ring.submit_and_wait(Wait::Until(Duration::from_secs(5))).unwrap();
            while let Some(completion) = self.ring.next_completion() {
                match Tag::unpack(completion.tag) {
                    Tag::Send(_) => drop(out.sent(&completion).unwrap()),
                    Tag::Read(_) => out.read(completion).unwrap(),
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    /// Drives the incoming side while anything comes.
    ///
    /// # Errors
    /// What would end the session.
    fn receive_all(&mut self, incoming: &mut Incoming, arrived: &mut Vec<Arrival>) -> Result<(), String> {
        loop {
            incoming.drive(&mut self.ring, &self.frames, self.fd, ID)?;
            if incoming.is_quiet() {
                return Ok(());
            }
            self.ring.submit_and_wait(Wait::Until(Duration::from_millis(50))).unwrap();
            let Some(completion) = self.ring.next_completion() else { return Ok(()) };
            let count = completion.result.unwrap() as usize;
            let arena = self.ring.arena_mut();
            let place = Place { files: &self.files, log: LOG, geometry: GEOMETRY };
            match Tag::unpack(completion.tag) {
                Tag::RecvArena(_) => incoming.landed(count, arena, &self.frames, &place, arrived)?,
                Tag::RecvStage(_) => incoming.staged(completion.buf, count, arena, &place, arrived)?,
                other => panic!("{other:?}"),
            }
        }
    }

    fn read_far(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.far.read_exact(&mut bytes).unwrap();
        bytes
    }
}

#[test]
fn a_batch_that_begins_within_the_credit_and_ends_beyond_it_waits_for_more() {
    let mut rig = Rig::new(&[]);
    let (header, bytes) = batch_at(START, 20_000);
    rig.far.write_all(&bytes).unwrap();
    let (mut incoming, mut arrived) = (Incoming::new(false), Vec::new());
    assert!(incoming.receive(rig.ring.arena_mut(), START, START.plus(2 * BLOCK_BYTES)));
    // The rest of the batch is in the socket: read now, it would be taken for a frame, and end the session.
    rig.receive_all(&mut incoming, &mut arrived).unwrap();
    assert!(arrived.is_empty() && incoming.is_quiet());
    assert_eq!(incoming.received_bytes, 2 * BLOCK_BYTES);

    assert!(incoming.receive(rig.ring.arena_mut(), START, START.plus(1 << 20)));
    rig.receive_all(&mut incoming, &mut arrived).unwrap();
    assert_eq!(batches(&arrived), [header]);
    assert_eq!(rig.ring.arena().bytes(START.0..header.end.0).unwrap(), bytes);
}

#[test]
fn frames_are_heard_while_there_is_no_credit_for_log_bytes() {
    let mut rig = Rig::new(&[]);
    let (mut incoming, mut arrived) = (Incoming::new(false), Vec::new());
    assert!(incoming.receive(rig.ring.arena_mut(), START, START));
    let (header, batch) = batch_at(START, 5_000);
    let heartbeat = heartbeat();
    rig.far.write_all(&encoded(&heartbeat)).unwrap();
    rig.receive_all(&mut incoming, &mut arrived).unwrap();
    assert!(matches!(&arrived[..], [Arrival::Frame(frame)] if *frame == heartbeat));
    // A frame and log bytes together, once there is credit.
    incoming.receive(rig.ring.arena_mut(), START, START.plus(1 << 20));
    rig.far.write_all(&[encoded(&heartbeat), batch].concat()).unwrap();
    rig.receive_all(&mut incoming, &mut arrived).unwrap();
    assert_eq!(arrived.len(), 3);
    assert_eq!(batches(&arrived), [header]);
}

#[test]
fn log_bytes_within_the_credit_wait_for_room_in_the_arena() {
    let mut rig = Rig::new(&[]);
    // Somebody still holds the arena a whole size below: the credit does not know that.
    let place = START.plus(ARENA_BYTES);
    let (header, bytes) = batch_at(place, 5_000);
    rig.far.write_all(&bytes).unwrap();
    let (mut incoming, mut arrived) = (Incoming::new(false), Vec::new());
    assert!(incoming.receive(rig.ring.arena_mut(), place, place.plus(1 << 20)));
    rig.receive_all(&mut incoming, &mut arrived).unwrap();
    assert!(arrived.is_empty() && incoming.is_quiet());

    let room = START.plus(1 << 20).0;
    assert_eq!(rig.ring.arena_mut().release(room), room);
    rig.receive_all(&mut incoming, &mut arrived).unwrap();
    assert_eq!(batches(&arrived), [header]);
    assert_eq!(rig.ring.arena().bytes(place.0..header.end.0).unwrap(), bytes);
}

#[test]
fn log_bytes_that_came_where_a_frame_was_expected_wait_for_room_too() {
    let mut rig = Rig::new(&[]);
    let place = START.plus(ARENA_BYTES);
    let (header, bytes) = batch_at(place, 5_000);
    let (mut incoming, mut arrived) = (Incoming::new(false), Vec::new());
    // No credit: it listens for frames. Then there is credit, and the sender uses it.
    assert!(incoming.receive(rig.ring.arena_mut(), place, place));
    incoming.drive(&mut rig.ring, &rig.frames, rig.fd, ID).unwrap();
    assert!(incoming.receive(rig.ring.arena_mut(), place, place.plus(1 << 20)));
    rig.far.write_all(&bytes).unwrap();
    rig.receive_all(&mut incoming, &mut arrived).unwrap();
    assert!(arrived.is_empty() && incoming.is_held());

    let room = START.plus(1 << 20).0;
    assert_eq!(rig.ring.arena_mut().release(room), room);
    let with = Place { files: &rig.files, log: LOG, geometry: GEOMETRY };
    incoming.resume(rig.ring.arena_mut(), &rig.frames, &with, &mut arrived).unwrap();
    rig.receive_all(&mut incoming, &mut arrived).unwrap();
    assert!(!incoming.is_held());
    assert_eq!(batches(&arrived), [header]);
    assert_eq!(rig.ring.arena().bytes(place.0..header.end.0).unwrap(), bytes);
}

#[test]
fn what_came_behind_a_roll_waits_for_room_in_the_next_segment() {
    let mut rig = Rig::new(&[]);
    let next = GEOMETRY.first_batch(1);
    let (roll, roll_bytes) = roll_at(Lsn(GEOMETRY.segment_end(0).0 - 8 * BLOCK_BYTES));
    let (header, bytes) = batch_at(next, 5_000);
    // The arena ends a block behind the roll's jump; the credit does not know that somebody holds its beginning.
    let floor = next.0 + BLOCK_BYTES - ARENA_BYTES;
    rig.ring.arena_mut().reset(floor).unwrap();
    let (mut incoming, mut arrived) = (Incoming::new(false), Vec::new());
    assert!(incoming.receive(rig.ring.arena_mut(), roll.start, next.plus(1 << 20)));
    let segment = Frame::Segment { seq: 1, salt: SALT };
    rig.far.write_all(&[encoded(&segment), roll_bytes, bytes.clone()].concat()).unwrap();
    rig.receive_all(&mut incoming, &mut arrived).unwrap();
    assert_eq!(batches(&arrived), [roll]);
    assert!(incoming.is_held());

    // The roll's own bytes may be given up meanwhile.
    let room = GEOMETRY.segment_end(0).0;
    assert_eq!(rig.ring.arena_mut().release(room), room);
    let with = Place { files: &rig.files, log: LOG, geometry: GEOMETRY };
    incoming.resume(rig.ring.arena_mut(), &rig.frames, &with, &mut arrived).unwrap();
    assert!(!incoming.is_held());
    assert_eq!(batches(&arrived), [roll, header]);
    assert_eq!(rig.ring.arena().bytes(next.0..header.end.0).unwrap(), bytes);
}

#[test]
fn what_comes_behind_a_close_gets_to_nobody() {
    let mut rig = Rig::new(&[]);
    let (header, bytes) = batch_at(START, 5_000);
    let (mut incoming, mut arrived) = (Incoming::new(false), Vec::new());
    assert!(incoming.receive(rig.ring.arena_mut(), START, START.plus(1 << 20)));
    incoming.drive(&mut rig.ring, &rig.frames, rig.fd, ID).unwrap();
    // The receive is in flight when the node closes the session; the batch comes whole all the same.
    assert!(incoming.abandon(), "it is to be called off");
    rig.far.write_all(&bytes).unwrap();
    rig.receive_all(&mut incoming, &mut arrived).unwrap();
    assert_eq!(incoming.received_bytes, header.end.0 - START.0);
    assert!(arrived.is_empty());
    assert_eq!(rig.ring.arena().published(), START.0, "its place is another's");

    // Frames neither: who is not heard any more is not heard.
    rig.far.write_all(&encoded(&heartbeat())).unwrap();
    rig.receive_all(&mut incoming, &mut arrived).unwrap();
    assert!(arrived.is_empty());
}

#[test]
fn a_span_that_overtakes_a_frame_is_read_at_once() {
    let (header, bytes) = batch_at(START, 200_000);
    let mut rig = Rig::new(&bytes);
    let part = START.plus(4 * BLOCK_BYTES);
    let mut out = Outgoing::default();
    out.push_log(Span::new(START, part), Source::Segments);
    rig.send_all(&mut out);
    assert_eq!(rig.read_far(4 * BLOCK_BYTES as usize), bytes[..4 * BLOCK_BYTES as usize]);

    // In the middle of the batch: the frame has to wait, and the rest goes first.
    out.push_frame(&heartbeat()).unwrap();
    out.push_log(Span::new(part, header.end), Source::Segments);
    rig.drive_out(&mut out);
    assert!(!out.is_quiet(), "its read has begun: no other event would start it");
    rig.send_all(&mut out);
    assert!(out.is_idle());
    let rest = bytes.len() - 4 * BLOCK_BYTES as usize;
    assert_eq!(rig.read_far(rest), bytes[4 * BLOCK_BYTES as usize..]);
    let frame = rig.read_far(encoded(&heartbeat()).len());
    assert_eq!(decode_frame(&frame).unwrap().frame, heartbeat());
    assert_eq!(out.catch_up_bytes, bytes.len() as u64);
}

#[test]
fn a_zero_copy_send_holds_its_bytes_until_it_is_notified() {
    let (header, bytes) = batch_at(START, 60_000);
    let mut rig = Rig::new(&[]);
    rig.zero_copy = true;
    rig.ring.arena_mut().bytes_mut(START.0..header.end.0).unwrap().copy_from_slice(&bytes);
    rig.ring.arena_mut().publish(header.end.0).unwrap();
    let mut out = Outgoing::default();
    out.push_log(header.stored(), Source::Arena);
    rig.drive_out(&mut out);
    assert_eq!(out.pinned(), Some((header.stored(), 0)));
    let mut notified = Vec::new();
    while rig.ring.in_flight() > 0 {
        assert_eq!(rig.ring.arena_mut().release(header.end.0), START.0, "the bytes are held");
        rig.ring.submit_and_wait(Wait::Until(Duration::from_secs(5))).unwrap();
        while let Some(completion) = rig.ring.next_completion() {
            out.sent(&completion).unwrap();
            notified.push(completion.notif);
            // It has ended for the stream, and goes on for the memory: a peer that is stuck is found by that.
            assert_eq!(out.pinned().is_none(), completion.notif);
        }
    }
    assert_eq!(notified, [false, true]);
    assert!(out.is_idle());
    assert_eq!(rig.read_far(bytes.len()), bytes);
    assert_eq!(rig.ring.arena_mut().release(header.end.0), header.end.0);
}

fn batches(arrived: &[Arrival]) -> Vec<BatchHeader> {
    let header = |arrival: &Arrival| match arrival {
        Arrival::Batch { header, .. } => Some(*header),
        Arrival::Frame(_) => None,
    };
    arrived.iter().filter_map(header).collect()
}

fn heartbeat() -> Frame {
    Frame::Heartbeat { term: Term { number: 1, node: NodeId(1) } }
}

fn encoded(frame: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    towline_core::format::encode_frame(frame, &mut bytes).unwrap();
    bytes
}

const ID: u64 = 1;
