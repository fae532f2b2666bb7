//! A real link between real sockets. Bounds on time are wide: other work may hold the machine.

#![allow(clippy::unwrap_used)] // helpers of tests panic as the tests do

use linkem::{Direction, Link, LinkConfig, LinkControl};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU64;
use std::thread;
use std::time::{Duration, Instant};

/// A server that sends back what it gets, connection after connection, until the test ends.
fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            stream.set_nodelay(true).unwrap();
            thread::spawn(move || {
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(len) = stream.read(&mut buffer) {
                    if len == 0 || stream.write_all(&buffer[..len]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}

fn echo_link(change: impl FnOnce(LinkConfig) -> LinkConfig) -> (Link, LinkControl, TcpStream) {
    let link = Link::start(change(LinkConfig::new(echo_server()))).unwrap();
    let stream = TcpStream::connect(link.local_addr()).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let control = link.control();
    (link, control, stream)
}

fn round_trip(stream: &mut TcpStream, message: &[u8]) -> Duration {
    let start = Instant::now();
    stream.write_all(message).unwrap();
    let mut answer = vec![0; message.len()];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, message);
    start.elapsed()
}

fn median_round_trip(stream: &mut TcpStream, count: usize) -> Duration {
    let mut times: Vec<_> = (0..count).map(|_| round_trip(stream, b"ping")).collect();
    times.sort();
    times[count / 2]
}

fn nothing_arrives(stream: &mut TcpStream, within: Duration) -> bool {
    stream.set_read_timeout(Some(within)).unwrap();
    let result = stream.read(&mut [0; 16]);
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    matches!(result, Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

#[test]
fn a_round_trip_takes_the_delay_and_little_more() {
    let rtt = Duration::from_millis(5);
    let (_link, control, mut stream) = echo_link(|config| config.with_rtt(rtt));
    let measured = median_round_trip(&mut stream, 41);
    assert!(measured >= rtt, "{measured:?} is faster than the link");
    assert!(measured < rtt + Duration::from_millis(3), "{measured:?} is far above {rtt:?}");
    let stats = control.stats();
    assert!(stats.up.late_mean_ns < 2_000_000, "the emulator itself is late by {} ns", stats.up.late_mean_ns);
    assert_eq!(stats.up.bytes, 41 * 4);
}

#[test]
fn the_delay_of_one_direction_can_be_changed_while_it_runs() {
    let (_link, control, mut stream) = echo_link(|config| config);
    let before = median_round_trip(&mut stream, 11);
    control.set_delay(Direction::Down, Duration::from_millis(20));
    let after = median_round_trip(&mut stream, 5);
    assert!(before < Duration::from_millis(15), "{before:?}");
    assert!((Duration::from_millis(20)..Duration::from_millis(38)).contains(&after), "{after:?}");
    assert_eq!(control.paths().0.delay, Duration::ZERO);
}

#[test]
fn a_rate_is_kept_within_a_tenth() {
    let rate = 10_000_000;
    let (_link, control, mut stream) = echo_link(|config| config);
    control.set_rate(Direction::Up, NonZeroU64::new(rate));
    let bytes = 4_000_000u64;
    let mut sink = stream.try_clone().unwrap();
    let writer = thread::spawn(move || sink.write_all(&vec![7; bytes as usize]).unwrap());
    let start = Instant::now();
    stream.read_exact(&mut vec![0; bytes as usize]).unwrap();
    let seconds = start.elapsed().as_secs_f64();
    writer.join().unwrap();
    let least = bytes as f64 / rate as f64;
    assert!(seconds > 0.95 * least, "{seconds} s is faster than the rate allows ({least} s)");
    assert!(seconds < 1.5 * least, "{seconds} s is much slower than the rate ({least} s)");
}

#[test]
fn every_byte_arrives_in_order_through_a_small_buffer_and_the_end_arrives_last() {
    let (_link, _control, mut stream) = echo_link(|config| LinkConfig {
        buffer_bytes: 64 * 1024,
        ..config.with_rtt(Duration::from_micros(400))
    });
    let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut sink = stream.try_clone().unwrap();
    let sent = bytes.clone();
    let writer = thread::spawn(move || {
        for chunk in sent.chunks(7_919) {
            sink.write_all(chunk).unwrap();
        }
        sink.shutdown(Shutdown::Write).unwrap();
    });
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    writer.join().unwrap();
    assert!(received == bytes, "{} bytes came back of {}", received.len(), bytes.len());
}

#[test]
fn a_cut_towards_the_target_lets_the_other_direction_pass() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let link = Link::start(LinkConfig::new(listener.local_addr().unwrap())).unwrap();
    let mut client = TcpStream::connect(link.local_addr()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    let control = link.control();
    control.cut(Direction::Up);
    client.write_all(b"lost?").unwrap();
    assert!(nothing_arrives(&mut server, Duration::from_millis(80)));
    server.write_all(b"down").unwrap();
    let mut answer = [0; 4];
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"down");
    control.heal();
    let mut late = [0; 5];
    server.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    server.read_exact(&mut late).unwrap();
    assert_eq!(&late, b"lost?", "TCP sends again what a cut held up");
}

#[test]
fn a_cut_hides_even_the_end_of_a_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let link = Link::start(LinkConfig::new(listener.local_addr().unwrap())).unwrap();
    let client = TcpStream::connect(link.local_addr()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    link.control().cut(Direction::Both);
    drop(client);
    assert!(nothing_arrives(&mut server, Duration::from_millis(80)));
    link.control().heal();
    assert_eq!(server.read(&mut [0; 4]).unwrap(), 0, "after the cut the end is seen");
}

#[test]
fn a_stall_holds_deliveries_and_then_gives_them_all() {
    let (_link, control, mut stream) = echo_link(|config| config);
    round_trip(&mut stream, b"warm");
    control.stall_for(Direction::Both, Duration::from_millis(120));
    let held = round_trip(&mut stream, b"held");
    assert!(held >= Duration::from_millis(100), "{held:?}");
    control.stall(Direction::Down);
    stream.write_all(b"more").unwrap();
    assert!(nothing_arrives(&mut stream, Duration::from_millis(60)));
    control.resume(Direction::Down);
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"more");
}

#[test]
fn a_stalled_link_holds_no_more_than_its_buffer() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = LinkConfig { buffer_bytes: 128 * 1024, ..LinkConfig::new(listener.local_addr().unwrap()) };
    let link = Link::start(config).unwrap();
    let mut client = TcpStream::connect(link.local_addr()).unwrap();
    let (_server, _) = listener.accept().unwrap();
    link.control().stall(Direction::Up);
    client.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut sent = 0usize;
    while let Ok(len) = client.write(&[1; 64 * 1024]) {
        sent += len;
        assert!(sent < 256 << 20, "a stalled link took {sent} bytes");
    }
    assert_eq!(link.control().stats().up.held_bytes, 128 * 1024);
}

#[test]
fn severed_connections_are_reset_and_refused_until_healed() {
    let (link, control, mut stream) = echo_link(|config| config);
    round_trip(&mut stream, b"ping");
    control.sever();
    assert!(stream.read(&mut [0; 4]).is_err(), "a reset, not an orderly end");
    let mut refused = TcpStream::connect(link.local_addr()).unwrap();
    refused.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert!(matches!(refused.read(&mut [0; 4]), Err(error) if error.kind() == ErrorKind::ConnectionReset));
    control.heal();
    let mut again = TcpStream::connect(link.local_addr()).unwrap();
    round_trip(&mut again, b"pong");
}

#[test]
fn a_target_that_is_not_there_resets_the_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = listener.local_addr().unwrap();
    drop(listener);
    let link = Link::start(LinkConfig::new(gone)).unwrap();
    let mut client = TcpStream::connect(link.local_addr()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert!(matches!(client.read(&mut [0; 1]), Err(error) if error.kind() == ErrorKind::ConnectionReset));
    assert_eq!(link.control().stats().connections_failed, 1);
}

#[test]
fn an_idle_link_burns_no_processor_time() {
    let (_link, _control, mut stream) = echo_link(|config| config.with_rtt(Duration::from_millis(2)));
    round_trip(&mut stream, b"ping");
    let busy = |task: &std::path::Path| -> Option<(String, u64)> {
        let stat = std::fs::read_to_string(task.join("stat")).ok()?;
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        Some((name.to_owned(), fields[11].parse::<u64>().ok()? + fields[12].parse::<u64>().ok()?))
    };
    let total = || -> u64 {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let ticks = tasks.filter_map(|task| busy(&task.unwrap().path()));
        ticks.filter(|(name, _)| name == "linkem").map(|(_, ticks)| ticks).sum()
    };
    // Other tests run links in this process: this one only proves that none of them spins while idle for long.
    let before = total();
    thread::sleep(Duration::from_millis(400));
    assert!(total().saturating_sub(before) < 60, "a link spins although nothing is due");
}
