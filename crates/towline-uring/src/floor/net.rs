//! Floors of the loopback network, between two processes.

use std::net::Shutdown;
use std::time::Instant;

use super::peer::{MESSAGE, Role};
use super::{
    Course, FloorError, Limits, Meter, Peer, Rate, Samples, Waiting, better_rate, better_samples,
    expect_bytes, io,
};

/// Round trips of 64-byte messages.
///
/// # Errors
/// [`FloorError`].
pub fn round_trip(peer: &Peer, limits: Limits) -> Result<Samples, FloorError> {
    better_samples(|waiting| round_trips(peer, waiting, limits))
}

fn round_trips(peer: &Peer, waiting: Waiting, limits: Limits) -> Result<Vec<u64>, FloorError> {
    let running = peer.start(Role::Echo, waiting, None)?;
    let mut meter = Meter::new(64 * 1024, waiting)?;
    let socket = meter.ring.attach(running.stream()?)?;
    let len = MESSAGE as u64;
    let mut course = Course::new(limits);
    while course.goes_on() {
        let began = Instant::now();
        meter.ring.send(socket, 0..len, false, 0)?;
        meter.ring.recv_into_arena(socket, len..2 * len, true, 1)?;
        for _ in 0..2 {
            expect_bytes("message", &meter.next()?, len)?;
        }
        course.sample(began);
    }
    Ok(course.ns)
}

/// One stream of 64 KiB chunks: bytes per second until the peer has all of them.
///
/// # Errors
/// [`FloorError`].
pub fn stream(peer: &Peer, limits: Limits) -> Result<Rate, FloorError> {
    const CHUNK: u64 = 64 * 1024;
    better_rate(|waiting| {
        let running = peer.start(Role::Sink, waiting, None)?;
        let stream = running.stream()?;
        let mut meter = Meter::new(CHUNK as usize, waiting)?;
        let socket = meter.ring.attach(stream)?;
        let start = Instant::now();
        let mut sent = 0;
        while start.elapsed() < limits.time && sent < limits.samples as u64 {
            meter.ring.send(socket, 0..CHUNK, false, 0)?;
            expect_bytes("send", &meter.next()?, CHUNK)?;
            sent += 1;
        }
        stream.shutdown(Shutdown::Write).map_err(io("end the stream"))?;
        meter.ring.recv_into_arena(socket, 0..1, true, 1)?;
        expect_bytes("answer", &meter.next()?, 1)?;
        Ok((sent * CHUNK) as f64 / start.elapsed().as_secs_f64())
    })
}
