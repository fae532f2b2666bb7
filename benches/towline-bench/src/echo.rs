//! The round trip through an emulated link, measured: what it really adds is more than what it was told to.

use crate::error::BenchError;
use linkem::{Link, LinkConfig};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// p50 of a small message there and back, µs, with spinning ends.
pub(crate) fn round_trip_us(link_rtt_us: u64) -> Result<f64, BenchError> {
    let failed = |error: &dyn std::fmt::Display| BenchError::failed("measuring the emulated link", error);
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| failed(&error))?;
    let target = listener.local_addr().map_err(|error| failed(&error))?;
    let echo = std::thread::spawn(move || {
        let Ok((mut stream, _)) = listener.accept() else { return };
        let mut message = [0; MESSAGE];
        while exact(&mut stream, &mut message).is_ok() && stream.write_all(&message).is_ok() {}
    });
    let link = Link::start(LinkConfig::new(target).with_rtt(Duration::from_micros(link_rtt_us)))
        .map_err(|error| failed(&error))?;
    let mut stream = TcpStream::connect(link.local_addr()).map_err(|error| failed(&error))?;
    let mut taken_ns = Vec::new();
    let began = Instant::now();
    while taken_ns.len() < MOST_TRIPS && (began.elapsed() < TIME || taken_ns.is_empty()) {
        let start = Instant::now();
        let mut message = [7; MESSAGE];
        stream.write_all(&message).map_err(|error| failed(&error))?;
        exact(&mut stream, &mut message).map_err(|error| failed(&error))?;
        taken_ns.push(start.elapsed().as_nanos() as f64);
    }
    // The end of the stream ends the echo.
    drop((stream, link));
    let _ = echo.join();
    taken_ns.sort_by(f64::total_cmp);
    Ok(taken_ns[taken_ns.len() / 2] / 1e3)
}

/// Reads a whole message, polling and yielding in between as the log's own threads do.
fn exact(stream: &mut TcpStream, message: &mut [u8]) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut filled = 0;
    while filled < message.len() {
        stream.set_nonblocking(true)?;
        let read = stream.read(&mut message[filled..]);
        stream.set_nonblocking(false)?;
        match read {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

const MESSAGE: usize = 64;
const MOST_TRIPS: usize = 2_000;
const TIME: Duration = Duration::from_millis(300);

#[cfg(test)]
mod tests {
    #[test]
    fn a_link_takes_at_least_what_it_was_told() {
        let measured_us = super::round_trip_us(3_000).unwrap();
        assert!((3_000.0..500_000.0).contains(&measured_us), "{measured_us}");
    }
}
