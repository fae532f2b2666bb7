//! Clients that ask for the log and do not read it: as many as are let in, and all of them together hold little of the
//! node's memory. One that reads gets its log all the same.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use towline::{Level, Log, Lsn};
use towline_core::format::{Decoded, Frame, Hello, HelloRole, LogEnd, decode_frame, encode_frame};
use towline_core::types::{Geometry, LogId, NodeId, Term};

const CLIENTS: u64 = 256;
const BYTES_EACH: u64 = 64 << 10;
const RECORDS: usize = 64;

#[test]
fn clients_that_follow_the_log_and_do_not_read_hold_little_memory() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let log =
        Log::builder().listen(SocketAddr::from(([127, 0, 0, 1], 0))).open(folder.path().join("log")).unwrap();
    let record = vec![b'r'; 700_000];
    let tickets: Vec<_> = (0..RECORDS).map(|_| log.append(&record, Level::Local, None).unwrap()).collect();
    tickets.into_iter().for_each(|ticket| {
        ticket.wait().unwrap();
    });
    let address = log.listen_address().unwrap();
    let before = anonymous_bytes();
    let mut clients: Vec<TcpStream> = (1..CLIENTS).map(|_| follow(address)).collect();
    let mut most = 0;
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        most = most.max(anonymous_bytes().saturating_sub(before));
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("{} bytes more for each of {CLIENTS}", most / CLIENTS);
    assert!(most / CLIENTS <= BYTES_EACH, "{most} bytes for {CLIENTS} clients");
    // Those that hold what others wait for are shown out in time: who reads gets all of it among them.
    drop(clients.split_off(8));
    let mut reader = follow(address);
    reader.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    assert_eq!(records_of(&mut reader, RECORDS), RECORDS);
    drop(clients);
    log.close().unwrap();
}

/// Says hello and asks for the whole log.
fn follow(address: SocketAddr) -> TcpStream {
    let hello = Frame::Hello(Hello {
        versions: (1, 1),
        role: HelloRole::Client,
        shard: 0,
        log: LogId::default(),
        geometry: Geometry { segment_bytes: 0, in_flight_bytes: 0 },
        node: NodeId(0),
        name: "guest".to_owned(),
        nonce: 0,
        adopted: Term::default(),
        end: LogEnd::default(),
    });
    let mut bytes = Vec::new();
    encode_frame(&hello, &mut bytes).unwrap();
    encode_frame(&Frame::Tail { from: Lsn(0), unsafe_too: true }, &mut bytes).unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(&bytes).unwrap();
    stream
}

/// Reads until `count` records have come; how many there were.
fn records_of(stream: &mut TcpStream, count: usize) -> usize {
    let (mut arrived, mut buf, mut records) = (Vec::new(), vec![0; 1 << 20], 0);
    while records < count {
        let read = stream.read(&mut buf).unwrap();
        assert!(read > 0, "the connection ended after {records} records");
        arrived.extend_from_slice(&buf[..read]);
        while let Ok(Decoded { frame, consumed, .. }) = decode_frame(&arrived) {
            let body = match frame {
                Frame::Records { bytes, .. } => bytes as usize,
                Frame::WelcomeClient { .. } | Frame::Heartbeat { .. } => 0,
                other => panic!("{other:?}"),
            };
            if arrived.len() < consumed + body {
                break;
            }
            let headers = towline_core::format::walk_headers(&arrived[consumed..consumed + body]);
            records += headers.filter(|record| record.as_ref().is_ok_and(|r| r.payload.len() > 1000)).count();
            arrived.drain(..consumed + body);
        }
    }
    records
}

/// What this process has in memory of its own: buffers, stacks, no mapped files and no arena.
fn anonymous_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}
