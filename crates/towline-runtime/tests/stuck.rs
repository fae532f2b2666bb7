//! A standby that takes no bytes, behind a proxy that can be stopped: appends go on, memory stays flat, and it
//! catches up afterwards.
#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test program with helpers of its own")]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::*;
use towline_core::node::Event;
use towline_core::types::{Level, Lsn};
use towline_runtime::PeerAddress;

/// Forwards connections both ways; while it is stopped it reads nothing.
struct Proxy {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
}

impl Proxy {
    fn to(target: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (stopped, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (stop, end) = (Arc::clone(&stopped), Arc::clone(&ended));
        std::thread::spawn(move || {
            while let Ok((near, _)) = listener.accept() {
                if end.load(Ordering::Acquire) {
                    return;
                }
                let Ok(far) = TcpStream::connect(target) else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let (stop, end) = (Arc::clone(&stop), Arc::clone(&end));
                    std::thread::spawn(move || pump(from, to, &stop, &end));
                }
            }
        });
        Proxy { address, stopped, ended }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        let _ = TcpStream::connect(self.address);
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, stop: &AtomicBool, end: &AtomicBool) {
    from.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut bytes = vec![0; 64 << 10];
    while !end.load(Ordering::Acquire) {
        if stop.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        }
        match from.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) if to.write_all(&bytes[..count]).is_err() => break,
            Ok(_) => {}
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}

#[test]
fn a_stuck_standby_holds_up_nobody_and_catches_up() {
    let folder = folder();
    let standby_node = start(standby(&folder.path().join("a"), "a"));
    let proxy = Proxy::to(standby_node.listen_address().unwrap());
    let mut options = primary(&folder.path().join("p"));
    let mut through = peer("a", &standby_node);
    through.address = proxy.address.to_string();
    options.standbys = vec![through];
    options.sync_rule = Some("ANY 1 (a)".to_owned());
    // Longer than the stall: nothing but the need for room ends the session.
    options.heartbeat = Duration::from_secs(30);
    let node = start(options);
    let log = leading(&node);
    log.append(b"first", Level::On, None).unwrap().wait_timeout(LIMIT).unwrap();

    proxy.stopped.store(true, Ordering::Release);
    let payload = vec![8; 50_000];
    let waiting = log.append(&payload, Level::On, None).unwrap();
    let mut end = Lsn(0);
    // Ten times what the arena holds.
    for _ in 0..800 {
        end = log.append(&payload, Level::Local, None).unwrap().wait_timeout(LIMIT).unwrap().end;
    }
    let status = node.status();
    assert!(status.shards[0].driver.arena_used_bytes <= 4 << 20);
    proxy.stopped.store(false, Ordering::Release);

    waiting.wait_timeout(LIMIT).unwrap_or_else(|error| panic!("{error}: {:?}", node.status()));
    log.wait(end, Level::On).unwrap().wait_timeout(LIMIT).unwrap();
    node.stop().unwrap();
    standby_node.stop().unwrap();
    assert_identical(&folder.path().join("p"), &folder.path().join("a"), end);
}

#[test]
fn a_relay_with_a_stuck_standby_holds_up_nobody_above_it() {
    let folder = folder();
    let b = start(standby(&folder.path().join("b"), "b"));
    let proxy = Proxy::to(b.listen_address().unwrap());
    let mut options = standby(&folder.path().join("a"), "a");
    options.standbys = vec![PeerAddress { name: "b".to_owned(), address: proxy.address.to_string() }];
    options.heartbeat = Duration::from_secs(30);
    let a = start(options);
    let mut options = primary(&folder.path().join("p"));
    options.standbys = vec![peer("a", &a)];
    options.sync_rule = Some("ANY 1 (a)".to_owned());
    let lost = Arc::new(AtomicBool::new(false));
    let was_lost = Arc::clone(&lost);
    options.on_event = Some(Arc::new(move |_, event: &Event| {
        was_lost.fetch_or(matches!(event, Event::StandbyLost { .. }), Ordering::AcqRel);
    }));
    let node = start(options);
    let log = leading(&node);
    let first = log.append(b"first", Level::On, None).unwrap().wait_timeout(LIMIT).unwrap();
    until("the cascade is up", || b.handle(0).unwrap().snapshot().flushed.lsn >= first.end);

    proxy.stopped.store(true, Ordering::Release);
    let payload = vec![8; 50_000];
    let mut end = Lsn(0);
    for _ in 0..60 {
        let tickets: Vec<_> = (0..10).map(|_| log.append(&payload, Level::On, None).unwrap()).collect();
        for ticket in tickets {
            end = ticket.wait_timeout(LIMIT).unwrap_or_else(|error| panic!("{error}: {:?}", a.status())).end;
        }
    }
    assert!(b.handle(0).unwrap().snapshot().flushed.lsn < end, "it was stuck");
    assert!(!lost.load(Ordering::Acquire), "the relay's own session never broke: {:?}", a.status());
    proxy.stopped.store(false, Ordering::Release);
    until_or(
        "the last one catches up",
        || b.handle(0).unwrap().snapshot().flushed.lsn >= end,
        || format!("{:?}", a.status()),
    );
    node.stop().unwrap();
    a.stop().unwrap();
    b.stop().unwrap();
    assert_identical(&folder.path().join("p"), &folder.path().join("a"), end);
    assert_identical(&folder.path().join("p"), &folder.path().join("b"), end);
}
