//! Repair from a peer: stopped at any step it leaves a log that is refused or whole, and can go on; a peer that lies
//! changes nothing.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use towline_core::format::{Frame, decode_frame, encode_frame};
use towline_core::log::recovery::Verdict;
use towline_core::types::{LogId, Lsn, NodeId};
use towline_runtime::storage::{OpenError, ShardDir, Steps, StorageOptions, repair_log};

use crate::support::{GEOMETRY, Place, Written, options};

/// What a peer does when it is asked.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Honest,
    /// Other bytes than the log's.
    Lies,
    /// More than it was asked for.
    Floods,
    /// Half an answer.
    Leaves,
    /// Something that is no frame.
    Babbles,
}

/// A peer that holds segment 0 of a log. It ends with the test program.
fn peer(log: LogId, segment: Arc<Vec<u8>>, flushed: Lsn, manner: Manner) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(stream), segment) = (stream, Arc::clone(&segment)) else { return };
            // A caller that goes away ends its conversation, nothing else.
            std::thread::spawn(move || converse(stream, log, &segment, flushed, manner));
        }
    });
    address
}

fn converse(mut stream: TcpStream, log: LogId, segment: &[u8], flushed: Lsn, manner: Manner) -> Option<()> {
    let (mut arrived, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let count = stream.read(&mut piece).ok().filter(|count| *count > 0)?;
        arrived.extend_from_slice(&piece[..count]);
        while let Ok(decoded) = decode_frame(&arrived) {
            arrived.drain(..decoded.consumed);
            let mut answer = Vec::new();
            match decoded.frame {
                Frame::Hello(_) => {
                    let welcome = Frame::WelcomeClient { version: 1, log, node: NodeId(2), shards: 1 };
                    encode_frame(&welcome, &mut answer).ok()?;
                }
                Frame::ReadLog { start, end } => {
                    let held = &segment[start.0 as usize..end.min(flushed).max(start).0 as usize];
                    let mut at = start;
                    // The last piece is empty, save for one that has no end.
                    let last = if manner == Manner::Floods { &segment[..100_000] } else { &[][..] };
                    for bytes in held.chunks(100_000).chain([last]) {
                        let frame = Frame::LogBytes { start: at, flushed, bytes: bytes.len() as u32 };
                        encode_frame(&frame, &mut answer).ok()?;
                        answer.extend_from_slice(bytes);
                        at = at.plus(bytes.len() as u64);
                    }
                    match manner {
                        Manner::Honest | Manner::Floods => {}
                        Manner::Lies => answer.iter_mut().skip(300).step_by(900).for_each(|byte| *byte ^= 1),
                        Manner::Leaves => answer.truncate(answer.len() / 2),
                        Manner::Babbles => answer = b"HTTP/1.1 200 OK\r\n\r\n".to_vec(),
                    }
                }
                _ => return None,
            }
            stream.write_all(&answer).ok()?;
            if manner == Manner::Leaves && answer.len() > 1000 {
                return None;
            }
        }
    }
}

/// A log of twelve batches whose segment header, in both copies, and three batches are damaged.
struct Damaged {
    place: Place,
    written: Written,
    whole: Arc<Vec<u8>>,
    log: LogId,
}

impl Damaged {
    fn new() -> Damaged {
        let (place, written) = Place::with_log(12);
        let whole = Arc::new(fs::read(place.segment(0)).unwrap());
        let log = place.reader().identity().log_id();
        let damaged = Damaged { place, written, whole, log };
        damaged.damage();
        damaged
    }

    fn damage(&self) {
        let file = fs::OpenOptions::new().write(true).open(self.place.segment(0)).unwrap();
        let batch = |number: usize| self.written.span(number).start.0 + 200;
        for at in [40, 4096 + 40, batch(0), batch(5), batch(6)] {
            file.write_all_at(&[self.whole[at as usize] ^ 8], at).unwrap();
        }
        file.sync_all().unwrap();
    }

    fn peer(&self, manner: Manner) -> String {
        peer(self.log, Arc::clone(&self.whole), GEOMETRY.segment_end(0), manner)
    }

    fn is_whole(&self) -> bool {
        fs::read(self.place.segment(0)).unwrap() == *self.whole
    }
}

#[test]
fn a_repair_stopped_at_any_step_leaves_a_log_that_is_refused_or_whole() {
    let log = Damaged::new();
    let from = [log.peer(Manner::Honest)];
    let all = log.written.end.lsn;
    let mut stops = 0;
    for allowed in 0.. {
        log.damage();
        match repair_log(&log.place.path, &from, &Steps::stop_after(allowed)) {
            Err(OpenError::Stopped(_)) => stops += 1,
            Err(error) => panic!("{error}"),
            Ok(lines) => {
                assert!(log.is_whole() && !lines.is_empty());
                break;
            }
        }
        let found = log.place.reader().scan().unwrap();
        match found.verdict {
            Verdict::Corrupt { .. } => {}
            Verdict::CleanEnd => assert_eq!(found.recovered.end.lsn, all),
            cut => panic!("after {allowed} steps durable bytes would be cut: {cut:?}"),
        }
        repair_log(&log.place.path, &from, &Steps::default()).unwrap();
        // One sound copy of a segment's header is enough: the other is written by the next start.
        drop(log.place.open().unwrap());
        assert!(log.is_whole(), "after {allowed} steps");
    }
    assert!(stops >= 5, "{stops} steps");
}

#[test]
fn an_open_that_repairs_recovers_the_whole_log() {
    let log = Damaged::new();
    let refused = ShardDir::open(&log.place.path, &options());
    assert!(matches!(refused, Err(OpenError::Corrupt { .. })));
    let repairing = StorageOptions { repair_from: vec![log.peer(Manner::Honest)], ..options() };
    let opened = ShardDir::open(&log.place.path, &repairing).unwrap();
    assert_eq!(opened.recovered.end, log.written.end);
    assert!(opened.notes.iter().any(|note| note.contains("have been replaced")), "{:?}", opened.notes);
    drop(opened);
    assert_eq!(log.place.payloads(), log.written.payloads);
}

#[test]
fn a_peer_that_lies_floods_or_leaves_changes_nothing() {
    let log = Damaged::new();
    let before = fs::read(log.place.segment(0)).unwrap();
    for manner in [Manner::Lies, Manner::Floods, Manner::Leaves, Manner::Babbles] {
        let error = repair_log(&log.place.path, &[log.peer(manner)], &Steps::default()).unwrap_err();
        assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
        assert!(fs::read(log.place.segment(0)).unwrap() == before);
    }
    let other = peer(LogId([3; 16]), Arc::clone(&log.whole), GEOMETRY.segment_end(0), Manner::Honest);
    assert!(repair_log(&log.place.path, &[other], &Steps::default()).is_err());
    // The next in the list is asked; one that holds a part gives that part, and another the rest.
    let part = peer(log.log, Arc::clone(&log.whole), log.written.span(3).start, Manner::Honest);
    let error = repair_log(&log.place.path, std::slice::from_ref(&part), &Steps::default()).unwrap_err();
    assert!(error.to_string().contains("has not flushed them"), "{error}");
    let from = [log.peer(Manner::Babbles), part, log.peer(Manner::Honest)];
    repair_log(&log.place.path, &from, &Steps::default()).unwrap();
    assert!(log.is_whole());
}
