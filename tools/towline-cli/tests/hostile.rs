//! What a port has to stand: garbage, other protocols, silence, half a frame, and a standby of another log.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use support::{Folder, Node, NodePlan, PATIENCE, numbered, text};

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
