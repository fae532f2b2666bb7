//! What a port has to stand: garbage, other protocols, silence, half a frame, and a standby of another log.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use support::{Folder, Node, NodePlan, PATIENCE, numbered, text};
use towline_core::format::{
    Frame, Hello, HelloRole, LogEnd, RefusalCode, Welcome, decode_frame, encode_frame,
};
use towline_core::types::{Geometry, Level, LogId, Lsn, NodeId, Term, TermHistory};

/// Sends bytes to the node's port; returns what comes back until the node closes.
fn converse(node: &Node, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(node.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // The node may close before everything is sent.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let begun = Instant::now();
    let mut piece = [0; 4096];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => answer.extend(&piece[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("the node neither answers nor closes: {error}"),
        }
        assert!(answer.len() < 1 << 20, "a stranger is told far too much");
    }
    assert!(begun.elapsed() < PATIENCE);
    answer
}

#[test]
fn strangers_are_turned_away_and_the_log_goes_on() {
    let folder = Folder::new();
    let node = NodePlan::primary(folder.join("p")).start();
    node.append("local", &numbered(0..5));
    let noise: Vec<u8> = (0..100_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let client_hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[0x5a; 600]].concat();
    for bytes in [
        &noise[..],
        &client_hello,
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        &[0; 64],
        b"TOWLfrme\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        let answer = converse(&node, bytes);
        assert!(!text(&answer).contains("record"), "nothing of the log is told to strangers");
    }
    // Half a hello, and silence: the node closes it by itself.
    converse(&node, b"TOWLfrme");
    node.append("local", &numbered(5..10));
    assert_eq!(node.tail(), numbered(0..10));
    node.stop();
}

#[test]
fn many_silent_connections_leave_room_for_clients() {
    let folder = Folder::new();
    let node = NodePlan::primary(folder.join("p")).start();
    let silent: Vec<TcpStream> = (0..64).filter_map(|_| TcpStream::connect(node.address()).ok()).collect();
    assert!(silent.len() > 32);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let output = node.ask_with("append", &["--level=local"], b"through\n");
        if output.status.code() == Some(0) {
            break;
        }
        assert!(Instant::now() < deadline, "{}", text(&output.stderr));
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(node.tail(), ["through"]);
}

#[test]
fn a_standby_of_another_log_refuses_and_keeps_its_own() {
    let folder = Folder::new();
    let a = NodePlan::standby("a", folder.join("a")).start();
    let first = NodePlan::primary(folder.join("first")).ships_to(&a).flag("--sync-rule=ANY 1 (a)").start();
    first.append("on", &numbered(0..10));
    first.wait_caught_up(0);
    first.stop();
    let second = NodePlan::primary(folder.join("second")).ships_to(&a).start();
    second.append("local", &["stranger".to_owned()]);
    second.wait_said("this node holds log");
    assert_eq!(a.tail_unsafe(), numbered(0..10), "its own log is untouched");
    second.stop();
    a.stop();
}

#[test]
fn a_clients_connection_that_breaks_in_a_frame_is_forgotten() {
    let folder = Folder::new();
    let node = NodePlan::primary(folder.join("p")).start();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(node.address()).unwrap();
        stream.write_all(b"TOWLfrme\x01").unwrap();
        drop(stream);
    }
    node.append("local", &numbered(0..3));
    assert_eq!(node.tail(), numbered(0..3));
}

/// Answers an upstream that dials, as a standby would: what `answer` makes of its hello, and then the end.
fn false_standby(answer: impl Fn(&Hello) -> Vec<u8> + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // It ends with the test program.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut bytes = Vec::new();
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut piece) {
                bytes.extend(&piece[..count]);
                if let Ok(decoded) = decode_frame(&bytes) {
                    let Frame::Hello(hello) = decoded.frame else { return };
                    let _ = stream.write_all(&answer(&hello));
                    break;
                }
            }
        }
    });
    address
}

fn encoded(frame: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_frame(frame, &mut bytes).unwrap();
    bytes
}

fn welcome(version: u16) -> Frame {
    Frame::Welcome(Welcome {
        version,
        log: LogId::default(),
        node: NodeId(7),
        name: "a".to_owned(),
        incarnation: 1,
        adopted: Term::default(),
        end: LogEnd::default(),
        log_start: Lsn(0),
        history: TermHistory::default(),
        leader_flushed: Lsn(0),
        set_size: 2,
        applies: false,
        applies_safe: false,
    })
}

fn hello(role: HelloRole, versions: (u16, u16)) -> Frame {
    Frame::Hello(Hello {
        versions,
        role,
        shard: 0,
        log: LogId::default(),
        geometry: Geometry { segment_bytes: 8 << 20, in_flight_bytes: 16 << 20 },
        node: NodeId(if role == HelloRole::Client { 0 } else { 77 }),
        name: "x".to_owned(),
        nonce: 1,
        adopted: Term::default(),
        end: LogEnd::default(),
    })
}

#[test]
fn a_standby_of_a_newer_protocol_is_named_and_does_not_hold_up_the_log() {
    let folder = Folder::new();
    let newer = false_standby(|hello| {
        assert_eq!(hello.versions, (1, 1));
        let message = "this node speaks versions 2 to 3".to_owned();
        encoded(&Frame::Refused { code: RefusalCode::Version, message })
    });
    // One that answers in a version nobody offered.
    let rude = false_standby(|_| encoded(&welcome(9)));
    let node = NodePlan::primary(folder.join("p"))
        .flag(format!("--standby=a={newer}"))
        .flag(format!("--standby=b={rude}"))
        .start();
    node.append("local", &numbered(0..5));
    node.wait_said("standby 'a' lost: this node speaks versions 2 to 3");
    node.wait_said("standby 'b' answered in protocol version 9, and this node speaks 1 to 1");
    assert_eq!(node.tail(), numbered(0..5));
    node.stop();
}

#[test]
fn peers_and_clients_of_a_newer_protocol_are_told_what_is_spoken_here() {
    let folder = Folder::new();
    let standby = NodePlan::standby("a", folder.join("a")).start();
    let answer = converse(&standby, &encoded(&hello(HelloRole::Upstream, (2, 3))));
    assert!(text(&answer).contains("1 to 1"), "{}", text(&answer));
    let answer = converse(&standby, &encoded(&hello(HelloRole::Client, (2, 3))));
    assert!(text(&answer).contains("version"), "{}", text(&answer));
    standby.stop();
}

#[test]
fn a_standby_that_goes_away_in_a_frame_is_dialled_again_and_holds_up_nothing() {
    let folder = Folder::new();
    let half = false_standby(|_| {
        let frame = encoded(&welcome(1));
        frame[..frame.len() / 2].to_vec()
    });
    let node = NodePlan::primary(folder.join("p")).flag(format!("--standby=a={half}")).start();
    node.append("local", &numbered(0..5));
    node.wait_said("session 3: the other side closed the connection");
    node.append("local", &numbered(5..10));
    assert_eq!(node.tail(), numbered(0..10));
    node.stop();
}

#[test]
fn a_client_that_goes_away_in_a_record_leaves_nothing_of_it() {
    let folder = Folder::new();
    let node = NodePlan::primary(folder.join("p")).start();
    for _ in 0..10 {
        let append = Frame::Append { request: 1, level: Level::Local, window: None, lengths: vec![100_000] };
        let bytes =
            [encoded(&hello(HelloRole::Client, (1, 1))), encoded(&append), vec![b'x'; 50_000]].concat();
        TcpStream::connect(node.address()).unwrap().write_all(&bytes).unwrap();
    }
    node.append("local", &numbered(0..3));
    assert_eq!(node.tail(), numbered(0..3));
    node.stop();
}

#[test]
fn a_client_that_floods_and_never_reads_takes_no_memory_and_no_service() {
    let folder = Folder::new();
    let node = NodePlan::primary(folder.join("p")).start();
    node.append("local", &numbered(0..3));
    let resident = resident_bytes(node.pid());
    let mut stream = TcpStream::connect(node.address()).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    stream.write_all(&encoded(&hello(HelloRole::Client, (1, 1)))).unwrap();
    let flood = encoded(&Frame::StatusRequest).repeat(10_000);
    // It is read no further than its answers can be held, or shut out.
    let mut sent = 0;
    while sent < 64 << 20 {
        match stream.write(&flood) {
            Ok(count) => sent += count,
            Err(_) => break,
        }
    }
    assert!(sent < 64 << 20, "all of the flood was taken");
    node.append("local", &numbered(3..6));
    assert_eq!(node.tail(), numbered(0..6));
    let grown = resident_bytes(node.pid()).saturating_sub(resident);
    assert!(grown < 32 << 20, "{grown} bytes more are resident");
    node.stop();
}

fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn a_window_that_cannot_be_kept_is_refused_and_nothing_is_written() {
    let folder = Folder::new();
    let node = NodePlan::primary(folder.join("p")).start();
    node.append("local", &numbered(0..2));
    for (level, word) in [("--level=on", "sync rule"), ("--level=local", "remote level")] {
        let output = node.ask_with("append", &[level, "--window=64K"], b"lost\n");
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(said.contains(word) && said.contains("nothing"), "{said}");
    }
    assert_eq!(node.tail(), numbered(0..2));
    node.stop();
}

#[test]
fn shards_are_logs_of_their_own_and_one_that_is_not_there_is_refused() {
    let folder = Folder::new();
    let node = NodePlan::primary(folder.join("p")).flag("--shards=2").start();
    for shard in ["0", "1"] {
        let flag = format!("--shard={shard}");
        let lines = format!("{shard} first\n{shard} second\n");
        let output = node.ask_with("append", &["--level=local", &flag], lines.as_bytes());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let output = node.ask("tail", &[&flag]);
        assert_eq!(text(&output.stdout), lines);
    }
    let output = node.ask_with("append", &["--shard=2"], b"nowhere\n");
    support::assert_refused(&output, 2, &["shard 2"]);
    assert_eq!(node.status()["shards"].as_array().unwrap().len(), 2);
    for (subcommand, argument) in [("rule", ""), ("trim", "0/00000000")] {
        let output = node.ask(subcommand, &[argument, "--shard=1"]);
        assert!(text(&output.stdout).contains("shard 1 of 2 only"), "{}", text(&output.stdout));
    }
    node.stop();
    let verdict = support::towline(&["log", "verify", folder.join("p").to_str().unwrap()]);
    assert_eq!(text(&verdict.stdout).matches("sound").count(), 2, "{}", text(&verdict.stdout));
}

#[test]
fn metrics_and_the_status_page_are_served_and_nothing_else() {
    let folder = Folder::new();
    let node = NodePlan::primary(folder.join("p")).flag("--metrics=127.0.0.1:0").start();
    node.append("local", &numbered(0..4));
    node.wait_said("metrics at http://");
    let said = node.said();
    let address = said.split("metrics at http://").nth(1).unwrap().split('/').next().unwrap().to_owned();
    let ask = |request: &str| {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.write_all(request.as_bytes());
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    };
    let metrics = ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(metrics.starts_with("HTTP/1.1 200") && metrics.contains("text/plain"), "{metrics}");
    assert!(metrics.contains("towline_records_total{shard=\"0\"} 4\n"), "{metrics}");
    // The port of the protocol is another one, and each says so of the other's visitors.
    let page = ask("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(page.contains("<h1>primary</h1>") && page.contains("leading in term"), "{page}");
    assert!(ask("GET /secret HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
    assert!(!ask("POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200"));
    assert!(!ask(&format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(100_000))).starts_with("HTTP/1.1 200"));
    assert_eq!(node.tail(), numbered(0..4));
    node.stop();
}
