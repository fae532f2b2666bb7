//! Who comes to the port: clients, and what is no client.
#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test program with helpers of its own")]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::*;
use towline_core::format::{
    Decoded, Frame, Hello, HelloRole, LogEnd, Outcome, WireError, decode_frame, encode_frame, walk_headers,
};
use towline_core::types::{Geometry, Level, LogId, Lsn, NodeId, Term, Window};
use towline_runtime::{PeerAddress, RunningNode, Status};

/// A client as plain as can be.
struct Client {
    socket: TcpStream,
    bytes: Vec<u8>,
}

impl Client {
    fn connect(address: SocketAddr, shard: u16) -> Client {
        let mut client = Client::silent(address);
        client.send(&hello(HelloRole::Client, shard), b"");
        client
    }

    fn silent(address: SocketAddr) -> Client {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket.set_nodelay(true).unwrap();
        Client { socket, bytes: Vec::new() }
    }

    fn send(&mut self, frame: &Frame, payload: &[u8]) {
        let mut bytes = Vec::new();
        encode_frame(frame, &mut bytes).unwrap();
        bytes.extend_from_slice(payload);
        self.socket.write_all(&bytes).unwrap();
    }

    /// The next frame with its payload; `None` when the connection has ended.
    fn next(&mut self) -> Option<(Frame, Vec<u8>)> {
        loop {
            match decode_frame(&self.bytes) {
                Ok(Decoded { frame, consumed, payload_bytes }) => {
                    let end = consumed + payload_bytes as usize;
                    if self.bytes.len() >= end {
                        let payload = self.bytes[consumed..end].to_vec();
                        self.bytes.drain(..end);
                        return Some((frame, payload));
                    }
                }
                Err(WireError::NeedMore(_)) => {}
                Err(error) => panic!("{error}"),
            }
            let mut more = [0; 65536];
            match self.socket.read(&mut more) {
                Ok(0) => return None,
                Ok(count) => self.bytes.extend_from_slice(&more[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn hello(role: HelloRole, shard: u16) -> Frame {
    Frame::Hello(Hello {
        versions: (1, 1),
        role,
        shard,
        log: LogId::default(),
        geometry: Geometry { segment_bytes: 8 << 20, in_flight_bytes: 16 << 20 },
        node: NodeId(if role == HelloRole::Client { 0 } else { 77 }),
        name: "x".to_owned(),
        nonce: 1,
        adopted: Term::default(),
        end: LogEnd::default(),
    })
}

fn open_node(folder: &tempfile::TempDir) -> (RunningNode, SocketAddr) {
    let mut options = primary(&folder.path().join("p"));
    options.listen = Some(any_port());
    let node = start(options);
    leading(&node);
    let address = node.listen_address().unwrap();
    (node, address)
}

#[test]
fn a_client_appends_pipelined_waits_asks_and_tails() {
    let folder = folder();
    let (node, address) = open_node(&folder);
    let mut client = Client::connect(address, 0);
    assert!(matches!(client.next(), Some((Frame::WelcomeClient { shards: 1, .. }, _))));
    for request in 0..200u64 {
        let level = if request % 3 == 0 { Level::Off } else { Level::Local };
        let frame = Frame::Append { request, level, window: None, lengths: vec![3, 5] };
        client.send(&frame, b"onethree");
    }
    let mut seen = vec![None; 200];
    for _ in 0..200 {
        match client.next() {
            Some((Frame::Appended { request, outcome: Outcome::Committed(committed) }, _)) => {
                assert_eq!(seen[request as usize].replace(committed.lsn), None);
            }
            other => panic!("{other:?}"),
        }
    }
    let lsns: Vec<Lsn> = seen.into_iter().map(Option::unwrap).collect();
    assert!(lsns.windows(2).all(|pair| pair[0] < pair[1]));

    // Refused with its payload taken, so that the next request is read where it begins.
    let window = Some(Window::Bytes(1));
    client.send(
        &Frame::Append { request: 900, level: Level::Local, window, lengths: vec![100_000] },
        &[0; 100_000],
    );
    let answer = client.next();
    assert!(
        matches!(&answer, Some((Frame::Appended { request: 900, outcome: Outcome::Refused(why) }, _)) if why.contains("remote")),
        "{answer:?}"
    );
    client.send(&Frame::Wait { request: 901, lsn: lsns[199], level: Level::Local }, b"");
    assert!(matches!(
        client.next(),
        Some((Frame::Appended { request: 901, outcome: Outcome::Committed(_) }, _))
    ));
    client.send(&Frame::SetRule { request: 902, rule: "ANY 1 (nobody)".to_owned() }, b"");
    assert!(matches!(client.next(), Some((Frame::Done { request: 902, error }, _)) if !error.is_empty()));
    client.send(&Frame::StatusRequest, b"");
    let Some((Frame::Status { json }, _)) = client.next() else { panic!("no status") };
    let status: towline_runtime::ShardStatus = serde_json::from_str(&json).unwrap();
    assert_eq!((status.shard, status.driver.clients), (0, 1));

    client.send(&Frame::Tail { from: Lsn(0), unsafe_too: false }, b"");
    let mut found = Vec::new();
    while found.len() < 400 {
        let Some((Frame::Records { start, .. }, bytes)) = client.next() else { panic!("the tail ended") };
        found.extend(walk_headers(&bytes).map(|record| start.plus(u64::from(record.unwrap().offset))));
    }
    assert_eq!(found.iter().step_by(2).copied().collect::<Vec<_>>(), lsns);
    drop(client);
    node.stop().unwrap();
}

/// A pause and the word that ends it, in one piece: the other way round the log would stand still until its limit.
#[test]
fn what_a_client_asks_for_is_done_in_its_order() {
    let folder = folder();
    let (node, address) = open_node(&folder);
    let mut client = Client::connect(address, 0);
    assert!(matches!(client.next(), Some((Frame::WelcomeClient { .. }, _))));
    let mut both = Vec::new();
    encode_frame(&Frame::Pause { request: 1, limit_ms: 600_000 }, &mut both).unwrap();
    encode_frame(&Frame::Resume { request: 2 }, &mut both).unwrap();
    client.socket.write_all(&both).unwrap();
    for _ in 0..2 {
        let answer = client.next();
        assert!(matches!(answer, Some((Frame::Paused { .. } | Frame::Done { .. }, _))), "{answer:?}");
    }
    client.send(&Frame::Append { request: 3, level: Level::Local, window: None, lengths: vec![1] }, b"x");
    match client.next() {
        Some((Frame::Appended { request: 3, outcome: Outcome::Committed(_) }, _)) => {}
        other => panic!("{other:?}"),
    }
    node.stop().unwrap();
}

/// Waits that never end, and an append that nobody confirms: all of it goes with the connection.
#[test]
fn what_a_client_waits_for_ends_with_its_connection() {
    let folder = folder();
    let mut options = primary(&folder.path().join("p"));
    options.listen = Some(any_port());
    let gone = SocketAddr::from(([127, 0, 0, 1], 9));
    options.standbys = vec![PeerAddress { name: "a".to_owned(), address: gone.to_string() }];
    options.sync_rule = Some("ANY 1 (a)".to_owned());
    let node = start(options);
    let handle = leading(&node);
    let waiting = || status(&node).shards[0].node.gate.waiting;
    let mut client = Client::connect(node.listen_address().unwrap(), 0);
    assert!(matches!(client.next(), Some((Frame::WelcomeClient { .. }, _))));
    for request in 0..100 {
        client.send(&Frame::Wait { request, lsn: Lsn(1 << 60), level: Level::RemoteApply }, b"");
    }
    client.send(&Frame::Append { request: 900, level: Level::On, window: None, lengths: vec![1] }, b"x");
    until("all of it waits", || waiting() == 101);
    drop(client);
    until("nothing waits any more", || waiting() == 0);
    // And a caller's in this process with its ticket.
    let ticket = handle.wait(Lsn(1 << 60), Level::RemoteApply).unwrap();
    until("it waits", || waiting() == 1);
    drop(ticket);
    until("it waits no more", || waiting() == 0);
    node.stop().unwrap();
}

#[test]
fn what_is_no_towline_is_told_so_and_shut_out() {
    let folder = folder();
    let (node, address) = open_node(&folder);
    let others: [(&[u8], &str); 4] = [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP"),
        (&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03], "TLS"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH"),
        (&[0xEE; 64], "no Towline frame"),
    ];
    for (bytes, word) in others {
        let mut client = Client::silent(address);
        client.socket.write_all(bytes).unwrap();
        match client.next() {
            Some((Frame::Refused { message, .. }, _)) => assert!(message.contains(word), "{message}"),
            other => panic!("{word}: {other:?}"),
        }
        assert!(client.next().is_none());
    }
    let mut lost = Client::connect(address, 9);
    assert!(matches!(lost.next(), Some((Frame::Refused { message, .. }, _)) if message.contains("shard 9")));
    let mut rude = Client::silent(address);
    rude.send(&Frame::StatusRequest, b"");
    assert!(matches!(rude.next(), Some((Frame::Refused { message, .. }, _)) if message.contains("hello")));
    // Another log's upstream is refused by the node itself.
    let mut upstream = Client::silent(address);
    upstream.send(&hello(HelloRole::Upstream, 0), b"");
    assert!(matches!(upstream.next(), Some((Frame::Refused { message, .. }, _)) if message.contains("log")));
    // The log was not disturbed.
    let log = node.handle(0).unwrap();
    log.append(b"x", Level::Local, None).unwrap().wait_timeout(LIMIT).unwrap();
    node.stop().unwrap();
}

#[test]
fn who_says_nothing_is_shut_out_after_three_seconds() {
    let folder = folder();
    let (node, address) = open_node(&folder);
    let began = Instant::now();
    let mut client = Client::silent(address);
    client.socket.write_all(b"TOWL").unwrap();
    assert!(matches!(client.next(), Some((Frame::Refused { message, .. }, _)) if message.contains("hello")));
    assert!((Duration::from_secs(2)..Duration::from_secs(10)).contains(&began.elapsed()));
    node.stop().unwrap();
}

#[test]
fn garbage_in_mid_stream_ends_that_connection_only() {
    let folder = folder();
    let (node, address) = open_node(&folder);
    let mut client = Client::connect(address, 0);
    let mut other = Client::connect(address, 0);
    assert!(matches!(client.next(), Some((Frame::WelcomeClient { .. }, _))));
    assert!(matches!(other.next(), Some((Frame::WelcomeClient { .. }, _))));
    client.socket.write_all(&[0xAB; 5000]).unwrap();
    assert!(matches!(client.next(), Some((Frame::Refused { .. }, _))));
    assert!(client.next().is_none());
    let frame = Frame::Append { request: 1, level: Level::Local, window: None, lengths: vec![2] };
    other.send(&frame, b"ok");
    assert!(matches!(other.next(), Some((Frame::Appended { outcome: Outcome::Committed(_), .. }, _))));
    node.stop().unwrap();
}

#[test]
fn a_client_that_takes_no_answers_is_held_back_and_bounded() {
    let folder = folder();
    let (node, address) = open_node(&folder);
    let log = node.handle(0).unwrap();
    for _ in 0..100 {
        log.append(&[5; 100_000], Level::Local, None).unwrap().wait_timeout(LIMIT).unwrap();
    }
    let before = resident_bytes();
    let mut slow = Client::connect(address, 0);
    assert!(matches!(slow.next(), Some((Frame::WelcomeClient { .. }, _))));
    slow.send(&Frame::Tail { from: Lsn(0), unsafe_too: false }, b"");
    slow.socket.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    // Requests without ever reading an answer: at some point nothing more is taken.
    let mut request = Vec::new();
    encode_frame(&Frame::StatusRequest, &mut request).unwrap();
    let sent = (0..2_000_000).take_while(|_| slow.socket.write_all(&request).is_ok()).count();
    assert!(sent < 2_000_000, "it was never held back");
    log.append(b"others go on", Level::Local, None).unwrap().wait_timeout(LIMIT).unwrap();
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 48 << 20, "{grown} bytes");
    node.stop().unwrap();
}

#[test]
fn the_status_page_and_the_metrics_are_served() {
    let folder = folder();
    let mut options = primary(&folder.path().join("p"));
    options.metrics = Some(any_port());
    let node = start(options);
    leading(&node).append(b"x", Level::Local, None).unwrap().wait_timeout(LIMIT).unwrap();
    let get = |path: &str| {
        let mut socket = TcpStream::connect(node.metrics_address().unwrap()).unwrap();
        write!(socket, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer
    };
    let metrics = get("/metrics");
    assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
    assert!(metrics.contains("towline_acks_total{shard=\"0\"} 1\n"), "{metrics}");
    assert!(metrics.contains("towline_records_total{shard=\"0\"} 1\n"), "{metrics}");
    let status = get("/status");
    let json = status.split_once("\r\n\r\n").unwrap().1;
    let status: Status = serde_json::from_str(json).unwrap();
    assert!(status.shards[0].is_leading());
    assert!(get("/").contains("<h1>p</h1>"));
    assert!(get("/other").starts_with("HTTP/1.1 404"));
    node.stop().unwrap();
}

#[test]
fn a_caller_that_dribbles_keeps_nobody_from_the_metrics_for_long() {
    let folder = folder();
    let mut options = primary(&folder.path().join("p"));
    options.metrics = Some(any_port());
    let node = start(options);
    let address = node.metrics_address().unwrap();
    let mut slow = TcpStream::connect(address).unwrap();
    let dribble = std::thread::spawn(move || {
        let began = Instant::now();
        while began.elapsed() < LIMIT && slow.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(100));
        }
        began.elapsed()
    });
    let mut caller = TcpStream::connect(address).unwrap();
    caller.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    let mut text = String::new();
    caller.read_to_string(&mut text).unwrap();
    assert!(text.contains("# TYPE"), "{text}");
    assert!(dribble.join().unwrap() < LIMIT, "it was shut out");
    node.stop().unwrap();
}

#[test]
fn a_standby_that_closes_in_its_greeting_is_said_once_and_counted() {
    let listener = TcpListener::bind(any_port()).unwrap();
    let address = listener.local_addr().unwrap();
    let greeted = Arc::new(AtomicU64::new(0));
    let (greeted_there, over) = (Arc::clone(&greeted), Arc::new(AtomicBool::new(false)));
    let over_there = Arc::clone(&over);
    let closer = std::thread::spawn(move || {
        while let Ok((socket, _)) = listener.accept() {
            if over_there.load(Ordering::Acquire) {
                return;
            }
            drop(socket);
            greeted_there.fetch_add(1, Ordering::AcqRel);
        }
    });
    let folder = folder();
    let said = Said::default();
    let mut options = primary(&folder.path().join("p"));
    options.standbys = vec![PeerAddress { name: "a".to_owned(), address: address.to_string() }];
    said.listen(&mut options);
    let node = start(options);
    let log = leading(&node);
    until("it is dialled again and again", || greeted.load(Ordering::Acquire) >= 8);
    log.append(b"nobody is held up", Level::Local, None).unwrap().wait_timeout(LIMIT).unwrap();
    // Closed by the one side or reset by the other: two causes, each said the first time, then counted.
    let lines = said.all("session ");
    assert!((1..=4).contains(&lines.len()), "{lines:#?}");
    assert!(lines.iter().any(|line| line.ends_with("(3 times so far)")), "{lines:#?}");
    node.stop().unwrap();
    over.store(true, Ordering::Release);
    drop(TcpStream::connect(address));
    closer.join().unwrap();
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}
